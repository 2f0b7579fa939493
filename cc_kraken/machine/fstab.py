"""Lines of fstab: ours are made, found and replaced, others stay byte by byte.

One line a set, marked with the option ``X-kraken.set=<name>`` (mount(8)
ignores options that begin with ``X-``).  All functions are pure except
:func:`write`.  Sources: fstab(5), getmntent(3), systemd.mount(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Optional
from urllib.parse import quote, unquote

from cc_kraken.machine import files
from cc_kraken.machine.mountinfo import unescape
from cc_kraken.machine.paths import Paths
from cc_kraken.model import FstabLine, Known

MARK = "X-kraken.set="
#: Always ours: a volume that is missing must not keep a machine from booting.
DEVICE_TIMEOUT = "x-systemd.device-timeout=30s"

_NAME_SAFE = "+@:"
_ESCAPED = re.compile(rb"[\x00-\x20\x7f\\]")
#: Options that a wish cannot set: they are ours, or cloud-init's.
_RESERVED = re.compile(
    r"(no)?fail|x-systemd\.device-timeout(=.*)?|x-kraken\..*|comment=.*|defaults",
    re.IGNORECASE,
)
#: With these a line mounts something else than the top of the filesystem.
_PART_OF_IT = re.compile(r"r?bind|subvol(id)?=.*|X-mount\.subdir=.*")
#: What a line may say without saying more than ours: what holds anyway (mount(8),
#: "defaults"; relatime), and words that nothing reads.
_SAYS_NOTHING = re.compile(
    r"|defaults|rw|auto|suid|dev|exec|async|nouser|relatime|_netdev|(no)?fail"
    r"|x-systemd\.device-timeout(=.*)?|x-kraken\..*|comment=(?!systemd\.).*",
    re.IGNORECASE,
)
#: The tags of libmount, and where udev has its links for them (libblkid,
#: evaluate.c).
_LINKS = {
    "LABEL": "/dev/disk/by-label/",
    "UUID": "/dev/disk/by-uuid/",
    "PARTUUID": "/dev/disk/by-partuuid/",
    "PARTLABEL": "/dev/disk/by-partlabel/",
    "ID": "/dev/disk/by-id/",
}
_UDEV = re.compile(rb"\\x([0-9a-f]{2})")


def entry(
    set_name: str, uuid: str, path: str, fs_type: str, options: Sequence[str] = ()
) -> FstabLine:
    """The line of one set, with a pass number where its checker does something at a
    boot."""
    from cc_kraken.filesystems import registry  # not at every reboot

    kind = registry.TYPES.get(fs_type)
    wanted = [option for option in options if not _RESERVED.fullmatch(option)]
    wanted = list(dict.fromkeys(wanted)) or ["defaults"]
    mark = MARK + quote(set_name, _NAME_SAFE, errors="surrogateescape")
    return FstabLine(
        spec=f"UUID={uuid}",
        path=path,
        type=fs_type,
        options=(*wanted, "nofail", DEVICE_TIMEOUT, mark),
        freq="0",
        passno="2" if kind and kind.preener else "0",
        set=set_name,
    )


def render(line: FstabLine) -> str:
    """The text of a line, without its line end.

    Raises ValueError for an empty field, which would shift the others.
    """
    options = ",".join(line.options)
    fields = (line.spec, line.path, line.type, options, line.freq, line.passno)
    if not all(fields):
        raise ValueError(f"empty field in the fstab line of {line.path!r}")
    return " ".join(_escape(each) for each in fields)


def parse(text: str) -> tuple[FstabLine, ...]:
    """The mounts that fstab asks for; comments and odd lines are left out."""
    return tuple(filter(None, map(_parse_line, text.split("\n"))))


def ours(text: str) -> Mapping[str, FstabLine]:
    """The marked lines by set name (the first where a set has several)."""
    found: dict[str, FstabLine] = {}
    for line in parse(text):
        if line.set:
            found.setdefault(line.set, line)
    return found


def replace(
    text: str,
    lines: Mapping[str, Optional[FstabLine]],
    instead_of: Collection[FstabLine] = (),
) -> str:
    """``text`` with the lines of these sets as given (None: without one).

    A marked line is replaced where it stands, further ones of the same set
    are dropped, and a set without one gets its line at the end.
    ``instead_of``: lines, marked or not, that the line of the one set in
    ``lines`` takes the place of, however often each of them is there.
    """
    missing = {name: line for name, line in lines.items() if line is not None}
    heir = next(iter(lines), "")
    result: list[str] = []
    for raw in _split(text):
        parsed = _parse_line(raw.rstrip("\n"))
        own = parsed is not None and bool(parsed.set) and parsed.set in lines
        if parsed is None or not (own or parsed in instead_of):
            result.append(raw)
            continue
        wanted = missing.pop(parsed.set if own else heir, None)
        if wanted is not None:
            result.append(render(wanted) + "\n")
    if missing and result and not result[-1].endswith("\n"):
        result.append("\n")
    result += [render(line) + "\n" for line in missing.values()]
    return "".join(result)


def on_path(lines: Iterable[FstabLine], path: str) -> tuple[FstabLine, ...]:
    """Those that mount something at ``path``, however they write it."""
    return tuple(line for line in lines if _normal(line.path) == _normal(path))


def names(
    line: FstabLine,
    known: Known,
    devno: str,
    resolved: Mapping[str, str],
    by_id: str = "",
) -> bool:
    """Whether a line of somebody else's mounts the whole of this filesystem.

    ``devno`` is the number of the device that it lies on ("" where there is
    none yet), ``resolved`` the number of the device behind a spec, as udev's
    links have it now (:func:`node`).  ``by_id``: a pattern of the links by id that
    are its own, for those that udev has not made yet.  A label that was too long
    for the type was cut by mkfs, and names the filesystem all the same.
    """
    from cc_kraken.filesystems import registry  # not at every reboot

    if any(_PART_OF_IT.fullmatch(option) for option in line.options):
        return False
    found = resolved.get(line.spec)
    tag, value = _tag(line.spec)
    if tag == "UUID" and value:
        return value == known.uuid.lower()
    if tag == "LABEL" and value and known.label:
        held = registry.cut(known.type, value)
        return known.label in (value, held) and found in (None, devno)
    if tag == "ID" and value and found is None:
        return bool(re.fullmatch(by_id, value))
    return found is not None and found == devno


def node(spec: str) -> str:
    """The path in /dev of what a line mounts, "" where it has none."""
    if spec.startswith("/dev/"):
        return spec
    tag, value = _tag(spec)
    return _LINKS[tag] + _udev_escape(value) if value else ""


def says_more(line: FstabLine, heir: FstabLine) -> tuple[str, ...]:
    """Options of ``line`` by which it says more than ``heir``: without them the
    filesystem would be mounted otherwise, or at another time."""
    return tuple(
        option
        for option in line.options
        if option not in heir.options and not _SAYS_NOTHING.fullmatch(option)
    )


def same_type(line: FstabLine, heir: FstabLine) -> bool:
    """Whether ``line`` mounts what it names as ``heir`` does, if that is there."""
    return bool({"auto", heir.type} & set(line.type.split(",")))


def read(paths: Paths) -> str:
    """The text of fstab, "" where there is none (``cannot-read``)."""
    return files.read_text(paths.fstab) or ""


def write(paths: Paths, text: str) -> bool:
    """Write fstab; True when it changed (``cannot-write``)."""
    return files.write_atomic(paths.fstab, files.encode(text))


def _split(text: str) -> Iterable[str]:
    """Lines with their ends; only a newline ends a line here."""
    return [part for part in re.split(r"(?<=\n)", text) if part]


def _parse_line(line: str) -> Optional[FstabLine]:
    fields = line.rstrip("\r").strip(" \t").replace("\t", " ").split(" ")
    fields = [field for field in fields if field]
    if len(fields) < 3 or fields[0].startswith("#"):
        return None
    spec, path, fs_type = (_unescape(field) for field in fields[:3])
    options = tuple(_unescape(fields[3] if len(fields) > 3 else "defaults").split(","))
    mark = next((option for option in options if option.startswith(MARK)), "")
    return FstabLine(
        spec=spec,
        path=path,
        type=fs_type,
        options=options,
        freq=fields[4] if len(fields) > 4 else "0",
        passno=fields[5] if len(fields) > 5 else "0",
        set=unquote(mark[len(MARK) :], errors="surrogateescape"),
    )


def _escape(field: str) -> str:
    data = files.encode(field)
    escaped = _ESCAPED.sub(lambda match: b"\\%03o" % match.group()[0], data)
    return files.decode(escaped)


def _unescape(field: str) -> str:
    return unescape(files.encode(field))


def _normal(path: str) -> str:
    return os.path.normpath("/" + path.strip("/")) if path.startswith("/") else path


def _tag(spec: str) -> tuple[str, str]:
    """``UUID`` and its value, and the like, whether a spec names the tag or udev's
    link for it; "" and "" for what does neither."""
    for tag, link in _LINKS.items():
        if spec.startswith(f"{tag}="):
            value = _unquoted(spec[len(tag) + 1 :])
        elif spec.startswith(link):
            value = _udev_unescape(spec[len(link) :])
        else:
            continue
        return tag, value.lower() if tag in ("UUID", "PARTUUID") else value
    return "", ""


def _unquoted(value: str) -> str:
    """As libblkid reads it (tag.c); "" where a quote does not end."""
    quote = value[:1]
    return value[1:].rpartition(quote)[0] if quote in ("'", '"') else value


def _udev_unescape(value: str) -> str:
    data = _UDEV.sub(lambda m: bytes([int(m.group(1), 16)]), files.encode(value))
    return files.decode(data)


def _udev_escape(value: str) -> str:
    """As udev names its links: what is not plain becomes ``\\x20``."""
    return "".join(
        char
        if char.isascii() and (char.isalnum() or char in "#+-.:=@_") or char > "\x7f"
        else f"\\x{ord(char):02x}"
        for char in value
    )
