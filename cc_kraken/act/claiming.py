"""Claim a node for an instance that may be any (design, section 13).

Looks, asks :func:`cc_kraken.decide.claiming.next_step`, does what it says, and looks
again, until this instance is a node or its time is over.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Callable, Optional, Union

from cc_kraken.act import founding
from cc_kraken.act.cloud_view import CloudView
from cc_kraken.act.creating import Creating
from cc_kraken.act.executor import Executor
from cc_kraken.act.observe import Observer
from cc_kraken.act.step_actions import Carried
from cc_kraken.act.waiting import Waiting, out_of_time, until_answered
from cc_kraken.cloud.protocol import IN_USE, Cloud
from cc_kraken.config import creation
from cc_kraken.decide import claiming
from cc_kraken.decide.claiming import GiveBack, Lock, Situation, Take
from cc_kraken.decide.plan import PENDING, PLANNED, Plan
from cc_kraken.decide.steps import OF_CLOUD, Attach, Detach, Step
from cc_kraken.decide.world import World
from cc_kraken.machine import devices, files
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Claim,
    Identity,
    KrakenError,
    Node,
    Section,
    Trouble,
    failure,
)
from cc_kraken.state import last_resort
from cc_kraken.state.claim_file import ClaimFile
from cc_kraken.state.report import Report

LOG = logging.getLogger(__name__)

RIVAL_SHOWN = 5.0
"""Seconds: EC2 shows by then who was faster."""
AVOIDED = (5.0, 20.0)
"""Seconds, drawn by chance, for which a node that was given back is left alone."""
UNSURE = ("ec2-unavailable", "ec2-unreachable", "ec2-answer")
"""After these an AttachVolume may have been carried out all the same."""
STANDBY_EVERY = 10.0
"""Seconds: has the group taken this instance out of its warm pool?"""


class Standby(Exception):
    """The instance is in a warm pool, and nobody is to wait for it."""


class Lost(Exception):
    """Another instance has a volume of the node, and nothing of it was used here.

    ``trouble`` waits: there may be another node, and an answer may be old.
    """

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = replace(trouble, waits=True)


@dataclass
class Claiming:
    """The claim of one run.

    ``hold_up(trouble)``: wait a moment for what time may cure, or end the run.
    ``notes``: what a dry run says of the claim.
    """

    section: Section
    identity: Identity
    paths: Paths
    cloud: Cloud
    observer: Observer
    executor: Executor
    creating: Creating
    report: Report
    clock: Clock
    waiting: Waiting
    hold_up: Callable[[Trouble], None]
    prefix: str
    declared: tuple[str, ...]
    dry_run: bool
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._file = ClaimFile(self.paths, self.identity.instance_id, self.clock)
        self._avoided: dict[str, float] = {}
        self._attached: dict[str, str] = {}
        self._let_go: set[str] = set()
        self._strangers: Optional[frozenset[str]] = None
        """Disks here that are of no node of the prefix; None: not looked yet."""

    def lock(self, known: CloudView) -> Node:
        """Get the anchor of a node, whose volumes are ``known`` then; ``hold_up`` ends
        this when the time is over."""
        contradiction = creation.nodes_trouble(self.section)
        if contradiction is not None:
            raise KrakenError(contradiction)
        stand_by(self.cloud, self.waiting, self.hold_up)
        self._give_up_former()
        while True:
            look = until_answered(self._look, self.hold_up)
            node = self._next(look)
            if node is not None:
                known.volumes = look.nodes.get(node.node_id, ())
                for volume_id, device in self._attached.items():
                    known.attached(volume_id, device)
                return node

    def _give_up_former(self) -> None:
        """Forget the claim to a node of another prefix, when nothing of it is here and
        no call can bring anything any more.  Raises KrakenError ``claim-two-nodes``."""
        note = self._file.note
        if note is None or note.prefix == self.prefix:
            return
        me, former = self.identity.instance_id, Node(note.prefix, note.node_id)
        volumes = until_answered(lambda: self.cloud.volumes(former), self.hold_up)
        # Not its anchor alone.
        here = self.observer.volumes_here() & {
            *note.calls,
            *(one.id for one in volumes),
        }
        here |= {one.id for one in volumes if one.attached_to(me)}
        if here:
            raise failure(
                "claim-two-nodes",
                f"{me} is {former} (attached: {', '.join(sorted(here))}), and "
                f"is told to claim a node of {self.prefix}.",
                "An instance can be one node.",
                f"Correct the prefix, or detach the volumes of {former} in EC2, then: "
                "cc-kraken apply. Or replace the instance.",
            )
        while self._is_open():
            self.hold_up(claiming.unsure(former, me))
        self._forget()

    def _is_open(self) -> bool:
        """Whether a call that is noted can still come true."""
        noted = self._file.noted()
        return noted is not None and bool(noted.open)

    def _next(self, look: Situation) -> Optional[Node]:
        """One step of a claim; the node when its anchor is ours, or a dry run has said
        what it would do."""
        answer = claiming.next_step(look)
        if isinstance(answer, Lock):
            return self._locked(look, answer.node_id)
        if isinstance(answer, Trouble):
            return self._stay(look, answer)
        if self.dry_run and isinstance(answer, (Take, GiveBack)):
            return self._planned(answer)
        if isinstance(answer, Take):
            self._take(look, answer)
        elif isinstance(answer, GiveBack):
            self._give_back(look, answer)
        else:
            self._forget()
        return None

    def _stay(self, look: Situation, trouble: Trouble) -> Optional[Node]:
        """Found a node where none is free, or wait."""
        answer: Union[founding.Found, Trouble, None] = None
        try:
            if trouble.kind in claiming.NONE_FREE:
                answer = founding.next_node(self.creating, look)
        except KrakenError as error:
            answer = error.trouble
        if isinstance(answer, founding.Found):
            return self._found(answer)
        self.hold_up(answer or trouble)
        return None

    def _found(self, found: founding.Found) -> Optional[Node]:
        if self.dry_run:
            self.notes = (f"would found {found.node}, and claim it",)
            return found.node
        LOG.info("founding %s: its volumes are created", found.node)
        self._check_time(found.node)
        for trouble in self._carry_out(*found.steps).troubles.values():
            self.hold_up(trouble)
        return None

    def _look(self) -> Situation:
        """Everything of the prefix in this zone; behind the lock the node alone, as
        long as no other disk has come."""
        here = self.observer.volumes_here()
        note, volumes = self._file.note, None
        if self._strangers is not None and note is not None:
            volumes = self.cloud.volumes(Node(self.prefix, note.node_id))
            if here - self._strangers - {volume.id for volume in volumes}:
                volumes = None
        if volumes is None:
            volumes = self.cloud.prefix_volumes(self.prefix, self.identity.zone)
            self._strangers = here - {volume.id for volume in volumes}
        moment = self.clock.now()
        avoided = {key for key, until in self._avoided.items() if until > moment}
        return Situation(
            self.identity.instance_id,
            self.section,
            self.prefix,
            self.identity.zone,
            self.declared,
            tuple(volumes),
            here=here,
            used=self.observer.volumes_in_use(),
            system=devices.root_volumes(self.paths),
            avoided=frozenset(avoided),
            noted=self._file.noted(),
            late=self.waiting.elapsed() >= self.section.boot_wait,
            throttled=sum(self.cloud.throttled.values()),
        )

    def _take(self, look: Situation, answer: Take) -> None:
        """Note it, then attach the anchor."""
        anchor, name = answer.anchor, look.set_of(answer.anchor)
        node = Node(self.prefix, answer.node_id)
        self._check_time(node)
        LOG.info("claiming %s", node)
        self._file.claim(self.prefix, answer.node_id)
        # Before the disk comes: its array is not to be started without the others.
        sets = claiming.declared_sets(look, answer.node_id)
        last_resort.write(self.paths, self.identity.instance_id, sets)
        self._file.sending(anchor)
        self.report.claim(self._file.as_status())
        outcome = self._carry_out(Attach(name, (anchor,)))
        if anchor in outcome.attached:
            self._file.answered(anchor, accepted=True)
            self._attached[anchor] = outcome.attached[anchor]
            return
        trouble = outcome.troubles[name]
        if trouble.kind not in UNSURE:
            self._file.answered(anchor, accepted=False)
        if trouble.kind != IN_USE:
            self.hold_up(trouble)
            return
        # An earlier call may have brought it here: the next look tells.
        if not self._is_open():
            self._forget()
            self._avoided[answer.node_id] = self.clock.now() + RIVAL_SHOWN
            return
        self.hold_up(replace(trouble, waits=True))

    def _check_time(self, node: Node) -> None:
        if self.waiting.left() <= 0:
            self.hold_up(out_of_time(f"claim {node}"))

    def _carry_out(self, *steps: Step) -> Carried:
        plans = [Plan(step.set, PLANNED, (step,)) for step in steps]
        return self.executor.carry_out(plans, World(self.identity.instance_id))

    def _enter(self, state: str) -> None:
        self._file.enter(state)
        self.report.claim(self._file.as_status())

    def _give_back(self, look: Situation, answer: GiveBack) -> None:
        """Note it, then detach what nothing uses; the next looks tell when it is
        given back."""
        node = Node(self.prefix, answer.node_id)
        unsure = claiming.unsure(node, self.identity.instance_id)
        rivals = look.rivals(answer.node_id)
        if rivals:
            held = ", ".join(f"{one} is attached to {i}" for one, i in rivals.items())
            LOG.info("%s is given back: %s", node, held)
        note = self._file.note
        if note is None or note.node_id != answer.node_id:
            self._file.claim(self.prefix, answer.node_id)
        self._enter(claiming.GIVING_BACK)
        pause = random.uniform(*AVOIDED)
        self._avoided[answer.node_id] = self.clock.now() + pause
        if not answer.volume_ids:
            return
        if self._let_go.issuperset(answer.volume_ids):
            # EC2 has said yes to it, and the disk is here still.
            self.hold_up(unsure)
        self._let_go.update(answer.volume_ids)
        name = look.set_of(answer.volume_ids[0])
        outcome = self._carry_out(Detach(name, answer.volume_ids))
        if self.observer.volumes_in_use() & set(outcome.kept):
            # Used since the look: then it stays, and the run tells why it is not up.
            self._enter(claiming.SETTLED)
        elif outcome.kept:
            self.hold_up(unsure)
        for trouble in outcome.troubles.values():
            self.hold_up(trouble)

    def _forget(self) -> None:
        if not self.dry_run:
            self._file.forget()
            files.remove(self.paths.node_env)
        self._file.note = None
        self._attached.clear()
        self._let_go.clear()
        self._strangers = None
        self.report.claim(None)

    def _locked(self, look: Situation, node_id: str) -> Node:
        note = self._file.note
        if note is None or note.node_id != node_id:
            self._file.claim(self.prefix, node_id)
        if not self.dry_run and not self.settled:
            used = any(volume.id in look.used for volume in look.ours(node_id))
            self._file.enter(claiming.SETTLED if used else claiming.LOCKED)
        self.report.claim(self._file.as_status())
        return Node(self.prefix, node_id)

    def _planned(self, answer: Union[Take, GiveBack]) -> Node:
        """What a dry run says instead of doing it."""
        node = Node(self.prefix, answer.node_id)
        if isinstance(answer, Take):
            text = f"would claim {node}, by attaching {answer.anchor} first"
        else:
            text = f"would give {node} back ({', '.join(answer.volume_ids) or 'noted'})"
        self.notes = (text,)
        return node

    @property
    def settled(self) -> bool:
        """Whether this instance is the node: then it is never given back."""
        note = self._file.note
        return note is not None and note.state == claiming.SETTLED

    def note_attachments(self, plans: Sequence[Plan]) -> None:
        """Note what these plans attach, before it is asked for: after the node is
        given back, it can come still.  Raises KrakenError ``cannot-write``."""
        steps = [step for plan in plans for step in plan.steps]
        asked = [step.volume_ids for step in steps if isinstance(step, Attach)]
        if asked and not self.settled:
            self._file.sending_more(volume for ids in asked for volume in ids)

    def check(
        self, claims: Sequence[Claim], plans: Sequence[Plan], world: World
    ) -> list[Plan]:
        """The plans, in which nothing of the node is used before it is settled: when
        its declared sets are whole, and every volume is ours.  Raises :class:`Lost`."""
        if self.settled or self.dry_run:
            return list(plans)
        by_name = {plan.name: plan for plan in plans}
        missing: list[str] = []
        for claim in claims:
            trouble = by_name[claim.name].trouble
            if trouble is not None and trouble.kind.startswith("holder-"):
                LOG.info("%s", trouble)
                raise Lost(trouble)
            if trouble is not None and not trouble.waits:
                continue
            if claim.trouble is None:
                missing += [
                    volume.id
                    for volume in claim.volumes
                    if volume.id not in world.devices
                    and not volume.attached_to(self.identity.instance_id)
                ]
            elif claim.wanted.declared:
                missing.append(f"a part of {claim.name}")  # an answer may be old
        if missing:
            return [_without_use(plan, missing) for plan in plans]
        self._enter(claiming.SETTLED)
        return list(plans)


def stand_by(
    cloud: Cloud, waiting: Waiting, hold_up: Callable[[Trouble], None]
) -> None:
    """Claim nothing in the warm pool of an Auto Scaling group: the instance may be
    stopped there for days.  Raises :class:`Standby`."""
    stood = False
    while until_answered(cloud.lifecycle, hold_up).startswith("Warmed:"):
        if not waiting.limits.background or waiting.clock.stopped:
            raise Standby
        stood = True
        waiting.report.waiting(None)
        waiting.report.standby(True)
        waiting.clock.sleep(STANDBY_EVERY)
        # The time of the run has not begun: no error of the service uses it up.
        waiting.begun = waiting.clock.now()
    if stood:
        waiting.report.standby(False)


def _without_use(plan: Plan, missing: Sequence[str]) -> Plan:
    steps = tuple(step for step in plan.steps if step.phase in OF_CLOUD)
    if steps == plan.steps:
        return plan
    trouble = Trouble(
        "claim-incomplete",
        f"Not all volumes of this node are attached yet: {', '.join(missing)}.",
        "All volumes of the declared sets must be attached before one is used.",
        "This ends when they are attached, or when another instance has one. If it "
        "stays, see cc-kraken status for the reason.",
        waits=True,
    )
    return Plan(plan.name, PENDING, steps, trouble, warnings=plan.warnings)
