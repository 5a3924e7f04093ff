"""What the runs read: the model, real text, and one layer's real queries, keys and values."""

from __future__ import annotations

import functools
import sysconfig
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m"
SOURCES = ("tarfile.py", "argparse.py", "inspect.py", "typing.py", "subprocess.py", "threading.py", "ast.py")
LAYERS = (5, 15, 23)  # an early, a middle and a late one: their gates and budgets differ
EXACT, NEAR, SINK = 4096, 1024, 16


class _CapturedError(Exception):
    """The last layer was reached; the ones above are not run."""


def decoder(dtype: str) -> Any:
    """Return the model in "fp32" or "bf16"."""
    import torch
    from transformers import AutoModelForCausalLM

    from tuili.model.packaged import ensure

    to = torch.float32 if dtype == "fp32" else torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(ensure(MODEL), dtype=to).eval()


@functools.cache
def text_ids(length: int) -> Any:
    """Return the first tokens [1, length] of some of the standard library's longest files, one after the other."""
    from transformers import AutoTokenizer

    from tuili.model.packaged import ensure

    library = Path(sysconfig.get_paths()["stdlib"])
    text = "\n".join((library / name).read_text(encoding="utf-8") for name in SOURCES)
    tokenizer = AutoTokenizer.from_pretrained(ensure(MODEL), model_max_length=1 << 30)
    ids = tokenizer(text[: 4096 + 8 * length], return_tensors="pt").input_ids
    if ids.shape[1] < length:
        raise RuntimeError(f"the files {', '.join(SOURCES)} have {ids.shape[1]} tokens, {length} are needed")
    return ids[:, :length]


def some_layers(length: int) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the attention modules of LAYERS in the ported model, each with its float32 inputs (q, k, v) for real text.

    Every layer reads every key up to 4,096 tokens, then the first 16 and the last 1,024, for time. So what is captured
    is the model's own up to there, and like it past that.
    """
    import torch

    import tuili
    from tuili.attention.plan import Dense, LayerPlan

    model = decoder("fp32")
    modules = [model.model.layers[index].self_attn for index in LAYERS]
    tuili.port(model, LayerPlan(default=Dense(window=NEAR, past=EXACT, sink=SINK)))
    held: list[tuple[Any, ...]] = []

    def capture(_: Any, inputs: tuple[Any, ...]) -> None:
        held.append(tuple(each.clone() for each in inputs[:3]))
        if len(held) == len(modules):
            raise _CapturedError

    for module in modules:
        module.tuili.register_forward_pre_hook(capture)
    try:
        with torch.no_grad():
            model.model(text_ids(length), use_cache=False)
    except _CapturedError:
        tuili.unport(model)
    tuili.port(model)
    return list(zip(modules, held, strict=True))
