import json

import pytest

from tuili.attention.plan import Dense, LayerPlan, Pooled, Sparse, sandwich
from tuili.attention.select import Budget
from tuili.errors import InputError, UsageError

PLAN = LayerPlan(
    default=Sparse(budget=Budget(block=8, keep=9, coverage=0.9, beam=4), sub=2),
    layers={
        3: Sparse(penalty=0.5, prior="both"),
        5: Dense(window=64, past=128, sink=4),
        0: Dense(),
        7: Pooled(block=8, window=20, sink=0),
    },
    crossover=100,
)


def test_a_plan_survives_json():
    again = LayerPlan.from_json(PLAN.to_json())
    assert again == PLAN
    assert again.to_json() == PLAN.to_json()
    assert list(json.loads(PLAN.to_json())["layers"]) == ["0", "3", "5", "7"]


def test_a_plan_without_a_word_of_priors_has_none():
    plan = PLAN.to_dict()
    for key in ("penalty", "prior"):
        del plan["default"][key]
    assert LayerPlan.from_dict(plan) == PLAN


def test_a_plan_tells_what_holds_for_each_layer():
    assert PLAN.at(0) == Dense()
    assert PLAN.at(1) == PLAN.at(99) == PLAN.default
    assert PLAN.at(5).window == 64


def test_the_default_plan_keeps_a_sparse_layer_and_windows_the_dense_ones():
    assert [isinstance(sandwich(range(4)).at(index), Dense) for index in range(4)] == [True, True, False, False]
    assert sandwich([1, 3, 5]).layers.keys() == {1, 3}
    assert sandwich([0, 1]).layers.keys() == {0}
    assert sandwich([4]).layers == {}
    assert sandwich(range(30)).at(0).window < sandwich(range(30)).at(0).past


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(past=8), "have no effect without a window"),
        (lambda: Dense(sink=8), "have no effect without a window"),
        (lambda: Dense(window=0), "window must be an integer of at least 1, not 0"),
        (lambda: Dense(window=8, past=-1), "past must be"),
        (lambda: Dense(window=8.0), "window must be"),
        (lambda: Sparse(sub=3), "must divide the block of 16 keys, 3 does not"),
        (lambda: Sparse(sub=0), "sub must be"),
        (lambda: Sparse(penalty=-0.5), "penalty must be a finite number of at least 0, not -0.5"),
        (lambda: Sparse(penalty=float("nan")), "penalty must be"),
        (lambda: Sparse(penalty=True), "penalty must be"),
        (lambda: Sparse(prior="both"), "prior='both' has no effect with penalty=0"),
        (lambda: Sparse(prior="step"), "prior must be one of layer, before, both, not 'step'"),
        (lambda: Sparse(budget=64), "must be a Budget, not 64"),
        (lambda: Pooled(block=0), "block must be an integer of at least 1, not 0"),
        (lambda: Pooled(window=0), "window must be"),
        (lambda: Pooled(sink=-1), "sink must be"),
        (lambda: LayerPlan(crossover=-1), "crossover must be"),
        (lambda: LayerPlan(crossover=True), "crossover must be"),
        (lambda: LayerPlan(layers={-1: Dense()}), "a layer's index must be"),
        (lambda: LayerPlan(layers={"0": Dense()}), "a layer's index must be"),
        (lambda: LayerPlan(layers={0: "dense"}), "layer 0 must be Dense, Sparse or Pooled, not 'dense'"),
        (lambda: LayerPlan(layers=[Dense()]), "must map indices"),
        (lambda: LayerPlan(default=None), "layer default must be"),
    ],
)
def test_a_wrong_plan_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def change(path, value):
    plan = json.loads(PLAN.to_json())
    place = plan
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(plan)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ("[]", "exactly the keys"),
        (change(["unknown"], 1), "exactly the keys"),
        (change(["layers"], []), "must be an object"),
        (change(["layers", "00"], {"kind": "dense"}), "no layer index"),
        (change(["layers", "-1"], {"kind": "dense"}), "no layer index"),
        (change(["default"], {"kind": "none"}), "'default' of a layer plan needs a 'kind' of dense, sparse, pooled"),
        (change(["default", "kind"], ["dense"]), "needs a 'kind'"),
        (change(["default", "extra"], 1), "exactly the keys"),
        (change(["default", "budget"], None), "budget of 'default' must be an object"),
        (change(["default", "budget", "selector"], "tree"), "exactly the keys"),
    ],
)
def test_damaged_json_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        LayerPlan.from_json(text)


@pytest.mark.parametrize(
    "path", [["crossover"], ["layers", "5", "window"], ["layers", "7", "block"], ["default", "sub"]]
)
def test_values_out_of_bounds_in_json_are_refused(path):
    with pytest.raises(UsageError, match="at least"):
        LayerPlan.from_json(change(path, -1))


@pytest.mark.parametrize(
    ("name", "message"), [("beam", "whole number"), ("keep", "whole number"), ("coverage", "at most 1")]
)
def test_budgets_of_no_numbers_in_json_are_refused(name, message):
    with pytest.raises(UsageError, match=f"{name} must be .*{message}"):
        LayerPlan.from_json(change(["default", "budget", name], "many"))
