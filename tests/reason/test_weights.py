import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import UsageError
from tuili.knowledge.build import build
from tuili.knowledge.graph import Entity, Graph
from tuili.knowledge.records import Node
from tuili.knowledge.store import Store
from tuili.reason.weights import MAX_NEURAL, MAX_READ, Mix, Weigher, entity_text


@pytest.fixture
def graph(garden):
    return garden.base("small").graph


@pytest.fixture
def settings(graph):
    return [graph.by_key(f"setting:mower.{name}") for name in ("speed", "depth", "noise")]


@pytest.fixture
def parts_of(monkeypatch):
    """Return a function that replaces the encoder's parts by given ones, and counts the calls."""

    def replace(make):
        calls = []

        def parts(encoder, text, candidates):
            calls.append(list(candidates))
            return [make(candidate) for candidate in candidates]

        monkeypatch.setattr("tuili.reason.neural.neural_parts", parts)
        return calls

    return replace


def never():
    raise AssertionError("the encoder is not needed here")


def test_words_in_common_decide(graph, settings):
    weights = Weigher(graph).match("height of the cut", settings)
    assert max(weights, key=weights.get) == graph.by_key("setting:mower.depth")
    assert set(Weigher(graph).match("zorbit", settings).values()) == {0.0}


def test_a_rare_word_counts_more_than_one_that_all_have(tmp_path):
    nodes = [Node(str(n), "tool", f"saw {n}", "A tool that cuts wood.") for n in range(9)]
    build(tmp_path / "saws.sqlite", [*nodes, Node("x", "tool", "axe", "A tool that fells trees.")], origin="test")
    graph = Graph(Store.open(tmp_path / "saws.sqlite"))
    weights = Weigher(graph).match("tool for trees", graph.members("tool", 20))
    assert max(weights, key=weights.get) == graph.by_key("x")


def test_other_forms_of_a_word_count_too(graph, settings):
    weights = Weigher(graph).match("heights it is cutting above grounds", settings)
    assert max(weights, key=weights.get) == settings[1]


def test_the_encoder_runs_only_where_words_do_not_decide(graph, settings, parts_of):
    calls = parts_of(lambda text: {"bertscore": 0.5, "attention": 0.5})
    Weigher(graph, never).match("noise", settings)
    assert calls == []
    weigher = Weigher(graph, object)
    weigher.match("how loud", settings)
    assert len(calls) == 1 and weigher.used_neural
    weigher.match("how loud", settings)
    assert len(calls) == 1 or calls[1] == []


def test_the_encoder_s_parts_decide_where_words_do_not(graph, settings, parts_of):
    parts_of(lambda text: dict.fromkeys(("bertscore", "attention"), 1.0 if "Loudness" in text else 0.1))
    weigher = Weigher(graph, object)
    weights = weigher.match("racket", settings)
    assert max(weights, key=weights.get) == settings[2]
    assert set(weigher.parts["racket", settings[2]]) == {"prior", "bertscore", "attention"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_parts_that_are_no_numbers_are_left_out(graph, settings, parts_of, bad):
    parts_of(lambda text: {"bertscore": bad if "Loudness" in text else 0.4, "attention": bad})
    weigher = Weigher(graph, object)
    weights = weigher.match("how fast", settings)
    assert all(math.isfinite(weight) for weight in weights.values())
    assert max(weights, key=weights.get) == settings[0]


def test_only_the_best_by_words_are_given_to_the_encoder(tmp_path, parts_of):
    nodes = [Node(str(n), "tool", f"saw {n}", "cuts wood" if n < 30 else "fells trees") for n in range(60)]
    build(tmp_path / "saws.sqlite", nodes, origin="test")
    graph = Graph(Store.open(tmp_path / "saws.sqlite"))
    calls = parts_of(lambda text: {"bertscore": 1.0, "attention": 1.0})
    weights = Weigher(graph, object).match("cuts wood", graph.members("tool", 100))
    assert len(calls[0]) == MAX_NEURAL and len(weights) == 60
    assert all("cuts wood" in text for text in calls[0])


def test_no_candidates_no_weights(graph):
    assert Weigher(graph, never).match("anything", []) == {}


PARTS = st.dictionaries(st.sampled_from(["prior", "bertscore", "attention"]), st.floats(0, 1), max_size=3)


@given(PARTS)
def test_a_weight_lies_between_its_parts(parts):
    weight = Mix().weight(parts)
    assert min(parts.values(), default=0.0) - 1e-9 <= weight <= max(parts.values(), default=0.0) + 1e-9


@pytest.mark.parametrize(("entity", "expected"), [
    (Entity(1, "k", "f", "json.JSONDecoder.raw_decode", "Decodes a text."), "raw decode: Decodes a text."),
    (Entity(1, "k", "f", "xml.HTMLParser"), "HTML Parser"),
    (Entity(1, "k", "f", "Marfan syndrome", "word " * 90), "Marfan syndrome: " + " ".join(["word"] * 40)),
])  # fmt: skip
def test_an_entity_is_compared_by_the_words_of_its_name_and_its_description(entity, expected):
    assert entity_text(entity) == expected


class TestDecoder:
    @pytest.fixture
    def read(self, monkeypatch, parts_of):
        """The candidates of each call of the decoder, which prefers what is about loudness."""
        calls = []

        def part(reader, text, candidates):
            calls.append(list(candidates))
            return [1.0 if "Loudness" in candidate else 0.1 for candidate in candidates]

        parts_of(lambda text: {"bertscore": 0.5, "attention": 0.5})
        monkeypatch.setattr("tuili.reason.decoder.decoder_part", part)
        return calls

    def test_it_decides_where_the_mix_counts_it(self, graph, settings, read):
        weigher = Weigher(graph, object, Mix(decoder=0.5), object)
        weights = weigher.match("racket", settings)
        assert max(weights, key=weights.get) == settings[2]
        assert weigher.parts["racket", settings[2]]["decoder"] == 1.0
        weigher.match("racket", settings)
        assert len(read) == 1

    def test_it_does_not_run_in_the_shipped_mix_nor_where_words_decide(self, graph, settings, read):
        Weigher(graph, object, None, never).match("racket", settings)
        Weigher(graph, object, Mix(decoder=0.5), never).match("noise", settings)
        Weigher(graph, None, Mix(decoder=0.5), never).match("racket", settings)
        assert read == []

    def test_a_mix_that_counts_it_needs_it(self, graph):
        with pytest.raises(UsageError, match="no reader"):
            Weigher(graph, object, Mix(decoder=0.5))

    def test_it_reads_a_long_list_at_once_and_what_it_prefers_reaches_the_encoder(self, tmp_path, read, parts_of):
        nodes = [Node(str(n), "tool", f"saw {n}", "Loudness" if n == 100 else "cuts wood") for n in range(160)]
        build(tmp_path / "saws.sqlite", nodes, origin="test")
        graph = Graph(Store.open(tmp_path / "saws.sqlite"))
        compared = parts_of(lambda text: {"bertscore": 0.5, "attention": 0.5})
        loud = graph.by_key("100")
        for mix, num_read in ((Mix(decoder=0.5), MAX_READ), (Mix(decoder=0.5, max_read=16), 16)):
            weigher = Weigher(graph, object, mix, object)
            weights = weigher.match("racket", graph.members("tool", 200))
            assert len(read.pop()) == num_read and not read and weigher.num_cut == {"racket": 160 - num_read}
            texts = compared.pop()
            assert len(texts) == MAX_NEURAL and any("Loudness" in text for text in texts) == (num_read > 100)
            assert (max(weights, key=weights.get) == loud) == (num_read > 100)

    def test_it_must_read_something(self):
        with pytest.raises(UsageError, match="max_read is 0, it must be 1 or more"):
            Mix(max_read=0)


def test_parts_that_are_not_there_count_as_nothing():
    mix = Mix(prior=0.4, bertscore=0.4, attention=0.2, decoder=1.0)
    assert mix.at_least({"prior": 1.0}) == pytest.approx(0.2) and mix.at_least({}) == 0.0
    assert mix.at_least({"prior": 1.0, "decoder": 0.5}) == pytest.approx(0.45)
    assert Mix(prior=0.0, bertscore=0.0, attention=0.0).at_least({"prior": 1.0}) == 0.0
