"""What cloud-init makes of user-data: the parts that it hands to its handlers.

Where cloud-init is installed its own code is asked (:class:`CloudInit`), without
what it would fetch, write or log.  Elsewhere its rule is followed
(:class:`Rule`): cloudinit/user_data.py and cloudinit/handlers, alike from 22.2 to
26.2.  tests/userfiles.py holds both against each other.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import logging
import re
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any, Iterator, List, Optional, Tuple

CLOUD_CONFIG = "text/cloud-config"
PATCH = "text/cloud-config-jsonp"
JINJA = "text/jinja2"
INCLUDE, INCLUDE_ONCE = "text/x-include-url", "text/x-include-once-url"
ARCHIVE = "text/cloud-config-archive"
HANDLED = (
    CLOUD_CONFIG,
    PATCH,
    JINJA,
    "text/x-shellscript",
    "text/x-shellscript-per-boot",
    "text/x-shellscript-per-instance",
    "text/x-shellscript-per-once",
    "text/cloud-boothook",
    "text/part-handler",
)
"""The types of parts that cloud-init does something with."""
WHOLE = "text/x-not-multipart"
"""The type of a file that is no MIME and begins like nothing that is known."""

_STARTS = {
    "#include": INCLUDE,
    "#include-once": INCLUDE_ONCE,
    "#!": "text/x-shellscript",
    "#cloud-config": CLOUD_CONFIG,
    "#part-handler": "text/part-handler",
    "#cloud-boothook": "text/cloud-boothook",
    "#cloud-config-archive": ARCHIVE,
    "#cloud-config-jsonp": PATCH,
    "## template: jinja": JINJA,
    **{kind: kind for kind in HANDLED if kind.startswith("text/x-shellscript-")},
}
_GZIP = tuple(
    f"application/{word}"
    for word in "gzip gzip-compressed gzipped x-compress x-compressed x-gunzip "
    "x-gzip x-gzip-compressed".split()
)
_LOOKED_AT = ("text/plain", WHOLE, "text/x-shellscript")
"""Their content says what they are, not their type."""


@dataclass(frozen=True)
class Part:
    """A part as a handler gets it.  ``merges``: a header says how it is merged
    with the parts before it."""

    kind: str
    name: str
    text: str
    merges: bool = False


class Rule:
    """cloud-init's rule, followed without cloud-init."""

    def parts(self, data: bytes) -> Tuple[Part, ...]:
        """The parts in their order.  What an ``#include`` names is not fetched:
        in its place stands an empty part of the type INCLUDE.

        Raises whatever cloud-init would: it makes nothing at all of the file.
        """
        taken = MIMEMultipart()
        for part in _message(data).walk():
            if part.get_content_maintype() != "multipart":
                self._take(part, taken)
        return _parts(taken, _payload)

    def starts(self, text: str) -> Optional[str]:
        """The type that a text begins like; None: like nothing known."""
        low = text.lower().lstrip()
        for word in sorted(_STARTS, key=len, reverse=True):
            if low.startswith(word):
                return _STARTS[word]
        return None

    def is_template(self, text: str) -> bool:
        """Whether the first line is that of a jinja template; ValueError for
        another template language."""
        found = re.match(r"##\s*template:(.*)", text.split("\n", 1)[0], re.I)
        kind = found.group(1).lower().strip() if found else "basic"
        if kind not in ("jinja", "basic"):
            raise ValueError(f"unknown template language {kind}")
        return kind == "jinja"

    def _take(self, part: "Message[str, str]", taken: MIMEMultipart) -> None:
        told: Optional[str] = part.get_content_type()
        content = _payload(part)
        if told in _GZIP:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                content = stream.read().decode("utf-8")
            told = None
        kind = told or "text/plain"
        if kind in _LOOKED_AT:
            kind = self.starts(content) or kind
        if told is None:
            part = _with_name(_plain(kind, content), part.get_filename())
        elif kind != told:
            del part["Content-Type"]
            part["Content-Type"] = kind
        if kind == ARCHIVE:
            self._open(content, taken)
        elif kind in (INCLUDE, INCLUDE_ONCE):
            _attach(_plain(INCLUDE, ""), taken)
        else:
            _attach(part, taken)

    def _open(self, content: str, taken: MIMEMultipart) -> None:
        import yaml

        try:
            entries = yaml.safe_load(content)
        except (yaml.YAMLError, TypeError, ValueError):
            return  # as cloud-init: it says so in its log
        for entry in entries if isinstance(entries, (list, set)) else ():
            if isinstance(entry, str):
                entry = {"content": entry}
            if not isinstance(entry, dict):
                continue
            inner = entry.get("content", "")
            told = entry.get("type") or (
                "application/octet-stream"
                if isinstance(inner, bytes)
                else self.starts(inner) or CLOUD_CONFIG
            )
            maintype, subtype = told.split("/", 1)
            made: "Message[str, str]" = _plain(told, inner)
            if maintype == "text":
                text = inner.decode() if isinstance(inner, bytes) else inner
                made = MIMEText(text, _subtype=subtype)
            _with_name(made, entry.get("filename"))
            for key in entry:
                if key.lower() in _MERGE_HEADERS:
                    made.add_header(key, entry[key])
            _attach(made, taken)


class CloudInit(Rule):
    """cloud-init's own code; ImportError where it is not installed."""

    def __init__(self) -> None:
        with _quiet():
            self._user_data: Any = importlib.import_module("cloudinit.user_data")
            self._handlers: Any = importlib.import_module("cloudinit.handlers")
            self._templater: Any = importlib.import_module("cloudinit.templater")

    def parts(self, data: bytes) -> Tuple[Part, ...]:
        base: Any = self._user_data.UserDataProcessor

        class Reader(base):  # type: ignore[misc]
            def __init__(self) -> None:
                pass

            def _do_include(self, content: str, append_msg: Any) -> None:
                self._attach_part(append_msg, _plain(INCLUDE, ""))

        with _quiet():
            decode: Any = importlib.import_module("cloudinit.util")
            return _parts(Reader().process(data), decode.fully_decoded_payload)

    def starts(self, text: str) -> Optional[str]:
        found: Optional[str] = self._handlers.type_from_starts_with(text)
        return found

    def is_template(self, text: str) -> bool:
        with _quiet():
            return bool(self._templater.detect_template(text)[0] == "jinja")


def reader() -> Rule:
    """cloud-init's own code where it can be imported, else its rule."""
    try:
        return CloudInit()
    except Exception:  # not there, or not for this Python
        return Rule()


# ------------------------------------------------------------------ small things

_MERGE_HEADERS = ("merge-type", "x-merge-type")


def unpacked(data: bytes) -> bytes:
    """What is in a gzip file; anything else is as it is."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            return stream.read()
    except Exception:  # as cloud-init: it is no gzip file then
        return data


def _message(data: bytes) -> "Message[str, str]":
    data = unpacked(data)
    if b"mime-version:" in data[:4096].lower():
        return message_from_string(data.decode("utf-8"))
    return _plain(WHOLE, data)


def _plain(kind: str, content: Any) -> "Message[str, str]":
    made = MIMEBase(*kind.split("/", 1))
    made.set_payload(content)
    return made


def _payload(part: "Message[str, str]") -> Any:
    content: Any = part.get_payload(decode=True)
    if part.get_content_maintype() != "text" or not isinstance(content, bytes):
        return content
    charset: Any = part.get_charset()
    codec = charset.input_codec if charset and charset.input_codec else "utf-8"
    return content.decode(codec, "surrogateescape")


def _with_name(part: "Message[str, str]", name: Optional[str]) -> "Message[str, str]":
    if name:
        part.add_header("Content-Disposition", "attachment", filename=str(name))
    return part


def _attach(part: "Message[str, str]", taken: MIMEMultipart) -> None:
    if not part.get_filename():
        del part["Content-Disposition"]
        _with_name(part, f"part-{len(taken.get_payload()) + 1:03d}")
    taken.attach(part)


def _parts(taken: "Message[str, str]", payload: Any) -> Tuple[Part, ...]:
    found: List[Part] = []
    for part in taken.walk():
        if part.get_content_maintype() == "multipart":
            continue
        content = payload(part)
        if isinstance(content, bytes):
            content = content.decode("utf-8", "surrogateescape")
        merges = any(part.get(name) for name in _MERGE_HEADERS)
        name = part.get_filename() or ""
        found.append(Part(part.get_content_type(), name, content or "", merges))
    return tuple(found)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """cloud-init's code logs nothing, and leaves logging as it was: in 22.4 its
    import takes away the handlers of whoever imports it."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:], root.level = handlers, level
