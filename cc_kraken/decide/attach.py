"""Volumes, their holders and their disks (design, sections 4 and 5).  Pure."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from cc_kraken.decide.plan import GIB, SetDecision, Stop, stopped
from cc_kraken.decide.steps import Attach, Detach, Step
from cc_kraken.model import Node, Trouble, Volume

ATTACH_LIMIT_SECONDS = 90
"""Longer in "attaching" is stuck (block-device practice on EC2)."""


class Attaching(SetDecision):
    """What is attached, what is waited for, and whose disks they are."""

    def _check_not_system(self) -> None:
        for volume in self.volume_ids:
            if volume in self.world.system_volumes:
                raise stopped(
                    "system-volume",
                    f"{volume} is the volume behind / or /boot",
                    "volumes for data only",
                    f"Take the tags off {volume}.",
                )

    def _attach_step(self) -> Optional[Attach]:
        troubles: List[Trouble] = []
        free: List[str] = []
        for volume in self.claim.volumes:
            trouble = self._attachment_trouble(volume)
            if trouble is not None:
                troubles.append(trouble)
            elif self._is_free(volume):
                free.append(volume.id)
        if troubles:
            troubles.sort(key=lambda trouble: trouble.waits)
            raise Stop(troubles[0], self._give_way(troubles))
        return Attach(self.claim.name, tuple(sorted(free))) if free else None

    def _give_way(self, troubles: Sequence[Trouble]) -> Tuple[Step, ...]:
        """Who loses a member to a rival lets the others go, unused."""
        if not any(trouble.kind.startswith("holder-") for trouble in troubles):
            return ()
        unused = [
            volume
            for volume in self.volume_ids
            if volume in self.world.attached_now and not self._in_use(volume)
        ]
        return (Detach(self.claim.name, tuple(unused)),) if unused else ()

    def _in_use(self, volume_id: str) -> bool:
        device = self.world.devices.get(volume_id)
        return device is not None and bool(
            device.holders or device.mounted or device.swap
        )

    def _ours(self, volume: Volume) -> bool:
        return any(
            attachment.instance_id == self.world.instance_id
            for attachment in volume.attachments
        )

    def _is_free(self, volume: Volume) -> bool:
        if volume.id in self.world.devices and not volume.attachments:
            return False  # the device says more than a stale answer of EC2's
        return not volume.attachments and volume.state == "available"

    def _attachment_trouble(self, volume: Volume) -> Optional[Trouble]:
        for attachment in volume.attachments:
            if attachment.instance_id != self.world.instance_id:
                return self._holder_trouble(volume, attachment.instance_id or "")
            if attachment.state in ("detaching", "busy"):
                return Trouble(
                    "volume-detaching",
                    f"{volume.id} is being detached from this instance "
                    f"({attachment.state})",
                    "an attachment that stays",
                    "It is attached again once EC2 has let it go; if that lasts, look "
                    "for what detaches it (CloudTrail: DetachVolume).",
                    waits=True,
                )
            if volume.id not in self.world.devices:
                return self._absent_trouble(volume, attachment.state)
        if volume.attachments or volume.id in self.world.devices:
            return None
        if volume.state != "available":
            return Trouble(
                "volume-state",
                f"{volume.id} is in the state {volume.state}",
                "available",
                f"Look at {volume.id} in EC2 (describe-volumes) if that lasts.",
                waits=True,
            )
        return None

    def _absent_trouble(self, volume: Volume, state: str) -> Trouble:
        seconds = self.world.awaited.get(volume.id, 0.0)
        if seconds > ATTACH_LIMIT_SECONDS:
            return Trouble(
                "attach-stuck",
                f"{volume.id} has been {state} for {int(seconds)} s and has no "
                "device in this machine",
                f"a device within {ATTACH_LIMIT_SECONDS} s",
                f"Detach {volume.id} in EC2 and run again, or replace the instance.",
            )
        return Trouble(
            "attaching",
            f"{volume.id} is {state} and its device is not there yet",
            "an NVMe device with its serial",
            f"If it stays away, detach {volume.id} in EC2 and run again, or replace "
            "the instance.",
            waits=True,
        )

    def _holder_trouble(self, volume: Volume, instance_id: str) -> Trouble:
        if not instance_id:
            return Trouble(
                "volume-managed",
                f"{volume.id} is attached to something that EC2 does not name",
                "a volume that nobody else manages",
                "Pin other volumes with volume_ids.",
            )
        holder = self.world.holders.get(instance_id)
        state = holder.state if holder else "unknown"
        attached = f"{volume.id} is attached to {instance_id}"
        if state in ("shutting-down", "terminated", "gone", "unknown"):
            return Trouble(
                "holder-leaving",
                f"{attached}, which is {state}",
                "a free volume",
                f"It is attached once EC2 has let it go; if that lasts, see in EC2 why "
                f"{instance_id} does not end.",
                waits=True,
            )
        going = {
            attachment.state
            for attachment in volume.attachments
            if attachment.instance_id == instance_id
            and attachment.state in ("detaching", "busy")
        }
        if going:
            busy = ", whose system has not let go of it (busy)"
            return Trouble(
                "holder-detaching",
                f"{volume.id} is being detached from {instance_id}"
                + (busy if "busy" in going else ""),
                "a free volume",
                "It is attached once EC2 has let it go; if that lasts, unmount it on "
                f"{instance_id}.",
                waits=True,
            )
        if state in ("stopped", "stopping"):
            return Trouble(
                "holder-stopped",
                f"{attached}, which is {state} and keeps it",
                "a free volume",
                f"Terminate {instance_id} or detach the volume from it; it is "
                "never taken away.",
                waits=True,
            )
        if holder and Node(holder.prefix or "", holder.node_id or "") == self.node:
            return Trouble(
                "holder-predecessor",
                f"{attached}, which is {state} as the same node {self.node}",
                "a free volume",
                f"Terminate {instance_id} if it is not on its way out.",
                waits=True,
            )
        return Trouble(
            "holder-running",
            f"{attached}, which is {state} and is not this node ({self.node})",
            "a free volume",
            f"Terminate {instance_id}, detach the volume from it, or correct the "
            "tags; it is never taken away.",
        )

    def _check_duplicates(self) -> None:
        for volume in self.volume_ids:
            names = self.world.duplicates.get(volume)
            if names:
                raise stopped(
                    "device-duplicate",
                    f"The disks {', '.join(names)} both have the serial of {volume}",
                    "one disk for each volume",
                    "Detach the volume, or reboot the instance.",
                )

    def _check_devices(self) -> None:
        mounted = self._mounted() is not None
        for volume in self.claim.volumes:
            device = self._device(volume.id)
            if device.read_only:
                raise stopped(
                    "device-read-only",
                    f"{device.path} ({volume.id}) is read-only",
                    "a disk that can be written",
                    "Look at the kernel's log for the reason.",
                )
            if device.size != volume.size_gib * GIB and not mounted:
                raise stopped(
                    "device-size",
                    f"{device.path} ({volume.id}) has {device.size} bytes and EC2 "
                    f"says {volume.size_gib} GiB",
                    "the same size",
                    "A modification of the volume may be on its way: it is waited for.",
                    waits=True,
                )
            if device.swap:
                raise stopped(
                    "device-swap",
                    f"{device.path} ({volume.id}) is in use as swap",
                    "a disk that nothing uses",
                    "Take it out of use as swap, or take its tags off.",
                )

    def _warn_of_termination(self) -> None:
        for volume in self.claim.volumes:
            for attachment in volume.attachments:
                if attachment.delete_on_termination and self._ours(volume):
                    self.warnings.append(
                        f"EC2 deletes {volume.id} with this instance "
                        "(DeleteOnTermination). Switch it off: aws ec2 "
                        "modify-instance-attribute --instance-id "
                        f"{self.world.instance_id} --block-device-mappings "
                        f"DeviceName={attachment.device},"
                        "Ebs={DeleteOnTermination=false}"
                    )
