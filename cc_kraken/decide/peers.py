"""Who is which node of a prefix: the instance that holds a node's anchor *is* that
node (:attr:`cc_kraken.decide.claiming.Situation.anchor` has the rule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cc_kraken.config import tags
from cc_kraken.config.values import odd_character
from cc_kraken.decide import claiming
from cc_kraken.decide.attach import DETACHING
from cc_kraken.decide.claiming import Situation
from cc_kraken.model import Holder, Section, Volume

HELD, LEAVING, VACANT, UNCLEAR = "held", "leaving", "vacant", "unclear"
"""An instance is the node; one that was it goes away; nobody is it; or it cannot be
said, and ``reason`` says why."""

GOING = ("shutting-down", "terminated")


@dataclass(frozen=True)
class Peer:
    """One node of the prefix.  Of who holds it only while someone does; the addresses
    are those of its first network interface, "" where it has none."""

    prefix: str
    node_id: str
    state: str
    zone: str = ""
    anchor: str = ""
    instance_id: str = ""
    instance_state: str = ""
    private_ip: str = ""
    private_dns: str = ""
    reason: str = ""


def by_anchor(
    section: Section, prefix: str, declared: Sequence[str], volumes: Sequence[Volume]
) -> tuple[Peer, ...]:
    """The nodes in order, as far as their volumes tell.

    ``volumes``: of the prefix, in all zones.  ``declared``: the sets of a node; none:
    all that it has.
    """
    nodes = Situation("", section, prefix, "", (), tuple(volumes)).nodes
    return tuple(
        _node(_look(section, prefix, declared, own), node_id)
        for node_id, own in nodes.items()
    )


def with_holders(
    peers: Sequence[Peer], holders: Mapping[str, Holder]
) -> tuple[Peer, ...]:
    """The same, with what EC2 says of the instances."""
    return tuple(
        _with_holder(one, holders[one.instance_id]) if one.instance_id else one
        for one in peers
    )


def _look(
    section: Section, prefix: str, declared: Sequence[str], own: tuple[Volume, ...]
) -> Situation:
    """A look at the volumes of one node."""
    said = [tags.read(volume.tags, section.tag_namespace) for volume in own]
    names = [one["volume_name"] for one in said if "volume_name" in one]
    sets = tuple(declared) or tuple(dict.fromkeys(names))
    return Situation("", without_others_pins(section, own), prefix, "", sets, own)


def without_others_pins(section: Section, own: Sequence[Volume]) -> Section:
    """The section for the node of these volumes: pins are about one node, and those
    of another are left out."""
    ids = {volume.id for volume in own}
    wishes: dict[str, Mapping[str, object]] = {}
    for name, wish in section.volumes.items():
        pins = wish.get("volume_ids") or ()
        if not ids.intersection(pins):  # type: ignore[arg-type]
            wish = {key: wish[key] for key in wish if key != "volume_ids"}
        wishes[name] = wish
    return replace(section, volumes=wishes)


def _node(look: Situation, node_id: str) -> Peer:
    own = look.nodes[node_id]
    members = look.members(node_id) or (() if look.declared else own)
    first = (members or own)[0]
    anchor = first.id if members else ""
    peer = Peer(look.prefix, node_id, VACANT, first.zone, anchor)
    if not any(one.attachments for one in own):
        return peer
    reason = _unclear(look, node_id, members)
    if reason:
        return Peer(look.prefix, node_id, UNCLEAR, reason=reason)
    for one in first.attachments:
        state = LEAVING if one.state in DETACHING else HELD
        peer = replace(peer, state=state, instance_id=one.instance_id or "")
    return peer


def _unclear(look: Situation, node_id: str, members: Sequence[Volume]) -> str:
    """Why it cannot be said who a node is; "" where it can."""
    odd = odd_character(node_id)
    if odd:
        return f"its NodeId has the character {odd}"
    if not members:
        return f"it has no volume of {' or '.join(look.declared)}"
    for claim in claiming.declared_sets(look, node_id):
        there, wanted = len(claim.volumes), claim.wanted.members
        if there != wanted:
            # The anchor may be one that is not shown, or not the one that is.
            return f"its set {claim.name} has {there} of {wanted} volumes"
    if len({volume.zone for volume in members}) > 1:
        return "its volumes are in several zones"
    attachments = members[0].attachments
    if len(attachments) > 1 or any(not one.instance_id for one in attachments):
        return f"EC2 does not name the one instance that has {members[0].id}"
    return ""


def _with_holder(peer: Peer, holder: Holder) -> Peer:
    if holder.state == "gone":
        reason = f"EC2 does not show {peer.instance_id}, which has its anchor"
        return replace(peer, state=UNCLEAR, reason=reason)
    return replace(
        peer,
        state=LEAVING if holder.state in GOING else peer.state,
        instance_state=holder.state,
        private_ip=holder.private_ip,
        private_dns=holder.private_dns,
    )


def not_held(peers: Sequence[Peer]) -> list[str]:
    """A few words on each node that nobody is."""
    return [
        f"{one.prefix}/{one.node_id} is {one.state}"
        + (f", because {one.reason}" if one.reason else "")
        for one in peers
        if one.state != HELD
    ]
