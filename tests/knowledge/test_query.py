import pytest

from tuili.knowledge.query import Aggregate, Constraint, Query, Value, Var

DISEASE, TOMATO = Var("x", ("disease",)), Var("a", ("plant",), (7,), "the tomato")


def test_a_query_reads_as_one_line():
    query = Query((DISEASE, TOMATO), (Constraint("x", "affects", "a"),), ("x",))
    assert query.describe() == "list ?disease ∧ affects(?disease, “the tomato”)"


@pytest.mark.parametrize(("constraint", "expected"), [
    (Constraint("x", "affects", "a", negated=True), "¬affects(?disease, “the tomato”)"),
    (Constraint("x", "affects", "a", closure=True), "affects*(?disease, “the tomato”)"),
    (
        Constraint("x", "affects", "a", where=("frequency", "Rare")),
        "affects(?disease, “the tomato”) with frequency = Rare",
    ),
])  # fmt: skip
def test_what_is_special_of_a_constraint_is_shown(constraint, expected):
    assert Query((DISEASE, TOMATO), (constraint,), ("x",), Aggregate.COUNT).describe() == f"count ?disease ∧ {expected}"


def test_descriptions_ordinals_kinds_and_values_are_shown():
    variables = (
        Var("x", ("function", "method"), text="writes to a file", ordinal=2),
        Var("m", (), label="mass", value=Value(2.0, "kg", "2 kg")),
    )
    shown = Query(variables, (), ("x", "m")).describe()
    assert shown == "list ?function|method #2 ~ “writes to a file”, “mass” ∧ mass = 2 kg"


def test_variables_are_found_by_name():
    query = Query((DISEASE, TOMATO), (), ("x",))
    assert query.var("a") is TOMATO and TOMATO.is_constant and not DISEASE.is_constant
    with pytest.raises(StopIteration):
        query.var("y")
