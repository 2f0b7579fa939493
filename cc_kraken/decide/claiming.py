"""Which node does an instance become whose NodeId is ``*`` (design, section 13)?

The lock is AttachVolume of the node's anchor, the lowest volume id of its declared
sets: EC2 lets one instance attach it, and the attachment is lease and fence in one.
:func:`next_step` says what to do next; :mod:`cc_kraken.act.claiming` does it, looks
again, and asks again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Optional, Union

from cc_kraken.config import sets, tags, wish
from cc_kraken.decide.attach import DETACHING
from cc_kraken.model import Claim, Node, Section, Trouble, Volume

CLAIMING, LOCKED, SETTLED, GIVING_BACK = "claiming", "locked", "settled", "giving-back"
"""How far a claim has come: the anchor is asked for; it is ours, and no volume of the
node was anybody else's; all volumes are ours, and may be used; another instance was
faster, so this one gives the node back."""

NONE_FREE = ("claim-none-here", "claim-none-free")
"""Why a claimant stays nobody: then a node may be founded."""
CROWD = 100
"""Where EC2 throttles, many instances claim, and only one of them gets the lowest node.
So each takes one of the lowest hundred by chance; throttled again, one of all."""
MOST_NAMED = 10
"""Nodes in one message."""


@dataclass(frozen=True)
class Noted:
    """What an instance has noted of its claim, before this look.

    ``open``: volumes of AttachVolume calls so recent that they can still come true.
    ``accepted``: those of them that EC2 has accepted.
    """

    node_id: str
    state: str
    open: frozenset[str] = frozenset()
    accepted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Situation:
    """Everything that a claim rests on.

    ``volumes``: of the prefix, as EC2 has just shown them.  ``zone``: "" is all.
    ``here``: volumes whose disks are in this machine; ``used``: those that something
    uses; ``system``: those behind / and /boot.  ``avoided``: nodes that another
    instance was faster to get, or that were just given back.  ``late``: volumes that
    are made beside the instance should be there by now.  ``throttled``: how many calls
    of this run EC2 has throttled.
    """

    instance_id: str
    section: Section
    prefix: str
    zone: str
    declared: tuple[str, ...]
    volumes: tuple[Volume, ...]
    here: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()
    system: frozenset[str] = frozenset()
    avoided: frozenset[str] = frozenset()
    noted: Optional[Noted] = None
    late: bool = False
    throttled: int = 0

    @cached_property
    def nodes(self) -> Mapping[str, tuple[Volume, ...]]:
        """The volumes of each node of the prefix, by id."""
        found: dict[str, list[Volume]] = {}
        for volume in sorted(self.volumes, key=lambda volume: volume.id):
            node = tags.node_of(volume.tags, self.section.tag_namespace)
            if node is None or node.prefix != self.prefix:
                continue
            if volume.zone != (self.zone or volume.zone) or volume.id in self.system:
                continue
            if node.node_id != tags.ANY_NODE and volume.state not in sets.LEAVING:
                found.setdefault(node.node_id, []).append(volume)
        return {key: tuple(found[key]) for key in sorted(found, key=by_number)}

    def members(self, node_id: str) -> tuple[Volume, ...]:
        """The volumes of the node's declared sets, by id."""
        names = set(self.declared)
        return tuple(
            volume
            for volume in self.nodes.get(node_id, ())
            if self._set(volume) in names
        )

    def _set(self, volume: Volume) -> str:
        name = tags.read(volume.tags, self.section.tag_namespace).get("volume_name", "")
        pins = wish.pins(self.section, name)
        return "" if pins and volume.id not in pins else name

    def set_of(self, volume_id: str) -> str:
        return next(self._set(one) for one in self.volumes if one.id == volume_id)

    def anchor(self, node_id: str) -> Optional[str]:
        return next((volume.id for volume in self.members(node_id)), None)

    def is_ours(self, volume: Volume) -> bool:
        return volume.id in self.here or volume.attached_to(self.instance_id)

    def ours(self, node_id: str) -> tuple[Volume, ...]:
        return tuple(one for one in self.nodes.get(node_id, ()) if self.is_ours(one))

    def rivals(self, node_id: str) -> dict[str, str]:
        """The volumes of the node that other instances hold: id to who holds it.

        All of them, not only those of declared sets: an instance of another template
        may declare others.
        """
        return {
            volume.id: one.instance_id or "something that EC2 does not name"
            for volume in self.nodes.get(node_id, ())
            for one in volume.attachments
            if one.instance_id != self.instance_id and volume.id not in self.here
        }


# ------------------------------------------------------------------- answers


@dataclass(frozen=True)
class Lock:
    """The anchor is ours, and no volume of the node is anybody else's."""

    node_id: str


@dataclass(frozen=True)
class Take:
    """Note it, and attach the anchor."""

    node_id: str
    anchor: str


@dataclass(frozen=True)
class GiveBack:
    """Note it, and detach these, which nothing uses: another instance has a member."""

    node_id: str
    volume_ids: tuple[str, ...]


@dataclass(frozen=True)
class Forget:
    """Nothing is left of the claim to this node, and nothing can come any more."""

    node_id: str


Answer = Union[Lock, Take, GiveBack, Forget, Trouble]


def next_step(look: Situation) -> Answer:
    """What a claimant does next: a Trouble says what it waits for, or why it ends.

    What is ours already comes first: the disks here and what EC2 shows, then the
    note.  Only an instance that is nobody, and can be nobody yet, chooses.
    """
    if not look.declared:
        return _undeclared(look)
    held = [node_id for node_id in look.nodes if look.ours(node_id)]
    noted = look.noted
    if len(held) > 1:
        return _two_nodes(look, held)
    if noted is not None and noted.state == GIVING_BACK:
        return _giving_back(look, noted)
    if held and noted is not None and noted.node_id != held[0]:
        return _unsure(look, noted) if noted.open else Forget(noted.node_id)
    if held:
        return _held(look, held[0])
    if noted is not None:
        return _unseen(look, noted)
    return _choice(look)


def _held(look: Situation, node_id: str) -> Answer:
    """Something of the node is ours: it is kept, if nobody else has a member."""
    kept = look.noted is not None and look.noted.state == SETTLED
    ours = look.ours(node_id)
    if kept or any(volume.id in look.used for volume in ours):
        return Lock(node_id)  # what is used is never given back
    if look.rivals(node_id):
        return GiveBack(node_id, _detachable(look, node_id))
    anchor = look.anchor(node_id)
    accepted = look.noted.accepted if look.noted else frozenset()
    if anchor is None or anchor in accepted or anchor in {one.id for one in ours}:
        return Lock(node_id)
    return Take(node_id, anchor)


def _detachable(look: Situation, node_id: str) -> tuple[str, ...]:
    return tuple(
        volume.id
        for volume in look.ours(node_id)
        if not any(one.state in DETACHING for one in volume.attachments)
    )


def _unseen(look: Situation, noted: Noted) -> Answer:
    """The note says that a node was asked for, and nothing shows it."""
    anchor = look.anchor(noted.node_id)
    if not noted.open:
        if anchor is not None and not _unfree(look, noted.node_id):
            return Take(noted.node_id, anchor)
        return Forget(noted.node_id)
    if anchor is None or look.rivals(noted.node_id):
        return GiveBack(noted.node_id, ())
    if anchor in noted.accepted:
        return Lock(noted.node_id)  # nobody else had a member at this second look
    return Take(noted.node_id, anchor)


def _giving_back(look: Situation, noted: Noted) -> Answer:
    """Given back is what neither the machine nor EC2 shows any more, and what no
    call can bring any more."""
    if not look.ours(noted.node_id) and not noted.open:
        return Forget(noted.node_id)
    volume_ids = _detachable(look, noted.node_id)
    if volume_ids:
        return GiveBack(noted.node_id, volume_ids)
    return _unsure(look, noted)


def _unsure(look: Situation, noted: Noted) -> Trouble:
    return unsure(Node(look.prefix, noted.node_id), look.instance_id)


# ------------------------------------------------------------------ a choice


def _choice(look: Situation) -> Answer:
    if not look.nodes:
        return _none_here(look)
    free = (
        node_id
        for node_id in ordered(look)
        if node_id not in look.avoided and not _unfree(look, node_id)
    )
    among = CROWD ** min(look.throttled, 2)
    some = list(islice(free, among if look.section.claim_order == "lowest" else 1))
    if some:
        node_id = min(some, key=partial(_chance, look))
        return Take(node_id, look.anchor(node_id) or "")
    return _none_free(look)


def ordered(look: Situation, nodes: Optional[Sequence[str]] = None) -> Sequence[str]:
    """The nodes, or these, in the order in which they are tried: the lowest first, or
    spread, by chance that is this instance's own."""
    nodes = tuple(look.nodes) if nodes is None else nodes
    if look.section.claim_order == "lowest":
        return sorted(nodes, key=by_number)
    return sorted(nodes, key=partial(_chance, look))


def _chance(look: Situation, node_id: str) -> bytes:
    return hashlib.sha256(f"{look.instance_id} {node_id}".encode()).digest()


def by_number(node_id: str) -> tuple[int, int, str]:
    """To sort nodes: numbers first, as numbers."""
    plain = node_id.isascii() and node_id.isdigit()
    return (0, int(node_id), node_id) if plain else (1, 0, node_id)


def _unfree(look: Situation, node_id: str) -> str:
    """Why a node cannot be chosen; "" where it can."""
    if look.anchor(node_id) is None:
        return f"has no volume of {' or '.join(look.declared)}"
    rivals = look.rivals(node_id)
    if rivals:
        return "held by " + " and ".join(sorted(set(rivals.values())))
    for volume in look.members(node_id):
        if volume.state != "available" or volume.attachments:
            return f"{volume.id} is {volume.state}"
    for claim in declared_sets(look, node_id):
        if claim.trouble is not None:
            return claim.trouble.found.partition(";")[0].rstrip(".")
    return ""


def declared_sets(look: Situation, node_id: str) -> tuple[Claim, ...]:
    """The declared sets of one node, each judged complete or not."""
    node = Node(look.prefix, node_id)
    volumes = look.nodes[node_id]
    found = sets.claims(
        look.section, node, look.zone, volumes, look.declared, look.system
    )
    return tuple(claim for claim in found.claims if claim.wanted.declared)


# ------------------------------------------------------------------ in words


def _tag(look: Situation, tag: str) -> str:
    return tags.name(look.section.tag_namespace, tag)


def _undeclared(look: Situation) -> Trouble:
    return Trouble(
        "claim-undeclared",
        f"{look.instance_id} may be any node of {look.prefix} "
        f"({_tag(look, tags.NODE_ID)}=*), and nothing says which sets a node has.",
        "Its sets must be declared, so that no node is taken that lacks one.",
        f"Name them in the instance's tag {_tag(look, tags.VOLUMES)} (log,data), or "
        "under volumes: in the section.",
    )


def _two_nodes(look: Situation, held: Sequence[str]) -> Trouble:
    """Two nodes whose disks are here; what EC2 alone shows may be old."""
    shown = ", ".join(
        f"{look.prefix}/{node_id} ({', '.join(one.id for one in look.ours(node_id))})"
        for node_id in held
    )
    disks = [
        node_id
        for node_id in held
        if any(volume.id in look.here for volume in look.ours(node_id))
    ]
    return Trouble(
        "claim-two-nodes",
        f"Volumes of {len(held)} nodes are attached to {look.instance_id}: {shown}.",
        "An instance can be one node.",
        "Detach the volumes of all nodes but one in EC2, then: cc-kraken apply.",
        waits=len(disks) < 2,
    )


def unsure(node: Node, instance_id: str) -> Trouble:
    """That something of a node which is given up may still come."""
    return Trouble(
        "claim-giving-back",
        f"{instance_id} gives up the node {node}, and EC2 may still attach a volume of "
        "it here.",
        "Nothing of it may be attached here before another node is claimed.",
        "This ends by itself within a minute. If it stays, detach the volumes of "
        f"{node} from {instance_id} in EC2.",
        waits=True,
    )


def _near_misses(look: Situation) -> str:
    """Volumes that are of no node, because of the value of their NodeId."""
    namespace = look.section.tag_namespace
    words = []
    for volume in look.volumes:
        if tags.read(volume.tags, namespace).get("node_id") == tags.ANY_NODE:
            why = f"{_tag(look, tags.NODE_ID)}=*, which is for instances"
        else:
            why = " and ".join(tags.with_blanks(volume.tags, namespace))
        if why:
            words.append(f" {volume.id} has {why}.")
    more = f" And {len(words) - MOST_NAMED} more." if len(words) > MOST_NAMED else ""
    return "".join(words[:MOST_NAMED]) + more


def _none_here(look: Situation) -> Trouble:
    return Trouble(
        "claim-none-here",
        f"No volume in {look.zone} has the tag {_tag(look, tags.PREFIX)}="
        f"{look.prefix} and the id of a node.{_near_misses(look)}",
        f"There must be a node of {look.prefix} in {look.zone}.",
        f"Create the volumes of a node in {look.zone}, or launch instances in the "
        "zones that have some.",
        waits=not look.late,
    )


def _none_free(look: Situation) -> Trouble:
    named = list(look.nodes)[:MOST_NAMED]
    faster = "another instance was faster just now"
    reasons = "; ".join(
        f"{look.prefix}/{node_id}: {_unfree(look, node_id) or faster}"
        for node_id in named
    )
    if len(look.nodes) > len(named):
        reasons += f"; and {len(look.nodes) - len(named)} more"
    return Trouble(
        "claim-none-free",
        f"No node of {look.prefix} is free in {look.zone} ({reasons})."
        f"{_near_misses(look)}",
        "One must be free, with all volumes of its declared sets.",
        "A node is claimed as soon as its instance is gone: terminate one that is too "
        "many. Or create the volumes of another node.",
        waits=True,
    )
