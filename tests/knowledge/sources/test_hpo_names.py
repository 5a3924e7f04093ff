from __future__ import annotations

import pytest

from tuili.knowledge.sources.hpo_names import distinct, forms, free_forms


@pytest.mark.parametrize(("name", "expected"), [
    ("Marfan syndrome", ["Marfan"]),
    ("Paget Disease", ["Paget"]),
    ("Crouzon disease 2", [
        "Crouzon disease type 2", "Crouzon disease II", "Crouzon disease type II",
        "Crouzon 2", "Crouzon type 2", "Crouzon II", "Crouzon type II"]),
    ("Mucopolysaccharidosis type IVB (Morquio)", ["Mucopolysaccharidosis type 4B (Morquio)"]),
    ("Deafness, autosomal dominant 4B", [
        "Deafness, autosomal dominant type 4B", "Deafness, autosomal dominant IVB",
        "Deafness, autosomal dominant type IVB"]),
    ("Deafness, 77", ["Deafness 77", "Deafness type 77"]),
    ("Fragile X", []),
    ("Ehlers-Danlos syndrome, classic type", []),
    ("syndrome", []),
])  # fmt: skip
def test_forms(name: str, expected: list[str]) -> None:
    assert forms(name) == expected


def test_distinct_keeps_the_first_of_each_spelling() -> None:
    assert distinct(["b", "A", "a", "B", "c"]) == ("b", "A", "c")


def test_forms_that_belong_to_something_else_are_not_free() -> None:
    names = {
        "1": ["Paget syndrome"], "2": ["Paget disease"], "3": ["Child syndrome"], "4": ["Gout disease"],
        "5": ["Noonan syndrome", "NOONAN SYNDROME"], "6": ["Hurler disease"], "7": ["Hurler"],
    }  # fmt: skip
    free = free_forms(names, taken=["Gout"], prose=["Seen in a child."])
    assert free == {"1": [], "2": [], "3": [], "4": [], "5": ["Noonan"], "6": [], "7": []}
