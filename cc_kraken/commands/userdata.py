"""User-data as people write it: is the kraken section in it right, and does it
arrive?

For ``cc-kraken check``, before anybody boots it.  cloud-init decides what it
takes (:mod:`cc_kraken.commands.userparts`); each cloud-config in it is looked at by
itself, and so are the files of ours that it writes.  What a jinja template fills in is
not known before the boot, so a value that holds such an expression counts as
right.  Nothing is fetched (``#include``), nothing is run.
"""

from __future__ import annotations

import base64
import difflib
import gzip
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Optional

from cc_kraken.commands import userparts
from cc_kraken.config import loading
from cc_kraken.config.loading import KEY
from cc_kraken.config.validation import Mistake, describe
from cc_kraken.model import KrakenError, failure

UNKNOWN = "filled-in-by-jinja"
OURS = ("conf.d", "kraken.d")
"""Directories in which a file needs no header of cloud-init's."""

_EXPRESSION = re.compile(r"\{\{.*?\}\}", re.S)
_STATEMENT = re.compile(r"\{%.*?%\}|\{#.*?#\}", re.S)
_SECTION = re.compile(rf"^\s*{KEY}:", re.M)
_MIME = re.compile(r"^(content-type: *multipart|mime-version:)", re.I | re.M)
_OUR_FILE = re.compile(
    r"(/var/lib/cloud/instances?(/[^/]+)?/kraken\.d|/etc/cc-kraken/conf\.d)/[^/]+"
)


@dataclass(frozen=True)
class Finding:
    """One mistake with its place: ``file:line: sentence``."""

    name: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.name}:{self.line}: {self.text}"


@dataclass(frozen=True)
class _Text:
    """One YAML document.  ``line``: how many lines of its file are before it;
    ``at``: the one line that stands for all of it.  ``own``: a file of ours."""

    name: str
    text: str
    line: int = 0
    at: Optional[int] = None
    template: bool = False
    own: bool = False
    merges: bool = False


def check(data: bytes, path: str) -> "Checked":
    """Check one file: user-data, one of ours (``conf.d/NAME.yaml``,
    ``kraken.d/NAME.yaml``), or one for ``/etc/cloud/cloud.cfg.d`` (``NAME.cfg``).

    Raises KrakenError ``user-data-form`` for a file of which cloud-init takes
    nothing.
    """
    work = Checked(path)
    directory = os.path.basename(os.path.dirname(os.path.abspath(path)))
    try:
        if directory in OURS and path.endswith(".yaml"):
            work.document(_Text(path, data.decode("utf-8"), own=True))
        elif not (path.endswith(".cfg") and work.config_file(data)):
            work.user_data(data)
    except UnicodeDecodeError as error:
        _refuse(f"{path} is not UTF-8 (byte {error.start})", "Save it as UTF-8.")
    return work


def is_right(path: str) -> bool:
    """Whether a section without a mistake arrives from this user-data; also where there
    is none.  False for who may not read it."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        found = check(data, path)
    except FileNotFoundError:
        return True
    except (OSError, KrakenError):
        return False
    return not data.strip() or (bool(found.sections) and not found.findings)


def _refuse(
    found: str, remedy: str = "Begin it with the line #cloud-config."
) -> NoReturn:
    expected = "It must be cloud-config, alone or as a part of MIME multi-part."
    raise failure("user-data-form", f"{found}.", expected, remedy)


class Checked:
    """What there is to say of one file.  ``sections``: where there is one.
    ``notes``: what was not looked at."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.sections: list[str] = []
        self._whole, self._read = "", 0
        self._arrived: list[str] = []
        """The parts of user-data that have a section."""

    def config_file(self, data: bytes) -> bool:
        """A file for cloud.cfg.d, which needs no header; False for one that begins
        as user-data does."""
        text = data.decode("utf-8", "replace")
        kind = userparts.starts(text)
        if kind not in (None, userparts.JINJA) or _MIME.search(text):
            return False
        where = "checked as a file for /etc/cloud/cloud.cfg.d"
        self.notes.append(f"{where}; user-data would begin with #cloud-config")
        text = data.decode("utf-8")
        self.document(_Text(self.name, text, template=userparts.is_template(text)))
        return True

    def user_data(self, data: bytes) -> None:
        plain = userparts.unpacked(data)
        if data[:2] == b"\x1f\x8b" and plain is data:
            _refuse(f"{self.name} is a damaged gzip file", "Make it anew.")
        self._whole = plain.decode("utf-8", "surrogateescape")
        try:
            parts = userparts.parts(data)
        except UnicodeDecodeError:
            raise
        except Exception as error:
            _refuse(
                f"cloud-init fails on {self.name}, and takes nothing of it ({error})",
                "Correct its parts.",
            )
        if not parts and self._whole.strip():
            _refuse(
                f"cloud-init ignores {self.name}, because there is no part in it",
                "Correct its parts: an archive is a list.",
            )
        for part in parts:
            self._part(part)

    def _part(self, part: userparts.Part) -> None:
        alone = self._whole.strip().endswith(part.text.strip())
        name = self.name if alone else f"{self.name} ({part.name})"
        text = _Text(name, part.text, self._line_of(part.text), merges=part.merges)
        if part.kind == userparts.CLOUD_CONFIG:
            self.document(text)
        elif part.kind == userparts.JINJA:
            self._template(text)
        elif part.kind == userparts.PATCH:
            self.notes.append("a JSON patch is not checked")
        elif part.kind == userparts.INCLUDE:
            self.notes.append("what #include names is fetched at boot only")
        elif part.kind not in userparts.HANDLED:
            looked_at = part.kind in ("text/plain", userparts.WHOLE)
            if looked_at and userparts.starts(part.text) is None:
                why = f"it begins with {_first(part.text)!r}"
                self._ignored(text, why, _hint(part.text, part.kind))
            else:
                hint = f"Give it the type {userparts.CLOUD_CONFIG}."
                self._ignored(text, f"its type is {part.kind}", hint)
        elif alone and part.text.strip():
            _refuse(f"cloud-init takes {name} for {part.kind}")

    def _template(self, text: _Text) -> None:
        if not userparts.is_template(text.text):
            why = f"it begins with {_first(text.text)!r}"
            hint = "Its first line must be ## template: jinja, exactly so."
            self._ignored(text, why, hint)
            return
        kind = userparts.starts(_neutral(text.text).partition("\n")[2])
        if kind == userparts.CLOUD_CONFIG:
            self.document(replace(text, template=True))
        elif kind is None:
            why = "what the template makes has no header"
            hint = "Its second line must be #cloud-config."
            self._ignored(text, why, hint)

    def _ignored(self, text: _Text, why: str, hint: str) -> None:
        """cloud-init does nothing with this part: a mistake, if there is a section
        in it or it is all there is."""
        if not text.text.strip():
            return
        if text.name == self.name:
            _refuse(f"cloud-init ignores {text.name} as a whole, because {why}", hint)
        if _SECTION.search(text.text):
            self._find(text, 1, f"cloud-init ignores this part, because {why}. {hint}")

    def _line_of(self, content: str) -> int:
        """How many lines of the file are before a part; 0 where it is encoded.

        In an archive its lines are indented.
        """
        lines = [re.escape(line.strip()) for line in content.splitlines()]
        pattern = re.compile(r"[ \t\r]*\n[ \t]*".join(lines))
        found = pattern.search(self._whole, self._read)
        if found is None:
            return 0
        self._read = found.end()
        return self._whole.count("\n", 0, found.start())

    def _find(self, text: _Text, line: int, sentence: str) -> None:
        at = text.at if text.at is not None else text.line + line
        if not sentence.startswith("["):
            sentence = f"[user-data-form] {sentence}"
        finding = Finding(text.name, at, sentence)
        if finding not in self.findings:
            self.findings.append(finding)

    def document(self, text: _Text) -> None:
        """One YAML document, and the files of ours that it writes."""
        yaml = _Yaml(_neutral(text.text) if text.template else text.text)
        if yaml.problem:
            sentence = f"[config-syntax] not valid YAML: {yaml.problem}"
            self._find(text, yaml.problem_line, sentence)
            return
        content = yaml.content
        if not isinstance(content, dict):
            if content is not None:
                expected = "expected a mapping. cloud-init takes nothing of it"
                self._find(text, 1, f"this is {describe(content)}; {expected}")
            return
        if text.own:
            alone = f"{KEY}, which stands alone in a file of ours"
            for key in (key for key in content if key != KEY):
                self._find(text, yaml.line(str(key)), f"{key} is a key beside {alone}")
        elif content.get("write_files"):
            self._written(text, yaml)
        if KEY in content:
            self._section(text, yaml)
        elif not text.own:
            expected = f"expected {KEY}. Did you mean {KEY}?"
            for key in difflib.get_close_matches(KEY, map(str, content), cutoff=0.8):
                sentence = f"[config-unknown-key] {key} is an unknown key; {expected}"
                self._find(text, yaml.line(key), sentence)

    def _section(self, text: _Text, yaml: "_Yaml") -> None:
        self.sections.append(text.name)
        for path, line, first in () if text.template else yaml.twice:
            sentence = f"{path} is here twice (first in line {text.line + first})"
            self._find(text, line, f"{sentence}; the second replaces the first")
        for line, sentence in yaml.numbers:
            self._find(text, line, f"[config-value] {sentence}")
        values = [yaml.content[KEY]]
        if text.template:  # both branches of an if
            values = yaml.values(KEY) or values
        for each in values:
            self._value(text, yaml, each)
        if text.own:
            return
        merges = text.merges or {"merge_how", "merge_type"} & set(yaml.content)
        if self._arrived and not merges:
            sentence = f"this section replaces that of {self._arrived[-1]} as a whole"
            self._find(text, yaml.line(KEY), f"{sentence}; merge_how merges them")
        self._arrived.append(text.name)

    def _value(self, text: _Text, yaml: "_Yaml", value: object) -> None:
        mistakes = loading.check(value)
        for mistake in mistakes:
            if not (text.template and UNKNOWN in mistake.found):
                self._find(text, yaml.line(mistake.path), _sentence(mistake))
        for place, trouble in () if mistakes else loading.wrong(value):
            key = re.search(r"kraken\.(volumes|defaults)\.[^\s,)]+", trouble.found)
            if not (text.template and UNKNOWN in trouble.found):
                line = yaml.line(key.group(0) if key else place)
                self._find(text, line, str(trouble))

    def _written(self, text: _Text, yaml: "_Yaml") -> None:
        entries = yaml.content["write_files"]
        for number, entry in enumerate(entries if isinstance(entries, list) else ()):
            path = entry.get("path") if isinstance(entry, dict) else None
            if isinstance(path, str) and _OUR_FILE.fullmatch(os.path.normpath(path)):
                self._our_file(text, yaml, f"write_files[{number}]", entry)

    def _our_file(
        self, text: _Text, yaml: "_Yaml", place: str, entry: Mapping[str, Any]
    ) -> None:
        path, line = entry["path"], yaml.line(f"{place}.path")
        if not path.endswith(".yaml"):
            self._find(text, line, f"{path} is not read: its name must end in .yaml")
            return
        if entry.get("defer"):
            sentence = "is written too late, with defer: true; the volumes come before"
            self._find(text, line, f"{path} {sentence}")
        try:
            content = _unpacked(entry)
        except Exception as error:
            packing = entry.get("encoding")
            self._find(text, line, f"{path} is not packed as {packing} ({error})")
            return
        line = text.line + yaml.line(f"{place}.content")
        at = None if f"{place}.content" in yaml.blocks else line
        name = f"{text.name} ({path})"
        self.document(
            replace(text, name=name, text=content, line=line, at=at, own=True)
        )


def _sentence(mistake: Mistake) -> str:
    trouble = loading.trouble("it", [mistake])
    return str(replace(trouble, found=f"{mistake.path} is {mistake.found}"))


def _first(text: str) -> str:
    """Its first line that is not blank."""
    return next(filter(str.strip, text.splitlines()), "")[:60]


def _hint(text: str, kind: str) -> str:
    """How a file or part that cloud-init ignores would be taken."""
    if text.startswith("\ufeff"):
        return "Save it without a byte order mark."
    if _MIME.search(text) and kind == userparts.WHOLE:
        return "MIME needs the header MIME-Version: 1.0 within its first 4096 bytes."
    if _MIME.search(text):
        return "Take away the blank line before the MIME headers."
    if re.match(r"\s*##\s*template", text, re.I):
        return "Its first line must be ## template: jinja, exactly so."
    if _SECTION.match(text) and kind == userparts.WHOLE:
        return (
            "Begin it with the line #cloud-config. A file for /etc/cc-kraken/conf.d "
            "or kraken.d needs none: check it as conf.d/NAME.yaml."
        )
    return "Begin it with the line #cloud-config, exactly so."


def _neutral(text: str) -> str:
    """A template with its statements taken out and its expressions replaced,
    line for line."""

    def lines(found: "re.Match[str]") -> str:
        return "\n" * found.group(0).count("\n")

    text = _STATEMENT.sub(lines, text)
    return _EXPRESSION.sub(lambda found: UNKNOWN + lines(found), text)


def _unpacked(entry: Mapping[str, Any]) -> str:
    """The content of an entry of write_files, as that module unpacks it."""
    content: Any = entry.get("content") or ""
    packing = str(entry.get("encoding") or "").lower().strip().split("+")
    if packing[-1] in ("b64", "base64"):
        content = base64.b64decode(content)
    if packing[0] in ("gz", "gzip"):
        content = gzip.decompress(
            content.encode() if isinstance(content, str) else content
        )
    return content.decode("utf-8") if isinstance(content, bytes) else str(content)


class _Yaml:
    """A document with the lines (from 1) of its keys.

    ``twice``: path, line and first line of each key of the section that is there
    twice.  ``numbers``: line and sentence for each number of the section that is not
    what it looks like.  ``blocks``: the paths of literal block scalars.  ``problem``:
    why it is not valid, "" where it is.
    """

    def __init__(self, text: str) -> None:
        import yaml

        self.twice: list[Any] = []
        self.numbers: list[tuple[int, str]] = []
        self.blocks: list[str] = []
        self._seen: set[int] = set()
        self._lines: dict[str, int] = {}
        self.content: Any = None
        self.problem = ""
        try:
            self._loader = yaml.SafeLoader(text)
            self._node: Any = self._loader.get_single_node()
            if self._node is not None:
                self._walk(self._node, "")
                self.content = self._loader.construct_document(self._node)
        except Exception as error:  # not YAMLError alone
            line, self.problem = loading.yaml_problem(error)
            self.problem_line = line or 1

    def line(self, path: str) -> int:
        """The line of a key, or of the nearest one above it that is known."""
        while path and path not in self._lines:
            path = path.rpartition(".")[0]
        return self._lines.get(path, 1)

    def values(self, key: str) -> list[Any]:
        """Every value of a key of this mapping, where a template has several."""
        return [
            self._loader.construct_document(value)
            for name, value in self._node.value
            if name.value == key
        ]

    def _walk(self, node: Any, path: str) -> None:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self._seen:
            return  # an alias, perhaps of what it is in
        self._seen.add(id(node))
        children: list[Any] = []
        if node.id == "mapping":
            above = f"{path}." if path else ""
            children = [(f"{above}{key.value}", key, one) for key, one in node.value]
        elif node.id == "sequence":
            children = [(f"{path}[{n}]", one, one) for n, one in enumerate(node.value)]
        here: dict[str, int] = {}
        for name, key, value in children:
            line = key.start_mark.line + 1
            if name in here and (name == KEY or name.startswith(f"{KEY}.")):
                self.twice.append((name, line, here[name]))
            self._lines[name] = here[name] = line
            if getattr(value, "style", None) == "|":
                self.blocks.append(name)
            if name.startswith(f"{KEY}.") and value.tag == "tag:yaml.org,2002:int":
                self._number(name, line, value)
            self._walk(value, name)

    def _number(self, path: str, line: int, node: Any) -> None:
        """Whether YAML makes another number of what a person reads (octal, base 60), or
        of an id whose zeros count."""
        text, number = node.value, self._loader.construct_object(node)
        digits = re.fullmatch(r"[-+]?[0-9_]+", text)
        plain = digits and int(text.replace("_", "")) == number
        is_id = re.match(rf"{KEY}\.node_ids?\b", path)
        other_base = re.match(r"[-+]?0[xb]", text)
        odd = text != str(number) if is_id else not (plain or other_base)
        if odd and not path.endswith(".mode"):  # of which the schema tells
            found = f"{path} is {text}, which YAML takes for the number {number}"
            remedy = "in quotes" if is_id else "as a plain decimal number"
            self.numbers.append((line, f"{found}. Write it {remedy}."))
