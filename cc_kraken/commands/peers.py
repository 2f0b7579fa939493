"""``cc-kraken peers``: who else is in the cluster.

Asked of EC2 each time, and never kept.  It prints all or, when EC2 has not answered
everything, nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from string import Formatter
from typing import Any, Optional

from cc_kraken.act.pacing import Backoff
from cc_kraken.boot import cloud_init, stage
from cc_kraken.boot.configured import is_ec2
from cc_kraken.cloud.protocol import Cloud
from cc_kraken.commands.shown import aligned
from cc_kraken.commands.wait import OFF
from cc_kraken.config import tags
from cc_kraken.config.values import quoted
from cc_kraken.decide import peers
from cc_kraken.decide.peers import HELD, UNCLEAR, Peer
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Identity, KrakenError, Section, Trouble, failure

LOG = logging.getLogger(__name__)

FIELDS = (
    "prefix",
    "node_id",
    "instance_id",
    "private_ip",
    "private_dns",
    "zone",
    "anchor",
)
"""What ``--format`` can name."""
ASK_AGAIN = (3.0, 1.5, 60.0)
"""Seconds, growth, longest: many instances wait for one another at the same time."""


def add_options(parser: argparse.ArgumentParser) -> None:
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="as JSON")
    shape.add_argument(
        "--format",
        type=template,
        metavar="TEXT",
        help="a text for each node that is held, with {" + "}, {".join(FIELDS) + "}",
    )
    parser.add_argument(
        "--join",
        metavar="TEXT",
        help="what stands between those texts (default: a new line)",
    )
    parser.add_argument(
        "--wait", type=_number, metavar="N", help="wait until N nodes are held"
    )
    parser.set_defaults(usage=parser.error)


def template(text: str) -> str:
    """A ``--format`` that names nothing but FIELDS."""
    try:
        for _, field, spec, conversion in Formatter().parse(text):
            if field is not None and (field not in FIELDS or spec or conversion):
                known = ", ".join(FIELDS)
                raise ValueError(f"{{{field}}} is none of its fields ({known})")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return text


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of nodes")
    return number


def command(options: argparse.Namespace) -> int:
    """What ``cc-kraken peers`` does; its exit status."""
    if options.join is not None and options.format is None:
        options.usage("--join goes with --format")
    section, datasource = stage.load_by_hand(Paths())
    if not is_ec2(datasource):
        raise _unknown("this is no EC2 instance")
    if section is None:
        raise _unknown("there is no kraken section and no file of ours")
    if not section.enabled:
        raise _unknown(OFF)
    # Here, so that no other command imports it.
    from cc_kraken.cloud.ec2 import Ec2

    identity = cloud_init.identity(datasource)
    query = Query(section, identity, Ec2(identity, section), Clock())
    if options.wait:
        found = query.until_held(options.wait, clear=options.format is not None)
    else:
        found = query.once()
    if options.json:
        print(as_json(found, identity))
    elif options.format is not None:
        join = "\n" if options.join is None else options.join
        print(as_list(found, options.format, join))
    else:
        print(as_table(found, identity))
    return 0


@dataclass
class Query:
    """The nodes of this instance's prefix, as the cloud shows them."""

    section: Section
    identity: Identity
    cloud: Cloud
    clock: Clock
    _who: Optional[tuple[str, tuple[str, ...]]] = None

    def once(self, at_least: int = 0) -> tuple[Peer, ...]:
        """All nodes.  Who holds them is asked for only where ``at_least`` of them
        have a holder.  Raises KrakenError when one answer is missing."""
        prefix, declared = self._prefix()
        volumes = self.cloud.prefix_volumes(prefix)
        found = peers.by_anchor(self.section, prefix, declared, volumes)
        if not found:
            tag = tags.name(self.section.tag_namespace, tags.PREFIX)
            raise _unknown(f"EC2 shows no node with {tag}={prefix}", waits=True)
        ids = [one.instance_id for one in found if one.instance_id]
        if len(ids) < at_least:
            return found
        return peers.with_holders(found, self.cloud.holders(ids))

    def until_held(self, number: int, *, clear: bool = False) -> tuple[Peer, ...]:
        """The nodes, as soon as that many are held; ``clear``: and none is unclear."""
        pauses = Backoff(*ASK_AGAIN)
        end = self.clock.now() + self.section.wait
        logged = ""
        while True:
            try:
                found = self.once(number)
                _require(found, number, clear)
                return found
            except KrakenError as error:
                trouble = error.trouble
            pause = pauses.interval()
            if not trouble.waits or self.clock.now() + pause > end:
                raise KrakenError(trouble)
            if str(trouble) != logged:
                logged = str(trouble)
                LOG.info("Waiting: %s", logged)
            self.clock.sleep(pause)

    def _prefix(self) -> tuple[str, tuple[str, ...]]:
        """The prefix, and the sets that a node of it has."""
        if self._who is None:
            own = self.cloud.instance_tags()
            node = tags.node(self.section, own, self.identity.instance_id)
            if isinstance(node, Trouble):
                raise KrakenError(node)
            self._who = node.prefix, tags.declared(self.section, own)
        return self._who


def _require(found: Sequence[Peer], number: int, clear: bool) -> None:
    states = [one.state for one in found]
    held = states.count(HELD)
    if held >= number and not (clear and UNCLEAR in states):
        return
    others = "; ".join(peers.not_held(found))
    also = f"; EC2 shows {len(found)} in all" if len(found) < number else ""
    raise failure(
        "peers-missing",
        f"{held} of {number} nodes are held ({others or 'no other'}{also}).",
        "Each of them must have an instance that holds its first volume.",
        "Look at cc-kraken status on the instances that are to be these nodes.",
        waits=True,
    )


def _unknown(why: str, *, waits: bool = False) -> KrakenError:
    return failure(
        "peers-unknown",
        f"Nobody can say who the nodes of the cluster are: {why}.",
        "",
        "See cc-kraken status, and the tags of the volumes.",
        waits=waits,
    )


def as_json(found: Sequence[Peer], identity: Identity) -> str:
    """An object with ``instance_id``, this instance's own, and the ``nodes``."""
    nodes: list[dict[str, Any]] = [asdict(one) for one in found]
    return json.dumps({"instance_id": identity.instance_id, "nodes": nodes}, indent=2)


def as_table(found: Sequence[Peer], identity: Identity) -> str:
    rows: list[tuple[str, ...]] = [("NODE", "STATE", "INSTANCE", "ADDRESS", "ZONE", "")]
    for one in found:
        here = one.instance_id == identity.instance_id
        stands = "" if one.instance_state in ("", "running") else one.instance_state
        note = one.reason or ("this instance" if here else stands)
        cells = (one.instance_id, one.private_ip, one.zone)
        shown = quoted(one.node_id) if one.state == UNCLEAR else one.node_id
        rows.append((shown, one.state, *(cell or "-" for cell in cells), note))
    return "\n".join(aligned(rows))


def as_list(found: Sequence[Peer], text: str, join: str) -> str:
    """``text`` for each node that is held.  Raises KrakenError where the list would
    lack a node that may be there, or would not be read as it is meant."""
    for one in found:
        if one.state == UNCLEAR:
            raise _unknown("; ".join(peers.not_held([one])), waits=True)
    named = [field for _, field, _, _ in Formatter().parse(text) if field]
    held = [asdict(one) for one in found if one.state == HELD]
    for values in held:
        for field in named:
            _check(values, field, join)
    return join.join(text.format(**values) for values in held)


def _check(values: dict[str, str], field: str, join: str) -> None:
    node, value = f"{values['prefix']}/{values['node_id']}", values[field]
    if not value:
        raise failure(
            "peer-unfit",
            f"{values['instance_id']}, which is {node}, has no {field}.",
            "Every node in the list must have one.",
            "Name another field in --format.",
        )
    if join and join in value:
        raise failure(
            "peer-unfit",
            f"The {field} of {node}, {quoted(value)}, holds {join!r}, which "
            "stands between the nodes of the list.",
            "Who reads the list must see where a node ends.",
            "Choose another --join, or another NodeId.",
        )
