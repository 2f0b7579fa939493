"""The points at which a run is cut off: before and after every step, before and
after every write of ``storage/make.py``, and inside the long programs.

``tests/unit/repository/test_points.py`` fails when a step (``steps.CHANGES``) or a
place in ``make`` that writes has none.  Each is played by ``tests/vm/test_crash.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PORTS = 23

# Pasts, in the words of ``nodes.SHELL``.
JUNK = "dd if=/dev/urandom of=$1 bs=4k count=1 seek=2048 conv=fsync status=none"
MADE = 'create $n 1 "$@"; fill $n; stop $n'
FAILED = (
    'create $n 1 "$@"; mdadm --quiet /dev/md/$n --fail $2 --remove $2; fill $n; '
    "stop $n; blkdiscard $2"
)
SMALL_ARRAY = f"SIZE=524288; {MADE}"
SMALL = "plant $1 131072"
ERRORS = "plant $1; debugfs -w -R 'set_super_value state 2' $1 2>/dev/null"
#: MiB of a filesystem that fills its volume of 1 GiB.
FULL = 900


@dataclass
class Point:
    """Where a run is cut off, in a set that has to take that step.

    ``disks``: members of a mirror, or one volume.  ``past``: shell lines that
    give them one (see ``SHELL`` of test_arrays); with ``keeps`` there is a
    file.  ``least``: MiB that its filesystem has in the end.  ``first``: another
    cut before this one, on the same set.  ``function``: of ``storage/make.py``; its
    write number ``writes`` is meant (``before write``, ``after write``).
    """

    step: str
    when: str
    disks: int = 2
    level: int = 1
    kind: str = "ext4"
    program: str = ""
    function: str = ""
    writes: int = 0
    past: str = ""
    keeps: bool = False
    least: int = 0
    first: Point | None = None
    number: int = 0
    judged: bool = False
    volumes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its set: an instance has one line in fstab for each."""
        return f"data{self.number}"

    def __str__(self) -> str:
        whose = self.program or self.function
        where = f" at write {self.writes} of {whose}" if whose else ""
        shape = f"RAID {self.level}" if self.disks > 1 else "single"
        after = f", after {self.first.when} {self.first.step}" if self.first else ""
        return f"{self.when} {self.step}{where} ({shape}, {self.kind}{after})"

    def told(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "step": self.step,
            "when": self.when,
            "program": self.program,
            "function": self.function,
            "writes": self.writes,
        }


def inside(program: str, writes: int, **more: Any) -> Point:
    step = "CreateArray" if program == "mdadm" else "MakeFilesystem"
    kind = "ext4" if program == "mdadm" else program.partition(".")[2]
    return Point(step, "inside", program=program, writes=writes, kind=kind, **more)


def both(step: str, **more: Any) -> list[Point]:
    return [Point(step, when, **more) for when in ("before", "after")]


def write(step: str, function: str, number: int = 1, **more: Any) -> list[Point]:
    """Before and after this write of a function of ``storage/make.py``."""
    return [
        Point(step, f"{when} write", function=function, writes=number, **more)
        for when in ("before", "after")
    ]


def half(writes: int = 3) -> Point:
    return inside("mdadm", writes)


FRESH = (
    "Attach", "WriteRecords", "CreateArray", "WriteArrayLine", "MakeFilesystem",
    "EraseRecords", "MakeDirectory", "WriteFstab", "MountFilesystem", "SetOwner",
)  # fmt: skip

POINTS: list[Point] = [
    *(point for step in FRESH for point in both(step)),
    *both("AssembleArray", past=MADE, keeps=True),
    *both("AddMember", past=FAILED, keeps=True),
    *both("StopArray", first=half()),
    *both("ZeroSuperblocks", first=half()),
    *both("Wipe", disks=1, past=JUNK),
    *both("Wipe", past=JUNK),
    *both("CheckFilesystem", disks=1, past=ERRORS, keeps=True),
    *both("GrowArray", past=SMALL_ARRAY, keeps=True, least=FULL),
    *both("GrowFilesystem", disks=1, past=SMALL, keeps=True, least=FULL),
    *write("WriteRecords", "write_record", 1),
    *write("WriteRecords", "write_record", 2),
    *write("CreateArray", "create_array"),
    *write("AddMember", "add_member", past=FAILED, keeps=True),
    *write("StopArray", "stop_array", first=half()),
    *write("ZeroSuperblocks", "zero_superblock", 1, first=half()),
    *write("ZeroSuperblocks", "zero_superblock", 2, first=half()),
    *write("MakeFilesystem", "make_filesystem", disks=1, kind="xfs"),
    *write(
        "MakeFilesystem",
        "_make_room",
        disks=1,
        kind="xfs",
        first=inside("mkfs.xfs", 12, disks=1),
    ),
    *write("EraseRecords", "erase_record", 1),
    *write("EraseRecords", "erase_record", 2),
    *write("Wipe", "wipe", 1, disks=1, past=JUNK),
    *write("Wipe", "wipe", 2, disks=1, past=JUNK),
    *(inside("mdadm", writes) for writes in (1, 2, 3, 4)),
    *(inside("mkfs.ext4", writes, disks=1) for writes in (2, 12)),
    *(inside("mkfs.xfs", writes, disks=1) for writes in (2, 12)),
    *(inside("mkfs.btrfs", writes, disks=1) for writes in (2, 12)),
    inside("mkfs.xfs", 4),
]
# Their situations need more than one set: the test makes them.
SEVERAL: list[Point] = [
    point
    for when in ("before", "after")
    for point in (
        Point("RemoveFstab", when, disks=1),
        Point("Detach", when),
        Point("CreateVolumes", when),
    )
]

REPLACED: list[Point] = [
    Point("WriteRecords", "after"),
    inside("mdadm", 2),
    inside("mdadm", 4),
    Point("CreateArray", "after"),
    inside("mkfs.ext4", 6, disks=2),
    inside("mkfs.xfs", 6, disks=2, level=0),
    inside("mkfs.btrfs", 6, disks=1),
    inside("mkfs.xfs", 3, disks=1),
    Point("MakeFilesystem", "after"),
    Point("EraseRecords", "after"),
    Point("MountFilesystem", "after"),
]


def batches(points: list[Point]) -> list[list[Point]]:
    """As many at once as the ports of a machine allow."""
    out: list[list[Point]] = [[]]
    for point in points:
        if sum(one.disks for one in out[-1]) + point.disks > PORTS:
            out.append([])
        out[-1].append(point)
    return out


BATCHES = batches(POINTS)
