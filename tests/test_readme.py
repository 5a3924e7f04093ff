"""The documents' commands and Python blocks run and give answers; links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tuili.reason.answer import Answer

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "start.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
IN_TEXT = re.compile(r'`(tuili ask "[^`]*")`')
LINK = re.compile(r"\]\(([^)#]+)(#[\w-]+)?\)")
# These install, or make models and bases that other tests share (`make demo` runs them), or read whole books, or learn
# from questions of one's own (tests/cli/test_learn.py does), or start many processes (tests/faults/test_training.py).
LEFT_OUT = re.compile(
    r"^make |^tuili doctor|:FOLDER|book.txt|--adapter gates|--plan plan|^tuili learn|Delphine|^torchrun"
)


def blocks(document: Path, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(document.read_text(encoding="utf-8")) if name == language]


def commands(document: Path) -> list[str]:
    """Return a document's commands in order."""
    lines = [line for body in blocks(document, "sh") for line in body.splitlines()]
    lines += IN_TEXT.findall(document.read_text(encoding="utf-8"))
    lines = [line.split("&& ")[-1].split("  #")[0].strip() for line in lines]
    return [line for line in lines if not LEFT_OUT.search(line) and not line.startswith("pip ")]


@pytest.fixture
def place(tmp_path: Path, models: Path, python_base: Path, formulas_base: Path, hpo_base: Path) -> Path:
    """A folder with the files that the documents speak of, and a home with the shared models and bases."""
    (tmp_path / "home" / "kb").mkdir(parents=True)
    (tmp_path / "home" / "models").symlink_to(models)
    for base in (python_base, formulas_base, hpo_base):
        (tmp_path / "home" / "kb" / base.name).symlink_to(base)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for suffix, language in (("tsv", "text"), ("jsonl", "json")):
        for body in blocks(ROOT / "docs" / "how-to" / "add-a-base.md", language):
            (tmp_path / f"films.{suffix}").write_text(body, encoding="utf-8")
    return tmp_path


def run(place: Path, command: list[str] | str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "TUILI_HOME": str(place / "home"),
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONUTF8": "1",
    }
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=place,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_commands_work(document: Path, place: Path):
    for command in commands(document):
        done = run(place, command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if "tuili ask" in command:
            assert "no supported answer" not in done.stdout.lower(), command
            assert done.stdout.strip(), command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_python_blocks_work(document: Path, place: Path):
    for code in blocks(document, "python"):
        done = run(place, [sys.executable, "-W", "error", "-c", code])
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_the_answer_shown_is_the_answer_given(place: Path):
    shown = blocks(ROOT / "README.md", "text")[0]
    asked = next(command for command in commands(ROOT / "README.md") if command.startswith("tuili ask"))
    given = run(place, f"{asked} --explain").stdout
    for line in shown.splitlines():
        text = line.removeprefix("pruned").strip()
        assert re.sub(r"\d\.\d+", "N", text) in re.sub(r"\d\.\d+", "N", given)


def test_the_jsonl_shown_is_a_base(place: Path):
    assert run(place, "tuili kb add other films.jsonl").returncode == 0
    assert "Ridley Scott" in run(place, 'tuili ask "Who directed Alien?" --kb other').stdout


def test_every_key_of_the_json_is_described():
    described = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    assert [key for key in Answer("", "", "").to_json() if f"`{key}`" not in described] == []


@pytest.mark.parametrize("document", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    text = document.read_text(encoding="utf-8")
    for target, anchor in LINK.findall(text):
        if "://" in target:
            continue
        path = document.parent / target
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor[1:] in [re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles]


def test_generated_parts_are_up_to_date():
    for script in ("docs.py", "tables.py"):
        command = [sys.executable, str(ROOT / "scripts" / script), "--check"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
