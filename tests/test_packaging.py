"""The wheel holds everything that an installed tuili needs."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import tuili

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"


def test_the_wheel_holds_every_module_and_all_data(tmp_path: Path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    wanted = [path for path in SOURCE.rglob("*") if path.suffix in (".py", ".toml", ".json") or path.name == "py.typed"]
    for path in wanted:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("tuili-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {path.relative_to(SOURCE).as_posix() for path in wanted} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_version_is_written_once_and_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == tuili.__version__
    assert f"## {tuili.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_direct_dependency_is_pinned_for_tests():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(each for extra in extras for each in extra)]
    names = {each.split(">=")[0] for each in wanted if not each.startswith("tuili[")}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {line.split("==")[0] for line in lines if not line.startswith("#")} == names
