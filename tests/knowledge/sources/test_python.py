"""The importer of Python packages: the real standard library, and small packages made here."""

from __future__ import annotations

import importlib
import inspect
import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuili.errors import DependencyError, SourceError
from tuili.knowledge.records import BadRow, Edge, Kind, Node, Record, Relation
from tuili.knowledge.sources.python import read_package, read_stdlib

SOME_MODULES = [
    *(
        "argparse",
        "ast",
        "asyncio",
        "builtins",
        "collections",
        "concurrent",
        "datetime",
        "decimal",
        "functools",
    ),
    *(
        "hashlib",
        "heapq",
        "http",
        "io",
        "itertools",
        "json",
        "logging",
        "math",
        "os",
        "pathlib",
        "random",
        "re",
    ),
    *("shutil", "sqlite3", "string", "subprocess", "typing"),
]
KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional-only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional or keyword",
    inspect.Parameter.KEYWORD_ONLY: "keyword-only",
    inspect.Parameter.VAR_POSITIONAL: "variadic positional",
    inspect.Parameter.VAR_KEYWORD: "variadic keyword",
}


@dataclass
class Base:
    """The records of one reading, by key."""

    records: list[Record]
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[tuple[str, str], list[Edge]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for record in self.records:
            if isinstance(record, Node):
                assert record.key not in self.nodes, record.key
                self.nodes[record.key] = record
            elif isinstance(record, Edge):
                self.edges.setdefault((record.subject, record.relation), []).append(record)

    def objects(self, subject: str, relation: str) -> list[str]:
        return [edge.object for edge in self.edges.get((subject, relation), [])]

    def parameters(self, owner: str) -> dict[str, Node]:
        nodes = [self.nodes[key] for key in self.objects(owner, "has parameter")]
        return {node.name: node for node in sorted(nodes, key=lambda node: str(node.data["position"]).zfill(3))}

    def default(self, owner: str, name: str) -> str:
        (key,) = self.objects(self.parameters(owner)[name].key, "default")
        return self.nodes[key].name

    def types(self, owner: str, name: str) -> set[str]:
        keys = self.objects(self.parameters(owner)[name].key, "accepts type")
        return {self.nodes[key].name for key in keys}

    def ancestors(self, key: str) -> set[str]:
        found: set[str] = set()
        for base in self.objects(key, "base class"):
            found |= {base} | self.ancestors(base)
        return found

    def bad_rows(self) -> list[BadRow]:
        return [record for record in self.records if isinstance(record, BadRow)]


def check_is_sound(base: Base) -> None:
    """Every edge joins two nodes, by a declared relation and kinds, and says where it comes from."""
    kinds = {record.name for record in base.records if isinstance(record, Kind)}
    relations = {record.name: record for record in base.records if isinstance(record, Relation)}
    assert {node.kind for node in base.nodes.values()} <= kinds
    for (subject, name), edges in base.edges.items():
        for edge in edges:
            assert base.nodes[subject].kind in relations[name].domain, edge
            assert base.nodes[edge.object].kind in relations[name].range, edge
            assert edge.source and not edge.source.startswith("/"), edge
    for subject, name in base.edges:
        objects = base.objects(subject, name)
        assert len(objects) == len(set(objects)), (subject, name)


@pytest.fixture(scope="module")
def std() -> Base:
    return Base(list(read_stdlib(SOME_MODULES)))


def write_package(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def read(folder: Path, name: str = "pack") -> Base:
    base = Base(list(read_package(name, search_paths=[folder])))
    check_is_sound(base)
    return base


# The standard library


def test_records_are_sound(std: Base) -> None:
    check_is_sound(std)
    assert std.bad_rows() == []


def test_whole_standard_library_is_read() -> None:
    seen: list[str] = []
    base = Base(list(read_stdlib(on_progress=seen.append)))
    check_is_sound(base)
    assert {"json", "xml.etree.ElementTree", "builtins", "math"} <= set(seen)
    assert not [name for name in seen if name.startswith(("test", "idlelib", "lib2to3", "_"))]
    assert "winreg" not in seen or sys.platform == "win32"
    kinds = [node.kind for node in base.nodes.values()]
    assert kinds.count("function") > 1500
    assert kinds.count("method") > 4000
    assert kinds.count("parameter") > 10_000


@pytest.mark.parametrize(
    ("key", "alias"),
    [
        ("json.JSONDecodeError", "json.decoder.JSONDecodeError"),
        ("json.dumps", "dumps"),
        ("collections.OrderedDict", "OrderedDict"),
        ("concurrent.futures.ThreadPoolExecutor", "concurrent.futures.thread.ThreadPoolExecutor"),
        ("asyncio.run", "asyncio.runners.run"),
        ("asyncio.wait_for", "asyncio.tasks.wait_for"),
        ("os.path.join", "join"),
        ("pathlib.Path.read_text", "Path.read_text"),
        ("sorted", "builtins.sorted"),
        ("open", "io.open"),
        ("OSError", "os.error"),
        ("str.split", "builtins.str.split"),
        ("io.TextIOWrapper", "_io.TextIOWrapper"),
        ("io.TextIOWrapper.readline", "TextIOWrapper.readline"),
        ("collections.abc.Mapping", "typing.Mapping"),
        ("hashlib.sha256", "sha256"),
        ("random.choice", "choice"),
        ("sqlite3.connect", "_sqlite3.connect"),
        ("datetime.datetime.fromtimestamp", "datetime.fromtimestamp"),
        ("http.HTTPStatus", "HTTPStatus"),
    ],
)
def test_public_names(std: Base, key: str, alias: str) -> None:
    assert alias in std.nodes[key].aliases
    assert alias not in std.nodes


def test_kinds_of_nodes(std: Base) -> None:
    expected = {
        "json": "module",
        "os.path": "module",
        "json.dumps": "function",
        "os.path.join": "function",
        "random.choice": "function",
        "pathlib.Path": "class",
        "pathlib.Path.read_text": "method",
        "pathlib.PurePath.parent": "property",
        "json.JSONDecodeError": "exception",
        "math.pi": "constant",
        "typing.Union": "constant",
        "typing.cast": "function",
        "shutil.rmtree": "function",
        "json.dumps.indent": "parameter",
    }
    assert {key: std.nodes[key].kind for key in expected} == expected


# fmt: off
COMPARED = [
    "json.dump", "json.dumps", "json.load", "shutil.copyfile", "shutil.copytree", "shutil.move",
    "shutil.rmtree", "open", "sorted", "print", "sum", "functools.lru_cache", "functools.wraps",
    "subprocess.Popen.communicate", "pathlib.Path.read_text", "pathlib.Path.mkdir", "os.path.join",
    "os.makedirs", "os.walk", "asyncio.wait_for", "asyncio.gather", "logging.Formatter",
    "logging.basicConfig", "argparse.ArgumentParser", "re.fullmatch", "re.compile", "hashlib.sha256",
    "math.sqrt", "math.isclose", "itertools.accumulate", "heapq.heappush", "decimal.Decimal",
    "concurrent.futures.ThreadPoolExecutor", "str.split", "str.encode", "int.to_bytes", "list.sort",
    "dict.get", "json.JSONEncoder", "ast.parse",
    "io.StringIO",
]
# fmt: on


@pytest.mark.parametrize("key", COMPARED)
def test_parameters_are_those_of_inspect(std: Base, key: str) -> None:
    try:
        signature = inspect.signature(resolve(key))
    except ValueError:
        pytest.fail(f"{key} has no signature to compare with")
    expected = [one for one in signature.parameters.values() if one.name != "self"]
    found = list(std.parameters(key).values())
    known = {one.name for one in expected}
    assert [node.name for node in found if node.name in known] == [one.name for one in expected]
    if not any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in expected):
        assert len(found) == len(expected)
    for one in expected:
        node = std.parameters(key)[one.name]
        assert node.data["kind"] == KINDS[one.kind]
        assert std.objects(node.key, "parameter kind") == [f"parameter kind:{KINDS[one.kind]}"]
        variadic = one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        assert node.data["required"] == (one.default is one.empty and not variadic)
        if isinstance(one.default, (bool, int, float, str, type(None))):
            (literal,) = std.objects(node.key, "default")
            assert std.nodes[literal].data["value"] == one.default


def resolve(key: str) -> object:
    """Import the longest module of a dotted name and follow the rest."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = __import__(".".join(parts[:end]), fromlist=["x"])
        except ImportError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    return resolve(f"builtins.{key}")


def test_functions_that_take_follow_symlinks(std: Base) -> None:
    takers = {
        edge.subject
        for (subject, relation), edges in std.edges.items()
        if relation == "has parameter" and subject.startswith("shutil.")
        for edge in edges
        if std.nodes[edge.object].name == "follow_symlinks"
    }
    expected = {
        f"shutil.{name}"
        for name in shutil.__all__
        if inspect.isfunction(function := getattr(shutil, name))
        and "follow_symlinks" in inspect.signature(function).parameters
    }
    assert takers == expected >= {f"shutil.copy{end}" for end in ("", "2", "file", "mode", "stat")}


def test_defaults_and_descriptions(std: Base) -> None:
    assert std.default("functools.lru_cache", "maxsize") == "128"
    assert std.default("functools.lru_cache", "typed") == "False"
    assert std.default("open", "mode") == "'r'"
    assert std.nodes["literal:128"].data == {"value": 128}
    assert "pretty-printed with that indent level" in std.parameters("json.dumps")["indent"].description
    assert std.parameters("print")["sep"].description == "string inserted between values, default a space."
    assert "sequence of program arguments" in std.parameters("subprocess.Popen")["args"].description
    assert std.nodes["sorted"].description.startswith("Return a new list")
    assert std.nodes["dict.get"].description.startswith("Return the value for key")


def test_defaults_follow_names_of_constants(std: Base) -> None:
    (edge,) = std.edges[std.parameters("asyncio.open_connection")["limit"].key, "default"]
    assert std.nodes[edge.object].data["value"] == 65536
    assert edge.data == {"written": "_DEFAULT_LIMIT"}


def test_types_are_split_and_aliases_spelled_out(std: Base) -> None:
    assert std.types("subprocess.run", "timeout") == {"float", "None"}
    assert std.types("json.dumps", "indent") == {"None", "int", "str"}
    assert std.types("open", "mode") == {"str"}
    assert std.types("os.path.join", "a") == {"str", "bytes", "os.PathLike[str]", "os.PathLike[bytes]"}
    (edge,) = [
        one
        for one in std.edges[std.parameters("os.path.join")["a"].key, "accepts type"]
        if one.object == "type:os.PathLike[str]"
    ]
    assert edge.data == {"written": "StrPath"}
    assert std.nodes["type:os.PathLike[str]"].data == {"origin": "PathLike", "class": "os.PathLike"}
    assert std.nodes["type:os.PathLike[str]"].aliases == ("PathLike[str]",)
    assert std.nodes["type:str"].data == {"class": "str"}


def test_returned_types(std: Base) -> None:
    assert std.objects("json.dumps", "returns") == ["type:str"]
    assert std.objects("pathlib.Path.read_text", "returns") == ["type:str"]


def test_overloads_and_variadics_are_united(std: Base) -> None:
    run = std.parameters("subprocess.run")
    assert list(run)[:5] == ["popenargs", "input", "capture_output", "timeout", "check"]
    assert list(run)[-1] == "kwargs"
    assert {"args", "cwd", "env", "shell", "text", "encoding"} <= set(run)
    assert run["timeout"].data["kind"] == "keyword-only"
    assert run["popenargs"].data["prefix"] == "*"
    assert run["kwargs"].data["prefix"] == "**"
    assert not run["text"].data["required"]
    assert {"action", "nargs", "default", "help"} <= set(std.parameters("argparse.ArgumentParser.add_argument"))


def test_positions_count_without_self(std: Base) -> None:
    nodes = std.parameters("pathlib.Path.read_text")
    _, *names = inspect.signature(pathlib.Path.read_text).parameters
    assert names[:2] == ["encoding", "errors"]
    assert [(name, node.data["position"]) for name, node in nodes.items()] == [
        (name, place) for place, name in enumerate(names, 1)
    ]


def test_base_classes_reach_the_top(std: Base) -> None:
    for key in ("UnicodeDecodeError", "json.JSONDecodeError"):
        assert {"ValueError", "Exception", "BaseException"} <= std.ancestors(key)
    assert std.objects("collections.OrderedDict", "base class") == ["dict"]
    assert std.objects("http.HTTPStatus", "base class") == ["enum.IntEnum"]
    assert "object" not in std.ancestors("pathlib.Path")


def test_methods_of_private_bases_belong_to_the_public_class(std: Base) -> None:
    assert "argparse.ArgumentParser.add_argument" in std.objects("argparse.ArgumentParser", "contains")
    assert "datetime.datetime.strftime" not in std.nodes  # it is datetime.date's
    assert "datetime.date.strftime" in std.nodes


def test_values_of_constants(std: Base) -> None:
    assert std.nodes["string.ascii_letters"].data["value"] == resolve("string.ascii_letters")
    assert std.nodes["math.pi"].data["value"] == resolve("math.pi")
    assert std.objects("math.pi", "value") == ["literal:3.141592653589793"]


def test_facts_name_their_place(std: Base) -> None:
    (default,) = std.edges["json.dumps.indent", "default"]
    path, line = default.source.split(":")
    text = (Path(inspect.__file__).parent / path).read_text("utf-8").splitlines()[int(line) - 1]
    assert path == "json/__init__.py"
    assert "indent=None" in text
    (returned,) = std.edges["json.dumps", "returns"]
    assert returned.source.startswith("typeshed/stdlib/json/__init__.pyi:")
    (kind,) = std.edges["sorted.iterable", "parameter kind"]
    assert kind.source == "builtins (compiled)"


def test_constructor_parameters_give_way_to_members_of_the_same_name(std: Base) -> None:
    assert std.nodes["subprocess.Popen.args"].kind == "attribute"
    assert std.nodes["subprocess.Popen.__init__.args"].kind == "parameter"
    assert std.nodes["subprocess.Popen.bufsize"].kind == "parameter"


def test_unknown_module_of_the_standard_library() -> None:
    with pytest.raises(SourceError, match="similar names: json"):
        list(read_stdlib(["jsn"]))


# Small packages


def test_nothing_is_imported_or_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w').close()\nraise RuntimeError('imported')\ndef real(a, b=1): ...\n"
    write_package(tmp_path, {"pack/__init__.py": code, "pack/inner.py": code, "pack/__main__.py": code})
    before = set(sys.modules)
    base = read(tmp_path)
    assert not canary.exists()
    assert "pack" not in set(sys.modules) - before
    assert list(base.parameters("pack.real")) == ["a", "b"]
    assert "pack.__main__" not in base.nodes


def test_without_the_stubs_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    library = "tuili.knowledge.sources.python_library"
    monkeypatch.setitem(sys.modules, "typeshed_client", None)
    monkeypatch.delitem(sys.modules, library)
    with pytest.raises(DependencyError, match=r"pip install 'tuili\[python\]'"):
        importlib.import_module(library)


def test_unknown_package_names_similar_ones(tmp_path: Path) -> None:
    write_package(tmp_path, {"packages/__init__.py": "", "other.py": ""})
    with pytest.raises(SourceError, match="similar names: packages"):
        read(tmp_path, "packagse")


@pytest.mark.parametrize("name", ["", "../pack", "pack.inner", "a/b", "-x", "pack\n"])
def test_names_that_are_no_package_names(tmp_path: Path, name: str) -> None:
    write_package(tmp_path, {"pack/__init__.py": ""})
    with pytest.raises(SourceError, match="no package or module"):
        read(tmp_path, name)


def test_reexports_win_over_defining_modules(tmp_path: Path) -> None:
    files = {
        "pack/__init__.py": "import os\nfrom ._core import run, Deep as Shallow\nfrom .api import helper\n",
        "pack/_core.py": "def run(x): ...\ndef hidden(): ...\nclass Deep:\n    def go(self, y): ...\n",
        "pack/api.py": "__all__ = ['helper', 'other']\ndef helper(): ...\ndef other(): ...\ndef skipped(): ...\n",
    }
    base = read(write_package(tmp_path, files))
    assert set(base.objects("pack", "contains")) == {"pack.api", "pack.run", "pack.Shallow", "pack.helper"}
    assert base.objects("pack.api", "contains") == ["pack.api.other"]
    assert "pack._core.run" in base.nodes["pack.run"].aliases
    assert {"pack._core.Deep.go", "Shallow.go", "go"} <= set(base.nodes["pack.Shallow.go"].aliases)
    assert list(base.parameters("pack.Shallow.go")) == ["y"]
    assert not [key for key in base.nodes if "_core" in key or "hidden" in key or "skipped" in key]


def test_dunder_all_is_put_together(tmp_path: Path) -> None:
    files = {
        "pack/__init__.py": "from . import a, b\nfrom .a import *\nfrom .b import *\n"
        "__all__ = a.__all__ + b.__all__\n__all__ += ['c']\n__all__.extend(('d',))\nc = d = e = 1\n",
        "pack/a.py": "__all__ = ['one']\ndef one(): ...\ndef no(): ...\n",
        "pack/b.py": "__all__ = [*['two']]\ndef two(): ...\n",
    }
    base = read(write_package(tmp_path, files))
    held = {key for key in base.objects("pack", "contains") if base.nodes[key].kind != "module"}
    assert held == {"pack.one", "pack.two", "pack.c", "pack.d"}


def test_a_module_that_puts_another_in_its_place(tmp_path: Path) -> None:
    files = {
        "pack/__init__.py": "",
        "pack/front.py": "import sys\nfrom pack import _real\nsys.modules[__name__] = _real\n",
        "pack/_real.py": "__all__ = ['work']\ndef work(hard): ...\ndef rest(): ...\n",
    }
    base = read(write_package(tmp_path, files))
    assert base.objects("pack.front", "contains") == ["pack.front.work"]


def test_circular_imports_and_aliases_end(tmp_path: Path) -> None:
    files = {
        "pack/__init__.py": "from .a import *\nfrom .b import loop\nx = y\ny = x\n",
        "pack/a.py": "from .b import *\nfrom .b import thing as other\n"
        "class A(A): ...\nclass B(C): ...\nclass C(B): ...\n",
        "pack/b.py": "from .a import *\nfrom .a import other as thing, loop\ndef found(q): ...\n",
    }
    base = read(write_package(tmp_path, files))
    assert list(base.parameters("pack.found")) == ["q"]


def test_conditional_definitions(tmp_path: Path) -> None:
    code = """
import sys
if sys.version_info >= (3, 0):
    def here(new): ...
else:
    def here(old): ...
if sys.platform == "no such platform":
    def absent(): ...
try:
    from fast_c_module import quick
except ImportError:
    def quick(slow=2): ...
if unknown():
    def either(first): ...
else:
    def either(second): ...
if __name__ == "__main__":
    def script(): ...
"""
    base = read(write_package(tmp_path, {"pack.py": code}))
    assert list(base.parameters("pack.here")) == ["new"]
    assert base.default("pack.quick", "slow") == "2"
    assert list(base.parameters("pack.either")) == ["first"]
    assert not {"pack.absent", "pack.script"} & set(base.nodes)


def test_files_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    write_package(tmp_path, {"pack/__init__.py": "def fine(): ...\n", "pack/broken.py": "x = 1\ndef (:\n"})
    (tmp_path / "pack" / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nNAME = '\xe9'\n")
    (tmp_path / "pack" / "binary.py").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "pack" / "huge.py").write_text("x = 1\n" + "#" * (9 << 20))
    (tmp_path / "pack" / "deep.py").write_text("X = " + "1 + " * 5000 + "1\nY = " + "(" * 3000 + ")" * 3000)
    base = read(tmp_path)
    rows = {row.text: row for row in base.bad_rows()}
    assert set(rows) == {f"pack/{name}.py" for name in ("broken", "binary", "huge", "deep")}
    assert rows["pack/broken.py"].line == 2
    assert "MiB" in rows["pack/huge.py"].reason
    assert "pack.fine" in base.nodes
    assert base.nodes["pack.latin.NAME"].data["value"] == "é"


def test_expressions_nested_too_deep_are_cut(tmp_path: Path) -> None:
    sum_, union = " + ".join(["a"] * 700), " | ".join(["int"] * 700)
    base = read(write_package(tmp_path, {"pack.py": f"def f(x: {union} = {sum_}): ...\nX = {sum_}\n"}))
    assert list(base.parameters("pack.f")) == ["x"]


def test_stubs_beside_the_source_and_stub_packages(tmp_path: Path) -> None:
    files = {
        "pack/__init__.py": "from .a import f\nfrom .b import g\n",
        "pack/a.py": "def f(x, y=3):\n    'Do it.'\n",
        "pack/a.pyi": "from os import PathLike\ndef f(x: str | PathLike[str], y: int = ...) -> bool: ...\n",
        "pack/b.py": "def g(z=None): ...\n",
        "pack-stubs/__init__.pyi": "from .a import f as f\nfrom .b import g as g\n",
        "pack-stubs/a.pyi": "def f(x: str, y: int = ...) -> float: ...\n",
        "pack-stubs/b.pyi": "from typing import Optional\ndef g(z: Optional[int] = ...) -> None: ...\n",
    }
    base = read(write_package(tmp_path, files))
    assert base.types("pack.f", "x") == {"str"}
    assert base.default("pack.f", "y") == "3"
    assert base.objects("pack.f", "returns") == ["type:float"]
    assert base.nodes["pack.f"].description == "Do it."
    assert base.types("pack.g", "z") == {"int", "None"}
    (edge,) = base.edges["pack.g", "returns"]
    assert edge.source == "pack-stubs/b.pyi:2"
    shutil.rmtree(tmp_path / "pack-stubs")
    assert read(tmp_path).types("pack.f", "x") == {"str", "os.PathLike[str]"}


def test_inline_annotations(tmp_path: Path) -> None:
    code = """
from __future__ import annotations
import typing as t
from typing import TypeVar, Literal
from pathlib import Path
T = TypeVar("T", bound="int | str")
Where = t.Union[str, Path]
class Own: ...
def f(a: Where, b: "t.Optional[Own]" = None, c: T = 1, d: list[Path] = [], e: Literal["x", "y"] = "x",
      *args: bytes, flag: t.Annotated[bool, "doc"] = True, **kwargs: t.Any) -> dict[str, Own]: ...
"""
    base = read(write_package(tmp_path, {"pack.py": code}))
    assert base.types("pack.f", "a") == {"str", "pathlib.Path"}
    assert base.types("pack.f", "b") == {"pack.Own", "None"}
    assert base.types("pack.f", "c") == {"int", "str"}
    assert base.types("pack.f", "e") == {"Literal['x', 'y']"}
    assert base.types("pack.f", "flag") == {"bool"}
    assert base.nodes["type:pathlib.Path"].data == {"class": "pathlib.Path"}
    assert base.nodes["type:list[pathlib.Path]"].name == "list[pathlib.Path]"
    assert base.objects("pack.f", "returns") == ["type:dict[str, pack.Own]"]


def test_classes_outside_the_package_are_followed_up(tmp_path: Path) -> None:
    code = "import json, enum\nclass Wrong(json.JSONDecodeError): ...\n"
    code += "class Colour(enum.IntEnum):\n    RED = 1\n"
    base = read(write_package(tmp_path, {"pack.py": code}))
    assert base.nodes["pack.Wrong"].kind == "exception"
    assert {"json.JSONDecodeError", "ValueError", "Exception"} <= base.ancestors("pack.Wrong")
    assert base.nodes["ValueError"].kind == "exception"
    assert "int" in base.ancestors("pack.Colour")
    assert base.nodes["pack.Colour.RED"].data["value"] == 1


def test_constructors_of_dataclasses_and_named_tuples(tmp_path: Path) -> None:
    code = """
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple
@dataclass
class Point:
    x: int
    y: int = 0
    shared: ClassVar[int] = 1
    tags: list[str] = field(default_factory=list)
    hidden: int = field(init=False)
@dataclass
class Point3(Point):
    z: int = 5
class Pair(NamedTuple):
    left: str
    right: str = "r"
"""
    base = read(write_package(tmp_path, {"pack.py": code}))
    assert list(base.parameters("pack.Point")) == ["x", "y", "tags"]
    assert base.default("pack.Point", "tags") == "list()"
    assert list(base.parameters("pack.Point3")) == ["x", "y", "tags", "z"]
    assert list(base.parameters("pack.Pair")) == ["left", "right"]
    assert base.objects("pack.Pair", "base class") == ["tuple"]


def test_members_of_classes(tmp_path: Path) -> None:
    code = """
import functools
class _Private:
    def shared(self, s): ...
    def __init__(self, made): ...
class Public(_Private):
    LIMIT = 10
    class Inner(Exception): ...
    class Other(Inner): ...
    @staticmethod
    def static(a): ...
    @classmethod
    def made(cls, b): ...
    @property
    def size(self) -> int: ...
    @size.setter
    def size(self, value): ...
    @functools.cached_property
    def lazy(self): ...
    async def later(self, /, c): ...
    def _hidden(self): ...
    def __len__(self): ...
    again = later
"""
    base = read(write_package(tmp_path, {"pack.py": code}))
    names = {key.rpartition(".")[2] for key in base.objects("pack.Public", "contains")}
    assert names == {"LIMIT", "Inner", "Other", "static", "made", "size", "lazy", "later", "again", "shared"}
    kinds = {name: base.nodes[f"pack.Public.{name}"].kind for name in ("size", "lazy", "LIMIT", "Inner")}
    assert kinds == {"size": "property", "lazy": "property", "LIMIT": "constant", "Inner": "exception"}
    assert base.objects("pack.Public.Other", "base class") == ["pack.Public.Inner"]
    taken = {name: list(base.parameters(f"pack.Public.{name}")) for name in ("static", "made", "later", "shared")}
    assert taken == {"static": ["a"], "made": ["b"], "later": ["c"], "shared": ["s"]}
    assert base.objects("pack.Public", "has parameter") == ["pack.Public.__init__.made"]
    assert base.nodes["pack.Public.later"].data == {"flags": ["async"]}


def test_a_function_named_like_its_module_keeps_the_name(tmp_path: Path) -> None:
    files = {"pack/__init__.py": "from .run import run\n", "pack/run.py": "def run(): ...\ndef more(): ...\n"}
    base = read(write_package(tmp_path, files))
    assert base.nodes["pack.run"].kind == "function"
    assert base.nodes["module:pack.run"].name == "pack.run"
    assert base.objects("module:pack.run", "contains") == ["pack.run.more"]


DOCS = {
    "google": "Do.\n\nArgs:\n    size (int): How large\n        it is.\n    other: Not this.\n",
    "numpy": "Do.\n\nParameters\n----------\nsize : int\n    How large\n    it is.\nother : str\n    Not this.\n",
    "sphinx": "Do.\n\n:param int size: How large\n    it is.\n:param other: Not this.\n",
    "dashed": "Do.\n\n- size -- How large\n  it is.\n- other -- Not this.\n",
    "indented": "Do.\n\n  size\n    How large\n    it is.\n  other\n    Not this.\n",
    "prose": "Do it all. How large `size` it is. Not `other` this.",
}


@pytest.mark.parametrize("style", DOCS)
def test_what_docstrings_say_of_a_parameter(tmp_path: Path, style: str) -> None:
    code = f"def f(size, other, silent):\n    {DOCS[style]!r}\n"
    base = read(write_package(tmp_path, {"pack.py": code}))
    nodes = base.parameters("pack.f")
    assert nodes["size"].description.replace("`size` ", "") == "How large it is."
    assert "Not" in nodes["other"].description
    assert nodes["silent"].description == ""


@st.composite
def signatures(draw: st.DrawFn) -> str:
    """A parameter list with every kind of parameter, defaults of several types, no name twice."""
    names = draw(st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=8))
    values = st.sampled_from(["None", "1", "-2.5", "'x'", "True", "()", "{}", "b'y'", "1 + 2"])
    cuts = sorted(draw(st.tuples(*[st.integers(0, len(names))] * 2)))
    positional, keyword = names[: cuts[1]], names[cuts[1] :]
    first_default = draw(st.integers(0, len(positional)))
    parts = [f"{one}={draw(values)}" if i >= first_default else one for i, one in enumerate(positional)]
    if cuts[0]:
        parts.insert(cuts[0], "/")
    if draw(st.booleans()):
        parts.append("*args")
    elif keyword:
        parts.append("*")
    parts += [f"{one}={draw(values)}" if draw(st.booleans()) else one for one in keyword]
    parts += ["**kwargs"] if draw(st.booleans()) else []
    return ", ".join(parts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=signatures())
def test_any_signature_is_read_as_inspect_reads_it(tmp_path: Path, text: str) -> None:
    code = f"def f({text}): ...\n"
    base = read(write_package(tmp_path, {"pack.py": code}))
    scope: dict[str, object] = {}
    exec(code, scope)
    expected = inspect.signature(scope["f"]).parameters  # type: ignore[arg-type]
    nodes = base.parameters("pack.f")
    assert list(nodes) == list(expected)
    for position, (name, one) in enumerate(expected.items(), 1):
        assert (nodes[name].data["position"], nodes[name].data["kind"]) == (position, KINDS[one.kind])
        defaults = base.objects(nodes[name].key, "default")
        assert bool(defaults) == (one.default is not one.empty)
        if defaults and "value" in base.nodes[defaults[0]].data:
            assert base.nodes[defaults[0]].data["value"] == one.default


ODD_LINES = [
    "import os",
    "from . import x",
    "from .pack import *",
    "from pack import *",
    "x = x",
    "y = x.z",
    "__all__ = 5",
    "__all__ += ['q']",
    "__all__ = ['x', 'y', 'q', 'K']",
    "class K(K): pass",
    "class K(q, x, y): a: 'K' = 1",
    "def q(a: 'q', b: x | y = q): ...",
    "def q(self, *, a=...): 'a:\\n b'",
    "if x:\n  q = 1\nelse:\n  from os import path as q",
    "try:\n  import nothing as x\nexcept ImportError:\n  x = None",
    "(x, *y), z = 1, 2",
    "x: 'broken[' = 1",
    "def",
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.sampled_from(ODD_LINES), max_size=9))
def test_no_module_stops_the_import(tmp_path: Path, lines: list[str]) -> None:
    base = read(write_package(tmp_path, {"pack.py": "\n".join(lines) + "\n"}))
    assert bool(base.bad_rows()) == ("def" in lines)


def names_of(rows: Iterable[Record]) -> set[str]:
    return {row.name for row in rows if isinstance(row, Relation)}


def test_schema_is_complete(std: Base) -> None:
    assert names_of(std.records) >= {
        "contains",
        "has parameter",
        "default",
        "accepts type",
        "returns",
        "base class",
        "parameter kind",
    }
    transitive = {row.name for row in std.records if isinstance(row, Relation) and row.transitive}
    assert transitive == {"base class"}
    parents = {row.name: row.parent for row in std.records if isinstance(row, Kind) and row.parent}
    assert parents == {"exception": "class", "method": "function", "property": "attribute"}
