"""The tags of instances and volumes: their names, and what they hold.

A tag is ``NAMESPACE:Name``, case and all.  Values are stripped; an empty one
counts as absent.  Pure.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Optional, Union

from cc_kraken.config.values import odd_character, quoted
from cc_kraken.model import Claimant, Node, Section, Trouble

PREFIX = "Prefix"
NODE_ID = "NodeId"
VOLUMES = "Volumes"
VOLUME_NAME = "VolumeName"
VOLUME_SIZE = "VolumeSize"
MEMBERS = "Members"
MEMBER = "Member"
"""Which member of its set a volume is that cc_kraken has created."""

ANY_NODE = "*"
"""The NodeId of an instance that becomes any free node of its prefix."""

# Keys of a set that may stand in a volume's tags, by the name of the tag.
# overwrite, allow_degraded, mount_over and volume_ids are never among them.
SET_TAGS: Mapping[str, str] = {
    MEMBERS: "members",
    VOLUME_SIZE: "members",  # the older name
    "RaidLevel": "raid_level",
    "MountPath": "mount_path",
    "FsType": "fs_type",
    "MountOptions": "mount_options",
    "MkfsOptions": "mkfs_options",
    "Owner": "owner",
    "Group": "group",
    "Mode": "mode",
    "Label": "label",
}
NAMES: Mapping[str, str] = {
    PREFIX: "prefix",
    NODE_ID: "node_id",
    VOLUMES: "volumes",
    VOLUME_NAME: "volume_name",
    MEMBER: "member",
    **SET_TAGS,
}

_OF_A_VOLUME = (PREFIX, NODE_ID, VOLUME_NAME)

LONGEST = 256
"""Characters of a tag's value."""


def name(namespace: str, tag: str) -> str:
    """The whole name of a tag: ``KRKN-IN:Prefix``."""
    return f"{namespace}:{tag}"


def tag_of(key: str) -> str:
    """The tag that a key of a set is read from (``members``: Members)."""
    return next(tag for tag, known in NAMES.items() if known == key)


def text(value: object) -> str:
    """A tag's value as text.

    cloud-init turns metadata values that look like a JSON object into
    mappings, those of several lines into lists, and leaves what is not UTF-8
    as bytes; here they are text again, unfit for any key but readable.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (list, tuple)):
        return "\n".join(text(line) for line in value)
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def read(tags: Mapping[str, object], namespace: str) -> dict[str, str]:
    """The tags of ours among ``tags``, by key in snake case, stripped.

    VolumeSize and Members are one key; where a volume has both and they
    differ, the value says so (and is no number, so that it is refused).
    Never raises.
    """
    found: dict[str, str] = {}
    for tag, key in NAMES.items():
        whole = name(namespace, tag)
        value = text(tags[whole]).strip() if whole in tags else ""
        if not value:
            continue
        if key in found and found[key] != value:
            value = f"{found[key]} ({MEMBERS}) and {value} ({tag})"
        found[key] = value
    return found


def node_of(tags: Mapping[str, object], namespace: str) -> Optional[Node]:
    """The node whose volume this is; None where the tags name none.

    EC2 compares values letter by letter: one with a blank at an end is of no node
    (:func:`with_blanks` names it).
    """
    prefix, node_id = (
        text(tags.get(name(namespace, tag), "")) for tag in (PREFIX, NODE_ID)
    )
    whole = prefix and node_id and not with_blanks(tags, namespace)
    return Node(prefix, node_id) if whole else None


def with_blanks(tags: Mapping[str, object], namespace: str) -> list[str]:
    """The tags of the node that have a blank at an end, as text: ``NodeId='0 '``."""
    found = []
    for whole in (name(namespace, PREFIX), name(namespace, NODE_ID)):
        value = text(tags.get(whole, ""))
        if value != value.strip():
            found.append(f"{whole}={quoted(value)}")
    return found


def misspelt(tags: Mapping[str, object], namespace: str) -> dict[str, str]:
    """Tags that are none of ours but look like one (``KRKN-IN:Mountpath``), each
    with the name that was probably meant (``MountPath``)."""
    found = {}
    numbered = name(namespace, MEMBER)
    if text(tags.get(numbered)).strip() and "members" not in read(tags, namespace):
        found[numbered] = MEMBERS
    for whole in unknown(tags, namespace):
        near = _nearest(whole, NAMES)
        if near is not None:
            found[whole] = near
    return found


def _nearest(whole: str, names: Iterable[str]) -> Optional[str]:
    """The name for which a tag was probably meant."""
    plain = {known.lower(): known for known in names}
    tag = whole.rpartition(":")[2].lower()
    near = difflib.get_close_matches(tag, list(plain), n=1, cutoff=0.8)
    return plain[near[0]] if near else None


def meant(tags: Mapping[str, object], namespace: str) -> dict[str, str]:
    """The tags of ours as :func:`read` tells them, and the others under the keys for
    which they were probably meant: misspelt ones, and those that say in another
    namespace which set a volume is of."""
    found = read(tags, namespace)
    for whole, tag in misspelt(tags, namespace).items():
        found.setdefault(NAMES[tag], text(tags[whole]).strip())
    others = {known.lower() for known in NAMES if known not in _OF_A_VOLUME}
    for whole in sorted(map(str, tags)):
        near = _nearest(whole, _OF_A_VOLUME)
        if near is not None and whole.rpartition(":")[2].lower() not in others:
            found.setdefault(NAMES[near], text(tags[whole]).strip())
    return found


def unknown(tags: Mapping[str, object], namespace: str) -> list[str]:
    """The tags with a value that are in our namespace, or in one that looks like
    it, and none of ours."""
    return [
        whole
        for whole in sorted(map(str, tags))
        if alike(whole.rpartition(":")[0], namespace)
        and whole not in {name(namespace, tag) for tag in NAMES}
        and text(tags.get(whole)).strip()
    ]


def alike(one: str, other: str) -> bool:
    """Whether a namespace is the other, or is probably meant for it."""
    if one == other:
        return True  # most are, and the comparison is slow
    matcher = difflib.SequenceMatcher(None, one.lower(), other.lower())
    return matcher.ratio() >= 0.85


def in_words(meant: Mapping[str, str], namespace: str) -> str:
    """Misspelt tags, each with the one that was probably meant."""
    return " and ".join(
        f"{quoted(whole)} ({name(namespace, tag)}?)" for whole, tag in meant.items()
    )


def words(text: str) -> tuple[str, ...]:
    """The words of a list such as ``log, data``, each once."""
    return tuple(dict.fromkeys(word for word in re.split(r"[,\s]+", text) if word))


def node(
    section: Section,
    instance_tags: Optional[Mapping[str, object]],
    instance_id: str = "this instance",
) -> Union[Node, Claimant, Trouble]:
    """Which node this instance is: the section says, else its tags.  A Claimant
    where it may be any.

    ``instance_tags`` None: they are not known (the metadata service offers
    none), which reads like none.  Trouble ``identity-missing`` waits, because
    tags can arrive late; ``identity-unfit`` does not.
    """
    namespace = section.tag_namespace
    own = read(instance_tags or {}, namespace)
    prefix = section.prefix or own.get("prefix", "")
    node_id = section.node_id or own.get("node_id", "")
    said = {PREFIX: prefix, NODE_ID: node_id}
    missing = [tag for tag, value in said.items() if not value]
    odd_tags = {
        whole: tag
        for whole, tag in misspelt(instance_tags or {}, namespace).items()
        if tag in (PREFIX, NODE_ID, VOLUMES) and NAMES[tag] not in own
    }
    also = f", but {in_words(odd_tags, namespace)}" if odd_tags else ""
    if missing:
        absent = " and no tag ".join(name(namespace, tag) for tag in missing)
        settings = " and ".join(f"kraken.{NAMES[tag]}" for tag in missing)
        return Trouble(
            "identity-missing",
            f"{instance_id} has no tag {absent}{also}.",
            "Its tags must say which node it is.",
            f"Tag the instance, or set {settings} in the configuration.",
            waits=True,
        )
    if VOLUMES in odd_tags.values():
        return Trouble(
            "tag-misspelt",
            f"{instance_id} has the tag {in_words(odd_tags, namespace)}.",
            "The tag must have the name in parentheses.",
            "Correct the tag's name.",
        )
    for tag, value in said.items():
        odd = odd_character(value)
        if odd or len(value) > LONGEST:
            what = f"the character {odd}" if odd else f"{len(value)} characters"
            return Trouble(
                "identity-unfit",
                f"The {tag} of {instance_id}, {quoted(value)}, has {what}.",
                f"It must be up to {LONGEST} characters that people can read.",
                f"Correct the tag {name(namespace, tag)}, or the configuration.",
            )
    return Claimant(prefix) if node_id == ANY_NODE else Node(prefix, node_id)


def declared(
    section: Section, instance_tags: Optional[Mapping[str, object]]
) -> tuple[str, ...]:
    """The sets that must exist: those named under ``volumes:`` and those in
    the instance's ``Volumes`` tag, each once."""
    own = read(instance_tags or {}, section.tag_namespace)
    names = (*section.volumes, *words(own.get("volumes", "")))
    return tuple(dict.fromkeys(names))
