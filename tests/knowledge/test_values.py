"""Values in questions: spellings of numbers and units, ranges, rates, money, limits."""

from __future__ import annotations

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import LimitError
from tuili.knowledge.numbers import find_numbers
from tuili.knowledge.units import named_unit, read_unit
from tuili.knowledge.values import currency, find_units, find_values

_REGISTRY = pint.UnitRegistry()


def _one(text: str) -> tuple[float, str]:
    (found,) = find_values(text)
    return found.value.magnitude, found.value.unit


def _si(text: str) -> pint.Quantity:
    magnitude, unit = _one(text)
    return _REGISTRY.Quantity(magnitude, unit).to_base_units()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,500", 1500),
        ("1 500", 1500),
        ("1500.5", 1500.5),
        ("1.5e3", 1500),
        ("1.5·10^3", 1500),
        ("3×10^8", 3e8),
        ("3 x 10^8", 3e8),
        ("6.67×10⁻¹¹", 6.67e-11),
        ("1.6 x 10-19", 1.6e-19),
        ("10^-3", 1e-3),
        ("2,5", 2.5),
        ("½", 0.5),
        ("2½", 2.5),
        ("3/4", 0.75),
        ("4.5 million", 4.5e6),
        ("a hundred", 100),
        ("twenty-five", 25),
        ("two", 2),
        ("two hundred and five", 205),
        ("three thousand", 3000),
        ("two and a half", 2.5),
        ("a dozen", 12),
        ("3 dozen", 36),
        ("from -5", -5),
        (".25", 0.25),
        ("1e-3", 1e-3),
        ("12'000", 12000),
    ],
)
def test_spellings_of_numbers(text: str, number: float) -> None:
    (found,) = find_numbers(text)
    assert found.number == pytest.approx(number)


@pytest.mark.parametrize("text", ["H2O", "iodine-131", "CO2", "v_0", "half-life", "a car", "and", "x2", ".²"])
def test_names_hold_no_numbers(text: str) -> None:
    assert list(find_numbers(text)) == []


@pytest.mark.parametrize(
    ("text", "unit", "magnitude"),
    [
        ("3 m/s²", "meter / second ** 2", 3),
        ("3 m/s^2", "meter / second ** 2", 3),
        ("3 metres per second squared", "meter / second ** 2", 3),
        ("3 m/s/s", "meter / second ** 2", 3),
        ("3 m s⁻²", "meter / second ** 2", 3),
        ("36 km/h", "meter / second", 10),
        ("36 kph", "meter / second", 10),
        ("36 kilometers per hour", "meter / second", 10),
        ("36 kilometres an hour", "meter / second", 10),
        ("2 kW", "watt", 2000),
        ("4 ohm", "ohm", 4),
        ("4 Ω", "ohm", 4),
        ("3 kΩ", "ohm", 3000),
        ("5 µF", "farad", 5e-6),
        ("5 uF", "farad", 5e-6),
        ("20 °C", "kelvin", 293.15),
        ("20 degrees Celsius", "kelvin", 293.15),
        ("2 litres", "meter ** 3", 0.002),
        ("1.5 tonnes", "kilogram", 1500),
        ("1.5 t", "kilogram", 1500),
        ("2 minutes", "second", 120),
        ("1 h 30 min", "second", 5400),
        ("half an hour", "second", 1800),
        ("6 ft 2 inches", "meter", 1.8796),
        ("60 %", "", 0.6),
        ("60 percent", "", 0.6),
        ("2 eV", "joule", 3.204353268e-19),
        ("0.1 mol/L", "mole / meter ** 3", 100),
        ("0.1 moles per litre", "mole / meter ** 3", 100),
        ("0.8 W/(m K)", "watt / meter / kelvin", 0.8),
        ("0.8 W/m·K", "watt / meter / kelvin", 0.8),
        ("1.2e-5 1/K", "1 / kelvin", 1.2e-5),
        ("1.2e-5 per kelvin", "1 / kelvin", 1.2e-5),
        ("4186 J/(kg·°C)", "joule / kilogram / kelvin", 4186),
        ("6.67e-11 N m²/kg²", "newton * meter ** 2 / kilogram ** 2", 6.67e-11),
        ("5 Nm", "newton * meter", 5),
        ("5 newton metres", "newton * meter", 5),
        ("2 kWh", "joule", 7.2e6),
        ("2 kilowatt-hours", "joule", 7.2e6),
        ("4 square metres", "meter ** 2", 4),
        ("4 cm²", "meter ** 2", 4e-4),
        ("4 cubic centimetres", "meter ** 3", 4e-6),
        ("4 dioptres", "1 / meter", 4),
        ("a 50-N force", "newton", 50),
        ("12V", "volt", 12),
        ("in a second", "second", 1),
        ("three quarters of an hour", "second", 2700),
    ],
)
def test_spellings_of_units(text: str, unit: str, magnitude: float) -> None:
    assert _si(text).to(unit).magnitude == pytest.approx(magnitude)


_UNITS = {
    "m": "meter",
    "km": "kilometer",
    "s": "second",
    "kg": "kilogram",
    "N": "newton",
    "J": "joule",
    "kW": "kilowatt",
    "V": "volt",
    "mA": "milliampere",
    "kΩ": "kiloohm",
    "µF": "microfarad",
    "Hz": "hertz",
    "kPa": "kilopascal",
    "m/s": "meter / second",
    "g/mol": "gram / mole",
    "kg/m³": "kilogram / meter ** 3",
    "K": "kelvin",
}


@given(st.floats(1e-9, 1e12), st.sampled_from(sorted(_UNITS)), st.sampled_from(["", " ", "\u00a0"]))
def test_numbers_with_units_come_back(number: float, symbol: str, blank: str) -> None:
    found = _si(f"a value of {number!r}{blank}{symbol}, that is")
    wanted = _REGISTRY.Quantity(number, _UNITS[symbol]).to_base_units()
    assert found.units == wanted.units
    assert found.magnitude == pytest.approx(wanted.magnitude)


@given(st.integers(0, 10**12))
def test_grouped_digits_come_back(number: int) -> None:
    assert _one(f"{number:,} kg") == (number, "kilogram")


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = find_values(text)
    except LimitError:
        return
    for item in found:
        assert text[item.value.start : item.value.end] == item.value.text


@pytest.mark.parametrize(
    "text",
    [
        "from 20 to 100 °C",
        "from 20 °C to 100 °C",
        "between 20 °C and 100 °C",
        "20 °C → 100 °C",
        "between 20 and 100 degrees Celsius",
    ],
)
def test_ranges_have_two_ends(text: str) -> None:
    first, second = find_values(text)
    assert [(item.value.magnitude, item.unit, item.role, item.in_range) for item in (first, second)] == [
        (20, "degree_Celsius", "initial", True),
        (100, "degree_Celsius", "final", True),
    ]


def test_zero_begins_a_range() -> None:
    assert [(item.value.magnitude, item.role) for item in find_values("from 0 to 27 m/s")] == [
        (0, "initial"),
        (27, "final"),
    ]


def test_lists_share_the_last_unit() -> None:
    assert [(item.value.magnitude, item.unit) for item in find_values("10, 20 and 30 ohms")] == [
        (10, "ohm"),
        (20, "ohm"),
        (30, "ohm"),
    ]


def test_a_lone_comma_shares_no_unit() -> None:
    assert [item.unit for item in find_values("principal 3.5e3, 5 years")] == ["", "year"]


def test_amounts_per_several() -> None:
    (value,) = find_values("6.5 litres per 100 km")
    assert value.value.magnitude == pytest.approx(0.065)
    assert value.unit == "liter / (kilometer)"


def test_cents_beside_whole_money() -> None:
    assert find_values("28 cents per kWh in euros")[0].value.magnitude == pytest.approx(0.28)
    assert find_values("3 pencils at 20 cents each")[1].value.magnitude == 20


def test_orders_of_interference() -> None:
    assert [item.value.magnitude for item in find_values("the second-order maximum and the third minimum")] == [2, 3]
    assert find_values("a first-order reaction") == []


def test_sizes_by_are_two_values() -> None:
    assert [item.value.magnitude for item in find_values("2.5 m by 3 m")] == [2.5, 3]


@pytest.mark.parametrize("text", ["$1,200", "€1,200", "1,200 euros", "1200 dollars", "1200 EUR"])
def test_money(text: str) -> None:
    (found,) = find_values(text)
    assert found.is_money
    assert (found.value.magnitude, found.unit) == (1200, "")


@pytest.mark.parametrize(
    "text",
    [
        "0.30 per kWh",
        "0.30 a kilowatt-hour",
        "0.30 euros per kWh",
        "one kWh costs 0.30",
        "$0.30 per kWh",
        "a kWh costs 0.30 euros",
    ],
)
def test_prices_per_unit(text: str) -> None:
    magnitude, unit = _one(text)
    assert magnitude == 0.30
    assert _REGISTRY.parse_expression(unit).check("1 / [energy]")


def test_rates() -> None:
    assert _one("12 times a minute") == (12, "revolution / minute")
    assert _one("12 per minute") == (12, "1 / minute")
    assert _one("4 % per year") == (4, "percent / year")


def test_rates_of_counted_things() -> None:
    assert _one("500 lines per mm") == (500, "1 / millimeter")
    assert _one("0.9 euros per dollar") == (0.9, "")


def test_bare_numbers_keep_their_noun() -> None:
    (found,) = find_values("a bike with 21 gears")
    assert found.is_bare
    assert found.noun == "gears"


def test_articles_are_no_units() -> None:
    assert [item.unit for item in find_values("for 5 s. A car of 2 kg in a town")] == ["second", "kilogram"]


def test_units_that_stand_alone() -> None:
    assert [unit.text for unit, _start in find_units("How many joules is that, or in kW, for 5 s?")] == [
        "joule",
        "kilowatt",
    ]


def test_currency() -> None:
    assert currency("$5") == "dollar"
    assert currency("5 euros") == "euro"
    assert currency("5 kg") == ""


def test_names_of_units() -> None:
    assert named_unit("Kilometres") == "kilometer"
    assert named_unit("banana") == ""
    assert read_unit("bananas", 0) is None


@pytest.mark.parametrize("text", ["1" * 100 + " kg", "1e9999 m", "10^999999999 m", "5/0 kg", " ".join(["5 kg"] * 70)])
def test_limits(text: str) -> None:
    with pytest.raises(LimitError):
        find_values(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("area (m^2) 2.5, volume (L) 150", [(2.5, "meter ** 2"), (150, "liter")]),
        ("Average speed (km/h): 36 Distance/km 10", [(36, "kilometer / hour"), (10, "kilometer")]),
        ("Power/W: 60", [(60, "watt")]),
        ("is it (A) 3 m or (B) 5 m", [(3, "meter"), (5, "meter")]),
        ("in the table (see 5) 36", [(5, ""), (36, "")]),
        ("the mass (kg) of 3 boxes", [(3, "")]),
    ],
)
def test_a_heading_gives_its_number_the_unit(text: str, values: list[tuple[float, str]]) -> None:
    assert [(found.value.magnitude, found.value.unit) for found in find_values(text)] == values


def test_products_are_one_value_and_exponents_none() -> None:
    assert _one("a time of 30*60 s") == (1800, "second")
    assert _one("2 * 3 * 4 kg") == (24, "kilogram")
    assert [found.value.magnitude for found in find_values("2 kg * 3 kg")] == [2, 3]
    assert find_values("how many m^3 are there") == []
