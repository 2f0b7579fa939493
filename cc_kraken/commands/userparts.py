"""What cloud-init makes of user-data: the parts that it hands to its handlers.

cloud-init need not be installed where somebody checks a file, so its rule is
followed here: cloudinit/user_data.py and cloudinit/handlers, alike from 22.2 to
26.2.  tests/chroot/inside/check.py holds it against the cloud-init of each release.
"""

from __future__ import annotations

import gzip
import re
from email import message_from_string
from email.message import Message
from typing import Any, NamedTuple, Optional

CLOUD_CONFIG = "text/cloud-config"
PATCH = "text/cloud-config-jsonp"
JINJA = "text/jinja2"
INCLUDE = "text/x-include-url"
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

_INCLUDES = (INCLUDE, "text/x-include-once-url")
_STARTS = {
    "#include": INCLUDE,
    "#include-once": _INCLUDES[1],
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
_MERGE_HEADERS = ("merge-type", "x-merge-type")


class Part(NamedTuple):
    """A part as a handler gets it.  ``merges``: a header says how it is merged
    with the parts before it."""

    kind: str
    name: str
    text: str
    merges: bool = False


def parts(data: bytes) -> list[Part]:
    """The parts in their order.  What an ``#include`` names is not fetched: in
    its place stands an empty part of the type INCLUDE.

    Raises whatever cloud-init would: it makes nothing at all of the file.
    """
    taken: list[Part] = []
    data = unpacked(data)
    if b"mime-version:" in data[:4096].lower():
        for part in message_from_string(data.decode("utf-8")).walk():
            if part.get_content_maintype() != "multipart":
                _take(_of_message(part), taken)
    else:
        _take(Part(WHOLE, "", data.decode("utf-8", "surrogateescape")), taken)
    return [part for part in taken if not part.kind.startswith("multipart/")]


def starts(text: str) -> Optional[str]:
    """The type that a text begins like; None: like nothing known."""
    low = text.lower().lstrip()
    for word in sorted(_STARTS, key=len, reverse=True):
        if low.startswith(word):
            return _STARTS[word]
    return None


def is_template(text: str) -> bool:
    """Whether the first line is that of a jinja template."""
    found = re.match(r"##\s*template:(.*)", text.split("\n", 1)[0], re.I)
    return found is not None and found.group(1).lower().strip() == "jinja"


def unpacked(data: bytes) -> bytes:
    """What is in a gzip file; anything else is as it is."""
    try:
        return gzip.decompress(data)
    except Exception:  # as cloud-init: it is no gzip file then
        return data


def _of_message(part: "Message[str, str]") -> Part:
    kind, name = part.get_content_type(), part.get_filename() or ""
    content: Any = part.get_payload(decode=True) or b""
    if kind in _GZIP:
        return Part("text/plain", name, gzip.decompress(content).decode("utf-8"))
    codec = getattr(part.get_charset(), "input_codec", None) or "utf-8"
    merges = any(part.get(header) for header in _MERGE_HEADERS)
    return Part(kind, name, content.decode(codec, "surrogateescape"), merges)


def _take(part: Part, taken: list[Part]) -> None:
    if part.kind in _LOOKED_AT:
        part = part._replace(kind=starts(part.text) or part.kind)
    if part.kind == ARCHIVE:
        _open(part.text, taken)
    elif part.kind in _INCLUDES:
        _add(Part(INCLUDE, "", ""), taken)
    else:
        _add(part, taken)


def _open(archive: str, taken: list[Part]) -> None:
    import yaml

    try:
        entries = yaml.safe_load(archive)
    except (yaml.YAMLError, TypeError, ValueError):
        return  # as cloud-init: it says so in its log
    for entry in entries if isinstance(entries, (list, set)) else ():
        if isinstance(entry, str):
            entry = {"content": entry}
        if isinstance(entry, dict):
            _add(_of_archive(entry), taken)


def _of_archive(entry: dict[str, Any]) -> Part:
    content = entry.get("content", "")
    kind, text = "application/octet-stream", content
    if isinstance(content, bytes):
        text = content.decode("utf-8")
    elif isinstance(content, str):
        kind = starts(text) or CLOUD_CONFIG
    else:
        raise TypeError("the content of an entry is no text")
    kind = (entry.get("type") or kind).lower()
    if "/" not in kind:
        raise ValueError(f"{kind} is no type of an entry")
    merges = any(entry[key] for key in entry if key.lower() in _MERGE_HEADERS)
    return Part(kind, str(entry.get("filename") or ""), text, merges)


def _add(part: Part, taken: list[Part]) -> None:
    taken.append(part._replace(name=part.name or f"part-{len(taken) + 1:03d}"))
