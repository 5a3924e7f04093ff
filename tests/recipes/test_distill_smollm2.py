"""The recipe from its arguments to its file, with a tiny model of as many layers and short texts."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tuili import port
from tuili.attention.plan import Dense, Sparse
from tuili.errors import UsageError
from tuili.porting.adapter import load

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 1400  # above the keys that the plan keeps, 80 blocks of 16
WIKI = "The lamp is red. " * 2000


@pytest.fixture
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("distill_smollm2")


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=30,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def run(
    recipe: ModuleType,
    model: LlamaForCausalLM,
    tiny_decoder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], Path]:
    """Return a function that runs the recipe for a step and returns the file it was told to write."""
    out, data = tmp_path / "gates.safetensors", tmp_path / "data"
    (data / "text").mkdir(parents=True)
    (data / "text" / "wikitext2_valid.txt").write_text(WIKI, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder())
    monkeypatch.setattr(recipe, "decoder", lambda: (model, tokenizer))
    monkeypatch.setattr(recipe, "pin_threads", lambda: 1)
    monkeypatch.setattr(recipe, "LENGTH", LENGTH)
    monkeypatch.setattr(recipe, "MAX_CHARACTERS", 20_000)
    monkeypatch.setattr(sys, "argv", ["distill", "--data", str(data), "--steps", "1", "--out", str(out)])

    def run() -> Path:
        recipe.main()
        return out

    return run


def test_the_file_has_the_gates_and_budgets_of_the_recipe(
    recipe: ModuleType, model: LlamaForCausalLM, run: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = run()
    shown = "".join(capsys.readouterr())
    assert "step 1 of 1: loss" in shown and str(out) in shown
    found = load(out, model)
    sizes = {layer: (gate.shape.width, gate.shape.sub) for layer, gate in found.gates.items()}
    assert sizes == {layer: (min(width, 16), sub) for layer, (width, sub) in recipe.SHAPES.items()}
    entries = [found.plan.at(layer) for layer in range(30)]
    assert [isinstance(entry, Dense) for entry in entries] == [True, True, *[False] * 28]
    usual = Sparse().budget.keep
    keeps = {layer: entry.budget.keep for layer, entry in enumerate(entries) if isinstance(entry, Sparse)}
    assert keeps == {layer: recipe.KEEPS.get(layer, usual) for layer in recipe.SHAPES}
    assert found.info["texts"] == ["help", "python", "wiki"] and found.info["distill"]["steps"] == 1
    assert [path.name for path in sorted(out.parent.iterdir())] == ["data", out.name]
    port(model, adapter=out)
    with torch.no_grad():
        assert model(torch.randint(512, (1, LENGTH))).logits.isfinite().all()
    with pytest.raises(UsageError, match="exists"):
        run()


def test_the_benchmark_s_texts_are_not_learned_from(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "wikitext2_valid.txt").write_text(WIKI, encoding="utf-8")
    found = recipe.corpora(tmp_path)
    assert found["wiki"] == WIKI[: int(len(WIKI) * recipe.WIKI_SHARE)]
    assert len(found["python"]) == recipe.MAX_CHARACTERS and set(recipe.corpora(None)) == {"help", "python"}
    monkeypatch.setattr(recipe, "MAX_CHARACTERS", sys.maxsize)
    whole, library = recipe.sources(), Path(random.__file__).parent
    assert Path(random.__file__).read_text(encoding="utf-8") in whole
    assert not [name for name in recipe.SOURCE_FILES if (library / name).read_text(encoding="utf-8") in whole]
