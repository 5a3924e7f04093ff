"""Lets the tests of this folder import `ranks` and `small`; one thread, since several processes share the machine."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def texts(tmp_path):
    """A folder with a text and a file of JSON lines to train on."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("".join(f"The lamp number {i} is red and the chair is old.\n" for i in range(300)))
    rows = [{"text": f"def f{i}(x):\n    return x + {i}\n", "id": i} for i in range(200)]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
