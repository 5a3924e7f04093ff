"""Distil gates for SmolLM2-135M.

`python recipes/distill_smollm2.py --data DIR --out FILE.safetensors` reads the standard library's source, Python's own
help texts and WikiText-2 (the first 70 %; the rest is for benchmarks/port_quality.py). About a minute a step on two
cores; it can be interrupted and goes on. The adapter that comes with tuili was made by it.

A gate costs width / sub for each key. SHAPES has for each layer the cheapest (width, sub) of (64, 8), (64, 4), (32, 2),
(16, 1), (64, 2), (32, 1) with which the layer's output on texts that the gate had not seen was at most about a fifth
further from dense than with a score for every key (docs/log.md, 2026-11-28).
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from porting.decoding import decoder  # noqa: E402
from porting.texts import SOURCE_FILES, WIKI_SHARE  # noqa: E402
from runner import find_data, pin_threads, say  # noqa: E402

if TYPE_CHECKING:
    from tuili.attention.plan import LayerPlan

NUM_STEPS = 15
LENGTH = 8192
MAX_CHARACTERS = 2_500_000
SHAPES = {
    **dict.fromkeys((2, 3, 4, 5, 6), (32, 2)),
    **dict.fromkeys((7, 9, 17, 18, 20, 23, 24), (32, 1)),
    **dict.fromkeys((8, 14, 26), (64, 2)),
    10: (16, 1),
    **dict.fromkeys((25, 28), (64, 4)),
    **dict.fromkeys((11, 12, 13, 15, 16, 19, 21, 22, 27, 29), (64, 8)),
}
KEEPS = dict.fromkeys((2, 3, 4, 5, 6, 7, 8), 96) | dict.fromkeys((12, 13, 16, 18, 25, 27), 48)
"""Blocks kept in the layers whose output the usual 64 leave furthest from dense, and nearest to it; set afterwards."""


def sources() -> str:
    """Return source of the standard library in a fixed random order, without tests and the benchmark's files."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted([*library.glob("*.py"), *library.glob("*/*.py")])
    kept = [path for path in files if not {"test", "tests", "site-packages", "pydoc_data"} & set(path.parts)]
    kept = [path for path in kept if path.name not in SOURCE_FILES]
    random.Random(1).shuffle(kept)
    return "\n\n".join(path.read_text(encoding="utf-8", errors="replace") for path in kept)[:MAX_CHARACTERS]


def corpora(data: Path | None) -> dict[str, str]:
    """Return the training texts by name."""
    from pydoc_data.topics import topics

    found = {"help": "\n\n".join(topics.values()), "python": sources()}
    if data is None:
        say("no --data: gates are distilled without WikiText-2")
        return found
    text = (data / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8")
    return found | {"wiki": text[: int(len(text) * WIKI_SHARE)]}


def with_keeps(plan: LayerPlan) -> LayerPlan:
    """Return the plan with the budgets of KEEPS."""
    layers = dict(plan.layers)
    for index, keep in KEEPS.items():
        layers[index] = replace(layers[index], budget=replace(layers[index].budget, keep=keep))
    return replace(plan, layers=layers)


def main() -> None:
    """Distil, or go on with what was begun, and write the gates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    pin_threads()
    model, tokenizer = decoder()

    from tuili.attention.plan import LayerPlan, Sparse, sandwich
    from tuili.porting.adapter import save
    from tuili.porting.texts import encode
    from tuili.porting.training import Training, distil

    tokens = {name: encode(tokenizer, text) for name, text in corpora(find_data(options.data)).items()}
    bottom = sandwich(range(model.config.num_hidden_layers)).layers
    plan = LayerPlan(layers={**bottom, **{layer: Sparse(sub=sub) for layer, (_, sub) in SHAPES.items()}})
    widths = {layer: width for layer, (width, _) in SHAPES.items()}

    def on_step(stage: str, step: Any) -> None:
        kept = f"keeps {step.recall.of_oracle:.3f} of what the best choice would"
        say(f"{stage}: step {step.index} of {step.total}: loss {step.loss:.4f}, {kept}")

    adapter = distil(
        model, tokens, options.out, plan, Training(steps=options.steps, length=LENGTH, widths=widths), on_step=on_step
    )
    save(options.out, replace(adapter, plan=with_keeps(adapter.plan)))
    say(str(options.out))


if __name__ == "__main__":
    main()
