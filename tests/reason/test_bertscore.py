import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.reason.bertscore import BertScore, IdfWeights, idf_weights, score

EVEN = IdfWeights({}, 1.0)


def embedded(tokens, vectors):
    return SimpleNamespace(tokens=tokens, vectors=np.array(vectors, dtype=np.float32))


def test_idf_of_three_texts():
    idf = idf_weights([["a", "b", "a"], ["a"], ["a", "c"]])
    assert idf.of(["a", "b", "c", "unseen"]) == pytest.approx(
        [math.log(4 / 4), math.log(4 / 2), math.log(4 / 2), math.log(4)]
    )


def test_score_by_hand():
    # Similarities [[0.6, 0.8, 0], [1, 0, 0]]: the candidate's best are 0.8 and 1, the reference's 1, 0.8, 0.
    candidate = embedded(["x", "y"], [[0.6, 0.8, 0], [1, 0, 0]])
    reference = embedded(["y", "z", "w"], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    idf = IdfWeights({"x": 3.0, "y": 1.0, "z": 2.0, "w": 1.0}, 9.0)
    precision = (3 * 0.8 + 1 * 1.0) / 4
    recall = (1 * 1.0 + 2 * 0.8 + 1 * 0.0) / 4
    assert (precision, recall) == pytest.approx((0.85, 0.65))
    result = score(candidate, reference, idf)
    assert result.precision == pytest.approx(0.85)
    assert result.recall == pytest.approx(0.65)
    assert result.f1 == pytest.approx(0.7366666666666667)


def test_precision_and_recall_swap_with_the_texts():
    one = embedded(["a"], [[1, 0]])
    two = embedded(["a", "b"], [[1, 0], [0, 1]])
    assert score(one, two, EVEN) == BertScore(1.0, 0.5, pytest.approx(2 / 3))
    assert score(two, one, EVEN) == BertScore(0.5, 1.0, pytest.approx(2 / 3))


def test_a_rare_token_counts_more_than_a_common_one():
    idf = idf_weights([["common", "rare"], ["common"], ["common"]])
    reference = embedded(["common", "rare"], [[1, 0], [0, 1]])
    assert score(embedded(["rare"], [[0, 1]]), reference, idf).recall == pytest.approx(1.0)
    assert score(embedded(["common"], [[1, 0]]), reference, idf).recall == pytest.approx(0.0)


def test_no_tokens_or_no_weight_scores_zero():
    empty = embedded([], np.zeros((0, 2)))
    some = embedded(["a"], [[1, 0]])
    nothing = BertScore(0.0, 0.0, 0.0)
    assert score(empty, some, EVEN) == nothing
    assert score(some, empty, EVEN) == nothing
    assert score(some, some, IdfWeights({"a": 0.0}, 1.0)) == nothing


def test_opposite_vectors_have_no_f1():
    result = score(embedded(["a"], [[1, 0]]), embedded(["b"], [[-1, 0]]), EVEN)
    assert (result.precision, result.recall, result.f1) == (-1.0, -1.0, 0.0)


def plain_loops(candidate, reference, idf):
    """BERTScore with nothing but loops over Python numbers."""

    def side(left, right):
        total = weight_sum = 0.0
        for token, vector in zip(left.tokens, left.vectors.tolist(), strict=True):
            best = -2.0
            for other in right.vectors.tolist():
                best = max(best, sum(a * b for a, b in zip(vector, other, strict=True)))
            weight = idf.weights.get(token, idf.unseen)
            total += weight * best
            weight_sum += weight
        return total / weight_sum

    precision, recall = side(candidate, reference), side(reference, candidate)
    return precision, recall, 2 * precision * recall / (precision + recall)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_equals_plain_loops_on_random_vectors(num_left, num_right, seed):
    rng = np.random.default_rng(seed)
    texts = []
    for size in (num_left, num_right):
        vectors = np.abs(rng.normal(size=(size, 5)))
        texts.append(embedded([str(i) for i in range(size)], vectors / np.linalg.norm(vectors, axis=1)[:, None]))
    idf = idf_weights([["0", "1"], ["0"], ["2"]])
    result = score(*texts, idf)
    assert (result.precision, result.recall, result.f1) == pytest.approx(plain_loops(*texts, idf), abs=1e-5)


TEXTS = [
    "Which parameter of json.dumps controls the indentation?",
    "json.dumps has the parameter indent, which sets how deep each level is indented.",
    "shutil.rmtree deletes a whole folder.",
]


@pytest.fixture(scope="module")
def vectors(models):
    from tuili.model.encoder import Encoder

    return Encoder.load("minilm").token_vectors(TEXTS)


def test_equals_plain_loops_on_minilm(vectors):
    idf = idf_weights([text.tokens for text in vectors])
    for text in vectors[1:]:
        result = score(vectors[0], text, idf)
        assert (result.precision, result.recall, result.f1) == pytest.approx(
            plain_loops(vectors[0], text, idf), abs=1e-5
        )


@pytest.mark.parametrize(
    ("row", "frozen"),
    [
        (1, (0.8249180775, 0.7016348322, 0.7582983246)),
        (2, (0.1466277728, 0.1303552101, 0.1380134904)),
    ],
)
def test_equals_frozen_numbers_on_minilm(vectors, row, frozen):
    # Computed once in double precision by another implementation of the model and plain loops.
    result = score(vectors[0], vectors[row], idf_weights([text.tokens for text in vectors]))
    assert (result.precision, result.recall, result.f1) == pytest.approx(frozen, abs=1e-5)
