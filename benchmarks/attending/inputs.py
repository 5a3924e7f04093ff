"""What the runs read: the model, real text, and one layer's real queries, keys and values."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m"
SOURCES = ("tarfile.py", "argparse.py", "inspect.py", "typing.py", "subprocess.py", "threading.py", "ast.py")
LAYER = 5  # its gate costs what the median gate of the shipped adapter costs
NEAR = 4096
SINK = 16


class _CapturedError(Exception):
    """The layer was reached; the ones above are not run."""


def decoder(dtype: str) -> Any:
    """Return the model in "fp32" or "bf16"."""
    import torch
    from transformers import AutoModelForCausalLM

    from tuili.model.packaged import ensure

    to = torch.float32 if dtype == "fp32" else torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(ensure(MODEL), dtype=to).eval()


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


def one_layer(length: int) -> tuple[Any, Any]:
    """Return a layer of the ported model with its attention module, and its float32 inputs (q, k, v) for real text.

    The layers below read every key up to 4,096 tokens, then the first 16 and the last 4,096, for time. So what the
    layer reads is the model's own up to there, and like it past that.
    """
    import torch

    import tuili
    from tuili.porting.layers import Dense, LayerPlan

    model = decoder("fp32")
    module = model.model.layers[LAYER].self_attn
    tuili.port(model, LayerPlan(default=Dense(window=NEAR, past=NEAR, sink=SINK)))
    held: list[Any] = []

    def capture(_: Any, inputs: tuple[Any, ...]) -> None:
        held.extend(each.clone() for each in inputs[1:4])
        raise _CapturedError

    module.tuili.register_forward_pre_hook(capture)
    try:
        with torch.no_grad():
            model.model(text_ids(length), use_cache=False)
    except _CapturedError:
        tuili.unport(model)
    tuili.port(model)
    return module, tuple(held)
