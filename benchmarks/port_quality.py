"""Quality of dynamic sparse attention on SmolLM2-135M: loss on long real text, dense against sparse selections.

Every method reads the same number of keys in the same layers (the plan as shipped); perplexity counts the second half
of each text, where there is something to choose. `--test` reads *.txt, and *.json with a field "text".
"""

from __future__ import annotations

import json
import math
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runner import Options, Result, run, say

MODEL = "smollm2-135m"
NUM_BOTTOM = 2
LENGTHS, LENGTHS_SMOKE = (2048, 4096, 8192), (2048,)
SOURCE_FILES = ("tarfile.py",)
"""Not among the recipe's training texts, see recipes/distill_smollm2.py."""
TARGET = 0.012
CHUNK = 512
PEERS = ("sink+window", "pooled keys", "min-max bounds", "oracle")
NAME = "tuili-benchmark"
Select = Callable[[Any, Any, Any, float], Any]


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    model, tokenizer = decoder()
    found = texts(options)
    if not found:
        say("no text to read: give --data or --test")
    for text_name, text in found.items():
        ids = tokenizer(text, return_tensors="pt").input_ids
        for length in LENGTHS_SMOKE if options.smoke else LENGTHS:
            if ids.shape[1] < length:
                say(f"  {text_name} has {ids.shape[1]} tokens, {length} are left out")
                continue
            yield from _text(model, text_name, ids[:, :length], options)


def _text(model: Any, name: str, ids: Any, options: Options) -> Iterator[Result]:
    """Yield the losses of one text at one length; the dense model is read once."""
    place = f"{name}.{ids.shape[1] // 1024}k"
    methods: dict[str, str] = {"tuili": f"quality.{place}.ppl_increase"}
    methods |= {peer: f"peer.{_slug(peer)}.{place}.ppl_increase" for peer in PEERS}
    methods = {method: result for method, result in methods.items() if options.wants(result)}
    if options.smoke:
        methods.pop("oracle", None)
    if not methods:
        return
    dense = losses(model, ids)
    yield Result(f"quality.{place}.dense.ppl", math.exp(float(dense.mean())), "", None, len(dense))
    increases: dict[str, tuple[float, float]] = {}
    for method in methods:
        say(f"  {place}: {method}")
        sparse = _losses_with(model, ids, method)
        difference = sparse - dense
        blocks = difference.reshape(-1, 128).mean(1)
        increases[method] = math.expm1(float(difference.mean())), 1.96 * float(blocks.std() / math.sqrt(len(blocks)))
    peers = {method: value for method, (value, _) in increases.items() if method in PEERS and method != "oracle"}
    best = min(peers, key=lambda method: peers[method]) if peers else None
    for method, (value, spread) in increases.items():
        baseline = {"name": best, "value": peers[best]} if method == "tuili" and best else None
        target = TARGET if method == "tuili" and ids.shape[1] == 8192 else None
        yield Result(methods[method], value, "fraction", spread, len(dense), baseline, target)


def _slug(method: str) -> str:
    return method.replace(" ", "_").replace("+", "_").replace("-", "_")


def texts(options: Options) -> dict[str, str]:
    """Return the texts by name: those of `--test`, else real source and, with `--data`, an encyclopedia."""
    if options.test is not None:
        files = [options.test] if options.test.is_file() else sorted(options.test.iterdir())
        return {path.stem: _read(path) for path in files if path.suffix in (".txt", ".json")}
    library = Path(sysconfig.get_paths()["stdlib"])
    found = {"python": "\n".join((library / name).read_text(encoding="utf-8") for name in SOURCE_FILES)}
    if options.data is not None:
        text = (options.data / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8")
        found["wiki"] = text[int(len(text) * 0.7) :]
    return found


def _read(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return str(json.loads(text)["text"]) if path.suffix == ".json" else text


# -- losses --------------------------------------------------------------------------------------


def losses(model: Any, ids: Any) -> np.ndarray:
    """Return the loss of each token in the second half of a text, in nats."""
    import torch

    half = ids.shape[1] // 2
    with torch.no_grad():
        hidden = model.model(ids, use_cache=False).last_hidden_state[0, half - 1 : -1]
        parts = [
            torch.nn.functional.cross_entropy(model.lm_head(piece), wanted, reduction="none")
            for piece, wanted in zip(hidden.split(CHUNK), ids[0, half:].split(CHUNK), strict=True)
        ]
    return torch.cat(parts).double().numpy()


def _losses_with(model: Any, ids: Any, method: str) -> np.ndarray:
    import tuili
    from tuili.porting.swap import attention_swapped

    if method == "tuili":
        tuili.port(model)
        try:
            return losses(model, ids)
        finally:
            tuili.unport(model)
    with attention_swapped(model, NAME, _selecting(SELECTIONS[method])):
        return losses(model, ids)


def _selecting(select: Select) -> Callable[..., tuple[Any, None]]:
    """Return an attention whose layers above the dense ones read the blocks that `select` returns."""
    import torch

    from tuili.attention.kernels import sparse_attention
    from tuili.porting.layers import Sparse

    budget = Sparse().budget

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **_: Any) -> tuple[Any, None]:
        if module.layer_idx < NUM_BOTTOM:
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scaling, enable_gqa=True
            )
        else:
            out = sparse_attention(q, k, v, select(q, k, budget, scaling), block=budget.block, scale=scaling)
        return out.transpose(1, 2).contiguous(), None

    return attention


# -- what the peers select -----------------------------------------------------------------------


def _window(q: Any, k: Any, budget: Any, scale: float) -> Any:
    """Keep the first block and the last ones."""
    import torch

    at = torch.arange(q.shape[2])[:, None] // budget.block
    last = at - torch.arange(budget.keep - 2, -1, -1)
    blocks = torch.cat([torch.zeros_like(at), last.masked_fill(last < 1, -1)], dim=1)
    blocks = blocks.masked_fill(blocks < 0, 1 << 30).sort(-1).values
    blocks = blocks.masked_fill(blocks == 1 << 30, -1)
    return blocks.int()[None, :, None].expand(q.shape[0], -1, k.shape[1], -1).contiguous()


def _pooled(q: Any, k: Any, budget: Any, scale: float) -> Any:
    """Score blocks by their mean key (Lu et al. 2025, MoBA), the group's heads by their best."""
    import torch

    def score(q_hTd: Any, k_Nd: Any) -> Any:
        return torch.einsum("htd,jd->htj", q_hTd, _blocks(k_Nd, budget).mean(1)).amax(0)

    return _best(q, k, budget, score)


def _bounds(q: Any, k: Any, budget: Any, scale: float) -> Any:
    """Score blocks by an upper bound from their smallest and largest key values (Tang et al. 2024, Quest)."""
    import torch

    def score(q_hTd: Any, k_Nd: Any) -> Any:
        keys = _blocks(k_Nd, budget)
        high = torch.einsum("htd,jd->htj", q_hTd.clamp_min(0), keys.amax(1))
        return (high + torch.einsum("htd,jd->htj", q_hTd.clamp_max(0), keys.amin(1))).amax(0)

    return _best(q, k, budget, score)


def _oracle(q: Any, k: Any, budget: Any, scale: float) -> Any:
    """Keep the blocks with the most of the group's own attention."""
    import torch

    def score(q_hTd: Any, k_Nd: Any, first: int = 0) -> Any:
        scores = torch.einsum("htd,nd->htn", q_hTd, k_Nd) * scale
        past = torch.arange(k_Nd.shape[0]) <= torch.arange(first, first + q_hTd.shape[1])[:, None]
        attention = scores.masked_fill(~past, float("-inf")).softmax(-1).sum(0)
        return _blocks(attention.T, budget).sum(1).T

    return _best(q, k, budget, score, is_placed=True)


SELECTIONS: Mapping[str, Select] = {
    "sink+window": _window,
    "pooled keys": _pooled,
    "min-max bounds": _bounds,
    "oracle": _oracle,
}


def _blocks(k_Nd: Any, budget: Any) -> Any:
    return k_Nd[: len(k_Nd) // budget.block * budget.block].unflatten(0, (-1, budget.block))


def _best(q: Any, k: Any, budget: Any, score: Callable[..., Any], is_placed: bool = False) -> Any:
    """Return the sink, the local blocks and the best-scored ones between, for texts of whole blocks."""
    import torch

    num_keys = k.shape[2]
    kept = torch.full((1, num_keys, k.shape[1], budget.keep), -1, dtype=torch.int32)
    for group in range(k.shape[1]):
        heads = q[0].unflatten(0, (k.shape[1], -1))[group].float()
        for first in range(0, num_keys, CHUNK):
            piece = heads[:, first : first + CHUNK]
            scores = score(piece, k[0, group].float(), first) if is_placed else score(piece, k[0, group].float())
            current = torch.arange(first, first + piece.shape[1])[:, None] // budget.block
            at = torch.arange(scores.shape[1])
            is_sure = (at < budget.sink) | ((at > current - budget.local) & (at <= current))
            scores = scores.masked_fill(is_sure, float("inf")).masked_fill(at > current, float("-inf"))
            best = scores.topk(min(budget.keep, scores.shape[1]), dim=-1)
            blocks = best.indices.masked_fill(best.values == float("-inf"), 1 << 30).sort(-1).values
            kept[0, first : first + CHUNK, group, : blocks.shape[1]] = blocks.masked_fill(blocks == 1 << 30, -1).int()
    return kept


def decoder() -> tuple[Any, Any]:
    """Return SmolLM2-135M and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tuili.model.packaged import ensure

    folder = ensure(MODEL)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


if __name__ == "__main__":
    run("Quality of sparse attention", measure)
