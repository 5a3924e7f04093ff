import itertools

from hypothesis import given
from hypothesis import strategies as st

from tuili.knowledge.lexicon import Mention, Role
from tuili.knowledge.segment import entities_of, readings
from tuili.knowledge.text import tokenise

TOKENS = tokenise("late blight shows brown spot today")


def mention(start, end, score, role=Role.ENTITY):
    return Mention(start, end, role, f"{start}-{end}", score)


def test_the_longer_name_wins_and_the_shorter_ones_stay_as_other_readings():
    long, left, right = mention(0, 2, 1.7), mention(0, 1, 0.8), mention(1, 2, 0.8)
    found = readings(TOKENS, [long, left, right], 10)
    assert found[0].mentions == (long,)
    assert {reading.mentions for reading in found} == {(), (long,), (left,), (right,), (left, right)}


def test_a_mention_that_counts_for_little_is_not_read():
    assert readings(TOKENS, [mention(0, 2, -1.0)], 1)[0].mentions == ()


def test_only_entities_are_entities():
    entity, relation = mention(0, 2, 1.0), mention(2, 3, 1.0, Role.RELATION)
    assert entities_of(readings(TOKENS, [entity, relation], 1)[0]) == [entity]


def test_without_mentions_all_is_text():
    assert [reading.mentions for reading in readings(TOKENS, [], 5)] == [()]


MENTIONS = st.lists(
    st.builds(
        lambda start, length, score: mention(start, min(start + length, len(TOKENS)), score),
        st.integers(0, len(TOKENS) - 1),
        st.integers(1, 3),
        st.floats(0, 2),
    ),
    max_size=6,
    unique_by=lambda one: (one.start, one.end),
)


def overlap(group):
    return any(one.start < other.end and other.start < one.end for one, other in itertools.combinations(group, 2))


@given(MENTIONS)
def test_all_readings_are_found_best_first_without_overlaps(mentions):
    found = readings(TOKENS, mentions, 100)
    groups = (group for size in range(7) for group in itertools.combinations(mentions, size))
    expected = {frozenset(group) for group in groups if not overlap(group)}
    assert {frozenset(reading.mentions) for reading in found} == expected
    assert [reading.score for reading in found] == sorted((reading.score for reading in found), reverse=True)
    assert len(readings(TOKENS, mentions, 2)) <= 2
