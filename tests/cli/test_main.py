import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

import tuili as package
from tuili import errors
from tuili.cli import main as cli

HEAVY = ("torch", "rich", "numpy", "sqlite3", "transformers", "matplotlib", "sympy")


def test_public_names_are_these_and_each_can_be_imported():
    assert package.__all__ == [
        "Answer",
        "DependencyError",
        "Dialogue",
        "InputError",
        "LimitError",
        "ModelFileError",
        "Reasoner",
        "ReasonerConfig",
        "SandwichConfig",
        "SandwichForCausalLM",
        "SourceError",
        "StoreError",
        "TuiliError",
        "UsageError",
        "__version__",
        "port",
        "unport",
    ]
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(package.__all__) == set(dir(package))
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


def test_the_package_says_that_it_is_typed():
    assert importlib.resources.files("tuili").joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    "statement", ["import tuili", "import tuili.cli.main", "from tuili.cli.main import main; main(['--help'])"]
)
def test_help_imports_nothing_heavy(statement):
    code = f"import sys; {statement}; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stderr.strip() == "[]"


def test_help_lists_every_verb_and_each_verb_has_two_examples(tuili):
    shown = tuili("--help")
    assert shown.code == 0
    for verb in cli.VERBS:
        assert verb in shown.out
        text = tuili(verb, "--help")
        assert text.code == 0 and "Usage: tuili" in text.out


@pytest.mark.parametrize(
    "verb",
    [
        ["ask"],
        ["chat"],
        ["doctor"],
        ["kb"],
        ["kb", "add"],
        ["kb", "ls"],
        ["kb", "show"],
        ["kb", "rm"],
        ["kb", "check"],
        ["kb", "export"],
        ["kb", "fact", "add"],
        ["kb", "fact", "retract"],
        ["port"],
        ["generate"],
        ["distill"],
        ["calibrate"],
        ["train"],
    ],
)
def test_help_of_a_verb_holds_two_examples(tuili, verb):
    assert sum("tuili" in line for line in tuili(*verb, "--help").out.splitlines()) >= 3


def test_version(tuili):
    assert tuili("--version").out == f"tuili {package.__version__}\n"


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["asc", "x"], "did you mean 'ask'"),
        (["which parameter of json.dumps controls indentation?"], 'tuili ask "which parameter of json.dumps'),
        (["zzz"], "there are: ask"),
        (["ask"], "give a QUESTION"),
        (["ask", "x", "--nope"], "--nope"),
    ],
)
def test_wrong_usage_is_told_with_what_to_do(tuili, args, hint):
    shown = tuili(*args)
    assert shown.code == 2 and hint in shown.err and shown.out == ""


class FakeVerb:
    """Stands in for a verb's module."""

    def __init__(self, error):
        import click

        @click.command(name="ask")
        def command():
            raise error

        self.command = command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.StoreError("gone"), 4, "error: gone"),
        (errors.LimitError("long"), 3, "error: long"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 5, "out of memory"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (ZeroDivisionError("oops"), 1, "defect of tuili"),
    ],
)
def test_every_error_is_a_message_and_a_code(tuili, monkeypatch, error, code, text):
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: FakeVerb(error))
    shown = tuili("ask")
    assert (shown.code, shown.out) == (code, "") and text in shown.err and "Traceback" not in shown.err


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("TUILI_DEBUG", "1")
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: FakeVerb(ZeroDivisionError("oops")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["ask"])


def test_a_reader_that_goes_away_ends_the_run_quietly(shell):
    shown = shell("(for i in 1 2 3; do $TUILI kb export films; done; echo done >&2) | head -n 1")
    assert shown.out.count("\n") == 1 and "Traceback" not in shown.err and "error" not in shown.err


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&-"])
def test_closed_streams(shell, closed):
    shown = shell(f"$TUILI kb show films {closed}")
    assert shown.code == 0 and shown.err == ""


def test_a_full_disk_under_stdout_is_told(shell):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    shown = shell("$TUILI kb ls > /dev/full")
    assert shown.code == 1 and "No space left" in shown.err


def test_a_home_that_is_none_is_told(films, shell):
    (films / "file").write_text("")
    shown = shell("$TUILI ask 'x'", HOME=str(films / "file"), TUILI_HOME=None, XDG_DATA_HOME=None)
    assert shown.code == 4 and "TUILI_HOME" in shown.err


def test_no_home_is_told(tuili, monkeypatch):
    def no_home():
        raise RuntimeError("no home")

    monkeypatch.delenv("TUILI_HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    shown = tuili("kb", "ls")
    assert shown.code == 4 and "no home folder" in shown.err and "TUILI_HOME" in shown.err


def test_a_home_that_can_not_be_made_is_told(films, shell):
    (films / "file").write_text("")
    shown = shell("$TUILI kb add formulas", TUILI_HOME=str(films / "file" / "home"))
    assert shown.code == 4 and "TUILI_HOME" in shown.err and "Traceback" not in shown.err


def test_an_old_locale_reads_and_prints_any_text(films, shell):
    (films / "länder.tsv").write_text("Österreich\tHauptstadt\tWien\n", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert shell(f"$TUILI kb add lands '{films}/länder.tsv'", **plain).code == 0
    shown = shell("$TUILI kb show lands 'Österreich'", **plain)
    assert shown.code == 0 and "sterreich | Hauptstadt | Wien" in shown.out
    assert shell("$TUILI kb show lands 'Österreich' --json", **plain).json[0]["name"] == "Österreich"


def test_interrupting_leaves_no_trace(films):
    rows = films / "many.tsv"
    rows.write_text("".join(f"a{i}\tr\tb{i}\n" for i in range(300_000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "tuili", "kb", "add", "many", str(rows)],
        env={**os.environ, "TUILI_HOME": str(films), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 60
    while not list((films / "kb").glob(".many.sqlite.*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.splitlines()[-1] == "interrupted"
    assert not [path.name for path in (films / "kb").iterdir() if "many" in path.name and path.suffix == ".tmp"]
    assert not (films / "kb" / "many.sqlite").exists()
