"""May the disks of a set be used, and what do they show?"""

from __future__ import annotations

from cc_kraken.decide import refusal
from cc_kraken.decide.case import Base, Case, Target
from cc_kraken.model import Look, Unknown, failure

GIB = 1024**3
NOT_USED = "Nothing else may use a disk of a set."


def check_own(case: Case) -> None:
    """Neither the system's volumes, nor two disks with one serial."""
    for volume in case.volume_ids:
        if volume in case.world.system_volumes:
            raise failure(
                "system-volume",
                f"{volume} is the volume behind / or /boot.",
                "A set takes volumes for data only.",
                f"Take the tags off {volume}.",
            )
    for volume in case.volume_ids:
        names = case.world.duplicates.get(volume)
        if names:
            raise failure(
                "device-duplicate",
                f"The disks {', '.join(names)} both have the serial of {volume}.",
                "Each volume must be one disk.",
                "Detach the volume, or reboot the instance.",
            )


def check_fit(case: Case) -> None:
    """Writable, of the size that EC2 says, and no swap."""
    mounted = case.mounted() is not None
    for volume in case.claim.volumes:
        device = case.device(volume.id)
        disk = f"{device.path} ({volume.id})"
        if device.read_only:
            raise failure(
                "device-read-only",
                f"{disk} is read-only.",
                "It must be writable.",
                "See in the kernel's log why (dmesg), then: cc-kraken apply.",
            )
        if device.size != volume.size_gib * GIB and not mounted:
            raise failure(
                "device-size",
                f"{disk} has {device.size} bytes, EC2 says {volume.size_gib} GiB.",
                "Both must say the same size.",
                "EC2 may still be changing the volume: the set waits for it. If that "
                "lasts, reboot the instance.",
                waits=True,
            )
        if device.swap:
            raise failure(
                "device-swap",
                f"{disk} is in use as swap.",
                NOT_USED,
                "Switch this swap off (swapoff), or take the tags off the volume.",
            )


def check_not_held(case: Case, volume_id: str) -> None:
    """For a volume that is to become a member of an array."""
    device = case.device(volume_id)
    if device.holders or device.mounted:
        by = ", ".join(device.holders + device.mounted)
        raise failure(
            "device-held",
            f"{device.path} ({volume_id}) is in use by {by}.",
            NOT_USED,
            "Unmount it, or stop what holds it. A filesystem does not become part "
            "of an array: correct Members, or take its tags off.",
        )


def base(case: Case) -> Base:
    """The one volume of a set, which its filesystem lies on."""
    volume_id = case.volume_ids[0]
    device = case.device(volume_id)
    target = Target(device=device)
    if case.mounted() is not None:
        return Base(target)
    if device.holders:
        raise failure(
            "device-held",
            f"{device.path} ({volume_id}) is held by {', '.join(device.holders)}.",
            NOT_USED,
            "It belongs to an array or a mapping: correct Members and the tags "
            "of its set, or stop what holds it.",
        )
    found = look(case, volume_id)
    return Base(target, look=found, members={volume_id: found})


def look(case: Case, volume_id: str) -> Look:
    found = case.world.looks.get(volume_id)
    if found is None:
        raise failure(
            "device-unseen",
            f"{volume_id} could not be looked at yet.",
            "What it holds must be known first.",
            "Nothing to do: the run looks again. If it stays so, see the kernel's log "
            "for its disk (dmesg).",
            waits=True,
        )
    return answered(case, found)


def answered(case: Case, found: Look) -> Look:
    """The same, if the device has answered every read.  What is mounted does not wait
    for one that answers with errors."""
    content = found.content
    if isinstance(content, Unknown) and content.unread:
        failed = content.offset is not None
        if not failed or case.mounted() is None:
            raise refusal.unread(content)
    return found
