"""Which tags make volumes that have data a set of a node (``fleet --adopt``)?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from cc_kraken.config import sets, tags
from cc_kraken.decide.fleet import abroad
from cc_kraken.model import Instance, KrakenError, Node, Section, Volume, failure


def wanted_tags(
    section: Section,
    target: str,
    ids: Sequence[str],
    chosen: Sequence[Volume],
    tagged: Sequence[Volume],
    instances: Mapping[str, Instance],
) -> dict[str, str]:
    """The tags for all of ``ids``; ``target`` is ``prefix/node_id/set``, or the set
    alone where the instance that holds the volumes says its node.

    ``chosen``: those of them that EC2 knows.  ``tagged``: all volumes with tags of
    ours.  The layout is that of the set's other volumes, else the one that most nodes
    of the prefix have.  Raises KrakenError.
    """
    space = section.tag_namespace
    missing = sorted(set(ids) - {one.id for one in chosen})
    if missing:
        _refuse(f"EC2 shows no {', '.join(missing)} in this region.")
    place, _, name = target.rpartition("/")
    node = _node(section, place, chosen, instances)
    for volume in chosen:
        _check(section, node, name, volume, instances)
    own: list[Volume] = []
    others: list[Volume] = []
    for volume in tagged:
        known = tags.read(volume.tags, space)
        if (known.get("prefix"), known.get("volume_name")) == (node.prefix, name):
            mine = known.get("node_id") == node.node_id
            (own if mine else others).append(volume)
    found = {
        tags.name(space, tags.PREFIX): node.prefix,
        tags.name(space, tags.NODE_ID): node.node_id,
        tags.name(space, tags.VOLUME_NAME): name,
    }
    found.update(_layout(own or others, space))
    if not own:
        for tag in (tags.MEMBERS, tags.VOLUME_SIZE):
            found.pop(tags.name(space, tag), None)
        if len(ids) > 1:
            found[tags.name(space, tags.MEMBERS)] = str(len(set(ids)))
    _judge(section, node, chosen, own, found)
    return found


def _node(
    section: Section,
    place: str,
    chosen: Sequence[Volume],
    instances: Mapping[str, Instance],
) -> Node:
    prefix, _, node_id = place.rpartition("/")
    if prefix and node_id:
        return Node(prefix, node_id)
    holders = {one.instance_id or "" for each in chosen for one in each.attachments}
    if not place and len(holders) == 1:
        holder = instances.get(holders.pop())
        who = tags.node(section, holder.tags if holder else None)
        if isinstance(who, Node):
            return who
    _refuse("Nobody says of which node the set is.", "Name it: kafka/0/data.")


def _check(
    section: Section,
    node: Node,
    name: str,
    volume: Volume,
    instances: Mapping[str, Instance],
) -> None:
    own = tags.read(volume.tags, section.tag_namespace)
    wish = {"prefix": node.prefix, "node_id": node.node_id, "volume_name": name}
    for key, value in wish.items():
        if own.get(key, value) != value:
            _refuse(
                f"{volume.id} has {tags.name(section.tag_namespace, tags.tag_of(key))}="
                f"{own[key]} already.",
                "Take its tags off first, if it is to belong to another set.",
            )
    for one in volume.attachments:
        holder = instances.get(one.instance_id or "")
        if holder and one.device == holder.root_device:
            _refuse(f"{volume.id} is the root volume of {holder.instance_id}.")


def _layout(volumes: Sequence[Volume], namespace: str) -> dict[str, str]:
    """What most of these say, tag by tag; nothing where most say nothing."""
    found = {}
    for tag in tags.SET_TAGS:
        whole = tags.name(namespace, tag)
        said = Counter(volume.tags.get(whole, "").strip() for volume in volumes)
        for value, _ in said.most_common(1):
            if value:
                found[whole] = value
    return found


def _judge(
    section: Section,
    node: Node,
    chosen: Sequence[Volume],
    own: Sequence[Volume],
    found: Mapping[str, str],
) -> None:
    """As an instance would, once the volumes have these tags."""
    every = {one.id: one for one in own}
    for one in chosen:
        every[one.id] = replace(one, tags={**one.tags, **found})
    claims = sets.claims(section, node, chosen[0].zone, tuple(every.values())).claims
    trouble = claims[0].trouble
    if trouble is not None:
        raise KrakenError(abroad(trouble, f"an instance of {node}"))


def _refuse(found: str, remedy: str = "Name other volumes.") -> NoReturn:
    raise failure("adopt-refused", found, "", remedy)


def is_mounted(found: Mapping[str, str], namespace: str) -> bool:
    """Whether these tags say where and how the set is mounted."""
    keys: tuple[str, ...] = ("FsType", "MountPath")
    return all(tags.name(namespace, key) in found for key in keys)
