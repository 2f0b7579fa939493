"""Why a content is refused, and what helps against it without destroying it."""

from __future__ import annotations

from dataclasses import replace

from cc_kraken.decide.case import Case, Target
from cc_kraken.filesystems import registry
from cc_kraken.machine.partitions import TABLES
from cc_kraken.model import (
    Blank,
    Content,
    HalfMade,
    Known,
    KrakenError,
    Look,
    Record,
    Unknown,
    failure,
)
from cc_kraken.proof.superblock import MD_MEMBER


def of_content(case: Case, look: Look, target: Target) -> KrakenError:
    content = look.content
    volume_id = target.volume_id
    where = volume_id or f"Array {target.array_uuid}"
    path = target.layer.path if target.layer else ""
    partitioned = isinstance(content, Known) and content.type in TABLES
    remedy = f"Nothing was written. {_way_out(case, content, target)}"
    give_up = "To give this content up"
    if partitioned:
        give_up = "Only to give up all that is in it"
    if look.fingerprint and volume_id:
        remedy += f" {give_up}, set overwrite: {{{volume_id}: {look.fingerprint}}}."
    elif isinstance(content, Unknown) and content.unread:
        remedy += " See the kernel's log (dmesg) and the volume's status in EC2."
    elif isinstance(content, Unknown) and content.offset is not None and volume_id:
        remedy += (
            " To give this content up, set blank_proof: full, then: cc-kraken plan. It "
            "prints a fingerprint of every byte."
        )
    wanted = case.wanted.fs_type
    if case.is_array and volume_id:
        wanted = "a member of its array"
    return failure(
        "content-other" if isinstance(content, Known) else "content-unknown",
        f"{where} ({path}) {'has' if partitioned else 'holds'} {describe(content)}.",
        f"The set {case.name} takes {wanted}, or a blank volume.",
        remedy,
    )


def unread(content: Unknown) -> KrakenError:
    """Of a disk whose read failed, or has no answer yet."""
    return failure(
        "device-silent",
        f"{content.reason.rstrip('.')}.",
        "It must answer every read before anything is done with it.",
        "See the kernel's log (dmesg) and the volume's status in EC2. The "
        "other sets do not wait for it.",
        waits=True,
    )


def of_record(content: Content, record: Record) -> KrakenError:
    return failure(
        "record-unusable",
        f"{record.volume_id} carries the intent record of making "
        f"{record.fs_type or 'an array'}, but holds {describe(content)}.",
        "Only zeros and what cc_kraken itself left half made may lie beside a record.",
        "cc_kraken neither mounts it nor makes it anew: look at it by hand, or use a "
        "new volume.",
    )


def naming(error: KrakenError, look: Look, target: Target) -> KrakenError:
    """The refusal of a record, with what overwrite would have to name."""
    if not target.volume_id:
        return error
    how = "set blank_proof: full, then: cc-kraken plan. It prints a fingerprint."
    if look.fingerprint:
        how = f"set overwrite: {{{target.volume_id}: {look.fingerprint}}}."
    how = f"To give its content up, {how}"
    remedy = f"{error.trouble.remedy} {how}"
    return KrakenError(replace(error.trouble, remedy=remedy))


def describe(content: Content) -> str:
    """What a content is, in words."""
    if isinstance(content, Blank):
        return "nothing but zeros"
    if isinstance(content, HalfMade):
        return "a half-made filesystem of ours"
    if isinstance(content, Unknown):
        where = (
            f", first at byte {content.offset}"
            if content.offset is not None and not content.unread
            else ""
        )
        return f"unknown content: {content.reason.rstrip('.')}{where}"
    if content.type in TABLES:
        parts = "; ".join(content.inside) or "no partition that the kernel shows"
        return f"a partition table ({content.type}), and in it {parts}"
    name = f" (UUID {content.uuid})" if content.uuid else ""
    label = f", label {content.label!r}" if content.label else ""
    return f"{content.type}{name}{label}"


def _way_out(case: Case, content: Content, target: Target) -> str:
    kind = content.type if isinstance(content, Known) else ""
    if kind in TABLES:
        by_hand = "take its tags off" if case.is_array else "set FsType to none"
        return (
            "A set uses whole volumes, partitions are not supported. Use a volume "
            "without a partition table, and copy the files to it. Or "
            f"{by_hand}, and mount the partition by a line of your own in fstab."
        )
    if kind == MD_MEMBER or (case.is_array and target.volume_id):
        return "Correct Members, or use another volume."
    if kind in registry.TYPES:
        return "Correct FsType, or use another volume."
    return "Use another volume."
