"""The shape of the code: imports go down one list of packages, without a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HOUSE = ROOT / "cc_kraken"

#: From top to bottom: a package imports from those below it, never from above.
#: "" is the entry: ``__init__``, ``__main__`` and the command.
FLOORS = (
    "",
    "commands",
    "boot",
    "act",
    "state",
    "storage",
    "decide",
    "config",
    "cloud",
    "proof",
    "machine",
    "filesystems",
    "model",
)
MODULES = sorted(HOUSE.rglob("*.py"))
PACKAGES = sorted(path.parent for path in HOUSE.glob("*/__init__.py"))


def dotted(path: Path) -> str:
    """``boot/stage.py`` is ``boot.stage``; a package's own file is its name."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {dotted(path) for path in MODULES}


def floor(name: str) -> str:
    first = name.split(".")[0]
    return first if first in FLOORS else ""


def imports(source: str) -> Iterator[str]:
    """The modules of ours that a source imports, those in functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "cc_kraken":
                yield longest(name[len("cc_kraken.") :])


def longest(name: str) -> str:
    while name and name not in NAMES:
        name = name.rpartition(".")[0]
    return name


EDGES: dict[str, set[str]] = {
    dotted(path): set(imports(path.read_text())) - {dotted(path)} for path in MODULES
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_imports_go_down(name: str) -> None:
    here = FLOORS.index(floor(name))
    up = [to for to in EDGES[name] if FLOORS.index(floor(to)) < here]
    assert not up, f"{name} imports {', '.join(sorted(up))} from a floor above"


@pytest.mark.parametrize("floor", ["act", "state", "storage", "decide"])
def test_a_run_knows_of_a_cloud_its_protocol_alone(floor: str) -> None:
    found = {to for name in NAMES if name.startswith(floor) for to in EDGES[name]}
    assert {to for to in found if to.startswith("cloud")} <= {"cloud.protocol"}
    assert EDGES["cloud.protocol"] == {"model"}


def test_there_is_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        assert name not in way, " imports ".join([*way[way.index(name) :], name])
        if name in done:
            return
        for to in sorted(EDGES[name]):
            visit(to, [*way, name])
        done.add(name)

    for name in sorted(NAMES):
        visit(name, [])


def test_each_package_has_a_floor() -> None:
    assert {path.name for path in PACKAGES} == set(FLOORS) - {"", "model"}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_says_what_it_knows_and_holds_no_code(package: Path) -> None:
    tree = ast.parse((package / "__init__.py").read_text())
    docstring = ast.get_docstring(tree) or ""
    assert "Knows:" in docstring
    assert "Must not know:" in docstring
    assert len(tree.body) == 1


def test_an_import_upwards_is_seen() -> None:
    (found,) = imports("def f():\n    from cc_kraken.boot.stage import run_stage\n")
    assert found == "boot.stage"
    assert FLOORS.index(floor(found)) < FLOORS.index(floor("machine.mountinfo"))


WRITING = re.compile(
    r"O_RDWR|O_WRONLY|pwritev?\b|write_text|write_bytes|"
    r"\"[wax]b\"|, \"[wax]\"|\"[rw]\+b?\"|TemporaryFile"
)
OPENED_TO_WRITE = {
    "storage.make": {"O_RDWR", "pwritev"},  # volumes, by Held
    "state.lock": {"O_RDWR"},  # the lock of a run
    "state.udev_rules": {'"wb"'},  # an event, in sysfs
    "cli": {"O_WRONLY"},  # /dev/null
    "proof.rehearsal": {"TemporaryFile"},  # a sparse file
    "machine.command": {"pwrite"},  # anonymous memory
    "machine.md": {'"r+b"'},  # the state of an array, in sysfs
}


def test_make_alone_opens_a_volume_to_write_to_it() -> None:
    found = {
        dotted(path): set(WRITING.findall(path.read_text()))
        for path in MODULES
        if WRITING.search(path.read_text())
    }
    assert found == OPENED_TO_WRITE


#: Words of programs that write to a volume, and who may say them.
PROGRAMS = {
    r"\bcreate_argv\(": {"storage.make", "machine.md"},
    r"\bcommand_line\(": {"storage.make", "proof.rehearsal"},
    r'"--stop"|"--manage"': {"storage.make"},
    r'"--create"': {"machine.md"},  # in create_argv
    r"--zero-superblock|blkdiscard|sgdisk": set(),
    r'"wipefs", (?!"--no-act")': set(),
}


@pytest.mark.parametrize("words", PROGRAMS)
def test_make_alone_runs_what_writes_to_a_volume(words: str) -> None:
    found = {dotted(path) for path in MODULES if re.search(words, path.read_text())}
    assert found == PROGRAMS[words]


def sizes() -> Iterator[tuple[str, int, int]]:
    """What there is, its lines, and how many it may have; docstrings do not count in
    a function."""
    for path in sorted(HOUSE.rglob("*.py")):
        text = path.read_text()
        yield path.name, len(text.splitlines()), 700
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                continue
            lines = (node.end_lineno or 0) - node.lineno + 1
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
                first = node.body[0]
                lines -= (first.end_lineno or 0) - first.lineno + 1
            most = 300 if isinstance(node, ast.ClassDef) else 60
            yield f"{path.name}: {node.name}", lines, most


def test_nothing_is_too_long_to_read() -> None:
    assert [(name, lines) for name, lines, most in sizes() if lines > most] == []
