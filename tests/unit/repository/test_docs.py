"""The documentation against the code: what it names is there, and all of it."""

from __future__ import annotations

import argparse
import ast
import configparser
import functools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import pytest
import yaml

from cc_kraken import cli
from cc_kraken.cloud import errors
from cc_kraken.cloud.errors import Reaction
from cc_kraken.config import creation, loading, tags, values
from cc_kraken.decide import decision
from cc_kraken.filesystems import registry
from cc_kraken.machine import fstab, mdadm_conf, schema_files
from cc_kraken.model import Attachment, Holder, Known
from tests.unit.worlds import NODE, claim, single, volume, world

ROOT = Path(__file__).parents[3]
MODULES = sorted((ROOT / "cc_kraken").rglob("*.py"))
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    + [*(ROOT / "examples").rglob("*.md")]
)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ------------------------------------------------------------ kinds of trouble


class Kinds(ast.NodeVisitor):
    """The kinds of trouble in one module.

    Followed are ``Trouble(kind, …)`` and every function of the module, or
    imported from another one of ours, that passes a parameter of its own on as
    the kind.  What cannot be followed is in ``open``, as its source text.
    """

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.makers: dict[str, int] = {"Trouble": 0}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom):
                self.makers.update(imported_makers(node))
        self.found: set[str] = set()
        self.open: set[str] = set()
        self.function: Optional[ast.FunctionDef] = None
        before = -1
        while before != len(self.makers):
            before = len(self.makers)
            self.found.clear()
            self.open.clear()
            self.visit(self.tree)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.function = self.function, node
        self.generic_visit(node)
        self.function = outer

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name = called(node)
        kind = keyword(node, "kind")
        if name in self.makers:
            place = self.makers[name]
            if kind is None and len(node.args) > place:
                kind = node.args[place]
        elif name != "replace":
            return
        if kind is not None:
            self.take(kind)

    def take(self, value: ast.expr) -> None:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            self.found.add(value.value)
        elif isinstance(value, ast.IfExp):
            self.take(value.body)
            self.take(value.orelse)
        elif isinstance(value, ast.Name) and self.function is not None:
            self.take_name(value.id, self.function)
        else:
            self.open.add(ast.unparse(value))

    def take_name(self, name: str, function: ast.FunctionDef) -> None:
        parameters = [one.arg for one in function.args.args if one.arg != "self"]
        if name in parameters:
            self.makers[function.name] = parameters.index(name)
            return
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == name
                for target in node.targets
            ):
                self.take(node.value)


def imported_makers(node: ast.ImportFrom) -> dict[str, int]:
    path = ROOT / f"{(node.module or '').replace('.', '/')}.py"
    names = {one.name for one in node.names}
    if path not in MODULES or not names & functions(path):
        return {}
    makers = kinds_of(path).makers
    return {name: place for name, place in makers.items() if name in names}


@functools.lru_cache(maxsize=None)
def kinds_of(module: Path) -> Kinds:
    """Read once: most modules are imported by many."""
    return Kinds(module.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=None)
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def keyword(node: ast.Call, name: str) -> Optional[ast.expr]:
    return next((one.value for one in node.keywords if one.arg == name), None)


def first_words(module: str, function: str, place: int = 0) -> set[str]:
    """The text constants at one place of the calls of a function."""
    tree = ast.parse(page(f"cc_kraken/{module}.py"))
    return {
        node.args[place].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and called(node) == function
        and len(node.args) > place
        and isinstance(node.args[place], ast.Constant)
        and isinstance(node.args[place].value, str)
    }


# Kinds that are put together at run time: source text to all their values.
COMPOSED: dict[str, Callable[[], set[str]]] = {
    "f'config-{first.kind}'": lambda: {
        f"config-{kind}"
        for kind in first_words("config/validation", "Mistake")
        | first_words("config/loading", "Mistake")
    },
    "f'cannot-{verb}'": lambda: {
        f"cannot-{verb}" for verb in first_words("machine/files", "cannot")
    },
    "line.kind": lambda: first_words("cloud/errors", "Rule", 1),
}


@functools.lru_cache(maxsize=None)
def all_kinds() -> frozenset[str]:
    kinds: set[str] = set()
    for module in MODULES:
        found = kinds_of(module)
        kinds |= found.found
        for text in found.open:
            assert text in COMPOSED, f"{module.name}: which kinds are {text}?"
            kinds |= COMPOSED[text]()
    return frozenset(kinds)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    found: dict[str, int] = {}
    result = set()
    for title in re.findall(r"^#{1,6} (.+)$", without_code(text), re.M):
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def test_every_kind_of_trouble_has_its_entry_and_no_other_is_there() -> None:
    entries = re.findall(r"^### (.+)$", page("docs/operations.md"), re.M)
    assert len(entries) == len(set(entries))
    kinds = all_kinds()
    assert len(kinds) > 100
    assert {"holder-stopped", "config-value", "cannot-write", "stopped"} <= kinds
    assert sorted(kinds - set(entries)) == [], "not in docs/operations.md"
    assert sorted(set(entries) - kinds) == [], "no such kind in the code"
    assert kinds <= anchors(page("docs/operations.md"))


@pytest.mark.parametrize("kind", sorted(all_kinds()))
def test_an_entry_tells_what_is_seen(kind: str) -> None:
    text = page("docs/operations.md").split(f"\n### {kind}\n", 1)[1]
    entry = re.split(r"^##", text, maxsplit=1, flags=re.M)[0]
    assert re.search(r"\*\*See\*\*\s", entry)
    assert re.search(r"\*\*(why )?.*Do\*\*\s|Not seen by itself", entry)


def test_a_kind_that_cannot_be_followed_is_noticed() -> None:
    source = "def f(what):\n    raise KrakenError(Trouble(what.kind, 'a', 'b', 'c'))\n"
    assert Kinds(source).open == {"what.kind"}
    source = "def f(kind):\n    return Trouble(kind, '', '', '')\n\nf('a-b')\n"
    assert Kinds(source).found == {"a-b"}


# ----------------------------------------------------------------------- links


def links(text: str) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if not re.match(r"https?://", target):
            yield target


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in links(text):
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{short(path)}: {target}"
        assert ROOT in there.parents, f"{short(path)}: {target}"
        if anchor:
            assert anchor in anchors(there.read_text()), f"{short(path)}: {target}"


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_files_that_are_named_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|packaging|examples)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{short(path)}: {name}"


def test_the_index_leads_to_every_page_and_the_readme_to_the_index() -> None:
    told = {one.partition("#")[0] for one in links(page("docs/README.md"))}
    for path in (ROOT / "docs").rglob("*.md"):
        name = str(path.relative_to(ROOT / "docs"))
        assert name == "README.md" or name in told, name
    assert "docs/README.md" in set(links(page("README.md")))


def test_the_readme_is_short_and_begins_with_what_counts() -> None:
    text = page("README.md")
    assert text.count("\n") < 400
    parts = re.findall(r"^## (.+)$", text, re.M)
    assert parts[:3] == ["Where it runs", "Try it here", "EC2 in five minutes"]


def test_the_tests_on_virtual_machines_are_all_told() -> None:
    told = set(
        re.findall(r"^- `(test_\w+\.py)`: ", page("docs/project/testing.md"), re.M)
    )
    assert told == {path.name for path in (ROOT / "tests" / "vm").glob("test_*.py")}


def test_the_commands_of_make_are_in_the_readme_and_in_the_makefile() -> None:
    makefile = page("Makefile")
    for target in ("try", "shell", "demo", "test", "check", "deb"):
        assert f"make {target}" in page("README.md")
        assert re.search(rf"^{target}:", makefile, re.M)


# ---------------------------------------------------------------------- tables


def rows(text: str, head: str) -> list[list[str]]:
    """The rows of the table whose first header cell is ``head``."""
    lines = text.split("\n")
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {head} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" |")])
    return found


def code(cell: str) -> str:
    assert cell.startswith("`") and cell.endswith("`"), cell
    return cell[1:-1]


def test_the_table_of_tags_is_that_of_the_code() -> None:
    table = rows(page("README.md"), "Tag")
    assert {code(row[0]) for row in table} == set(tags.NAMES)
    for name, on, _ in table:
        instance = code(name) in ("Prefix", "NodeId", "Volumes")
        assert ("instance" in on) == instance
        assert ("volume" in on) == (code(name) != "Volumes")


KEYS = "docs/reference/configuration.md"
WORDS = {"object": "mapping", "array": "list"}
SECTION = schema_files.load(schema_files.SECTION)["properties"]["kraken"]["properties"]
(SET,) = SECTION["volumes"]["patternProperties"].values()


@pytest.mark.parametrize(
    "head, properties",
    [
        ("Key of `kraken`", SECTION),
        ("Key of `kraken.ec2`", SECTION["ec2"]["properties"]),
        ("Key of a set", SET["properties"]),
        ("Key of `create`", SET["properties"]["create"]["properties"]),
    ],
)
def test_the_tables_of_keys_are_the_schema(
    head: str, properties: dict[str, dict[str, object]]
) -> None:
    table = rows(page(KEYS), head)
    assert [code(row[0]) for row in table if len(row) != 4] == []
    assert {code(row[0]) for row in table} == set(properties)
    for key, kind, default, meaning in table:
        schema = properties[code(key)]
        types = schema["type"]
        names = [types] if isinstance(types, str) else list(types)  # type: ignore
        told = {WORDS.get(name, name) for name in names if name != "null"}
        assert set(kind.split(", ")) == told, key
        if "default" in schema:
            value = schema["default"]
            text = value if isinstance(value, str) else json.dumps(value)
            assert code(default) == text, key
        else:
            assert not default.startswith("`"), f"{key} has no default in the schema"
        assert meaning


def test_the_table_of_volume_types_is_the_code() -> None:
    table = rows(page(KEYS), "Type of volume")
    assert {code(row[0]) for row in table} == set(creation.TYPES)
    for name, gib, iops, ratio, throughput in table:
        kind = creation.TYPES[code(name)]
        assert gib == "{} to {}".format(*kind.sizes)
        assert iops == ("{} to {}".format(*kind.iops) if kind.iops else "")
        assert ratio.split(",")[0] == (str(kind.per_gib) if kind.per_gib else "")
        assert ratio.partition(", or ")[2] == (
            f"{kind.included} in all" if kind.included else ""
        )
        most = "{} to {}".format(*kind.throughput) if kind.throughput else ""
        assert throughput.split(",")[0] == most


def test_what_is_not_among_the_defaults_is_said() -> None:
    missing = set(SET["properties"]) - set(SECTION["defaults"]["properties"])
    table = rows(page(KEYS), "Key of a set")
    assert missing == {code(r[0]) for r in table if "not in `defaults`" in r[3]}


def test_the_tables_of_levels_and_filesystems_are_the_code() -> None:
    table = rows(page(KEYS), "RAID level")
    assert {int(a): int(b) for a, b in table} == dict(values.FEWEST_MEMBERS)
    (cell,) = [row[2] for row in rows(page("README.md"), "Tag") if "FsType" in row[0]]
    assert set(re.findall("`(.+?)`", cell)) == {*registry.TYPES, "none"}


def test_the_table_of_mkfs_options_is_the_allow_list() -> None:
    table = rows(page("docs/reference/decisions.md"), "Type")
    told = {kind: set(re.findall("`(.+?)`", letters)) for kind, letters in table}
    assert told == {kind: set(one.options) for kind, one in registry.TYPES.items()}


def holders() -> list[tuple[str, bool, str, str]]:
    found = []
    for state, same, then, kind in rows(
        page("docs/reference/decisions.md"), "The other instance is"
    ):
        for answer in (True, False) if same == "any" else (same == "yes",):
            name = kind[1 : kind.index("]")]
            found.append((code(state), answer, then, name))
    return found


@pytest.mark.parametrize("state, same, then, kind", holders())
def test_the_table_of_holders_is_what_is_decided(
    state: str, same: bool, then: str, kind: str
) -> None:
    other = "i-0fedcba9876543210"
    attachment = Attachment(other, "/dev/sdf", "attached")
    theirs = volume(1, "in-use", attachments=(attachment,))
    node_id = NODE.node_id if same else "other"
    holder = Holder(other, state, NODE.prefix, node_id)
    (plan,) = decision.decide(
        NODE, [claim(single(), theirs)], world(holders={other: holder})
    )
    assert plan.trouble is not None
    assert plan.trouble.kind == kind
    assert plan.trouble.waits == (then == "wait")
    assert not plan.steps


def test_the_table_of_ec2s_answers_is_the_code() -> None:
    words = {
        Reaction.RETRY: "asked again, with back-off, up to the deadline",
        Reaction.DESCRIBE: "a fresh DescribeVolumes tells: ours is success, "
        "another's is a holder",
        Reaction.NEXT_NAME: "the next device name",
        Reaction.DONE: "taken as done",
        Reaction.FATAL: "an error",
    }
    told = {}
    for codes, done, kind in rows(page("docs/reference/decisions.md"), "EC2 says"):
        for name in re.findall("`(.+?)`", codes):
            told[name] = (done, kind[2 : kind.index("`]")] if kind else "")
    assert told == {
        name: (
            words[rule.reaction],
            "" if rule.reaction is Reaction.DONE else rule.kind,
        )
        for name, rule in errors.TABLE.items()
    }


def test_completeness_and_arrays_name_kinds_that_are_there() -> None:
    kinds = all_kinds()
    text = page("docs/reference/decisions.md")
    named = set(re.findall(r"operations\.md#([\w-]+)\)", text)) - {"errors"}
    assert named and named <= kinds


def test_the_lines_that_are_taken_over_are_those_that_the_page_shows() -> None:
    table = rows(page("docs/guides/from-goat.md"), "Found")
    (theirs, _), (array, becomes) = table
    (line,) = fstab.parse(code(theirs.split(", once")[0]) + "\n")
    known = Known("ext4", "11111111-2222-3333-4444-555555555555", "GOAT-data")
    assert fstab.names(line, known, "", {})
    after = fstab.replace(
        f"{code(theirs.split(', once')[0])}\n" * 3,
        {"data": fstab.entry("data", known.uuid, line.path, "ext4")},
        (line,),
    )
    assert after.count("\n") == 1
    for word in ("UUID", "nofail", "X-kraken.set=data"):
        assert word in after and word in table[0][1]
    uuid = "4a739fd5-5f39-2dd6-1b19-8f885cd3f50b"
    shown = (
        code(array).replace("UUID=…", f"UUID={uuid}").replace(" devices", "\n devices")
    )
    (shown_line,) = mdadm_conf.parse(shown)
    assert mdadm_conf.speaks_of(shown_line, uuid, "any:x", ["/dev/nvme1n1"])
    assert not mdadm_conf.keeps(shown_line, ["/dev/nvme1n1"])
    assert mdadm_conf.without(shown, [shown_line]) == ""
    assert becomes.startswith("`ARRAY UUID=…`")
    assert "ARRAY UUID=" in mdadm_conf.text({"data": uuid})


# -------------------------------------------------------------------- snippets


def snippets(language: str) -> Iterator[tuple[str, str]]:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        fences = re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", text, re.M | re.S)
        for number, (indent, name, body) in enumerate(fences):
            if name == language:
                lines = [line[len(indent) :] for line in body.split("\n")]
                yield f"{short(path)}#{number}", "\n".join(lines)


@pytest.mark.parametrize("place, text", list(snippets("yaml")))
def test_a_yaml_snippet_is_a_section_that_is_right(place: str, text: str) -> None:
    document = yaml.safe_load(text)
    sections = [document["kraken"]] if "kraken" in document else []
    for one in document.get("write_files", []):
        sections.append(yaml.safe_load(one["content"])["kraken"])
    assert sections, place
    for value in sections:
        assert loading.build([loading.Source(place, value)]) is not None


@pytest.mark.parametrize("place, text", list(snippets("json")))
def test_a_json_snippet_is_json(place: str, text: str) -> None:
    assert json.loads(text), place


@pytest.mark.parametrize("place, text", list(snippets("python")))
def test_a_python_snippet_compiles(place: str, text: str) -> None:
    assert compile(text, place, "exec")


@pytest.mark.parametrize("place, text", list(snippets("sh")))
def test_a_shell_snippet_is_shell(place: str, text: str) -> None:
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
    assert done.returncode == 0, f"{place}: {done.stderr}"


# ------------------------------------------------------------ manual, versions


def commands() -> dict[str, argparse.ArgumentParser]:
    (choices,) = [
        action.choices
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(choices)


def manual() -> str:
    return page("debian/cc-kraken.8").replace("\\-", "-")


def test_the_manual_has_every_command_and_option() -> None:
    text = manual()
    for name, parser in commands().items():
        assert re.search(rf"^\.B\w? .*\b{name}\b", text, re.M), name
        for action in parser._actions:
            for option in action.option_strings:
                if option not in ("-h", "--help"):
                    assert option in text, f"{name} {option}"
    assert "--debug" in text


def test_the_synopsis_of_the_manual_is_what_help_says() -> None:
    source = manual().split(".SH SYNOPSIS\n")[1].split(".SH ")[0]
    told = {}
    for entry in source.split("\n.br\n"):
        text = " ".join(re.sub(r"^\.[A-Z]+ ", "", entry, flags=re.M).split())
        text = text.replace("[ ", "[").replace(" ]", "]")
        line = text.replace(" [--debug]", "").split("cc-kraken ")[1]
        told[line.split()[0]] = sorted(re.findall(r"\[.+?\]|\S+", line))
    usage = {}
    for name, parser in commands().items():
        line = parser.format_usage().split("cc-kraken ")[1].replace(" [-h]", "")
        usage[name] = sorted(re.findall(r"\[.+?\]|\S+", line))
    assert told == usage


def test_the_manual_is_whole() -> None:
    """Every part that a reader of section 8 expects, and every command as an
    entry of its own with words below it."""
    text = manual()
    parts = re.findall(r"^\.SH (.+)$", text, re.M)
    assert parts == [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "UNITS",
        "FILES",
        "EXIT STATUS",
        "EXAMPLES",
        "SEE ALSO",
    ]
    entries = text.split(".SH COMMANDS\n")[1].split(".SH ")[0].split(".TP\n")[1:]
    told = [re.sub(r"^\.[A-Z]+ ", "", entry).split()[0] for entry in entries]
    assert dict.fromkeys(told) == dict.fromkeys(commands())
    assert all(entry.count("\n") >= 2 for entry in entries)


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_manual_is_formatted_without_a_warning() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", str(ROOT / "debian" / "cc-kraken.8")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_one_version_everywhere() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    (first, *_) = re.findall(r"^## (.+)$", page("CHANGELOG.md"), re.M)
    assert first == version
    assert page("debian/changelog").startswith(f"cloud-init-kraken ({version})")
    spec = page("packaging/cc-kraken.spec")
    assert re.findall(r"^Version: +(.+)$", spec, re.M) == [version]
    assert f"- {version}-1\n" in spec.split("%changelog\n")[1].split("\n- ")[0] + "\n"
    assert f'"cc_kraken {version}"' in page("debian/cc-kraken.8")
    texts = [path.read_text() for path in PAGES]
    texts += [p.read_text() for p in (ROOT / "examples").rglob("*") if p.is_file()]
    named = {v for t in texts for v in re.findall(r"kraken_([\d.]+)_all\.deb", t)}
    assert named == {version}


# -------------------------------------------------------------------- pictures


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.svg")), ids=short)
def test_a_picture_is_plain_and_has_words_for_who_cannot_see_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    root = xml.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    named = {one.get("id"): one.text for one in root if one.get("id")}
    for name in (root.get("aria-labelledby") or "").split():
        assert named[name]
    allowed = {"svg", "title", "desc", "style", "rect", "path", "ellipse", "text"}
    assert {element.tag.replace(space, "") for element in root.iter()} <= allowed
    assert "prefers-color-scheme: dark" in text
    used = {cls for e in root.iter() for cls in (e.get("class") or "").split()}
    light, dark = text.split("@media", 1)
    for cls in used:
        assert f".{cls} {{" in light and f".{cls} {{" in dark.split("</style>")[0]
