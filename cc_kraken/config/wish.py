"""What is wished for one set: section above tags above defaults, each value judged.

Pure, and without EC2: ``cc-kraken check`` asks the same rules of a section alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

from cc_kraken.config import creation, tags, values
from cc_kraken.config.values import Unfit, quoted
from cc_kraken.filesystems import registry
from cc_kraken.model import KrakenError, Section, Trouble, Volume, WantedSet


@dataclass(frozen=True)
class _Said:
    """A value and where it was said, for an error."""

    value: object
    where: str
    by_tag: bool = False
    own: bool = True
    """Said of this very set, not by the defaults for all sets."""


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
_KEYS = (*_PARSERS, "mount_options")
_OF_A_MOUNT = frozenset(_KEYS) - {"members", "raid_level", "fs_type"}
_SWITCHES = ("required", "grow", "allow_degraded", "mount_over")


def pins(section: Section, name: str) -> tuple[str, ...]:
    """The volumes that the configuration pins the set to."""
    ids = section.volumes.get(name, {}).get("volume_ids")
    return tuple(dict.fromkeys(map(str, ids))) if isinstance(ids, list) else ()


class Wish:
    """The wish for the set ``name``, whose volumes are ``volumes``.

    ``wanted`` is read as far as it can be; ``troubles`` say what is wrong with the
    values, the gravest first.
    """

    def __init__(
        self, section: Section, name: str, volumes: Sequence[Volume], declared: bool
    ) -> None:
        self._section = section
        self._name = name
        self._settings = section.volumes.get(name, {})
        self._volumes = volumes
        self._tags = {
            volume.id: tags.read(volume.tags, section.tag_namespace)
            for volume in volumes
        }
        old = tags.name(section.tag_namespace, tags.VOLUME_SIZE)
        self._old = any(old in volume.tags for volume in volumes)
        self._pins = pins(section, name)
        self.unfit_name: Optional[Unfit] = None
        try:
            shown = values.set_name(name)
        except Unfit as unfit:
            self.unfit_name, shown = unfit, ascii(name)
        self.wanted = WantedSet(name=shown, declared=declared)
        self.warnings: list[str] = []
        self.troubles: list[Trouble] = []
        self._misspelt()
        self._said = self._read()
        self._parse()
        self._options()

    def tag(self, key: str) -> str:
        """The tag of a key, for an error: of two names the one that is in use."""
        tag = tags.VOLUME_SIZE if key == "members" and self._old else tags.tag_of(key)
        return tags.name(self._section.tag_namespace, tag)

    @property
    def no_size(self) -> str:
        """For who took the older name of Members for a size."""
        return f" {tags.VOLUME_SIZE} counts volumes, it is no size in GiB." * self._old

    # -------------------------------------------------------------- the values

    def _misspelt(self) -> None:
        """A tag that was meant to say what nobody else says of this very set."""
        namespace = self._section.tag_namespace
        for volume in self._volumes:
            known = {*self._tags[volume.id], *self._settings}
            meant = tags.misspelt(volume.tags, namespace)
            lost = {
                one: tag for one, tag in meant.items() if tags.NAMES[tag] not in known
            }
            if lost:
                found = f"{volume.id} has the tag {tags.in_words(lost, namespace)}."
                expected = "The tag must have the name in parentheses."
                remedy = "Correct the tag's name, or take it off."
                self.troubles.append(Trouble("tag-misspelt", found, expected, remedy))
            elif meant:
                words = tags.in_words(meant, namespace)
                self.warnings.append(f"The tag {words} of {volume.id} is ignored.")

    def _read(self) -> dict[str, _Said]:
        """Each key's value: the configuration above the tags above the defaults."""
        said: dict[str, _Said] = {}
        for key in _KEYS:
            if key in self._settings:
                where = f"kraken.volumes.{self._name}.{key}"
                said[key] = _Said(self._settings[key], where)
                continue
            by_volume = {one: own.get(key) for one, own in self._tags.items()}
            different = set(by_volume.values())
            if len(different) > 1:
                self._disagree(key, by_volume)
                continue
            value = next(iter(different), None)
            if value is not None:
                where = f"{self.tag(key)} of {', '.join(by_volume)}"
                said[key] = _Said(value, where, by_tag=True)
            elif key in self._section.defaults:
                where = f"kraken.defaults.{key}"
                said[key] = _Said(self._section.defaults[key], where, own=False)
        return said

    def _parse(self) -> None:
        chosen: dict[str, Any] = {"members": len(self._pins) or 1}
        for key, one in self._said.items():
            # RaidLevel means nothing in a set of one, not even a mistake.
            single = chosen["members"] == 1
            if key == "mount_options" or (key == "raid_level" and single):
                continue
            try:
                chosen[key] = _PARSERS[key](one.value)
            except Unfit as unfit:
                self._unfit(key, unfit)
        if chosen.get("fs_type") is None:
            chosen.update(mount_path=None, mkfs_options=())
        for key in _SWITCHES:
            for settings in (self._section.defaults, self._settings):
                if key in settings:
                    chosen[key] = bool(settings[key])
        overwrite = self._settings.get("overwrite")
        if isinstance(overwrite, Mapping):
            chosen["overwrite"] = dict(overwrite)
        create = self._settings.get("create")
        if isinstance(create, Mapping):
            namespace, members = self._section.tag_namespace, chosen["members"]
            try:
                chosen["create"] = creation.read(create, namespace, members)
            except creation.Wrong as wrong:
                self.troubles.append(creation.unfit(self._name, wrong))
        self.wanted = replace(self.wanted, volume_ids=self._pins, **chosen)

    def _options(self) -> None:
        """The options that depend on the filesystem."""
        fs_type = self.wanted.fs_type
        if fs_type is None:
            return
        if "mount_options" in self._said:
            try:
                text = self._said["mount_options"].value
                options = values.mount_options(text, fs_type)
                self.wanted = replace(self.wanted, mount_options=options)
            except Unfit as unfit:
                self._unfit("mount_options", unfit)
        try:
            registry.of(fs_type).parse(self.wanted.mkfs_options)
        except KrakenError as error:
            where = self._said["mkfs_options"].where
            found = f"{error.trouble.found} It comes from {where}."
            self.troubles.append(
                replace(error.trouble, kind="mkfs-options", found=found)
            )

    def _disagree(self, key: str, by_volume: Mapping[str, Optional[str]]) -> None:
        words = [
            f"{one} has {'none' if value is None else quoted(value)}"
            for one, value in by_volume.items()
        ]
        trouble = Trouble(
            "tags-disagree",
            f"The volumes of the set {self.wanted.name} disagree about "
            f"{self.tag(key)}: {', '.join(words)}.",
            "All volumes of a set must have the same value.",
            f"Tag them alike, set kraken.volumes.{self._name}.{key}, or choose the "
            f"right ones with kraken.volumes.{self._name}.volume_ids.",
            waits=True,
        )
        self.troubles.append(trouble)

    def _unfit(self, key: str, unfit: Unfit) -> None:
        said = self._said[key]
        kind = "tag-value" if said.by_tag else "config-value"
        remedy = f"Correct the {'tag' if said.by_tag else 'configuration'}."
        if key == "members":
            remedy += self.no_size
        found = f"{said.where}, {quoted(said.value)}, {unfit}"
        self.troubles.append(Trouble(kind, found, unfit.expected, remedy))

    # ---------------------------------------------- rules on several of them

    def pin_count(self) -> Optional[Trouble]:
        if not self._pins or len(self._pins) == self.wanted.members:
            return None
        return Trouble(
            "pin-count",
            f"kraken.volumes.{self._name}.volume_ids names {len(self._pins)} of "
            f"the volumes of {self.wanted.name}, which is a set of "
            f"{self.wanted.members}.",
            "It must name as many volumes as the set has members.",
            f"Correct volume_ids, or members (the tag {self.tag('members')}).",
        )

    def levels(self) -> Optional[Trouble]:
        wanted = self.wanted
        if wanted.members == 1:
            return None
        if wanted.raid_level is None:
            if wanted.fs_type is None:
                return None
            return Trouble(
                "raid-level-missing",
                f"The set {wanted.name} has {wanted.members} members and no "
                f"{self.tag('raid_level')}.",
                "A filesystem over several volumes needs a RAID level.",
                f"Tag the volumes, or set kraken.volumes.{self._name}.raid_level."
                f"{self.no_size}",
            )
        fewest = values.FEWEST_MEMBERS[wanted.raid_level]
        if wanted.members >= fewest:
            return None
        return Trouble(
            "members-too-few",
            f"The set {wanted.name} has {wanted.members} members and RAID level "
            f"{wanted.raid_level}.",
            f"That level takes at least {fewest} members.",
            f"Correct {self.tag('members')} or {self.tag('raid_level')}.",
        )

    def unmountable(self) -> Optional[Trouble]:
        """That something is said about a mount, and not all that it takes.  What
        the defaults say is for every set, also for those that are not mounted."""
        said, fs_type = self._said, self._said.get("fs_type")
        if self.wanted.mount_path is not None:
            return None
        if fs_type is not None and self.wanted.fs_type is None:
            return None  # FsType is none: attached and assembled only
        reason = fs_type or next(
            (one for key, one in said.items() if key in _OF_A_MOUNT and one.own), None
        )
        if reason is None:
            return None
        missing = "fs_type" if "mount_path" in said else "mount_path"
        namespace = self._section.tag_namespace
        odd = {
            one for each in self._volumes for one in tags.unknown(each.tags, namespace)
        }
        words = f" ({', '.join(map(quoted, sorted(odd)))} means nothing)" if odd else ""
        return Trouble(
            "mount-incomplete",
            f"The set {self.wanted.name} has {reason.where}, and no "
            f"{self.tag(missing)}{words}: it would not be mounted.",
            "It must have both a filesystem and a mount path, or FsType none.",
            f"Tag the volumes with {self.tag(missing)}, or set "
            f"kraken.volumes.{self._name}.{missing}.",
        )


# ------------------------------------------------------- a section by itself


def wrong(section: Section) -> list[tuple[str, Trouble]]:
    """What no tag can put right in a section, each with the key that it is about."""
    found: list[tuple[str, Trouble]] = []
    nodes = creation.nodes_trouble(section)
    if nodes is not None:
        found.append(("kraken.node_ids", nodes))
    paths: dict[str, str] = {}
    for name in section.volumes or ("",):
        place = f"kraken.volumes.{name}" if name else "kraken.defaults"
        wish = Wish(section, name or "any", (), True)
        if wish.wanted.fs_type is None and "fs_type" not in wish._said:
            wish = min(
                (_with_type(section, name or "any", kind) for kind in registry.TYPES),
                key=lambda one: len(one.troubles),
            )
        troubles = [*wish.troubles, wish.pin_count(), wish.levels()]
        # The level may be in the tags, where the filesystem and the path are.
        tagged = not {"fs_type", "mount_path"} & set(section.volumes.get(name, {}))
        path = wish.wanted.mount_path
        other = paths.setdefault(path, name) if path is not None else name
        if other != name:
            troubles.append(mount_path_shared((other, name), str(path)))
        for one in troubles:
            if one and not (tagged and one.kind == "raid-level-missing"):
                found.append((place, one))
    return found


def _with_type(section: Section, name: str, fs_type: str) -> Wish:
    settings = {**section.volumes.get(name, {}), "fs_type": fs_type}
    return Wish(replace(section, volumes={name: settings}), name, (), True)


def mount_path_shared(names: Sequence[str], path: str) -> Trouble:
    return Trouble(
        "mount-path-shared",
        f"The sets {' and '.join(names)} have the same mount path {path}.",
        "Each set must have a mount path of its own.",
        "Give all but one of them another path.",
    )
