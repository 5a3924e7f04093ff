import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.knowledge.records import normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Marfan  Syndrome", "marfan syndrome"),
        ("  “Alien” (1979)! ", "alien (1979"),
        ("read_text", "read text"),
        ("Loeys–Dietz/aneurysm", "loeys dietz aneurysm"),
        ("json.dumps", "json.dumps"),
        ("Café Ångström", "cafe angstrom"),
        ("Marfan's", "marfan"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
        ("ﬁnding", "finding"),
        ("...", ""),
        ("", ""),
    ],
)
def test_names_are_compared_in_one_form(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_a_normalised_name_has_no_outer_or_double_blanks(text: str) -> None:
    norm = normalise(text)
    assert norm == norm.strip()
    assert "  " not in norm
    assert "_" not in norm


@given(st.text(alphabet="abc -_./'", max_size=30))
def test_case_and_separators_make_no_difference(text: str) -> None:
    assert normalise(text.upper()) == normalise(text)
    assert normalise(text.replace("-", "_")) == normalise(text)
