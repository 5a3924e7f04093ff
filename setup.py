"""The compiled attention kernel: a plain shared library, optional. Everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCE = Path("src/tuili/attention/csrc")
FLAGS = [
    "-O3",
    "-std=gnu++17",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-g0",
]

setup(
    ext_modules=[
        Extension(
            "tuili.attention._dsa",
            sources=sorted(path.as_posix() for path in SOURCE.glob("*.cpp")),
            depends=sorted(path.as_posix() for path in SOURCE.glob("*.h")),
            extra_compile_args=FLAGS,
            extra_link_args=[] if sys.platform == "darwin" else ["-pthread"],
            language="c++",
            optional=True,  # where it can't be compiled, tuili runs on PyTorch alone
        )
    ]
)
