"""Walks learned on a family answer questions about it; budgets and other bases have their answers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tuili.errors import InputError
from tuili.knowledge.graph import Graph
from tuili.knowledge.store import Store
from tuili.reason.conditioning_fit import FitConfig
from tuili.reason.guide import FEATURES
from tuili.reason.learn import LearnConfig, learn
from tuili.reason.policy import Policy, sample
from tuili.reason.ppo import PPOConfig
from tuili.reason.reading import MASK, WordReader
from tuili.reason.walk import ConditionedWalk, WalkConfig
from tuili.reason.worlds.hops import ArrayHops, GraphHops
from tuili.reason.worlds.questions import Asked, QuestionWorld

if TYPE_CHECKING:
    from conftest import Family

CONFIG = LearnConfig(
    fit=FitConfig(size=32, epochs=12, least_steps=0, batch=16, learning_rate=5e-3),
    ppo=PPOConfig(num_updates=2, num_walks=32, hidden=8),
)
READER = WordReader()


@pytest.fixture(scope="module")
def walk(family: Family) -> ConditionedWalk:
    """Return a walk learned from every other question."""
    return learn(family.hops, family.asked[::2], CONFIG, reader=READER)


def share_right(walk: ConditionedWalk, asked: list[Asked]) -> float:
    replies = [walk.ask(one.text, one.start.tolist()) for one in asked]
    return float(
        np.mean([np.array_equal(one.answer_set, own.answers) for one, own in zip(replies, asked, strict=True)])
    )


def test_it_answers_the_other_half_from_answers_alone(walk: ConditionedWalk, family: Family) -> None:
    assert share_right(walk, family.asked[1::2]) > 0.9


def test_the_number_of_hops_is_read_from_the_question(walk: ConditionedWalk, family: Family) -> None:
    person = next(one for one in family.asked if "city does the parent" in one.text).start.tolist()
    lengths = [
        len(walk.ask(text, person).paths[0].actions)
        for text in (
            "where does xyz work",
            "in which city does xyz work",
            "in which city does the parent of xyz work",
        )
    ]
    assert lengths == [1, 2, 3]


def test_what_the_base_lacks_counts_against_the_ways_that_are_left(walk: ConditionedWalk, family: Family) -> None:
    question = "where does xyz work"
    person = next(one for one in family.asked if one.text == question).start
    leaving_A = family.hops.leaving(person)
    whole = walk.guide.situation(question, (), leaving_A, 1)
    best = int(whole.actions_n[whole.prior_n.argmax()])
    lacking = walk.guide.situation(question, (), np.where(np.arange(len(leaving_A)) == best, 0, leaving_A), 1)
    assert best not in lacking.actions_n.tolist()
    assert np.exp(lacking.prior_n).sum() == pytest.approx(1, abs=1e-5)  # a local share says nothing of the gap
    kept = np.exp(whole.prior_n + whole.log_share)[whole.actions_n != best]
    np.testing.assert_allclose(np.exp(lacking.prior_n + lacking.log_share), kept, rtol=1e-4)
    everything = walk.guide.situation(question, (best,), np.ones_like(leaving_A), 1)
    assert everything.log_share == pytest.approx(0, abs=1e-5)


def test_a_way_round_a_missing_fact_is_no_sure_answer(walk: ConditionedWalk, family: Family) -> None:
    relations = [action.relation for action in family.hops.actions[::2]]
    parent_firm_city = np.array([[0, 0, 1], [1, 1, 2], [2, 2, 3]])  # nobody knows where 0 works
    small = ArrayHops(parent_firm_city, relations, 4, family.hops.schema)
    on_small = ConditionedWalk(walk.guide.conditioning, READER, small)
    told, lacking = (on_small.ask("where does xyz work", [person]) for person in (1, 0))
    assert told.answers[0].node == 2 and told.answers[0].score > 0.8
    assert not lacking.answers or lacking.answers[0].score < 0.3


def test_paths_are_probabilities_and_answers_their_sums(walk: ConditionedWalk, family: Family) -> None:
    everything = WalkConfig(num_paths=1000, enough=1.0, least=0.0)
    found = walk.ask(family.asked[0].text, family.asked[0].start.tolist(), everything)
    masses = [path.probability for path in found.paths]
    assert masses == sorted(masses, reverse=True) and 0.5 < sum(masses) <= 1 + 1e-5
    for answer in found.answers[:5]:
        assert answer.score <= sum(masses[place] for place in answer.paths) + 1e-6
        assert all(answer.node in found.paths[place].end.nodes_V for place in answer.paths)


def test_attention_spreads_over_the_words(walk: ConditionedWalk) -> None:
    seen = walk.attention("where does xyz work", [])
    assert [word for word, _ in seen] == ["where", "does", MASK, "work"]
    assert sum(share for _, share in seen) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("budget", [0, 1])
def test_a_budget_of_edges_is_kept_and_said(walk: ConditionedWalk, family: Family, budget: int) -> None:
    person = next(one for one in family.asked if "city does xyz" in one.text)
    found = walk.ask(person.text, person.start.tolist(), WalkConfig(max_edges=budget))
    assert found.is_partial and found.num_edges <= budget


def test_no_start_no_edges_and_no_words(walk: ConditionedWalk, family: Family) -> None:
    assert walk.ask("who is the parent of xyz", []).answers == ()
    lonely = ArrayHops(np.empty((0, 3), np.int64), ("parent", "works_at", "located_in"), 1)
    there = ConditionedWalk(walk.guide.conditioning, READER, lonely, policy=walk.policy)
    assert there.ask("who is the parent of xyz", [0]).paths == ()
    with pytest.raises(InputError, match="no word"):
        walk.ask("?", [1])


def test_a_policy_of_another_world_is_refused(walk: ConditionedWalk, family: Family) -> None:
    with pytest.raises(InputError, match="another world"):
        ConditionedWalk(walk.guide.conditioning, READER, family.hops, policy=Policy.of_prior(("one",)))
    same = ConditionedWalk(walk.guide.conditioning, READER, family.hops, policy=Policy.of_prior(FEATURES))
    plain = ConditionedWalk(walk.guide.conditioning, READER, family.hops)
    one = family.asked[3]
    assert same.ask(one.text, one.start.tolist()).answers == plain.ask(one.text, one.start.tolist()).answers


def test_relations_of_another_base_are_known_by_their_phrases(walk: ConditionedWalk, tiny_base: Path) -> None:
    hops = GraphHops(Graph(Store.open(tiny_base)))
    there = ConditionedWalk(walk.guide.conditioning, READER, hops)
    alien = hops.graph.by_key("film:alien")
    assert alien is not None
    first = there.ask("what is the genre of xyz", [alien]).paths[0].actions[0]
    assert first.relation == "has genre"


def test_the_world_rewards_the_right_path_most(walk: ConditionedWalk, family: Family) -> None:
    some = [one for one in family.asked if "city does xyz" in one.text]
    world = QuestionWorld(walk.guide, family.hops, some)
    rng = np.random.default_rng(0)
    choices = world.start(64, rng)
    total = np.zeros(64)
    lengths = np.zeros(64)
    while choices is not None:
        alive = choices.walk_S
        lengths[alive] += 1
        step = world.step(sample(np.asarray(choices.prior_E), choices.offsets, rng))
        total[alive] += step.reward_S
        choices = step.choices
    assert total.max() > 0.95 and total.max() <= 1 and lengths.max() <= 4


def test_a_world_without_starts_is_refused(walk: ConditionedWalk, family: Family) -> None:
    with pytest.raises(InputError, match="none of 1 questions"):
        QuestionWorld(walk.guide, family.hops, [Asked("who", np.array([], np.int64), np.array([0]))])


def test_learning_again_gives_the_same_walk(walk: ConditionedWalk, family: Family) -> None:
    config = replace(
        CONFIG, fit=FitConfig(size=8, epochs=1, least_steps=0), ppo=PPOConfig(num_updates=1, num_walks=8, hidden=4)
    )
    first, second = (learn(family.hops, family.asked[:30], config, reader=READER) for _ in range(2))
    assert first.policy is not None and second.policy is not None
    assert all((first.policy.weights[name] == second.policy.weights[name]).all() for name in first.policy.weights)


def test_asking_needs_no_torch() -> None:
    code = "import sys, tuili.reason.walk, tuili.reason.learn; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
