"""What signatures make of a device: ours, and those that libblkid finds.

Known is what exactly one signature says, of which our own parser (for md, ext, xfs,
btrfs), blkid and wipefs say the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import HEAD, Found
from cc_kraken.machine import partitions
from cc_kraken.machine.command import run
from cc_kraken.model import Content, Known, Unknown
from cc_kraken.proof import superblock as blocks
from cc_kraken.proof.superblock import MD_MEMBER

#: blkid's exit status where it finds nothing, or something fails.
NOTHING_FOUND = 2


@dataclass(frozen=True)
class Signs:
    """What ``blkid -p`` and ``wipefs`` say of a device.

    ``code``: blkid's exit status, or what it would be (:func:`signs`).
    ``tags``: of blkid (TYPE, UUID, PTTYPE …).  ``signatures``: offset and type,
    of wipefs.
    """

    code: int
    tags: dict[str, str]
    wipefs_code: int
    signatures: tuple[tuple[int, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every type that either names; GPT's protective MBR is part of it."""
        found = {name for _, name in self.signatures}
        found.update(self.tags[key] for key in ("TYPE", "PTTYPE") if key in self.tags)
        if "gpt" in found:
            found -= {"PMBR", "dos"}
        return tuple(sorted(found))


NOTHING = Signs(NOTHING_FOUND, {}, 0, ())


def signs(path: str) -> Signs:
    """Ask wipefs, and blkid where there is anything to name.  Raises KrakenError
    (program missing, no answer).

    Both look by libblkid, at the same places for the same types; wipefs takes also
    what has a wrong checksum, and a GPT without its MBR.  So where it finds nothing
    blkid does not either (misc-utils/wipefs.c, new_probe; misc-utils/blkid.c).
    """
    wipefs = run(["wipefs", "--no-act", "--json", path])
    listed = _listed(wipefs.out)
    code = wipefs.code if listed is not None else wipefs.code or -1
    if code == 0 and not listed:
        return NOTHING
    blkid_code, tags = partitions.blkid(path)
    tags.pop("DEVNAME", None)
    return Signs(blkid_code, tags, code, tuple(listed or ()))


def known(found: Found) -> Known:
    return Known(
        found.type,
        found.uuid,
        found.label,
        size=found.size,
        errors=found.errors,
        ever_mounted=found.ever_mounted,
    )


def _listed(text: str) -> Optional[list[tuple[int, str]]]:
    if not text.strip():
        # older ones print nothing at all for an empty list
        return []
    try:
        return [
            (int(entry["offset"], 0), str(entry["type"]))
            for entry in json.loads(text)["signatures"]
        ]
    except (ValueError, KeyError, TypeError):
        return None


def judge(found: Sequence[Found], said: Signs) -> Optional[Content]:
    """Known or Unknown by signatures, None where there is not one."""
    members = [one for one in found if one.type == MD_MEMBER]
    if members:
        return _judge_member(members, found, said)
    for one in found:
        if one.flaw:
            return Unknown(sentence(one.flaw), one.offset)
    if said == NOTHING and not found:
        return None
    if len(found) == 1 and _is_users(found[0], said):
        return known(found[0])
    names = " and ".join(sorted({*said.names, *(one.type for one in found)}))
    first = min((offset for offset, _ in said.signatures), default=None)
    if said.code == 8 or len(said.names) > 1 or len(found) > 1:
        return Unknown(f"More than one signature: {names}.", first)
    if said.code not in (0, NOTHING_FOUND) or said.wipefs_code != 0:
        return Unknown(
            f"blkid and wipefs failed (exit status {said.code} and "
            f"{said.wipefs_code}){': ' + names if names else ''}.",
            first,
        )
    return _judge_one(found[0] if found else None, said, names, first)


def judge_used(found: Sequence[Found]) -> Optional[Known]:
    """What a device in use holds, None where that is not plain: its one
    superblock, and of a member of an array the array's."""
    shown = [one for one in found if one.type == MD_MEMBER] or found
    if len(shown) != 1 or shown[0].flaw:
        return None
    (one,) = shown
    if one.type != MD_MEMBER:
        return known(one)
    if one.superblock is None:
        return None
    return Known(MD_MEMBER, one.uuid, one.label, one.superblock)


def _is_users(own: Found, said: Signs) -> bool:
    """Whether all that wipefs finds besides ``own`` lies where that has its users'
    data: it was ever mounted, and blkid names nothing else.  One file with the end of a
    GPT in the last block must not cost the set."""
    if not own.ever_mounted or said.wipefs_code != 0 or "PTTYPE" in said.tags:
        return False
    others = [offset for offset, name in said.signatures if name != own.type]
    return (
        0 < len(others) < len(said.signatures)
        and all(HEAD <= offset < own.size for offset in others)
        and said.code == 0
        and said.tags.get("TYPE") == own.type
        and said.tags.get("UUID", "").lower() == own.uuid
    )


def _judge_one(
    own: Optional[Found], said: Signs, names: str, first: Optional[int]
) -> Content:
    kind = said.tags.get("TYPE") or said.tags.get("PTTYPE") or ""
    uuid = said.tags.get("UUID") or said.tags.get("PTUUID") or ""
    agreed = said.code == 0 and bool(kind) and bool(said.signatures)
    if own is not None:
        agreed = agreed and (own.type, own.uuid) == (kind, uuid.lower())
    elif kind in registry.KINDS:
        agreed = False
    if not agreed:
        return Unknown(
            f"Those who looked for signatures do not agree about {names} "
            f"(blkid: {kind or 'nothing'}, wipefs: "
            f"{', '.join(sorted({n for _, n in said.signatures})) or 'nothing'}, "
            f"our own reading: {own.type if own else 'nothing'}).",
            own.offset if own else first,
        )
    if own is not None:
        return known(own)
    return Known(kind, uuid, said.tags.get("LABEL", ""))


def _judge_member(
    members: Sequence[Found], found: Sequence[Found], said: Signs
) -> Content:
    """An md member is one although other signatures show on it, if they lie
    in what md leaves alone before its data (remains of what was there before)
    or in its data (a mirror with its superblock at the end shows its
    filesystem).  It is not with a second md superblock; nor, where the
    superblock is at the start, with a partition table, or an ext with blocks
    of 1 KiB, which could be whole and in use around it."""
    one = members[0]
    if len(members) > 1:
        places_of = " and ".join(str(member.offset) for member in members)
        return Unknown(f"More than one md superblock: at {places_of}.", one.offset)
    if one.flaw:
        return Unknown(sentence(one.flaw), one.offset)
    if said.code != 0 or said.tags.get("TYPE") != MD_MEMBER or said.wipefs_code != 0:
        return Unknown(
            "An md superblock that blkid does not take for one (exit status "
            f"{said.code}: {', '.join(said.names) or 'nothing'}).",
            one.offset,
        )
    block = one.superblock
    if block is None:
        return Known(MD_MEMBER, one.uuid, one.label)
    if said.tags.get("UUID", "").lower() != one.uuid:
        return Unknown("blkid reads another UUID of the md superblock.", one.offset)
    for offset, name in said.signatures:
        if name == MD_MEMBER:
            inside = one.offset <= offset < one.offset + blocks.MD_SIZE
        elif block.minor == 0:
            inside = block.data_offset <= offset < block.data_offset + block.data_size
        else:
            whole = any(
                other.type == name and name != MD_MEMBER and 0 < other.block <= 1024
                for other in found
            )
            inside = (
                offset < block.data_offset + block.data_size
                and name not in partitions.TABLES
                and not whole
            )
        if not inside:
            return Unknown(
                f"An md member that also carries a signature of {name}.", offset
            )
    return Known(MD_MEMBER, one.uuid, one.label, block)


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
