"""One value of a set, from a tag or from the configuration, read and judged.

Tags and configuration are untrusted.  Each function takes what was written (a
string, or a type of YAML) and returns what a run works with, or raises
:class:`Unfit`, whose text is a clause for a sentence.  Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Optional

MOST_MEMBERS = 128
FEWEST_MEMBERS: Mapping[int, int] = {0: 2, 1: 2, 5: 3, 6: 4, 10: 2}
NO_FILESYSTEM = "none"
# (uid_t)-1 means "no change" to chown(2).
LARGEST_ID = 2**32 - 2


class Unfit(ValueError):
    """A value that is refused.  ``expected`` says what is allowed."""

    def __init__(self, reason: str, expected: str) -> None:
        super().__init__(reason)
        self.expected = expected


def odd_character(text: str) -> str:
    """The first character that a person cannot see or that turns the reading
    direction, as ``U+202E``; "" when there is none (Unicode general
    categories Cc, Cf, Cs, Zl and Zp)."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            return f"U+{ord(character):04X}"
    return ""


def quoted(value: object) -> str:
    """A value as an error shows it: escaped, and cut when it is long."""
    text = ascii(value) if odd_character(str(value)) else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def set_name(value: object) -> str:
    """A VolumeName: it becomes part of array names, labels, unit names."""
    text = str(value)
    name = r"(?!vol-[0-9a-f]+$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
    if not re.fullmatch(name, text):
        raise Unfit(
            "is not fit for a name",
            "1 to 64 letters, digits, dots, dashes or underscores, the first a "
            "letter or digit, and not a volume id",
        )
    return text


def members(value: object) -> int:
    """The number of volumes of a set."""
    number = _whole(value)
    if number is None or not 1 <= number <= MOST_MEMBERS:
        raise Unfit(
            "is not a number of volumes", f"a whole number from 1 to {MOST_MEMBERS}"
        )
    return number


def raid_level(value: object) -> int:
    """A RAID level that the module knows how to make."""
    number = _whole(value)
    if number is None or number not in FEWEST_MEMBERS:
        raise Unfit(
            "is not a RAID level that is supported",
            "one of " + ", ".join(str(level) for level in FEWEST_MEMBERS),
        )
    return number


def mode(value: object) -> int:
    """Permission bits, from octal digits such as ``0750`` (chmod(1))."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3,4}", value):
        raise Unfit("is not a mode", "three or four octal digits, such as 0750")
    return int(value, 8)


def account(value: object) -> str:
    """A user or group, by name (useradd(8)) or number."""
    text = str(value)
    number = _whole(text)
    if number is not None:
        if number > LARGEST_ID:
            raise Unfit("is too large for an id", f"a number up to {LARGEST_ID}")
        return str(number)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?", text):
        raise Unfit("is not a user or group", "a name or a number")
    return text


def _whole(value: object) -> Optional[int]:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        return int(value)
    return None


def fs_type(value: object) -> Optional[str]:
    """A filesystem type; None for ``none``."""
    if value == NO_FILESYSTEM:
        return None
    from cc_kraken.filesystems import registry  # not at every reboot

    allowed = (*registry.TYPES, NO_FILESYSTEM)
    if value not in allowed:
        expected = f"one of {', '.join(allowed)}"
        raise Unfit("is not a filesystem that is supported", expected)
    return str(value)


def label(value: object) -> str:
    """A filesystem label; what the type can hold is cut to by mkfs."""
    text = str(value)
    odd = odd_character(text)
    if odd:
        raise Unfit(f"has the character {odd}", "a text that people can read")
    if not text.strip() or "/" in text or len(text) > 255:
        raise Unfit("is not a label", "1 to 255 characters without slashes")
    return text


def mkfs_options(value: object) -> tuple[str, ...]:
    """The words that are added to mkfs: a list, or a text split at blanks.

    Which of them are allowed depends on the filesystem and is judged where
    the command is built.
    """
    words = list(map(str, value)) if isinstance(value, list) else str(value).split()
    for word in words:
        if not re.fullmatch(r"[!-~]{1,200}", word):
            raise Unfit(
                f"has the word {quoted(word)}", "words of printable ASCII characters"
            )
    return tuple(words)


# Nothing is mounted on these, nor below.
_SYSTEM_TREES = tuple(
    "/bin/ /boot/ /dev/ /efi/ /etc/ /lib/ /lib32/ /lib64/ /libx32/ /lost+found/ /proc/ "
    "/run/ /sbin/ /sys/ /tmp/ /usr/ /var/lib/apt/ /var/lib/cc-kraken/ /var/lib/cloud/ "
    "/var/lib/dpkg/ /var/lib/rpm/ /var/lib/systemd/ /var/lock/ /var/run/ "
    "/var/tmp/".split()
)
# Nothing is mounted on these; below is fine.
_SYSTEM_DIRECTORIES = tuple(
    "/ /root /usr/local /var /var/cache /var/lib /var/spool".split()
)
# Below a system tree, and yet the administrator's (hier(7)).
_LOCAL_TREE = "/usr/local/"


def mount_path(value: object) -> str:
    """A mount point: absolute, normal, readable, and not the system's own.

    What lies there on the machine (a symbolic link, files, another mount) is
    judged later, by a look.
    """
    text = str(value)
    expected = "an absolute path without empty, '.' or '..' parts"
    odd = odd_character(text)
    if odd:
        raise Unfit(f"has the character {odd}", "a path that people can read")
    if not text.startswith("/"):
        raise Unfit("is not absolute", expected)
    parts = text.split("/")[1:]
    if text != "/" and any(part in ("", ".", "..") for part in parts):
        raise Unfit("is not a normal path", expected)
    if len(text.encode()) > 4095 or any(len(part.encode()) > 255 for part in parts):
        raise Unfit("is too long", "up to 4095 bytes, 255 in each part")
    if text != text.rstrip():
        raise Unfit("ends in a blank", expected)
    below = f"{text}/".startswith(_SYSTEM_TREES) and not text.startswith(_LOCAL_TREE)
    if below or text in _SYSTEM_DIRECTORIES:
        raise Unfit(
            "is one of the system's own directories",
            "a directory of its own, such as /srv/data or /var/lib/data",
        )
    return text


# Said by many out of habit, and always so: left out instead of refused.
_ALWAYS = frozenset({"defaults", "nofail", "auto"})


def mount_options(value: object, fs_type: str) -> tuple[str, ...]:
    """Mount options from a comma list, all of them known for ``fs_type``.

    ``nofail``, ``defaults`` and ``auto`` are dropped: every line of ours has
    them already.
    """
    from cc_kraken.filesystems import registry  # not at every reboot

    filesystem = registry.of(fs_type)
    chosen = dict.fromkeys(option.strip() for option in str(value).split(","))
    options = tuple(one for one in chosen if one and one not in _ALWAYS)
    for option in options:
        if not filesystem.takes(option):
            raise Unfit(
                f"has the option {quoted(option)}",
                f"mount options of {fs_type} that concern nothing but the "
                "filesystem itself",
            )
    return options
