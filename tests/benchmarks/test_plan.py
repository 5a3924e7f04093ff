import pytest

import plan
from runner import Options
from tuili.train.planning.tables import tables


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    options = Options(tmp_path_factory.mktemp("out"), None, None, False, "")
    return {result.name: result for result in plan.measure(options)}


def test_every_table_has_its_errors_beside_a_simple_rule(found):
    for table in tables():
        mean, largest = found[f"plan.{table.name}.mean_error"], found[f"plan.{table.name}.max_error"]
        assert mean.value <= mean.target == (0.05 if table.role == "fitted" else 0.10)
        assert mean.value <= largest.value and mean.n == len(table.judged)
        assert mean.baseline["name"] == plan.CONSTANT


def test_the_planner_beats_the_simple_rule_on_most_tables(found):
    rows = [row for name, row in found.items() if name.endswith(".mean_error") and row.baseline]
    assert sum(row.value < row.baseline["value"] for row in rows) > 0.8 * len(rows)


def test_the_simple_rule_is_exact_where_it_was_taken_from():
    (row,) = [row for table in tables() for row in table.rows if row.fits == "matmul"]
    assert plan.simple_error(row) == pytest.approx(0)


def test_parameters_memory_claims_and_batches_are_there(found):
    assert found["plan.params.max_gap"].value <= 0.1
    assert 0 < found["plan.memory.torchtitan.mean_error"].value < 0.15
    assert all(10 < found[f"plan.claim.{name}.hours"].value < 30 for name in plan.CLAIMS)
    assert found["plan.batch64.512.models"].value >= found["plan.batch64.2048.models"].value
    assert found["plan.batch64.512.chunked_loss.models"].value >= found["plan.batch64.512.models"].value


def test_only_what_is_asked_for_is_worked_out(tmp_path):
    names = [one.name for one in plan.measure(Options(tmp_path, None, None, False, "plan.torchtitan_70b"))]
    assert names == ["plan.torchtitan_70b.mean_error", "plan.torchtitan_70b.max_error"]
