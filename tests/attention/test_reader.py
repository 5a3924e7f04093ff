import pytest
import torch

from tuili.attention import cache, reader
from tuili.attention.gate import Gate, GateShape
from tuili.attention.plan import Sparse
from tuili.attention.reader import Reader
from tuili.attention.select import Budget

ENTRY = Sparse(budget=Budget(block=16, keep=6, sink=1, local=2), sub=4)
SHAPE = GateShape(heads=4, groups=2, head_dim=16, queries=1, width=8, sub=4)


def inputs(batch, num_queries, num_keys):
    generator = torch.Generator().manual_seed(num_keys)
    sizes = (batch, 4, num_queries, 16), (batch, 2, num_keys, 16), (batch, 2, num_keys, 16)
    return [torch.randn(size, generator=generator) for size in sizes]


@pytest.mark.parametrize("gate", [None, Gate.low_rank(SHAPE)], ids=["training-free", "learned"])
@pytest.mark.parametrize(("batch", "num_queries", "num_keys"), [(1, 500, 500), (2, 333, 700), (1, 7, 900)])
def test_reading_in_chunks_changes_nothing(monkeypatch, gate, batch, num_queries, num_keys):
    q, k, v = inputs(batch, num_queries, num_keys)
    with torch.no_grad():
        whole = Reader(ENTRY, 64, gate=gate)(q, k, v, None, 0.25)
        monkeypatch.setattr(reader, "CHUNK_TOKENS", 96)
        monkeypatch.setattr(cache, "CHUNK_KEYS", 80)
        asked = []
        original = Gate.queries if gate else reader._training_free
        queries = lambda *args: asked.append(args[bool(gate)].shape[2]) or original(*args)  # noqa: E731
        monkeypatch.setattr(*((Gate, "queries") if gate else (reader, "_training_free")), queries)
        found = Reader(ENTRY, 64, gate=gate)(q, k, v, None, 0.25)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    assert max(asked) <= 96 and sum(asked) >= num_queries - 64


def test_chunks_have_gradients_too(monkeypatch):
    q, k, v = inputs(1, 200, 200)
    grads = []
    for chunk in (4096, 48):
        monkeypatch.setattr(reader, "CHUNK_TOKENS", chunk)
        leaves = [each.clone().requires_grad_() for each in (q, k, v)]
        Reader(ENTRY, 64)(*leaves, None, 0.25).square().sum().backward()
        grads.append([each.grad for each in leaves])
    for whole, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)
