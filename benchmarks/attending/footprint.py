"""How far one prefill raises the memory of a process that does nothing else, its cache included, the weights not.

A process of its own, since what others have freed and kept hides what a run takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from attending.inputs import decoder, text_ids
from attending.timing import begin_peak, process_memory

WARM_UP = 256


def footprint(side: str, dtype: str, length: int) -> float | None:
    """Return the MiB that a prefill of `length` tokens takes in a new process; None where the system does not tell.

    Args:
        side: "dense" or "tuili".
        dtype: "fp32" or "bf16".
        length: tokens.
    """
    call = [sys.executable, "-m", "attending.footprint", side, dtype, str(length)]
    ran = subprocess.run(call, cwd=Path(__file__).parent.parent, check=True, stdout=subprocess.PIPE)
    return json.loads(ran.stdout)


def measure(side: str, dtype: str, length: int) -> float | None:
    """Return the same of this process, after a short prefill that is not counted."""
    import torch

    import tuili
    from tuili.runtime import keep_memory

    keep_memory()
    model = decoder(dtype)
    if side == "tuili":
        tuili.port(model)
    with torch.inference_mode():
        model(text_ids(WARM_UP), use_cache=True, logits_to_keep=1)
        ids = text_ids(length)
        before = begin_peak()
        model(ids, use_cache=True, logits_to_keep=1)
    return None if before is None else process_memory("VmHWM") - before


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
