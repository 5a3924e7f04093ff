import re

import pytest

from tuili.attention import native
from tuili.cli import doctor


def statuses(shown):
    return {check["name"]: check["status"] for check in shown.json["checks"]}


def test_a_home_with_a_sound_base_is_well(films, tuili):
    shown = tuili("doctor", "--json")
    assert shown.code == 0 and shown.json["ok"] is True
    found = statuses(shown)
    assert list(found) == list(doctor.CHECKS)
    assert found["models"] == found["knowledge bases"] == "warn" and found["data folder"] == "ok"


def test_checks_are_numbered_and_the_report_has_no_private_path(films, tuili, monkeypatch):
    monkeypatch.setenv("HOME", str(films.parent))
    shown = tuili("doctor")
    numbers = re.findall(r"^\[(\d+)/(\d+)\] (ok|warn|fail)", shown.out, re.MULTILINE)
    assert [int(number) for number, _, _ in numbers] == list(range(1, len(doctor.CHECKS) + 1))
    assert all(int(total) == len(doctor.CHECKS) for _, total, _ in numbers)
    report = shown.out.split("```")[1]
    assert str(films) not in shown.out and str(films.parent) not in shown.out and "$TUILI_HOME" in report


def test_every_warning_has_a_fix(films, tuili):
    for check in tuili("doctor", "--json").json["checks"]:
        assert check["status"] == "ok" or check["fix"]


def test_a_damaged_base_fails(films, tuili):
    path = films / "kb" / "films.sqlite"
    path.write_bytes(path.read_bytes()[:5000])
    shown = tuili("doctor", "--json")
    assert shown.code == 1 and shown.json["ok"] is False and statuses(shown)["knowledge bases"] == "fail"
    checks = {check["name"]: check for check in shown.json["checks"]}
    assert "tuili kb add films SOURCE --force" in checks["knowledge bases"]["fix"]


def test_a_base_of_an_older_importer_is_outdated(home, tuili, tiny_base):
    (home / "kb").mkdir(parents=True)
    (home / "kb" / "formulas.sqlite").write_bytes(tiny_base.read_bytes())
    checks = {check["name"]: check for check in tuili("doctor", "--json").json["checks"]}
    assert "formulas outdated (built as films" in checks["knowledge bases"]["detail"]
    assert checks["knowledge bases"]["fix"] == "tuili kb add formulas --force"


def test_a_damaged_model_fails(home, tuili):
    folder = home / "models" / "minilm"
    folder.mkdir(parents=True)
    (folder / "tuili.json").write_text("{}")
    shown = tuili("doctor", "--json")
    assert shown.code == 1 and statuses(shown)["models"] == "fail"


@pytest.mark.parametrize("level", range(len(native.SHOWN)))
def test_the_kernels_level_is_named(level, monkeypatch):
    monkeypatch.delenv(native.VARIABLE, raising=False)
    monkeypatch.setattr(native, "load", lambda: native.Library(None, level))
    check = doctor.check_kernel()
    assert check.status == "ok" and check.detail == f"compiled, {native.SHOWN[level]}"


def test_a_home_that_can_not_be_written_fails(tmp_path, monkeypatch, tuili):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUILI_HOME", str(tmp_path / "file" / "home"))
    shown = tuili("doctor", "--json")
    assert shown.code == 1 and statuses(shown)["data folder"] == "fail"


def test_a_missing_package_is_named_with_its_extra(films, tuili, monkeypatch):
    known = doctor.version

    def version(package):
        if package == "pint":
            raise doctor.PackageNotFoundError(package)
        return known(package)

    monkeypatch.setattr(doctor, "version", version)
    packages = tuili("doctor", "--json").json["checks"][1]
    assert packages["status"] == "warn" and packages["fix"] == "pip install 'tuili[formulas]'"
    monkeypatch.setitem(doctor.OPTIONAL, "click", "models")
    monkeypatch.setattr(doctor, "REQUIRED", ("no-such-package",))
    assert tuili("doctor", "--json").code == 1


@pytest.mark.parametrize("error", [RuntimeError("x"), OSError("x")])
def test_a_check_that_breaks_is_a_finding(error):
    def broken():
        raise error

    assert doctor._guarded("it", broken).status == "fail"


def test_everything_built_in_is_sound(monkeypatch, tuili, python_base, formulas_base, hpo_base, models):
    monkeypatch.setenv("TUILI_HOME", str(models.parent))
    found = statuses(tuili("doctor", "--json"))
    assert found["models"] == found["knowledge bases"] == "ok"
