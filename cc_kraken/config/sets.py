"""What is wanted: the sets of this node, each judged complete or not.

Pure: configuration, tags and EC2's description of the volumes go in, claims
come out.  Nothing here looks at the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from cc_kraken.config import tags, values
from cc_kraken.config.values import Unfit, quoted
from cc_kraken.filesystems import registry
from cc_kraken.model import (
    Claim,
    KrakenError,
    Node,
    Section,
    Trouble,
    Volume,
    WantedSet,
)

# States of a volume that is on its way out: it counts as not there.
LEAVING = ("deleting", "deleted")


class Claims(NamedTuple):
    """The claims by name, and what concerns no single one of them: what a person
    must see, and what one may want to know."""

    claims: Tuple[Claim, ...]
    warnings: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()


def no_volumes(node: Node, section: Section, notes: Sequence[str] = ()) -> Trouble:
    """That a node has no volume at all (awaited, then an error).  ``notes``: of the
    claims."""
    return Trouble(
        "no-volumes",
        f"no volume in this region has the tags "
        f"{_node_tags(node, section.tag_namespace)}"
        + "".join(f" ({note.rstrip('.')})" for note in notes),
        "the volumes of this node",
        "Create or tag them; the region and the tag namespace have to be right too.",
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

    Kinds of trouble.  Awaited: set-absent, members-missing, members-surplus,
    tags-disagree, pinned-missing, volume-creating, zone-mixed.  Refused at
    once: volume-name, tag-value, config-value, pin-count, system-volume, zone-other,
    volume-state, multi-attach, managed, raid-level-missing, members-too-few,
    sizes-differ, snapshot-mixed, mount-path-shared, mkfs-options.
    """
    names = tuple(dict.fromkeys(must_exist))
    every = _mine(section, node, volumes)
    mine = tuple(volume for volume in every if volume.id not in system)
    aside = tuple(volume for volume in every if volume.id in system)
    groups: Dict[str, List[Volume]] = {name: [] for name in names}
    nameless: List[Volume] = []
    warnings: List[str] = []
    for volume in mine:
        own = tags.read(volume.tags, section.tag_namespace)
        for sentence in tags.near_misses(volume.tags, section.tag_namespace):
            warnings.append(f"{volume.id}: {sentence}")
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
    found += [_left_alone(volume, zone) for volume in nameless]
    notes = tuple(
        f"{one.id} is the volume behind / or /boot of this instance: it is left alone, "
        f"though it has the tags of the node {node}."
        for one in aside
    )
    return Claims(_unshared(found), tuple(warnings), notes)


def _mine(
    section: Section, node: Node, volumes: Sequence[Volume]
) -> Tuple[Volume, ...]:
    by_id = {}
    for volume in volumes:
        own = tags.read(volume.tags, section.tag_namespace)
        if (own.get("prefix"), own.get("node_id")) == (node.prefix, node.node_id):
            by_id[volume.id] = volume
    return tuple(volume for _, volume in sorted(by_id.items()))


def _node_tags(node: Node, namespace: str) -> str:
    prefix = tags.name(namespace, tags.PREFIX)
    node_id = tags.name(namespace, tags.NODE_ID)
    return f"{prefix}={node.prefix} and {node_id}={node.node_id}"


def _ids(volumes: Iterable[Volume]) -> str:
    return ", ".join(volume.id for volume in volumes)


# --------------------------------------------------------------- one wish


@dataclass(frozen=True)
class _Said:
    """A value and where it was said, for an error."""

    value: object
    where: str
    by_tag: bool


_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "members": values.members,
    "raid_level": values.raid_level,
    "fs_type": values.fs_type,
    "mount_path": values.mount_path,
    "mkfs_options": values.mkfs_options,
    "owner": values.account,
    "group": values.account,
    "mode": values.mode,
    "label": values.label,
}
_SWITCHES = ("required", "grow", "allow_degraded", "mount_over")


class _Judge:
    """Judges one set: what is wished for, then whether it is complete."""

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
        self._section = section
        self._node = node
        self._zone = zone
        self._name = name
        self._shown = name if _fits(name) else ascii(name)
        self._settings = section.volumes.get(name, {})
        self._pins = tuple(dict.fromkeys(_strings(self._settings.get("volume_ids"))))
        self._leaving = [volume for volume in group if volume.state in LEAVING]
        self._all = [volume for volume in group if volume.state not in LEAVING]
        self._volumes = [
            volume for volume in self._all if not self._pins or volume.id in self._pins
        ]
        self._members = len(self._pins) or 1
        self._mine = mine
        self._aside = aside
        self._wanted = WantedSet(name=self._shown, declared=declared)
        self._warnings: List[str] = []

    def claim(self) -> Claim:
        trouble = self._trouble()
        return Claim(
            self._shown,
            self._wanted,
            tuple(self._volumes),
            trouble,
            tuple(self._warnings),
        )

    def _trouble(self) -> Optional[Trouble]:
        # The wish is read as far as it can be even where the name is refused,
        # so that a report can tell what was meant.
        wish = self._wish()
        return self._named() or wish or self._complete()

    def _named(self) -> Optional[Trouble]:
        try:
            values.set_name(self._name)
        except Unfit as unfit:
            key = "volume_name" if self._all else "volumes"
            carriers = _ids(self._all) or "this instance"
            return Trouble(
                "volume-name",
                f"{self._tag(key)} of {carriers}, {quoted(self._name)}, {unfit}",
                unfit.expected,
                "Correct the tag.",
            )
        return None

    # ------------------------------------------------------------- the wish

    def _wish(self) -> Optional[Trouble]:
        disagreement, said = self._said()
        chosen: Dict[str, Any] = {}
        refused: List[Trouble] = []
        for key, one in said.items():
            # RaidLevel means nothing in a set of one, not even a mistake.
            single = chosen.get("members", self._members) == 1
            if key == "mount_options" or (key == "raid_level" and single):
                continue
            try:
                chosen[key] = _PARSERS[key](one.value)
            except Unfit as unfit:
                refused.append(self._unfit(key, one, unfit))
        self._fill(chosen, said)
        refused += self._options(said)
        if disagreement:
            return disagreement
        return refused[0] if refused else None

    def _said(self) -> Tuple[Optional[Trouble], Dict[str, _Said]]:
        """Each key's value, the configuration above the tags above the
        defaults, and the first key whose tags disagree."""
        disagreement: Optional[Trouble] = None
        said: Dict[str, _Said] = {}
        tagged = {
            volume.id: tags.read(volume.tags, self._section.tag_namespace)
            for volume in self._volumes
        }
        for key in (*_PARSERS, "mount_options"):
            if key in self._settings:
                where = f"kraken.volumes.{self._name}.{key}"
                said[key] = _Said(self._settings[key], where, False)
                continue
            by_volume = {one: own.get(key) for one, own in tagged.items()}
            different = set(by_volume.values())
            if len(different) > 1:
                disagreement = disagreement or self._disagree(key, by_volume)
                continue
            value = next(iter(different), None)
            if value is not None:
                where = f"{self._tag(key)} of {', '.join(by_volume)}"
                said[key] = _Said(value, where, True)
            elif key in self._section.defaults:
                where = f"kraken.defaults.{key}"
                said[key] = _Said(self._section.defaults[key], where, False)
        return disagreement, said

    def _fill(self, chosen: Mapping[str, Any], said: Mapping[str, _Said]) -> None:
        path, fs_type = chosen.get("mount_path"), chosen.get("fs_type")
        if path is not None and fs_type is None and "fs_type" not in said:
            self._warnings.append(
                f"{said['mount_path'].where} is ignored: no "
                f"{self._tag('fs_type')} says which filesystem is meant"
            )
        switches: Dict[str, Any] = {}
        for key in _SWITCHES:
            for settings in (self._section.defaults, self._settings):
                if key in settings:
                    switches[key] = bool(settings[key])
        overwrite = self._settings.get("overwrite")
        self._wanted = replace(
            self._wanted,
            members=chosen.get("members", self._members),
            raid_level=chosen.get("raid_level"),
            fs_type=fs_type,
            mount_path=path if fs_type is not None else None,
            mkfs_options=chosen.get("mkfs_options", ()) if fs_type else (),
            owner=chosen.get("owner"),
            group=chosen.get("group"),
            mode=chosen.get("mode"),
            label=chosen.get("label"),
            volume_ids=self._pins,
            overwrite=dict(overwrite) if isinstance(overwrite, Mapping) else {},
            **switches,
        )

    def _options(self, said: Mapping[str, _Said]) -> List[Trouble]:
        """What is wrong with the options that depend on the filesystem."""
        fs_type = self._wanted.fs_type
        if fs_type is None:
            return []
        refused: List[Trouble] = []
        if "mount_options" in said:
            one = said["mount_options"]
            try:
                options = values.mount_options(one.value, fs_type)
                self._wanted = replace(self._wanted, mount_options=options)
            except Unfit as unfit:
                refused.append(self._unfit("mount_options", one, unfit))
        try:
            registry.of(fs_type).parse(self._wanted.mkfs_options)
        except KrakenError as error:
            where = said["mkfs_options"].where
            found = f"{error.trouble.found} ({where})"
            refused.append(replace(error.trouble, kind="mkfs-options", found=found))
        return refused

    def _disagree(self, key: str, by_volume: Mapping[str, Optional[str]]) -> Trouble:
        words = [
            f"{one} has {quoted(value)}" if value is not None else f"{one} has none"
            for one, value in by_volume.items()
        ]
        return Trouble(
            "tags-disagree",
            f"the volumes of the set {self._shown} disagree about "
            f"{self._tag(key)}: {', '.join(words)}",
            "the same value on every volume of a set",
            f"Tag them alike, set kraken.volumes.{self._name}.{key}, or choose the "
            f"right ones with kraken.volumes.{self._name}.volume_ids.",
            waits=True,
        )

    def _unfit(self, key: str, said: _Said, unfit: Unfit) -> Trouble:
        return Trouble(
            "tag-value" if said.by_tag else "config-value",
            f"{said.where}, {quoted(said.value)}, {unfit}",
            unfit.expected,
            "Correct the tag." if said.by_tag else "Correct the configuration.",
        )

    def _tag(self, key: str) -> str:
        return tags.name(self._section.tag_namespace, tags.tag_of(key))

    # -------------------------------------------------------- completeness

    def _complete(self) -> Optional[Trouble]:
        return (
            self._pinned_system()
            or self._pin_count()
            or self._levels()
            or self._present()
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
                    "is the volume behind / or /boot of this instance",
                    "volumes for data only",
                    "Take it out of volume_ids.",
                )
        return None

    def _pin_count(self) -> Optional[Trouble]:
        if not self._pins or len(self._pins) == self._wanted.members:
            return None
        return Trouble(
            "pin-count",
            f"kraken.volumes.{self._name}.volume_ids names {len(self._pins)} "
            f"volume(s), the set {self._shown} has {self._wanted.members}",
            "as many volume ids as the set has members",
            f"Correct volume_ids, or members (the tag {self._tag('members')}).",
        )

    def _levels(self) -> Optional[Trouble]:
        wanted = self._wanted
        if wanted.members == 1:
            return None
        if wanted.raid_level is None:
            if wanted.fs_type is None:
                return None
            return Trouble(
                "raid-level-missing",
                f"the set {self._shown} has {wanted.members} members and no "
                f"{self._tag('raid_level')}",
                "a RAID level where a filesystem goes over several volumes",
                f"Tag the volumes, or set kraken.volumes.{self._name}.raid_level.",
            )
        fewest = values.FEWEST_MEMBERS[wanted.raid_level]
        if wanted.members >= fewest:
            return None
        return Trouble(
            "members-too-few",
            f"the set {self._shown} has {wanted.members} members and RAID level "
            f"{wanted.raid_level}",
            f"at least {fewest} members for that level",
            f"Correct {self._tag('members')} or {self._tag('raid_level')}.",
        )

    def _present(self) -> Optional[Trouble]:
        missing = [pin for pin in self._pins if not self._has(pin)]
        if missing:
            return Trouble(
                "pinned-missing",
                f"the set {self._shown} is pinned to {', '.join(missing)}, and "
                + ", ".join(self._whereabouts(pin) for pin in missing),
                f"volumes that exist and have the tags "
                f"{_node_tags(self._node, self._section.tag_namespace)} and "
                f"{self._tag('volume_name')}={self._name}",
                f"Tag them, or correct kraken.volumes.{self._name}.volume_ids.",
                waits=True,
            )
        if self._volumes:
            return None
        return Trouble(
            "set-absent",
            f"no volume of the node {self._node} has the tag "
            f"{self._tag('volume_name')}={self._shown}{self._also_there()}",
            f"{self._wanted.members} volume(s) for the set {self._shown}",
            "Create or tag the volumes, or take the set out of kraken.volumes and of "
            f"the instance's tag {self._tag('volumes')}.",
            waits=True,
        )

    def _has(self, pin: str) -> bool:
        return any(volume.id == pin for volume in self._volumes)

    def _whereabouts(self, pin: str) -> str:
        for volume in self._mine:
            if volume.id != pin:
                continue
            if volume.state in LEAVING:
                return f"{pin} is {volume.state}"
            own = tags.read(volume.tags, self._section.tag_namespace)
            other = quoted(own["volume_name"]) if "volume_name" in own else "no name"
            return f"{pin} has {other} as {self._tag('volume_name')}"
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
                f"the volumes of the set {self._shown} ({_ids(elsewhere)}) are "
                f"{every}in {' and '.join(zones)}, this instance is in {self._zone}",
                f"volumes in {self._zone}",
                f"Launch the instance in {zones[0]}, or make volumes in {self._zone} "
                "from snapshots of these.",
            )
        places = ", ".join(f"{one.id} in {one.zone}" for one in self._volumes)
        return Trouble(
            "zone-mixed",
            f"the volumes of the set {self._shown} are in several zones: {places}; "
            f"this instance is in {self._zone}",
            f"volumes in {self._zone}",
            "Take the tags off those that do not belong to the set, or choose the "
            f"right ones with kraken.volumes.{self._name}.volume_ids.",
            waits=True,
        )

    def _counted(self) -> Optional[Trouble]:
        there, wanted = len(self._volumes), self._wanted.members
        if there == wanted:
            return None
        expected = f"{wanted} ({self._tag('members')})"
        if there < wanted:
            return Trouble(
                "members-missing",
                f"the set {self._shown} has {there} of {wanted} volumes "
                f"({_ids(self._volumes)}){self._also_there()}",
                expected,
                "Create or tag the missing ones.",
                waits=True,
            )
        copies = [one for one in self._volumes if one.origin]
        aside = f"; of these {_ids(copies)} are copies" if copies else ""
        return Trouble(
            "members-surplus",
            f"the set {self._shown} has {there} volumes instead of {wanted} "
            f"({_ids(self._volumes)}){aside}",
            expected,
            "Copies from snapshots carry the tags too: choose the right ones with "
            f"kraken.volumes.{self._name}.volume_ids, or take the tags off the "
            "others.",
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
                f"in the set {self._shown} {_ids(copies)} come from a snapshot or a "
                f"copy, {_ids(fresh)} do not",
                "members that are all new, or all from one set of snapshots",
                "Replace the members that do not belong to the others.",
            )
        if len({volume.size_gib for volume in self._volumes}) > 1:
            sizes = ", ".join(f"{one.id} {one.size_gib} GiB" for one in self._volumes)
            return Trouble(
                "sizes-differ",
                f"the volumes of the set {self._shown} differ in size: {sizes}",
                "members of equal size",
                "Enlarge the smaller ones (ModifyVolume).",
            )
        return None


def _fits(name: str) -> bool:
    try:
        return bool(values.set_name(name))
    except Unfit:
        return False


def _strings(value: object) -> Tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list) else ()


# ------------------------------------------------------------- one volume


def _refused_volume(volumes: Iterable[Volume]) -> Optional[Trouble]:
    for volume in volumes:
        if volume.state == "error":
            return Trouble(
                "volume-state",
                f"{volume.id} is in the state error",
                "a volume that is available or in use",
                "Replace the volume; EC2 could not make it.",
            )
        if volume.multi_attach:
            return Trouble(
                "multi-attach",
                f"{volume.id} is a multi-attach volume",
                "volumes that one instance at a time holds",
                "Take the tags off it, or switch multi-attach off.",
            )
        if volume.managed:
            return Trouble(
                "managed",
                f"{volume.id} is managed by another AWS service",
                "volumes that this account's own tools attach",
                "Take the tags off it.",
            )
    return None


def _creating(volumes: Iterable[Volume]) -> Optional[Trouble]:
    creating = [volume for volume in volumes if volume.state == "creating"]
    if not creating:
        return None
    return Trouble(
        "volume-creating",
        f"{_ids(creating)}: not created yet",
        "volumes that are available",
        "EC2 is at work; when it does not end, look at the volume's state.",
        waits=True,
    )


def _left_alone(volume: Volume, zone: str) -> Claim:
    trouble = _refused_volume((volume,)) or _creating((volume,))
    if trouble is None and volume.zone != zone:
        trouble = Trouble(
            "zone-other",
            f"{volume.id} is in {volume.zone}, this instance is in {zone}",
            f"volumes in {zone}",
            f"Launch the instance in {volume.zone}, or take the tags off the volume.",
        )
    return Claim(volume.id, WantedSet(name=volume.id), (volume,), trouble)


# --------------------------------------------------------------- all sets


def _unshared(found: Sequence[Claim]) -> Tuple[Claim, ...]:
    """Refuse every set whose mount path another set has as well; what only
    waits is overruled, because waiting does not cure this."""
    by_path: Dict[str, List[str]] = {}
    for claim in found:
        if claim.wanted.mount_path is not None:
            by_path.setdefault(claim.wanted.mount_path, []).append(claim.name)
    judged = []
    for claim in found:
        path = claim.wanted.mount_path
        names = by_path.get(path, []) if path is not None else []
        if len(names) > 1 and (claim.trouble is None or claim.trouble.waits):
            trouble = Trouble(
                "mount-path-shared",
                f"the sets {' and '.join(names)} have the same mount path {path}",
                "a mount path of its own for each set",
                "Give all but one of them another path.",
            )
            claim = replace(claim, trouble=trouble)
        judged.append(claim)
    return tuple(judged)
