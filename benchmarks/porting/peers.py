"""Other ways to select: in the ported model, in its sparse layers, after its crossover, with its budget.

So all but the selection is the same: dense layers, tokens that read everything, number of kept keys, weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from porting.decoding import CHUNK, Way, ported

NAME = "tuili-benchmark"
NO_BLOCK = 1 << 30
Score = Callable[[Any, Any, Any], Any]
Select = Callable[[Any, Any, Any, Any, float], Any]
"""From queries [1, H, P, d], keys [1, G, N, d], the queries' places [P], budget and scale: blocks [1, P, G, keep]."""


def peer(method: str) -> Way:
    """Return the way to run a model as shipped but for the selection, which a peer makes."""

    @contextmanager
    def way(model: Any) -> Iterator[Any]:
        from tuili.porting.swap import attention_swapped

        with ported(model) as sparse, attention_swapped(sparse, NAME, _attending(SELECTIONS[method])):
            yield sparse

    return way


def _attending(select: Select) -> Callable[..., tuple[Any, None]]:
    """Return an attention that is the ported layer's own, except that sparse layers read what `select` returns."""
    import torch

    from tuili.attention.dense import dense_attention
    from tuili.attention.kernels import sparse_attention

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **_: Any) -> tuple[Any, None]:
        layer = module.tuili
        if layer.kind != "sparse":
            return layer(q, k, v, mask, scaling), None
        budget, end = layer.entry.budget, k.shape[2]
        first = end - q.shape[2]
        near = min(max(layer.crossover - first, 0), q.shape[2])
        parts = []
        if near:
            until = first + near
            parts.append(dense_attention(q[:, :, :near], k[:, :, :until], v[:, :, :until], scale=scaling))
        if near < q.shape[2]:
            far = q[:, :, near:]
            blocks = select(far, k, torch.arange(first + near, end), budget, scaling)
            parts.append(sparse_attention(far, k, v, blocks, block=budget.block, scale=scaling).transpose(1, 2))
        return torch.cat(parts, dim=1), None

    return attention


# -- what they select ----------------------------------------------------------------------------


def window(q: Any, k: Any, positions: Any, budget: Any, scale: float) -> Any:
    """Keep the sink and the last blocks."""
    import torch

    sink = torch.arange(budget.sink).expand(len(positions), -1)
    last = (positions // budget.block)[:, None] - torch.arange(budget.keep - budget.sink)
    blocks = torch.cat([sink, last.masked_fill(last < budget.sink, NO_BLOCK)], dim=1)
    return _ascending(blocks)[None, :, None].expand(1, -1, k.shape[1], -1).contiguous()


def pooled(q: Any, k: Any, positions: Any, budget: Any, scale: float) -> Any:
    """Score blocks by their mean key (Lu et al. 2025, MoBA), the group's heads by their best."""
    import torch

    def score(q_hpd: Any, keys_Jbd: Any, _: Any) -> Any:
        return torch.einsum("hpd,jd->hpj", q_hpd, keys_Jbd.mean(1)).amax(0)

    return _best(q, k, positions, budget, score)


def bounds(q: Any, k: Any, positions: Any, budget: Any, scale: float) -> Any:
    """Score blocks by an upper bound from their smallest and largest key values (Tang et al. 2024, Quest)."""
    import torch

    def score(q_hpd: Any, keys_Jbd: Any, _: Any) -> Any:
        high = torch.einsum("hpd,jd->hpj", q_hpd.clamp_min(0), keys_Jbd.amax(1))
        return (high + torch.einsum("hpd,jd->hpj", q_hpd.clamp_max(0), keys_Jbd.amin(1))).amax(0)

    return _best(q, k, positions, budget, score)


def oracle(q: Any, k: Any, positions: Any, budget: Any, scale: float) -> Any:
    """Keep the blocks with the most of the group's own attention."""
    import torch

    num_keys = k.shape[2] // budget.block * budget.block

    def score(q_hpd: Any, keys_Jbd: Any, at_p: Any) -> Any:
        scores = torch.einsum("hpd,nd->hpn", q_hpd, keys_Jbd.flatten(0, 1)) * scale
        is_future = torch.arange(num_keys) > at_p[:, None]
        return scores.masked_fill(is_future, float("-inf")).softmax(-1).sum(0).unflatten(1, (-1, budget.block)).sum(-1)

    return _best(q, k, positions, budget, score)


SELECTIONS: Mapping[str, Select] = {
    "sink+window": window,
    "pooled keys": pooled,
    "min-max bounds": bounds,
    "oracle": oracle,
}


def slug(method: str) -> str:
    """Return a method's name as a part of a result's name."""
    return method.replace(" ", "_").replace("+", "_").replace("-", "_")


def _best(q: Any, k: Any, positions: Any, budget: Any, score: Score) -> Any:
    """Return the sink, the local blocks and the best-scored closed ones between them."""
    import torch

    groups, num_whole = k.shape[1], k.shape[2] // budget.block
    kept = []
    for group in range(groups):
        q_hPd = q[0].unflatten(0, (groups, -1))[group].float()
        keys_Jbd = k[0, group, : num_whole * budget.block].float().unflatten(0, (num_whole, budget.block))
        pieces = zip(q_hPd.split(CHUNK, dim=1), positions.split(CHUNK), strict=True)
        kept.append(torch.cat([_kept(score(q_hpd, keys_Jbd, at_p), at_p, budget) for q_hpd, at_p in pieces]))
    return torch.stack(kept, dim=1)[None]


def _kept(scores_pJ: Any, at_p: Any, budget: Any) -> Any:
    import torch

    current_p1 = at_p[:, None] // budget.block
    at_J = torch.arange(scores_pJ.shape[1])
    is_candidate_pJ = (at_J >= budget.sink) & (at_J <= current_p1 - budget.local)
    num_free = min(budget.num_free, scores_pJ.shape[1])
    best = scores_pJ.masked_fill(~is_candidate_pJ, float("-inf")).topk(num_free, dim=-1)
    free = best.indices.masked_fill(best.values == float("-inf"), NO_BLOCK)
    sink = torch.arange(budget.sink).expand(len(at_p), -1)
    local = current_p1 - torch.arange(budget.local)
    local = local.masked_fill(local < budget.sink, NO_BLOCK)
    return _ascending(torch.cat([sink.masked_fill(sink > current_p1, NO_BLOCK), local, free], dim=1), budget.keep)


def _ascending(blocks: Any, width: int | None = None) -> Any:
    import torch

    blocks = blocks.sort(-1).values
    blocks = blocks.masked_fill(blocks == NO_BLOCK, -1).int()
    return torch.nn.functional.pad(blocks, (0, (width or blocks.shape[1]) - blocks.shape[1]), value=-1)
