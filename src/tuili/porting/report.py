"""The report of a port: what was measured, as JSON and as text."""

from __future__ import annotations

from typing import Any

from tuili.attention.plan import Dense, Pooled, Sparse
from tuili.porting.hf import LayerReport
from tuili.porting.measure import Kept, Measured


def to_json(measured: Measured) -> dict[str, Any]:
    """Return what was measured, as JSON holds it; rates are fractions."""
    dense, sparse = measured.dense, measured.sparse
    return {
        "tokens": measured.num_tokens,
        "tokens_counted": measured.num_counted,
        "crossover": measured.crossover,
        "kernel": measured.kernel,
        "perplexity": {"dense": dense.ppl, "sparse": sparse.ppl, "increase": measured.ppl_increase},
        "drift": {"kl": measured.kl, "agreement": measured.agreement},
        "prefill_s": {"dense": dense.prefill_s, "sparse": sparse.prefill_s, "speedup": measured.speedup},
        "cache_mib": {"dense": dense.cache_mib, "sparse": sparse.cache_mib},
        "layers": [_layer(layer, measured.kept.get(layer.index)) for layer in measured.layers],
    }


def budget_of(layer: LayerReport) -> int | None:
    """Return the keys that a late token of a layer may read, means left out; None: all, or as the model has it."""
    if isinstance(layer.entry, Sparse):
        return layer.entry.budget.keep * layer.entry.budget.block
    if isinstance(layer.entry, Dense) and layer.entry.window is not None:
        return layer.entry.window + layer.entry.sink
    if isinstance(layer.entry, Pooled):
        return layer.entry.window + layer.entry.sink
    return None


def to_text(report: dict[str, Any], title: str) -> str:
    """Return a report as lines for people."""
    ppl, drift, time, cache = (report[key] for key in ("perplexity", "drift", "prefill_s", "cache_mib"))
    lines = [
        title,
        f"perplexity    {ppl['dense']:.4f} dense, {ppl['sparse']:.4f} sparse, {ppl['increase']:+.2%}"
        f" (the last {report['tokens_counted']:,} of {report['tokens']:,} tokens)",
        f"drift         KL {drift['kl']:.5f} nats, the same likeliest token after {drift['agreement']:.2%}",
        f"prefill       {time['dense']:.2f} s dense, {time['sparse']:.2f} s sparse, {time['speedup']:.2f}x (once each)",
        f"cache         {cache['dense']:.1f} MiB dense, {cache['sparse']:.1f} MiB with the gate's keys",
        f"kernel        {report['kernel']}",
    ]
    if report["tokens"] <= report["crossover"]:
        lines.append(f"note          the text ends before the crossover, {report['crossover']:,}: every key is read")
    lines += ["", "layer  reads    budget  keys/token  read densely  recall  of the best choice"]
    return "\n".join([*lines, *map(_line, report["layers"])]) + "\n"


def _layer(layer: LayerReport, kept: Kept | None) -> dict[str, Any]:
    recall = kept.recall if kept is not None else None
    return {
        "layer": layer.index,
        "kind": layer.kind,
        "budget": budget_of(layer),
        "keys_per_token": layer.keys_per_token,
        "dense_share": layer.num_dense_tokens / layer.num_tokens if layer.num_tokens else 0.0,
        "recall": None if recall is None else recall.kept,
        "recall_of_best": None if recall is None else recall.of_oracle,
    }


def _line(layer: dict[str, Any]) -> str:
    budget = "all" if layer["budget"] is None else f"{layer['budget']:,}"
    recall, of_best = ("-" if layer[key] is None else f"{layer[key]:.3f}" for key in ("recall", "recall_of_best"))
    return (
        f"{layer['layer']:>5}  {layer['kind']:<7}{budget:>8}  {layer['keys_per_token']:>10,.1f}"
        f"  {layer['dense_share']:>12.0%}  {recall:>6}  {of_best:>18}"
    )
