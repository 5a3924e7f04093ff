"""Asking on a tiny hierarchy where the best question is known by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError
from tuili.reason.policy import Policy
from tuili.reason.worlds.asking import FEATURES, AskingWorld, follow, right_after
from tuili.reason.worlds.belief import fit_weights, softmax
from tuili.reason.worlds.evidence import Background, Facts, Tables
from tuili.reason.worlds.findings import Hierarchy, Rows
from tuili.reason.worlds.gains import NO, UNKNOWN, YES, Answers, Inquiry, Told, truth_of
from tuili.reason.worlds.judge import FIRST, Judge, answer_features, most_special
from tuili.reason.worlds.profiles import Cases, Known, Statements

#   root -> skin -> rash, scar;  root -> eye -> squint
PARENTS = {"root": [], "skin": ["root"], "eye": ["root"], "rash": ["skin"], "scar": ["skin"], "squint": ["eye"]}
HIERARCHY = Hierarchy.of(PARENTS)
N = HIERARCHY.number


def known_of(cases):
    """Return what is known from (hypothesis, observed, excluded, source)."""
    none = np.zeros(0, dtype=np.int64)
    statements = Statements(none, none, none.astype(np.float32), none.astype(np.float32), Rows.of([]))
    columns = list(zip(*cases, strict=True))
    told = [Rows.of([N[key] for key in row] for row in column) for column in columns[1:3]]
    described = Cases(np.array(columns[0]), *told, Rows.of([source] for source in columns[3]))
    return Known.of(statements, described, max(columns[0]) + 1)


# Two hypotheses show a rash alike; a squint, told in all, parts the first from the second.
CASES = [
    *((0, ["rash", "squint"], [], 10 + n) for n in range(6)),
    *((1, ["rash"], ["squint"], 20 + n) for n in range(6)),
    *((2, ["scar"], ["squint"], 30 + n) for n in range(6)),
]


@pytest.fixture(scope="module")
def setting():
    known = known_of(CASES)
    facts = Facts.of(known, HIERARCHY)
    background = Background.of(facts, len(HIERARCHY))
    tables = Tables.of(known, facts, HIERARCHY, background, np.arange(len(HIERARCHY)))
    questions = np.arange(1, len(HIERARCHY))
    answers = Answers.of(facts, background, questions, (1.0, 0.0, 1.0, 0.0))
    return known, tables, Judge.of(tables, FIRST), answers


def told(hypothesis, begins, observed, excluded, answers):
    numbers = (np.array([N[key] for key in keys], dtype=np.int64) for keys in (observed, excluded))
    return Told(tuple(N[key] for key in begins), truth_of(HIERARCHY, answers.questions_M, *numbers), -1, hypothesis)


def test_observed_implies_above_and_excluded_rules_out_below():
    assert HIERARCHY.implied([N["rash"]]).tolist() == sorted(N[key] for key in ("root", "skin", "rash"))
    assert HIERARCHY.ruled_out([N["skin"]]).tolist() == sorted(N[key] for key in ("skin", "rash", "scar"))
    truth = truth_of(HIERARCHY, np.arange(6), np.array([N["squint"]]), np.array([N["skin"]]))
    assert {key: int(truth[N[key]]) for key in PARENTS} == {
        "root": YES,
        "eye": YES,
        "squint": YES,
        "skin": NO,
        "rash": NO,
        "scar": NO,
    }
    assert truth_of(HIERARCHY, np.arange(6), np.array([], int), np.array([], int)).tolist() == [UNKNOWN] * 6


def test_a_cycle_is_refused():
    with pytest.raises(InputError, match="cycle"):
        Hierarchy.of({"a": ["b"], "b": ["a"]})


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=6))
def test_rows_transpose_twice_to_themselves(rows):
    packed = Rows.of(sorted(set(row)) for row in rows)
    twice = packed.transposed(6).transposed(len(packed))
    assert [list(twice[place]) for place in range(len(packed))] == [list(packed[place]) for place in range(len(packed))]


def test_the_best_question_is_the_one_that_parts_what_is_left(setting):
    known, _, judge, answers = setting
    case = told(0, ["rash"], ["rash", "squint"], ["scar"], answers)
    inquiry = Inquiry.begin(judge, answers, HIERARCHY, known.active(-1)[None], [case])
    gains = inquiry.gains(np.array([0])).gain_WM[0]
    by_key = {HIERARCHY.keys[finding]: gain for finding, gain in zip(answers.questions_M, gains, strict=True)}
    assert max(by_key, key=by_key.get) in {"squint", "eye"}
    assert by_key["skin"] == by_key["rash"] == -1  # the rash has answered them


def test_gain_by_hand(setting):
    known, _, judge, answers = setting
    case = told(0, ["rash"], ["rash"], [], answers)
    inquiry = Inquiry.begin(judge, answers, HIERARCHY, known.active(-1)[None], [case])
    belief = inquiry.beliefs(np.array([0]))[0]
    place = int(np.flatnonzero(answers.questions_M == N["squint"])[0])
    table = np.stack([answers.yes_HM[:, place], answers.no_HM[:, place]])
    table = np.concatenate([table, 1 - table.sum(axis=0, keepdims=True)])
    mixed = (table * belief).sum(axis=1)
    inner = -(belief * (table * np.log(table)).sum(axis=0)).sum()
    expected = -(mixed * np.log(mixed)).sum() - inner
    assert inquiry.gains(np.array([0])).gain_WM[0, place] == pytest.approx(expected, abs=1e-4)


def test_answers_close_what_they_settle_and_belief_equals_a_fresh_count(setting):
    known, tables, judge, answers = setting
    case = told(0, ["skin"], ["rash", "squint"], ["scar"], answers)
    inquiry = Inquiry.begin(judge, answers, HIERARCHY, known.active(-1)[None], [case])
    place = {HIERARCHY.keys[finding]: number for number, finding in enumerate(answers.questions_M)}
    assert inquiry.ask(0, place["rash"]) == YES
    assert inquiry.ask(0, place["scar"]) == NO
    assert inquiry.ask(0, place["squint"]) == YES
    assert inquiry.closed_WM.all()
    assert inquiry.ask(0, place["scar"]) == NO  # again: settled, so it changes nothing
    fresh = answer_features(tables, HIERARCHY, np.arange(3), inquiry.taken[0]) @ FIRST
    assert softmax(fresh) == pytest.approx(inquiry.beliefs(np.array([0]))[0], abs=1e-5)
    assert most_special(HIERARCHY, [N["skin"], N["rash"], N["eye"]]) == sorted([N["rash"], N["eye"]])


def test_what_is_not_told_closes_everything_below(setting):
    known, _, judge, answers = setting
    case = told(1, ["rash"], ["rash"], [], answers)
    inquiry = Inquiry.begin(judge, answers, HIERARCHY, known.active(-1)[None], [case])
    places = [int(np.flatnonzero(answers.questions_M == N[key])[0]) for key in ("eye", "squint")]
    assert inquiry.ask(0, places[0]) == UNKNOWN
    assert inquiry.closed_WM[0, places].all()


def test_an_untrained_policy_asks_what_gains_most_and_a_budget_ends_it(setting):
    known, _, judge, answers = setting
    cases = [told(0, ["rash"], ["rash", "squint"], ["scar"], answers), told(1, ["rash"], ["rash"], ["squint"], answers)]
    world = AskingWorld(judge, answers, HIERARCHY, known, cases, budget=1)
    assert follow(world, Policy.of_prior(FEATURES), cases).tolist() == [1, 1]
    assert world.inquiry.scores_WH.argmax(axis=1).tolist() == [0, 1]


def test_stopping_ends_a_walk_at_no_cost(setting):
    known, _, judge, answers = setting
    cases = [told(0, ["rash"], ["rash", "squint"], [], answers)]
    world = AskingWorld(judge, answers, HIERARCHY, known, cases, budget=5)
    choices = world.begin(cases)
    step = world.step(np.array([len(choices.prior_E) - 1]))
    assert step.done_S.tolist() == [True] and step.reward_S.tolist() == [0.0] and step.choices is None
    assert choices.features_EF.shape[1] == len(FEATURES)


def test_weights_recover_what_chose():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 8, 2)).astype(np.float32)
    logits = features @ np.array([1.5, -0.5])
    chosen = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert fit_weights(features, chosen, ridge=0.1) == pytest.approx([1.5, -0.5], abs=0.1)
    with pytest.raises(InputError, match="not finite"):
        fit_weights(features * np.nan, chosen)


def test_a_version_forgets_its_sources():
    known = known_of(CASES).with_versions([[10, 11], [20]])
    assert known.base.tolist() == [0, 1, 2, 0, 1] and known.group.tolist() == [-1, -1, -1, 0, 1]
    assert Facts.of(known, HIERARCHY).num_cases_H.tolist() == [6, 6, 6, 4, 5]
    assert known.active(0).tolist() == [False, True, True, True, False]
    assert known.active(1).tolist() == [True, False, True, False, True]
    assert len(known_of(CASES).without([10, 11, 20]).cases) == 15


def setting_of(cases, hierarchy, questions):
    """Return what is known from cases (hypothesis, observed, excluded, source), a judge and answers."""
    none = np.zeros(0, dtype=np.int64)
    statements = Statements(none, none, none.astype(np.float32), none.astype(np.float32), Rows.of([]))
    told_rows = [Rows.of([hierarchy.number[key] for key in case[part]] for case in cases) for part in (1, 2)]
    described = Cases(np.array([case[0] for case in cases]), *told_rows, Rows.of([case[3]] for case in cases))
    known = Known.of(statements, described, 1 + max(case[0] for case in cases))
    facts = Facts.of(known, hierarchy)
    background = Background.of(facts, len(hierarchy))
    judge = Judge.of(Tables.of(known, facts, hierarchy, background, np.arange(len(hierarchy))), FIRST)
    return known, judge, Answers.of(facts, background, questions, (1.0, 0.0, 1.0, 0.0))


@pytest.mark.parametrize("seed", range(8))
def test_the_chance_to_be_right_is_what_asking_itself_brings(seed):
    rng = np.random.default_rng(seed)
    leaves = ["rash", "scar", "squint", "skin", "eye"]
    cases = []
    for number in range(60):
        observed = [key for key in leaves if rng.random() < 0.4]
        excluded = [key for key in leaves if key not in observed and rng.random() < 0.3]
        cases.append((number % 12, observed, excluded, number))
    known, judge, answers = setting_of(cases, HIERARCHY, np.arange(1, len(HIERARCHY)))
    begins = (N["skin"], N["eye"])

    def begun(truth):
        return Inquiry.begin(judge, answers, HIERARCHY, known.active(-1)[None], [Told(begins, truth, -1, 0)])

    walk, inquiry = np.array([0]), begun(np.zeros(len(answers), dtype=np.int8))
    belief = inquiry.beliefs(walk)[0]
    right = right_after(inquiry, walk, inquiry.gains(walk), np.arange(len(answers))[None])[0]
    for place in np.flatnonzero(~inquiry.closed_WM[0]):
        yes, no = answers.yes_HM[:, place], answers.no_HM[:, place]
        expected = 0.0
        for answer, chance in ((YES, yes), (NO, no), (UNKNOWN, 1 - yes - no)):
            after = begun(np.full(len(answers), answer, dtype=np.int8))
            assert after.ask(0, int(place)) == answer
            first = after.scores_WH[0].argmax()
            expected += belief[first] * chance[first]
        assert right[place] == pytest.approx(expected, abs=1e-5)


def test_a_question_that_changes_the_name_is_preferred_to_one_that_informs_on_others():
    # A tooth parts ten rare hypotheses from each other, an ear only the two likeliest ones.
    parents = {"root": [], "fever": ["root"], "tooth": ["root"], "ear": ["root"]}
    hierarchy = Hierarchy.of(parents)
    number = hierarchy.number
    cases = [
        *((0, ["fever"], ["ear"], n) for n in range(10)),
        *((1, ["fever", "ear"], [], 100 + n) for n in range(9)),
        *(
            (2 + each, ["fever", "tooth"] if each % 2 else ["fever"], [] if each % 2 else ["tooth"], 200 + each)
            for each in range(10)
        ),
    ]
    questions = np.array([number["tooth"], number["ear"]])
    known, judge, answers = setting_of(cases, hierarchy, questions)
    case = Told((number["fever"],), np.array([NO, YES], dtype=np.int8), -1, 1)
    inquiry = Inquiry.begin(judge, answers, hierarchy, known.active(-1)[None], [case])
    walk = np.array([0])
    right = right_after(inquiry, walk, inquiry.gains(walk), np.array([[0, 1]]))[0]
    assert right[1] > right[0] + 0.05
    assert inquiry.beliefs(walk)[0].max() == pytest.approx(right[0], abs=0.02)
