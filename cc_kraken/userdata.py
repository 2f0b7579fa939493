"""User-data as people write it: which parts of it hold a kraken section.

For ``cc-kraken check``, before anybody boots it.  Knows cloud-config, MIME
multi-part (each cloud-config part by itself, as cloud-init merges them later)
and jinja templates: what a template fills in is not known before the boot, so
a value that holds such an expression counts as right.  Nothing is fetched
(``#include``), nothing is run.
"""

from __future__ import annotations

import email
import gzip
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple

from cc_kraken import configuration
from cc_kraken.model import KrakenError, Trouble

CLOUD_CONFIG = "#cloud-config"
CLOUD_CONFIG_TYPES = ("text/cloud-config", "text/cloud-config-jsonp")
JINJA = re.compile(r"##\s*template:\s*jinja\s*\Z", re.I)
UNKNOWN = "filled-in-by-jinja"

_EXPRESSION = re.compile(r"\{\{.*?\}\}", re.S)
_STATEMENT = re.compile(r"\{%.*?%\}|\{#.*?#\}", re.S)


@dataclass(frozen=True)
class Part:
    """One cloud-config in the user-data.

    ``line``: the line of the file on which the part begins (0: the first).
    """

    name: str
    text: str
    line: int = 0
    template: bool = False


@dataclass(frozen=True)
class Finding:
    """One mistake with its place: ``file:line: sentence``."""

    name: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.name}:{self.line}: {self.text}"


def read(data: bytes, name: str) -> Tuple[Part, ...]:
    """The cloud-config parts of user-data; gzip is unpacked.

    Raises KrakenError ``user-data-form`` for what is neither cloud-config,
    MIME, nor one of our own files (a bare ``kraken:`` mapping).
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise _form(name, f"is a damaged gzip file ({error})") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _form(name, f"is not UTF-8 (byte {error.start})") from None
    parts = tuple(_parts(text, name))
    if not parts and text.strip() and not _is_mime(text):
        first = text.lstrip().splitlines()[0][:60]
        raise _form(name, f"begins with {first!r}")
    return parts


def _form(name: str, found: str) -> KrakenError:
    return KrakenError(
        Trouble(
            "user-data-form",
            f"{name} {found}",
            "cloud-config, MIME multi-part, or a file with a kraken section",
            f"Begin cloud-config with the line {CLOUD_CONFIG}.",
        )
    )


def _is_mime(text: str) -> bool:
    head = text.lstrip()[:2000].lower()
    return head.startswith(("content-type:", "mime-version:")) and "multipart" in head


def _parts(text: str, name: str) -> Iterator[Part]:
    if not _is_mime(text):
        part = _part(text, name, 0)
        if part is not None:
            yield part
        return
    message = email.message_from_string(text)
    for number, found in enumerate(message.walk(), 1):
        if found.is_multipart():
            continue
        body = found.get_payload(decode=True)
        assert isinstance(body, bytes)
        content = body.decode("utf-8", "replace")
        title = found.get_filename() or f"part {number - 1}"
        typed = found.get_content_type() in CLOUD_CONFIG_TYPES
        part = _part(content, f"{name} ({title})", _line_of(text, content), typed)
        if part is not None:
            yield part


def _line_of(text: str, content: str) -> int:
    """On which line of the file a part begins; 0 where it is encoded."""
    first = next((line for line in content.splitlines() if line.strip()), "")
    at = text.find(content.strip()) if first else -1
    return text.count("\n", 0, at) if at >= 0 else 0


def _part(text: str, name: str, line: int, typed: bool = False) -> Optional[Part]:
    lines = text.lstrip("\ufeff").split("\n")
    template = bool(JINJA.match(lines[0].strip()))
    head = lines[1] if template and len(lines) > 1 else lines[0]
    bare = any(one.startswith(f"{configuration.KEY}:") for one in lines)
    if head.startswith(CLOUD_CONFIG) or typed or (line == 0 and bare):
        return Part(name, text.lstrip("\ufeff"), line, template)
    return None


# -------------------------------------------------------------------- checking


def check(parts: Tuple[Part, ...]) -> Tuple[List[Finding], int]:
    """The mistakes in all parts, and how many hold a kraken section."""
    findings: List[Finding] = []
    sections = 0
    for part in parts:
        text = _neutral(part.text) if part.template else part.text
        try:
            document, lines = _document(text, part)
        except _Syntax as error:
            findings.append(Finding(part.name, error.line + part.line, str(error)))
            continue
        if not isinstance(document, dict) or configuration.KEY not in document:
            continue
        sections += 1
        for mistake in configuration.check(document[configuration.KEY]):
            if UNKNOWN in mistake.found and part.template:
                continue
            line = _line(lines, mistake.path) + part.line
            trouble = configuration.trouble("it", [mistake])
            sentence = f"{mistake.path} is {mistake.found}; expected "
            sentence += f"{trouble.expected}. {trouble.remedy}"
            findings.append(Finding(part.name, line, sentence))
    return findings, sections


def _neutral(text: str) -> str:
    """A template with its statements taken out and its expressions replaced,
    line for line."""

    def blank(found: "re.Match[str]") -> str:
        return "\n" * found.group(0).count("\n")

    def value(found: "re.Match[str]") -> str:
        return UNKNOWN + "\n" * found.group(0).count("\n")

    return _EXPRESSION.sub(value, _STATEMENT.sub(blank, text))


class _Syntax(Exception):
    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


def _document(text: str, part: Part) -> Tuple[Any, Dict[str, int]]:
    """The YAML of a part, and the line (from 1) of every key by its path."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: Dict[str, int] = {}
        if node is not None:
            _walk(node, "", lines)
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise _Syntax(
            f"not valid YAML: {problem}", mark.line + 1 if mark else 1
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise _Syntax(f"not valid YAML: {error}", 1) from None


def _walk(node: Any, path: str, lines: Dict[str, int]) -> None:
    import yaml

    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            lines[name] = key.start_mark.line + 1
            _walk(value, name, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _walk(value, f"{path}[{number}]", lines)


def _line(lines: Dict[str, int], path: str) -> int:
    """The line of a key, or of the nearest one above it that is known."""
    while path:
        if path in lines:
            return lines[path]
        path = path.rpartition(".")[0] if "." in path else ""
    return lines.get("", 1)
