"""What is wanted: the sets of this node, each judged complete or not.

Pure: configuration, tags and EC2's description of the volumes go in, claims
come out.  Nothing here looks at the machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, Optional

from cc_kraken.config import tags, wish
from cc_kraken.config.values import quoted
from cc_kraken.config.wish import Wish
from cc_kraken.model import Claim, Node, Section, Trouble, Volume, WantedSet

# States of a volume that is on its way out: it counts as not there.
LEAVING = ("deleting", "deleted")


class Claims(NamedTuple):
    """The claims by name, and what a person may want to know of no single one."""

    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = ()


def no_volumes(node: Node, section: Section, notes: Sequence[str] = ()) -> Trouble:
    """That a node has no volume at all (awaited, then an error).  ``notes``: of the
    claims."""
    return Trouble(
        "no-volumes",
        f"No volume in this region has the tags "
        f"{_node_tags(node, section.tag_namespace)}"
        + "".join(f" ({note.rstrip('.')})" for note in notes)
        + ".",
        "This node must have volumes.",
        "Create or tag them. Check the region and the tag namespace, too.",
        waits=True,
    )


def claims(
    section: Section,
    node: Node,
    zone: str,
    volumes: Sequence[Volume],
    must_exist: Iterable[str] = (),
    system: Collection[str] = (),
) -> Claims:
    """The sets of ``node``, each with its wish and what is wrong with it.

    ``volumes`` are those that EC2 described, from all zones and in all
    states; what does not carry both tags of the node is left out.
    ``must_exist`` are the sets that must exist (:func:`tags.declared`).
    ``system``: the volumes behind / or /boot of this instance, which are left alone.
    Without volumes there are only the claims of declared sets.  A volume
    without VolumeName is a claim under its own id: attached and left alone.
    """
    names = tuple(dict.fromkeys(must_exist))
    every = _mine(section, node, volumes)
    mine = tuple(volume for volume in every if volume.id not in system)
    aside = tuple(volume for volume in every if volume.id in system)
    groups: dict[str, list[Volume]] = {name: [] for name in names}
    nameless: list[Volume] = []
    for volume in mine:
        own = tags.read(volume.tags, section.tag_namespace)
        if "volume_name" in own:
            groups.setdefault(own["volume_name"], []).append(volume)
        elif volume.state not in LEAVING:
            nameless.append(volume)
    found = [
        _Judge(section, node, zone, name, group, name in names, mine, aside).claim()
        for name, group in sorted(groups.items())
        # The last volume of a set that nobody asks for is being deleted.
        if name in names or any(volume.state not in LEAVING for volume in group)
    ]
    found += [_left_alone(volume, zone, section.tag_namespace) for volume in nameless]
    notes = tuple(
        f"{one.id} is the volume behind / or /boot of this instance: it is left alone, "
        f"though it has the tags of the node {node}."
        for one in aside
    )
    return Claims(_unshared(found), notes)


def _mine(
    section: Section, node: Node, volumes: Sequence[Volume]
) -> tuple[Volume, ...]:
    namespace = section.tag_namespace
    by_id = {
        volume.id: volume
        for volume in volumes
        if tags.node_of(volume.tags, namespace) == node
    }
    return tuple(by_id[one] for one in sorted(by_id))


def _node_tags(node: Node, namespace: str) -> str:
    prefix = tags.name(namespace, tags.PREFIX)
    node_id = tags.name(namespace, tags.NODE_ID)
    return f"{prefix}={node.prefix} and {node_id}={node.node_id}"


def _ids(volumes: Iterable[Volume]) -> str:
    return ", ".join(volume.id for volume in volumes)


# --------------------------------------------------------------- one wish


class _Judge(Wish):
    """One set: what is wished for, then whether it is complete."""

    def __init__(
        self,
        section: Section,
        node: Node,
        zone: str,
        name: str,
        group: Sequence[Volume],
        declared: bool,
        mine: Sequence[Volume],
        aside: Sequence[Volume],
    ) -> None:
        pins = wish.pins(section, name)
        self._leaving = [volume for volume in group if volume.state in LEAVING]
        self._all = [volume for volume in group if volume.state not in LEAVING]
        chosen = [volume for volume in self._all if not pins or volume.id in pins]
        super().__init__(section, name, chosen, declared)
        self._node, self._zone = node, zone
        self._mine, self._aside = mine, aside

    def claim(self) -> Claim:
        return Claim(
            self.wanted.name,
            self.wanted,
            tuple(self._volumes),
            self._named() or self._wrong() or self._complete(),
            tuple(self.warnings),
        )

    def _wrong(self) -> Optional[Trouble]:
        """All that is wrong with the values, as one trouble."""
        if not self.troubles:
            return None
        first, *others = self.troubles
        words = [first.remedy, *["Also wrong:"][: len(others)], *map(str, others)]
        return replace(first, remedy=" ".join(words))

    def _named(self) -> Optional[Trouble]:
        unfit = self.unfit_name
        if unfit is None:
            return None
        key = "volume_name" if self._all else "volumes"
        carriers = _ids(self._all) or "this instance"
        return Trouble(
            "volume-name",
            f"{self.tag(key)} of {carriers}, {quoted(self._name)}, {unfit}",
            unfit.expected,
            "Correct the tag.",
        )

    # -------------------------------------------------------- completeness

    def _complete(self) -> Optional[Trouble]:
        return (
            self._pinned_system()
            or self.pin_count()
            or self.levels()
            # What is created has no tag that could say the rest.
            or (self.unmountable() if self.wanted.create else None)
            or self._present()
            or self.unmountable()
            or _refused_volume(self._volumes)
            or self._zones()
            or self._counted()
            or _creating(self._volumes)
            or self._alike()
        )

    def _pinned_system(self) -> Optional[Trouble]:
        for volume in self._aside:
            if volume.id in self._pins:
                return Trouble(
                    "system-volume",
                    f"kraken.volumes.{self._name}.volume_ids names {volume.id}, which "
                    "is the volume behind / or /boot of this instance.",
                    "A set takes volumes for data only.",
                    "Take it out of volume_ids.",
                )
        return None

    def _present(self) -> Optional[Trouble]:
        there = {volume.id for volume in self._volumes}
        missing = [pin for pin in self._pins if pin not in there]
        if missing:
            return Trouble(
                "pinned-missing",
                f"The set {self.wanted.name} is pinned to {', '.join(missing)}, and "
                f"{', '.join(self._whereabouts(pin) for pin in missing)}.",
                "Pinned volumes must have the tags "
                f"{_node_tags(self._node, self._section.tag_namespace)} and "
                f"{self.tag('volume_name')}={self._name}.",
                f"Tag them, or correct kraken.volumes.{self._name}.volume_ids.",
                waits=True,
            )
        if self._volumes:
            return None
        return Trouble(
            "set-absent",
            f"No volume of the node {self._node} has the tag "
            f"{self.tag('volume_name')}={self.wanted.name}{self._also_there()}.",
            f"Each member of the set {self.wanted.name} must have a volume "
            f"({self.wanted.members}).",
            "Create or tag the volumes, or take the set out of kraken.volumes and of "
            f"the instance's tag {self.tag('volumes')}.",
            waits=True,
        )

    def _whereabouts(self, pin: str) -> str:
        for volume in self._mine:
            if volume.id != pin:
                continue
            if volume.state in LEAVING:
                return f"{pin} is {volume.state}"
            own = tags.read(volume.tags, self._section.tag_namespace)
            other = quoted(own["volume_name"]) if "volume_name" in own else "no name"
            return f"{pin} has {other} as {self.tag('volume_name')}"
        return f"{pin} is not among the volumes of the node {self._node}"

    def _zones(self) -> Optional[Trouble]:
        elsewhere = [one for one in self._volumes if one.zone != self._zone]
        if not elsewhere:
            return None
        if len(elsewhere) == len(self._volumes):
            zones = sorted({volume.zone for volume in self._volumes})
            every = "all " if len(elsewhere) > 1 else ""
            return Trouble(
                "zone-other",
                f"The volumes of the set {self.wanted.name} ({_ids(elsewhere)}) are "
                f"{every}in {' and '.join(zones)}, this instance is in {self._zone}.",
                f"They must be in {self._zone}.",
                f"Launch the instance in {zones[0]}, or make volumes in {self._zone} "
                "from snapshots of these.",
            )
        places = ", ".join(f"{one.id} in {one.zone}" for one in self._volumes)
        return Trouble(
            "zone-mixed",
            f"The volumes of the set {self.wanted.name} are in several zones: "
            f"{places}; this instance is in {self._zone}.",
            f"They must all be in {self._zone}.",
            "Take the tags off those that do not belong to the set, or choose the "
            f"right ones with kraken.volumes.{self._name}.volume_ids.",
            waits=True,
        )

    def _counted(self) -> Optional[Trouble]:
        there, wanted = len(self._volumes), self.wanted.members
        if there == wanted:
            return None
        said = self._said.get("members")
        by = said.where if said and not said.by_tag else self.tag("members")
        unsaid = said is None and not self._pins
        expected = f"It must have {wanted} ({f'no {by}: 1' if unsaid else by})."
        if there < wanted:
            return Trouble(
                "members-missing",
                f"The set {self.wanted.name} has {there} of {wanted} volumes "
                f"({_ids(self._volumes)}){self._also_there()}.",
                expected,
                f"Create or tag the missing ones.{self.no_size}",
                waits=True,
            )
        return self._surplus(by, expected)

    def _surplus(self, by: str, expected: str) -> Trouble:
        """``by``: what says how many it must have."""
        there, wanted = len(self._volumes), self.wanted.members
        copies = [one for one in self._volumes if one.origin]
        choose = (
            f"the right ones with kraken.volumes.{self._name}.volume_ids, or take the "
            "tags off the others."
        )
        level = f", and {self.tag('raid_level')}" if wanted == 1 else ""
        meant = f"If the set is meant to have {there}, set {by} to {there}{level}."
        return Trouble(
            "members-surplus",
            f"The set {self.wanted.name} has {there} volumes instead of {wanted} "
            f"({_ids(self._volumes)}){f'; copies: {_ids(copies)}' if copies else ''}.",
            expected,
            f"Copies from snapshots carry the tags, too. Choose {choose}"
            if copies
            else f"{meant} If not, choose {choose}",
            waits=True,
        )

    def _also_there(self) -> str:
        words = [f"{volume.id} is {volume.state}" for volume in self._leaving]
        for volume in self._aside:
            own = tags.read(volume.tags, self._section.tag_namespace)
            if own.get("volume_name") == self._name:
                words.append(f"{volume.id} is behind / or /boot of this instance")
        return f" ({', '.join(words)})" if words else ""

    def _alike(self) -> Optional[Trouble]:
        """Members of one array have one size and one kind of past."""
        if len(self._volumes) < 2:
            return None
        copies = [volume for volume in self._volumes if volume.origin]
        if copies and len(copies) < len(self._volumes):
            fresh = [volume for volume in self._volumes if not volume.origin]
            return Trouble(
                "snapshot-mixed",
                f"In the set {self.wanted.name}, {_ids(copies)} "
                f"{'comes' if len(copies) == 1 else 'come'} from a snapshot or a copy, "
                f"and {_ids(fresh)} {'does' if len(fresh) == 1 else 'do'} not.",
                "All members must be new, or all must come from one backup.",
                "Replace the volumes that do not belong to the others, or take their "
                "tags off.",
            )
        if len({volume.size_gib for volume in self._volumes}) > 1:
            sizes = ", ".join(f"{one.id} {one.size_gib} GiB" for one in self._volumes)
            return Trouble(
                "sizes-differ",
                f"The volumes of the set {self.wanted.name} differ in size: {sizes}.",
                "The members of an array must have the same size.",
                "Enlarge the smaller ones (aws ec2 modify-volume).",
            )
        return None


# ------------------------------------------------------------- one volume


def _refused_volume(volumes: Iterable[Volume]) -> Optional[Trouble]:
    for volume in volumes:
        if volume.state == "error":
            return Trouble(
                "volume-state",
                f"{volume.id} is in the state error: EC2 could not make it.",
                "It must be available or in use.",
                "Create another volume with its tags, and delete this one.",
            )
        if volume.multi_attach:
            return Trouble(
                "multi-attach",
                f"{volume.id} is a multi-attach volume.",
                "Only one instance at a time may hold it.",
                "Take the tags off it, or switch multi-attach off.",
            )
        if volume.managed:
            return Trouble(
                "managed",
                f"{volume.id} is managed by another AWS service.",
                "Only the owner of this account may manage it.",
                "Take the tags off it, and use another volume.",
            )
    return None


def _creating(volumes: Iterable[Volume]) -> Optional[Trouble]:
    creating = [volume for volume in volumes if volume.state == "creating"]
    if not creating:
        return None
    return Trouble(
        "volume-creating",
        f"EC2 is still making {_ids(creating)}.",
        "Only an available volume can be attached.",
        "Wait. If this stays, look at the volume's state in EC2.",
        waits=True,
    )


def _left_alone(volume: Volume, zone: str, namespace: str) -> Claim:
    trouble = (
        _no_name(volume, namespace)
        or _refused_volume((volume,))
        or _creating((volume,))
    )
    if trouble is None and volume.zone != zone:
        trouble = Trouble(
            "zone-other",
            f"{volume.id} is in {volume.zone}, this instance is in {zone}.",
            f"It must be in {zone}.",
            f"Launch the instance in {volume.zone}, or take the tags off the volume.",
        )
    return Claim(volume.id, WantedSet(name=volume.id), (volume,), trouble)


def _no_name(volume: Volume, namespace: str) -> Optional[Trouble]:
    """That a volume says what its set is to be, and not which set it is of."""
    own = tags.read(volume.tags, namespace)
    meant = tags.misspelt(volume.tags, namespace)
    lost = {one: tag for one, tag in meant.items() if tags.NAMES[tag] not in own}
    words = [tags.name(namespace, t) for t, key in tags.SET_TAGS.items() if key in own]
    words += [tags.in_words(lost, namespace)] if lost else []
    if not words:
        return None
    wanted = tags.name(namespace, tags.VOLUME_NAME)
    return Trouble(
        "volume-name-missing",
        f"{volume.id} has {', '.join(words)}, and no {wanted}.",
        f"{wanted} must name its set.",
        f"Tag the volume with {wanted}, or take the other tags of a set off.",
    )


# --------------------------------------------------------------- all sets


def _unshared(found: Sequence[Claim]) -> tuple[Claim, ...]:
    """Refuse every set whose mount path another set has as well; what only
    waits is overruled, because waiting does not cure this."""
    by_path: dict[Optional[str], list[str]] = {None: []}
    for claim in found:
        if claim.wanted.mount_path is not None:
            by_path.setdefault(claim.wanted.mount_path, []).append(claim.name)
    judged = []
    for claim in found:
        path = claim.wanted.mount_path
        if len(by_path[path]) > 1 and (claim.trouble is None or claim.trouble.waits):
            shared = wish.mount_path_shared(by_path[path], str(path))
            claim = replace(claim, trouble=shared)
        judged.append(claim)
    return tuple(judged)
