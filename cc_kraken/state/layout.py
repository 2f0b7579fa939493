"""The layout of the last good run, which makes a reboot cheap.

``layout.json`` says which volumes were behind which mount path on which
instance under which configuration.  It permits nothing: it only saves asking
EC2 when the machine shows exactly what it says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Optional

from cc_kraken.decide import seen
from cc_kraken.machine import devices, files
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Identity, Section
from cc_kraken.state import report


def digest(section: Section, identity: Identity) -> str:
    """What the layout depends on besides the machine: configuration and the
    instance's tags (sha256, hex)."""
    tags = None if identity.tags is None else dict(sorted(identity.tags.items()))
    text = json.dumps([section.digest, tags], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save(
    paths: Paths, section: Section, identity: Identity, status: Mapping[str, Any]
) -> bool:
    """Keep what a complete run left; returns whether anything was written.

    A run that left a set pending or failed removes the layout instead.
    """
    sets = status["sets"]
    whole = sets and all(
        entry["state"] == "mounted"
        and not any(entry[key] for key in ("error", "reason", "plan", "outcomes"))
        for entry in sets.values()
    )
    kept = {
        name: {
            "mount_path": entry["mount_path"],
            "volumes": sorted(volume["id"] for volume in entry["volumes"]),
            # One that is larger by now may have room for its filesystem.
            "sizes": {volume["id"]: volume.get("size") for volume in entry["volumes"]},
            "required": entry["required"],
            "filesystem": entry["filesystem"],
            "array": entry["array"],
        }
        for name, entry in sets.items()
    }
    if not whole or not mounted(paths, {"sets": kept}):
        return files.remove(paths.layout)
    content = {
        "version": 1,
        "instance_id": identity.instance_id,
        "digest": digest(section, identity),
        "node": status["node"],
        "claim": status.get("claim"),
        "sets": kept,
    }
    files.make_directories(paths.state)
    files.write_atomic(paths.checked, section.sources.encode(), 0o644)
    return files.write_json(paths.layout, content)


def load(paths: Paths) -> Optional[dict[str, Any]]:
    """The saved layout, or None when there is none that can be read."""
    content = files.read_json(paths.layout)
    return content if _well_formed(content) else None


def _well_formed(content: Any) -> bool:
    """Whether all is there that the fast way relies on: a file that somebody
    has edited must not cost the boot."""
    try:
        names = [content["node"]["prefix"], content["node"]["node_id"]]
        for entry in content["sets"].values():
            names += [entry["mount_path"], *entry["volumes"]]
            if not isinstance(entry["required"], bool):
                return False
            entry["sizes"].get("")
            for thing in (entry["filesystem"], entry["array"]):
                names += [] if thing is None else [thing["uuid"]]
            if not isinstance(entry["sizes"], dict):
                return False
    except (AttributeError, KeyError, TypeError):
        return False
    return content.get("version") == 1 and all(isinstance(n, str) for n in names)


def matches(layout: Mapping[str, Any], section: Section, identity: Identity) -> bool:
    """Whether instance, configuration and tags are those of the layout."""
    return (
        bool(layout.get("sets"))
        and layout.get("instance_id") == identity.instance_id
        and layout.get("digest") == digest(section, identity)
    )


def mounted(paths: Paths, layout: Mapping[str, Any]) -> bool:
    """Whether every set is up, on exactly the recorded volumes (sysfs and
    mountinfo only)."""
    places = {entry["mount_path"] for entry in layout["sets"].values()}
    now = devices.mounts_now(paths, places)
    for entry in layout["sets"].values():
        volumes = frozenset(entry["volumes"])
        found = seen.up_at(now, entry["mount_path"], volumes)
        if found is None or found.volumes != volumes:
            return False
    return True


def moved(paths: Paths, layout: Mapping[str, Any]) -> bool:
    """Whether a set is mounted elsewhere: fstab has had another path for it."""
    entries = layout["sets"].values()
    own = {frozenset(entry["volumes"]): entry["mount_path"] for entry in entries}
    now = [(one.volumes, one.mount.path) for one in devices.mounts_now(paths)]
    return any(
        volumes in own and (volumes, own[volumes]) not in now for volumes, _ in now
    )


def former(paths: Paths, instance_id: str) -> dict[str, set[str]]:
    """The paths at which runs before have had each volume, by its id: what the
    layout and the status of this boot say."""
    found: dict[str, set[str]] = {}
    saved = load(paths)
    if saved is not None and saved.get("instance_id") == instance_id:
        for entry in saved["sets"].values():
            for volume in entry["volumes"]:
                found.setdefault(volume, set()).add(entry["mount_path"])
    for entry in (report.read(paths) or {}).get("sets", {}).values():
        for volume in entry["volumes"] if entry["state"] == "mounted" else ():
            found.setdefault(volume["id"], set()).add(entry["mount_path"])
    return found


def enlarged(paths: Paths, layout: Mapping[str, Any]) -> bool:
    """Whether any recorded volume has another size by now (sysfs only)."""
    sizes = {
        volume: entry["sizes"].get(volume)
        for entry in layout["sets"].values()
        for volume in entry["volumes"]
    }
    return any(
        volume in sizes and sizes[volume] != int(sectors or 0) * devices.SECTOR
        for _, volume, sectors in devices.present(paths)
    )


def present(paths: Paths, layout: Mapping[str, Any]) -> bool:
    """Whether every recorded volume has a disk here."""
    found = devices.scan(paths).by_volume
    return all(
        volume in found
        for entry in layout["sets"].values()
        for volume in entry["volumes"]
    )


def copies(paths: Paths, layout: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A set and a warning for each copy of its volumes that udev has seen here."""
    own = {volume for entry in layout["sets"].values() for volume in entry["volumes"]}
    own |= devices.root_volumes(paths)
    others = {
        name: volume
        for name, volume in devices.claimed(paths).items()
        if volume not in own
    }
    if not others:
        return []
    # Here, so that a boot without any other disk imports none of it.
    from cc_kraken.decide import copies as beside
    from cc_kraken.decide.world import World
    from cc_kraken.state import udev_rules

    world = World(layout["instance_id"], signatures=udev_rules.shown(paths, others))
    return [
        (name, text)
        for name, entry in layout["sets"].items()
        for text in beside.warnings(
            world,
            name,
            entry["volumes"],
            (entry["filesystem"] or {}).get("uuid", ""),
            (entry["array"] or {}).get("uuid", ""),
        )
    ]
