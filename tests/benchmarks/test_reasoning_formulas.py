"""The benchmark of formulas on a tiny data set of its own format; how gold chains, numbers and steps are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import reasoning_formulas
import runner
from reasoning import formulas_data, formulas_train
from reasoning.formulas_chain import Attempt, two_thirds_budget
from reasoning.formulas_data import families, read_items, read_number, read_quantity
from reasoning.formulas_setup import split
from reasoning.formulas_text import needed
from runner import Options
from tuili.reason.worlds.givens import read_question

NAMES = {
    "Q": ("水吸收的热量", "heat absorbed by water", "J"),
    "c": ("水的比热容", "specific heat capacity of water", "J/(kg·℃)"),
    "m": ("水的质量", "mass of water", "kg"),
    "d": ("温度变化", "temperature change", "℃"),
    "t": ("末温", "final temperature", "℃"),
    "s": ("初温", "initial temperature", "℃"),
    "P": ("功率", "power", "W"),
    "h": ("时间", "time", "s"),
}
FORMULAS = {"Q=c*m*d": "Qcmd", "d=t-s": "dts", "Q=P*h": "QPh", "Q_1=Q_2": "QQ"}
PLACES = ["In a kitchen", "On a farm", "At a quiet school", "Near the river", "Up in the mountains", "Below a bridge"]


def formula(expr: str, symbols: str) -> dict[str, Any]:
    entries = []
    for at, symbol in enumerate(symbols):
        zh_name, en_name, _unit = NAMES[symbol]
        written = f"Q_{at + 1}" if symbols == "QQ" else symbol
        entries.append({"symbol": written, "zh_name": zh_name, "en_name": en_name})
    return {"key": expr, "formula": expr, "symbol_map": entries}


def argument(symbol: str, number: float) -> dict[str, str]:
    zh_name, en_name, unit = NAMES[symbol]
    return {"zh_name": zh_name, "en_name": en_name, "num": str(number), "unit": unit, "symbol": symbol}


def question(at: int) -> dict[str, Any]:
    """Return a question whose gap is the mass, from the heat that a power gives in a time."""
    mass, power, start = at + 1, 420 * (at + 1), 10 + at
    heat = 4200 * mass * 50
    place = PLACES[at % len(PLACES)]
    letters = "".join(chr(0x4E00 + 97 * at + step) for step in range(60))
    numbers = {"c": 4200, "m": mass, "d": 50, "Q": heat, "t": start + 50, "s": start, "P": power, "h": 500}
    solution = ("[Q]=[P]*[h]", "[d]=[t]-[s]", "[m] = [Q]/([c]*[d])")
    chains = [
        "".join(f"[{NAMES[piece[0]][0]}]{piece[2:]}" if piece[1:2] == "]" else piece for piece in text.split("["))
        for text in solution
    ]
    return {
        "id": f"{at:04d}_1_backforward",
        "question": {
            "en": f"{place} water with a mass of [X] is heated from {start} °C to {start + 50} °C with a power of "
            f"{power} W. The specific heat capacity of water is 4200 J/(kg·℃). How long does it take? The parameter "
            "voltage value is 220 V. If we already know that the answer to the above question is 500 s, what should "
            "[X] be?",
            "zh": f"{letters}把质量为[X]的水加热。如果我们已经知道上述问题的答案是500s",
        },
        "answer": f"{mass} kg",
        "solution": chains,
        "arguments": [argument(symbol, number) for symbol, number in numbers.items()],
    }


def worked_item(at: int) -> dict[str, str]:
    program = (
        f"温度变化=末温-初温={60 + at} ℃-{10 + at} ℃=50 ℃，水吸收的热量=水的比热容×水的质量×温度变化"
        f"=4200 J/(kg·℃)×{at + 1} kg×50 ℃={210000 * (at + 1)} J，功率=水吸收的热量/时间={210000 * (at + 1)} J/500 s"
        f"={420 * (at + 1)} W。所以最终答案是{420 * (at + 1)} W。"
    )
    return {"program": program, "prompt": f"…\n\nQuestion: 第{at}号锅炉把水烧开需要多大的功率？\nAnswer:"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "formulas"
    folder.mkdir()
    contents = {
        "formulas.json": [formula(expr, symbols) for expr, symbols in FORMULAS.items()],
        "hof_test.json": [question(at) for at in range(14)],
        "train_zh.json": [worked_item(at) for at in range(6)],
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return tmp_path


def options(data: Path | None, test: Path | None = None) -> Options:
    return Options(Path("unused.json"), data, test, True, "")


def test_smoke(data: Path) -> None:
    found = {result.name: result for result in reasoning_formulas.measure(options(data))}
    assert found["formulas.chain.success"].value == 1.0
    assert found["formulas.chain.gold_chain.policy"].value == found["formulas.chain.gold_chain.chosen"].value == 1.0
    assert found["formulas.chain.success_enumeration"].n == found["formulas.chain.success"].n > 0
    assert 0 <= found["formulas.text.accuracy"].value <= 1
    assert found["formulas.chain.policy_gain.1"].spread is not None
    runner.show(found["formulas.chain.success"])


def test_another_test_set_leaves_the_rest_for_development(data: Path) -> None:
    path = data / "other.json"
    path.write_text(json.dumps([question(0)], ensure_ascii=False), encoding="utf-8")
    chosen = Options(Path("unused.json"), data, path, True, "formulas.chain")
    found = {result.name: result for result in reasoning_formulas.measure(chosen)}
    assert found["formulas.chain.success"].n == 1
    assert found["formulas.chain.budget"].n == 6


def test_a_test_set_of_known_questions_leaves_nothing_to_learn_from(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data / "formulas" / "hof_test.json"
    found = [result.name for result in reasoning_formulas.measure(options(data, path))]
    assert "formulas.chain.success" in found
    assert not [name for name in found if name.startswith("formulas.text")]
    assert "skipped formulas.text" in capsys.readouterr().err


def test_faults_of_a_question_are_noted(data: Path) -> None:
    path = data / "faulty.json"
    without = question(0) | {"solution": []}
    missing = question(1)
    missing["arguments"] = missing["arguments"][:-1]
    missing["arguments"][0]["num"] = "about 3"
    path.write_text(json.dumps([without, missing], ensure_ascii=False), encoding="utf-8")
    (item,) = read_items(path)
    assert len(item.faults) == 2


def test_without_data_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(reasoning_formulas.measure(options(None))) == []
    assert list(reasoning_formulas.measure(options(tmp_path))) == []
    assert "skipped" in capsys.readouterr().err


def test_families_stay_together(data: Path) -> None:
    items = read_items(data / "formulas" / "hof_test.json")
    twins = [items[0], items[0], *items[1:]]
    family = families(twins)
    assert family[0] == family[1]
    development, scored = split(twins)
    assert len(development) + len(scored) == len(twins)
    assert not {item.id for item in development} & {item.id for item in scored}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("4.2×10^3", 4200.0),
        ("4.0e+7", 4e7),
        ("1.5×10⁻³", 1.5e-3),
        ("30×60", 1800.0),
        ("2×10^{-2}", 0.02),
        ("50%", 0.5),
        ("%", None),
        ("?", None),
    ],
)
def test_numbers(written: str, value: float | None) -> None:
    assert read_number(written) == (None if value is None else pytest.approx(value))


def test_units() -> None:
    assert read_quantity("36", "%") == (pytest.approx(0.36), ())
    assert read_quantity("2", "no unit") is None


def test_worked_items_that_share_text_are_left_out(data: Path) -> None:
    items = read_items(data / "formulas" / "hof_test.json")
    path = data / "formulas" / "train_zh.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    records[0]["prompt"] = f"…\n\nQuestion: {items[0].chinese}\nAnswer:"
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    worked, num_overlapping, num_unread = formulas_train.read_worked(path, items)
    assert (len(worked), num_overlapping, num_unread) == (5, 1, 0)


def test_a_squared_quantity_keeps_its_unit() -> None:
    item = formulas_train.worked("1", "?", "电阻=电压^2/功率=220 V^2/1100 W=44 Ω。所以最终答案是44 Ω。")
    assert item is not None
    assert [each.value for each in item.arguments] == [44.0, 220.0, 1100.0]
    assert item.equations[0].expr == "v0 = v1 **2/ v2"


def test_a_difference_of_one_digit_is_no_exponent_of_the_unit() -> None:
    item = formulas_train.worked("1", "?", "温度变化=末温-初温=45 ℃-5 ℃=40 ℃。所以最终答案是40 ℃。")
    assert item is not None
    assert [argument.value for argument in item.arguments] == pytest.approx([40.0, 45.0, 5.0])
    power = formulas_train.worked("1", "?", "体积=质量/密度=2 kg/(1×10^-3 kg/m^3)=2000 m^3。所以最终答案是2000 m^3。")
    assert power is not None
    assert power.arguments[2].value == pytest.approx(1e-3)


def test_values_of_a_chinese_text_that_are_needed() -> None:
    text = "水的质量是2kg，功率为100W，求吸收的热量"
    item = formulas_train.worked("1", text, "热量=质量×热值=2 kg×3 J/kg=6 J。所以最终答案是6 J。")
    assert item is not None
    ((kinds, result, is_needed),) = formulas_train.values_needed([item])
    assert is_needed == [True, False]
    assert kinds[0] == ((("kilogram", 1.0),), False)
    assert result == item.arguments[0].dimension
    endless = formulas_train.worked("1", "质量是2*10^9999kg", "热量=质量×热值=2 kg×3 J/kg=6 J。所以最终答案是6 J。")
    assert endless is not None
    assert formulas_train.values_needed([endless]) == []


def test_a_difference_in_the_text_is_needed_where_the_chain_takes_it_as_given(data: Path) -> None:
    item = read_items(data / "formulas" / "hof_test.json")[0]
    rise = replace(item, equations=item.equations[2:])
    asking = read_question(item.english)
    texts = [given.text for given, each in zip(asking.givens, needed(rise, asking), strict=True) if each]
    assert {"10 °C", "60 °C"} <= set(texts)
    assert "220 V" not in texts


def test_a_later_answer_replaces_an_earlier_one() -> None:
    attempt = Attempt(((3, True), (7, False), (20, True)), True)
    assert [attempt.within(budget) for budget in (2, 3, 7, 19, 20, 50)] == [0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    assert (attempt.is_right, attempt.num_expanded) == (True, 20)


def test_the_budget_is_where_enumeration_is_nearest_to_two_thirds() -> None:
    tried = {str(at): Attempt(((10 ** (at % 3), at < 9),), False) for at in range(12)}
    assert two_thirds_budget(tried) == 100
    assert formulas_data.is_close(None, 1.0) is False
