"""What the tests of the command line share: a home with a small base, and the command line itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tuili.cli.main import main

SOURCE = Path(__file__).resolve().parents[2] / "src"


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def tuili(capsys):
    """Run the command line in this process."""

    def run(*args):
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def films(home, tiny_base):
    """A home with the tiny base, called films."""
    (home / "kb").mkdir(parents=True)
    shutil.copy(tiny_base, home / "kb" / "films.sqlite")
    return home


@pytest.fixture
def shell(films):
    """Run the command line as a process of its own; `script` goes to sh, with $TUILI for the command."""

    def run(script, **variables):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(films),
            "TUILI_HOME": str(films),
            "PYTHONPATH": str(SOURCE),
            "TUILI": f"{sys.executable} -m tuili",
        } | variables
        environment = {name: value for name, value in environment.items() if value is not None}
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, timeout=120)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
