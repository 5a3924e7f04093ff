"""Lets the tests of this folder import `ranks` and `small`; one thread, since several processes share the machine."""

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
    from runs import write_texts

    return write_texts(tmp_path)
