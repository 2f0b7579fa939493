"""Found a node for a claimant: create the volumes of one that ``node_ids`` lists.

Only where no existing node is free.  What is founded is claimed by the ordinary
protocol: two claimants that found one node get the same volumes, by their tokens, and
one of them gets the anchor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Union

from cc_kraken.act.creating import Creating, wants
from cc_kraken.config import creation, sets
from cc_kraken.decide import claiming
from cc_kraken.decide.claiming import Situation
from cc_kraken.decide.creating import Wait
from cc_kraken.decide.steps import CreateVolumes
from cc_kraken.model import Node, Trouble

OLDEST = 120.0
"""Seconds for which it is believed that a node is in another zone."""


@dataclass(frozen=True)
class Found:
    """Create these volumes of the node."""

    node: Node
    steps: tuple[CreateVolumes, ...]


def next_node(creating: Creating, look: Situation) -> Union[Found, Trouble, None]:
    """The first listed node that can be founded, or why it is awaited; where there is
    none, why.

    None: nothing more is to be said.  Raises KrakenError where EC2 cannot be asked.
    """
    listed = [
        node_id
        for node_id in claiming.ordered(look, creation.nodes(look.section, look.zone))
        if node_id not in look.avoided and not look.rivals(node_id)
    ]
    if not listed:
        return None
    creating.refresh(OLDEST)
    refused: Optional[Trouble] = None
    for node_id in listed:
        answer = _judge(creating, look, Node(look.prefix, node_id))
        if isinstance(answer, Found) or (answer is not None and answer.waits):
            return answer
        refused = refused or answer
    # Another node may become free in the meantime.
    return refused and replace(refused, waits=True)


def _judge(
    creating: Creating, look: Situation, node: Node
) -> Union[Found, Trouble, None]:
    """One node: found it, wait for what the trouble says, or (None, or a trouble
    that time does not cure) try the next."""
    here = {volume.id: volume for volume in look.nodes.get(node.node_id, ())}
    every = {**{volume.id: volume for volume in creating.shown(node)}, **here}
    if any(volume.zone != look.zone for volume in every.values()):
        return None
    claims = sets.claims(
        look.section, node, look.zone, tuple(every.values()), look.declared, look.system
    ).claims
    steps: list[CreateVolumes] = []
    awaited: list[Trouble] = []
    for claim in claims:
        if not claim.wanted.declared or claim.trouble is None:
            continue
        if claim.trouble.kind == "volume-creating":
            awaited.append(claim.trouble)
            continue
        if not wants(claim):
            return None
        answer = creating.next_step(node, claim, claims)
        if isinstance(answer, CreateVolumes):
            steps.append(answer)
        elif isinstance(answer, Wait):
            awaited.append(answer.trouble)
        else:
            return answer
    if steps:
        return Found(node, tuple(steps))
    return awaited[0] if awaited else None
