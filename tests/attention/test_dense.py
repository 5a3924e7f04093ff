import pytest
import torch

from tuili.attention.dense import dense_attention


@pytest.mark.parametrize(("num_keys", "num_queries"), [(300, 300), (300, 70), (300, 1)])
@pytest.mark.parametrize(("window", "sink"), [(40, 0), (33, 5), (299, 1), (400, 0)])
def test_windows_are_the_same_with_and_without_the_compiled_kernel(monkeypatch, num_keys, num_queries, window, sink):
    q, k, v = torch.randn(2, 6, num_queries, 16), torch.randn(2, 2, num_keys, 16), torch.randn(2, 2, num_keys, 16)

    def attend():
        return dense_attention(q, k, v, scale=0.3, window=window, sink=sink)

    found = attend()
    monkeypatch.setenv("TUILI_KERNEL", "torch")
    torch.testing.assert_close(found, attend(), atol=1e-5, rtol=1e-5)


def test_a_gradient_flows_through_a_window():
    q, k, v = (torch.randn(1, 2, 50, 8, requires_grad=True) for _ in range(3))
    with torch.enable_grad():
        dense_attention(q, k, v, scale=0.3, window=7, sink=2).sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))
