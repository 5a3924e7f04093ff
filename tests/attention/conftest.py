"""Seeds torch, so that a failing case can be run again."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded_torch() -> None:
    torch.manual_seed(0)
