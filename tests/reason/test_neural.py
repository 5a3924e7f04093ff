import numpy as np
import pytest

from tuili import Reasoner
from tuili.knowledge.sources.triples import read_jsonl
from tuili.reason.neural import neural_parts


@pytest.fixture(scope="module")
def encoder(models):
    from tuili.model.encoder import Encoder

    return Encoder.load(str(models / "minilm"))


CANDIDATES = [
    "noise: Loudness of the engine.",
    "depth: Height of the cut above the ground.",
    "speed: Turns of the wheels.",
]


@pytest.mark.parametrize(("text", "expected"), [("how loud the motor is", 0), ("how deep it mows", 1)])
def test_meaning_is_found_without_common_words(encoder, text, expected):
    parts = neural_parts(encoder, text, CANDIDATES)
    assert int(np.argmax([part["bertscore"] for part in parts])) == expected
    assert all(0 <= value <= 1.000001 for part in parts for value in part.values())
    assert max(part["attention"] for part in parts) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["x", "推理 🍅", "word " * 600])
def test_odd_and_long_texts_give_numbers(encoder, text):
    parts = neural_parts(encoder, text, ["a", "b " * 900])
    assert all(np.isfinite(value) for part in parts for value in part.values())


def test_a_description_in_other_words_is_understood_with_the_encoder_alone(
    garden, reasoner_over, request, models, monkeypatch
):
    question = "Which setting of the mower is about how loud the motor is?"
    monkeypatch.setenv("TUILI_HOME", str(models.parent))
    rows = request.config.rootpath / "tests" / "garden.jsonl"
    answer = reasoner_over(read_jsonl(rows), neural=True).ask(question)
    assert {item.entity for item in answer.pruned} >= {"speed", "depth"}
    assert answer.paths == () or {"bertscore", "attention", "prior"} <= set(answer.paths[0].edges[0].parts)
    assert "neural" in answer.timings_ms
    assert "neural" not in garden.ask(question).timings_ms


def test_the_encoder_is_not_loaded_where_nothing_is_described(reasoner_over, request, monkeypatch):
    monkeypatch.setattr(Reasoner, "encoder", property(lambda self: pytest.fail("loaded")))
    rows = request.config.rootpath / "tests" / "garden.jsonl"
    answer = reasoner_over(read_jsonl(rows), neural=True).ask("Which has more settings, the mower or the trimmer?")
    assert [item.name for item in answer.entities] == ["Mower"]
