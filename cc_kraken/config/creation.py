"""How volumes that do not exist are created: ``create`` of a set, and ``node_ids``.

Both stand in the section alone, never in tags.  The bounds are those of EC2's
CreateVolume and of the EBS user guide.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from cc_kraken.config import tags
from cc_kraken.config.values import odd_character, quoted
from cc_kraken.model import Creation, Section, Trouble

MOST_TAGS = 40
"""EC2 allows 50 a volume, ours included."""


@dataclass(frozen=True)
class VolumeType:
    """What EC2 allows for a type: GiB, IOPS, IOPS for each GiB, MiB/s (least, most).

    ``included``: IOPS that no ratio forbids and that cost nothing, as the least MiB/s
    do.
    """

    sizes: tuple[int, int]
    iops: Optional[tuple[int, int]] = None
    per_gib: int = 0
    included: int = 0
    must_say: bool = False
    throughput: Optional[tuple[int, int]] = None


TYPES: Mapping[str, VolumeType] = {
    "gp3": VolumeType(
        (1, 65536), (3000, 80000), 500, included=3000, throughput=(125, 2000)
    ),
    "gp2": VolumeType((1, 16384)),
    "io1": VolumeType((4, 16384), (100, 64000), 50, must_say=True),
    "io2": VolumeType((4, 65536), (100, 256000), 1000, must_say=True),
    "st1": VolumeType((125, 16384)),
    "sc1": VolumeType((125, 16384)),
    "standard": VolumeType((1, 1024)),
}
IOPS_PER_THROUGHPUT = 4
"""IOPS that each MiB/s of a gp3 volume needs."""


class Wrong(ValueError):
    """A key of ``create`` whose value is refused."""

    def __init__(self, key: str, found: str, expected: str) -> None:
        super().__init__(found)
        self.key = key
        self.found = found
        self.expected = expected


def read(said: Mapping[str, object], namespace: str, members: int = 1) -> Creation:
    """``create`` of a set with this many members; the schema has checked the types.
    Raises Wrong."""
    wish = Creation(
        size_gib=_number(said, "size"),
        type=str(said.get("type", "gp3")),
        iops=_number(said, "iops"),
        throughput=_number(said, "throughput"),
        encrypted=said.get("encrypted") is not False,
        kms_key_id=str(said.get("kms_key_id") or ""),
        snapshot=str(said.get("snapshot") or ""),
        after=_number(said, "after") or Creation.after,
        tags=_tags(said.get("tags"), namespace),
    )
    if wish.kms_key_id and not wish.encrypted:
        raise Wrong("kms_key_id", "a key for volumes without encryption", "no key")
    if wish.type not in TYPES:
        raise Wrong("type", quoted(wish.type), f"one of {', '.join(TYPES)}")
    _check_bounds(wish, TYPES[wish.type])
    if wish.snapshot and members > 1:
        raise Wrong("snapshot", f"one for {members} volumes", "a set of one volume")
    return wish


def _number(said: Mapping[str, object], key: str) -> int:
    value = said.get(key)
    return value if isinstance(value, int) else 0


def _check_bounds(wish: Creation, kind: VolumeType) -> None:
    if not wish.size_gib and not wish.snapshot:
        raise Wrong("size", "nothing", "the GiB of each volume, or a snapshot")
    if wish.size_gib:
        _within("size", wish.size_gib, kind.sizes, f"GiB for {wish.type}")
    if kind.must_say and not wish.iops:
        raise Wrong("iops", "nothing", f"the IOPS of each {wish.type} volume")
    for key, value, bounds in (
        ("iops", wish.iops, kind.iops),
        ("throughput", wish.throughput, kind.throughput),
    ):
        if value and bounds is None:
            able = [one for one, each in TYPES.items() if getattr(each, key)]
            expected = f"none for {wish.type}; {', '.join(able)} take it"
            raise Wrong(key, str(value), expected)
        if value and bounds is not None:
            _within(key, value, bounds, f"for {wish.type}")
    most = max(wish.size_gib * kind.per_gib, kind.included)
    if wish.size_gib and wish.iops > most:
        expected = f"at most {most} for {wish.size_gib} GiB of {wish.type}"
        raise Wrong("iops", str(wish.iops), expected)
    needed = wish.throughput * IOPS_PER_THROUGHPUT
    if needed > (wish.iops or kind.included):
        expected = f"at least {needed} for {wish.throughput} MiB/s"
        raise Wrong("iops", str(wish.iops or kind.included), expected)


def _within(key: str, value: int, bounds: tuple[int, int], unit: str) -> None:
    least, most = bounds
    if not least <= value <= most:
        raise Wrong(key, str(value), f"{least} to {most} {unit}")


def _tags(said: object, namespace: str) -> dict[str, str]:
    found = said if isinstance(said, Mapping) else {}
    if len(found) > MOST_TAGS:
        raise Wrong("tags", f"{len(found)} tags", f"at most {MOST_TAGS}")
    for key, value in found.items():
        if str(key).lower().startswith("aws:"):
            raise Wrong("tags", quoted(key), "no key that begins with aws:")
        if tags.alike(str(key).rpartition(":")[0], namespace):
            expected = f"no tag of {namespace}, which cc_kraken writes itself"
            raise Wrong("tags", quoted(key), expected)
        if odd_character(f"{key}{value}"):
            raise Wrong("tags", quoted(key), "keys and values that people can read")
    return {str(key): str(value) for key, value in found.items()}


def nodes(section: Section, zone: str) -> tuple[str, ...]:
    """The nodes that an instance in this zone may found, each once."""
    said = section.node_ids
    return tags.words(said if isinstance(said, str) else said.get(zone, ""))


def nodes_trouble(section: Section) -> Optional[Trouble]:
    """That one node is listed for two zones: both would found it."""
    said = section.node_ids
    by_node: dict[str, str] = {}
    for zone, text in {} if isinstance(said, str) else said.items():
        for node_id in tags.words(text):
            other = by_node.setdefault(node_id, zone)
            if other != zone:
                return Trouble(
                    "config-value",
                    f"kraken.node_ids lists the node {node_id} for {other} and {zone}.",
                    "Each node must be in one zone.",
                    "Take it out of one of them.",
                )
    return None


def unfit(name: str, wrong: Wrong) -> Trouble:
    """A key of ``create`` of the set ``name`` that is refused."""
    return Trouble(
        "config-value",
        f"kraken.volumes.{name}.create.{wrong.key} is {wrong.found}",
        wrong.expected,
        "Correct the configuration.",
    )
