"""The program as a whole on texts, with a tiny random decoder that reads bytes; which texts it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

import port_quality
import runner
import tuili
from porting import tradeoff
from porting.peers import peer
from porting.texts import SOURCE_FILES, is_python, long_strings, texts
from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget

SOURCE = "\n\n".join(
    f'def name_{index}(value):\n    """Return it."""\n    return value + {index}' for index in range(12)
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def tiny() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 48, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, **heads, initializer_range=0.4)).eval()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    plan = LayerPlan(default=Sparse(budget=Budget(keep=6, local=2)), layers={0: Dense()}, crossover=112)
    whole, threads = tuili.port, torch.get_num_threads()
    monkeypatch.setattr(tuili, "port", lambda model: whole(model, plan))
    monkeypatch.setattr(port_quality, "decoder", lambda: (tiny(), byte_tokenizer()))
    monkeypatch.setattr(port_quality, "LENGTHS", (256, 320))
    torch.set_num_threads(1)
    (tmp_path / "source.txt").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "other.json").write_text(json.dumps({"text": "One line after another. " * 20}), encoding="utf-8")
    (tmp_path / "short.txt").write_text("So it ends.", encoding="utf-8")

    def measure(*arguments: str) -> dict[str, runner.Result]:
        options = runner.parse("", ["--test", str(tmp_path), "--out", str(tmp_path / "out.json"), *arguments])
        return {row.name: row for row in port_quality.measure(options)}

    yield measure
    torch.set_num_threads(threads)


def test_rows_of_texts(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = {name: row for only in ("quality", "code", "kept", "gate") for name, row in run("--only", only).items()}
    for name in ("quality.source.256", "quality.other.320"):
        assert found[f"{name}.ppl_increase"].value == found[f"{name}.ppl_increase_adapted"].value != 0
        assert found[f"{name}.ppl_increase.q1"].value == pytest.approx(0, abs=1e-4)
    assert found["code.320.identifier_accuracy"].n == found["code.320.identifier_accuracy.drop"].n > 5
    assert found["code.320.line_accuracy"].n > 1
    assert found["kept.definitions.lift"].n == 2 and 0.1 < found["kept.comments.lift"].value < 10
    assert found["gate.recall"].n == 4  # two sparse layers, two texts
    assert all(np.isfinite(row.value) for row in found.values())
    said = capsys.readouterr().err
    assert "short has 11 tokens" in said and "no weights are adapted" in said


def test_only_the_ways_that_rows_need_are_run(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("--only", "peer.pooled_keys.source.256.ppl")
    said = capsys.readouterr().err
    assert "source, 256 tokens: pooled keys" in said and "min-max" not in said and "320" not in said
    assert "peer.pooled_keys.source.256.ppl_increase" in found


def test_other_budgets_are_read_where_they_are_asked_for(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = peer("pooled keys")
    ways = {tradeoff.spelled("pooled keys", keys): tradeoff.scaled(pooled, keys) for keys in (80, 144)}
    monkeypatch.setattr(tradeoff, "KEYS", (80, 144))
    monkeypatch.setattr(tradeoff, "METHODS", {"pooled keys": pooled})
    monkeypatch.setattr(tradeoff, "WAYS", ways)
    found = run("--only", "tradeoff.source")
    assert list(found) == [f"tradeoff.source.320.pooled_keys.keys_{keys}.ppl_increase" for keys in (80, 96, 144)]
    shipped = run("--only", "peer.pooled_keys.source.320.ppl_increase")["peer.pooled_keys.source.320.ppl_increase"]
    values = [row.value for row in found.values()]
    assert len(set(values)) == 3 and values[1] == shipped.value


def test_of_several_python_texts_the_first_has_the_rows_of_code(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wide.txt").write_text(SOURCE, encoding="utf-8")
    names = [row for row in run("--only", "code.256")]
    assert len(names) == 4
    said = capsys.readouterr().err
    assert "of 2 Python texts source has" in said and "wide" not in said


def test_the_recipes_texts_are_not_the_benchmarks() -> None:
    assert {"tarfile.py", "pickletools.py", "doctest.py"} == set(SOURCE_FILES)


def test_texts_that_need_no_data_are_long_enough(tmp_path: Path) -> None:
    found = texts(runner.Options(tmp_path, None, None, False, ""))
    assert set(found) == {"python", "docs"}
    assert is_python(found["python"]) and not is_python(found["docs"])
    assert all(len(text) > 4 * 8192 for text in found.values())


def test_long_strings_are_those_of_the_source_in_order() -> None:
    assert long_strings(f"a = '{'x' * 200}'\nb = 'short'\nc = f('{'y' * 300}')\n") == ["x" * 200, "y" * 300]
