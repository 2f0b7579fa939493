"""Which ``ARRAY`` line does mdadm need, and which one is in its way?"""

from __future__ import annotations

from cc_kraken.decide.case import Case
from cc_kraken.decide.steps import WriteArrayLine
from cc_kraken.machine import mdadm_conf
from cc_kraken.model import failure


def steps(case: Case, uuid: str, name: str) -> list[WriteArrayLine]:
    """Our line instead of those of somebody else's for this array: mdadm starts
    none that two lines match.  ``name`` as in the superblocks."""
    world = case.world
    disks = [case.device(volume).path for volume in case.volume_ids]
    theirs = []
    for line in world.array_lines_foreign:
        if not mdadm_conf.speaks_of(line, uuid, name, disks):
            continue
        why = mdadm_conf.keeps(line, disks)
        if why and line.read:
            raise failure(
                "mdadm-conf-conflict",
                f"{line.file} has a line for the array of the set {case.name}, and "
                f"ours cannot replace it, because {why}: {line.text}.",
                "Only our ARRAY line may name it: mdadm starts no array that has two.",
                f"Take that line out of {line.file}, then: cc-kraken apply. Or take "
                "the tags off the volumes.",
            )
        if not why:
            theirs.append(line)
    out = [volume for volume in case.volume_ids if volume in world.left_out]
    if out:
        raise failure(
            "mdadm-conf-conflict",
            f"mdadm is told to leave out {', '.join(out)} of the set {case.name}: "
            f"{world.left_out[out[0]]}.",
            "A DEVICE line must name all disks of the set.",
            "Take that line out, or add /dev/nvme* to it, then: cc-kraken apply. "
            "Without such a line mdadm looks at every disk.",
        )
    if not theirs and world.array_lines.get(uuid) == case.name:
        return []
    return [WriteArrayLine(case.name, uuid, tuple(theirs))]
