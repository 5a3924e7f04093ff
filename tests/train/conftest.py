"""What the tests of training share: texts to train on."""

import json

import pytest


@pytest.fixture
def texts(tmp_path):
    """A folder with a text, a file of JSON lines and one of parquet."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("".join(f"The lamp number {i} is red and the chair is old.\n" for i in range(300)))
    rows = [{"text": f"def f{i}(x):\n    return x + {i}\n", "id": i} for i in range(200)]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
