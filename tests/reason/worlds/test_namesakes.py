"""Names of quantities in pieces, and how well they fit."""

from __future__ import annotations

import pytest
from tiny_formulas import laws

from tuili.reason.worlds.dimensions import read_dimension
from tuili.reason.worlds.namesakes import NameDimensions, Namesakes, all_pieces, indices, kinship, pieces

JOULE, KILOGRAM = (read_dimension(unit)[1] for unit in ("J", "kg"))  # type: ignore[index]


def test_pieces_of_several_scripts() -> None:
    assert pieces("The masses of water") == pieces("mass water")
    assert "水的" in pieces("水的质量")
    assert {"水", "质量"} <= set(pieces("水的质量"))
    assert pieces("…") == ()
    assert all_pieces(["mass", "mass of water"]) == ("mass", "water")


def test_numbers_tell_things_of_one_sort_apart() -> None:
    assert indices(["Resistance R_2", "the bulb L1"]) == ("2", "1")
    assert indices(["power over 12 hours", "R_10", "a 2 kg stone"]) == ()


def test_a_name_fits_the_variable_that_bore_it() -> None:
    found = laws()
    names = Namesakes(found)
    place = next(at for at, law in enumerate(found.laws) if law.formulas == ["d = t-s"])
    for _ in range(5):
        names.add(place, 1, ["warm end"])
    warm = all_pieces(["warm end"])
    assert names.score(warm, place, 1) > 0 > names.score(warm, place, 2)
    assert names.score(all_pieces(["unheard"]), place, 1) == 0.0
    assert names.score((), place, 1) == 0.0


def test_kinship_is_what_names_share() -> None:
    water, mass, coal = pieces("heat of water"), pieces("mass of water"), pieces("price of coal")
    assert kinship(water, mass, {}) == pytest.approx(0.5)
    assert kinship(water, coal, {}) == 0.0
    assert kinship(water, water, {"water": 0.1}) == 1.0


def test_dimensions_are_guessed_from_the_end_of_a_name() -> None:
    guess = NameDimensions([("水吸收的热量", JOULE), ("热量", JOULE), ("水的质量", KILOGRAM), ("煤的质量", KILOGRAM)])
    ranked = guess(("铁的质量",))
    assert max(ranked, key=lambda dimension: ranked[dimension]) == KILOGRAM
    assert guess(("…",)) == {}
