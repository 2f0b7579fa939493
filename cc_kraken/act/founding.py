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
from cc_kraken.decide.claiming import Look
from cc_kraken.decide.creating import Wait
from cc_kraken.decide.steps import CreateVolumes
from cc_kraken.model import Claim, Node, Trouble

OLDEST = 120.0
"""Seconds for which it is believed that a node is in another zone."""


@dataclass(frozen=True)
class Found:
    """Create these volumes of the node."""

    node: Node
    steps: tuple[CreateVolumes, ...]


@dataclass(frozen=True)
class _Skip:
    """Nothing can be founded here; the trouble is told if there is no other node."""

    trouble: Optional[Trouble] = None


def next_node(creating: Creating, look: Look) -> Union[Found, Trouble, None]:
    """The first listed node that can be founded, or that is about to be there.

    None: there is none.  Raises KrakenError where EC2 cannot be asked.
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
        if not isinstance(answer, _Skip):
            return answer
        refused = refused or answer.trouble
    # Another node may become free in the meantime.
    return None if refused is None else replace(refused, waits=True)


def _judge(creating: Creating, look: Look, node: Node) -> Union[Found, Trouble, _Skip]:
    here = {volume.id: volume for volume in look.nodes.get(node.node_id, ())}
    every = {**{volume.id: volume for volume in creating.shown(node)}, **here}
    if any(volume.zone != look.zone for volume in every.values()):
        return _Skip()
    claims = sets.claims(
        look.section, node, look.zone, tuple(every.values()), look.declared, look.system
    ).claims
    steps: list[CreateVolumes] = []
    awaited: list[Trouble] = []
    for claim in claims:
        if not claim.wanted.declared or claim.trouble is None:
            continue
        answer = _of_set(creating, node, claim, claims)
        if isinstance(answer, _Skip):
            return answer
        if isinstance(answer, Trouble):
            awaited.append(answer)
        else:
            steps.append(answer)
    if steps:
        return Found(node, tuple(steps))
    return awaited[0] if awaited else _Skip()


def _of_set(
    creating: Creating, node: Node, claim: Claim, claims: tuple[Claim, ...]
) -> Union[CreateVolumes, Trouble, _Skip]:
    assert claim.trouble is not None
    if claim.trouble.kind == "volume-creating":
        return claim.trouble
    if not wants(claim):
        return _Skip()
    answer = creating.next_step(node, claim, claims)
    if isinstance(answer, CreateVolumes):
        return answer
    if isinstance(answer, Wait):
        return answer.trouble
    return _Skip(answer)
