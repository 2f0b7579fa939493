"""One run: look, decide, do, look again, until nothing is left to do.

The loop ends when every set is up or refused, or when its time is over.  A
run that was cut off at any point is finished by the next one, because every
round starts from what is found.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Callable, Optional, Union

from cc_kraken.act import plan_report
from cc_kraken.act.claiming import Claiming, Lost, Standby
from cc_kraken.act.cloud_view import CloudView
from cc_kraken.act.creating import Creating
from cc_kraken.act.executor import Executor
from cc_kraken.act.observe import Observer, accounts_come
from cc_kraken.act.waiting import Limits, Waiting
from cc_kraken.act.work import Work, asks
from cc_kraken.cloud.protocol import Cloud
from cc_kraken.config import sets, tags
from cc_kraken.decide import decision
from cc_kraken.decide.plan import Plan
from cc_kraken.decide.steps import ATTACH, CREATE
from cc_kraken.decide.world import World
from cc_kraken.machine import command, devices, files
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Claim,
    Claimant,
    Identity,
    KrakenError,
    Node,
    Section,
    Trouble,
)
from cc_kraken.state import array_history, last_resort, node_env, udev_rules
from cc_kraken.state.report import DONE, FAILED, PENDING, STANDBY, Report

LOG = logging.getLogger(__name__)

CROWDED = 60.0
"""The longest interval in seconds after a throttle, before the node is known: each of
a thousand claimants reads a list of several pages.  Who claims waits a quarter of the
time that has passed, or nobody would ask when the last few could be served."""

IDENTIFY = "identify"
TITLES = {
    IDENTIFY: "1: who is this instance, and which volumes are its own",
    CREATE: "2: creating the volumes that do not exist",
    ATTACH: "3: attaching volumes",
    "assemble": "4: preparing volumes and arrays",
    "mkfs": "5: making filesystems",
    "mount": "6: mounting",
    "grow": "7: growing what was enlarged",
}
"""The phases, as a person reads them in the log."""


class _Over(Exception):
    """The run ends before it knows which sets there are."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


@dataclass
class Run:
    """A run for one node; :meth:`go` returns its end state.

    ``entered`` hears that a phase begins, and the one before has ended; None: none
    begins.
    """

    section: Section
    identity: Identity
    paths: Paths
    report: Report
    limits: Limits
    entered: Callable[[Optional[str]], None]
    cloud: Cloud
    ask_tags: bool
    dry_run: bool = False
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.observer = Observer(self.paths, self.section)
        self.waiting = Waiting(self.limits, self.clock, self.report)
        self.creating = Creating(
            self.section, self.identity.zone, self.cloud, self.clock, self.dry_run
        )
        self.executor = Executor(
            self.paths, self.cloud, self.report, self.clock, self.creating, self._enter
        )
        self.claiming: Optional[Claiming] = None
        self._begin()
        self.instance_tags: Mapping[str, str] = {}
        self._there: frozenset[tuple[str, str, str]] = frozenset()
        """The disks when it was looked around last."""
        self._phase: Optional[str] = None
        self._processes_before = sum(command.STARTED.values())

    def _begin(self) -> None:
        """Nothing is known of the node yet."""
        self.known = CloudView(self.cloud, self.identity.instance_id, self.clock)
        self.work = Work(self.executor, self.report, self.known, self.waiting)

    def _enter(self, phase: Optional[str]) -> None:
        if phase is not None and phase != self._phase:
            LOG.info("%s", TITLES[phase])
        self._phase = phase
        self.report.phase(phase)
        self.entered(phase)

    def go(self) -> str:
        """Carry the run through; returns ``done``, ``pending`` or ``failed``.

        Nothing that belongs to one set escapes; what concerns the whole node
        is in the report's ``errors``.
        """
        try:
            state = self._go()
        except KrakenError as error:
            self.report.fail(error.trouble)
            LOG.error("%s", error)
            state = FAILED
        finally:
            self._enter(None)
            self._count()
        self.report.finish(state)
        return state

    def _count(self) -> None:
        processes = sum(command.STARTED.values()) - self._processes_before
        self.report.count(self.cloud.calls, self.cloud.throttled, processes)

    def _go(self) -> str:
        try:
            self._enter(IDENTIFY)
            node = self._identify()
            while True:
                try:
                    if isinstance(node, Claimant):
                        return self._rounds(self._claim(node), ask=False)
                    self._identified(node)
                    return self._rounds(node)
                except Lost as lost:
                    files.remove(self.paths.node_env)
                    self._enter(IDENTIFY)
                    self._hold_up(lost.trouble)
        except Standby:
            return STANDBY
        except _Over as over:
            trouble = over.trouble
        if trouble.waits and not self.limits.final:
            self.report.waiting(str(trouble), quiet=True)
            LOG.info("Not up yet, goes on in the background: %s", trouble)
            return PENDING
        raise KrakenError(self.waiting.over(trouble))

    def _check_time(self, trouble: Trouble) -> None:
        """Whether there is time to wait for what holds up the whole node."""
        if not trouble.waits or self.waiting.left() <= 0 or self.dry_run:
            raise _Over(trouble)

    def _hold_up(self, trouble: Trouble) -> None:
        self._check_time(trouble)
        self.waiting.say({"": trouble})
        # Who has its list asks soon: the next attachment may be its own.
        listed = self.cloud.calls["AttachVolume"]
        longest = min(CROWDED, self.waiting.elapsed() / 4) if listed else CROWDED
        self.clock.sleep(self.waiting.pause(trouble, throttled=longest))

    def _identify(self) -> Union[Node, Claimant]:
        """The node that this instance is, or that it may be any; waits for tags that
        come late."""
        LOG.info("instance %s in %s", self.identity.instance_id, self.identity.zone)
        read = self.identity.tags
        ask = self.ask_tags or read is None
        while True:
            try:
                if ask:
                    read = self.cloud.instance_tags()
                node = tags.node(self.section, read, self.identity.instance_id)
                if not isinstance(node, Trouble):
                    self.instance_tags = read or {}
                    return node
                trouble = node
            except KrakenError as error:
                trouble = error.trouble
            self.report.identify(self.identity, None)
            if ask:
                self._hold_up(trouble)
            else:
                self._check_time(trouble)
            ask = True

    def _identified(self, node: Node) -> None:
        if self.report.identify(self.identity, node):
            LOG.info("node %s", node)

    def _claim(self, claimant: Claimant) -> Node:
        """The node that this instance has become."""
        self._begin()
        self.report.identify(self.identity, None)
        if self.claiming is None:
            self.claiming = Claiming(
                self.section,
                self.identity,
                self.paths,
                self.cloud,
                self.observer,
                self.executor,
                self.creating,
                self.report,
                self.clock,
                self.waiting,
                self._hold_up,
                prefix=claimant.prefix,
                declared=tags.declared(self.section, self.instance_tags),
                dry_run=self.dry_run,
            )
        return self.claiming.lock(self.known)

    def _rounds(self, node: Node, ask: bool = True) -> str:
        while True:
            if ask and not self._ask(node):
                continue
            claims, notes = self._claims(node)
            said = self.claiming.notes if self.claiming is not None else ()
            self.report.notes("", (*said, *notes))
            if not self.dry_run:
                last_resort.write(self.paths, self.identity.instance_id, claims)
            world = self._look(claims)
            plans = self.work.keep_failed(self._decide(node, claims, world))
            if not self.dry_run:
                array_history.save(self.paths, self.identity.instance_id, claims, world)
            self._report(claims, plans, world)
            if not claims:
                self._hold_up(sets.no_volumes(node, self.section, notes))
                ask = True
                continue
            if self.dry_run:
                return plan_report.log_planned(plans)
            node_env.keep(self.paths, self.report, notes)
            udev_rules.keep(self.paths, claims, plans, world, self.report.warn)
            plans = [self.work.give_back(plan, world) for plan in plans]
            in_turn = self.work.in_turn(plans)
            todo = self.work.due(in_turn)
            if todo and self.waiting.left() > 0:
                if self.claiming is not None:
                    self.claiming.note_attachments(todo)
                ask = self.work.act(todo, world)
                # Waiting after an attachment belongs to it, and after a creation.
                self._enter(_awaited_phase(todo))
                continue
            reasons = self.waiting.reasons(in_turn)
            if not reasons or self.waiting.left() <= 0:
                return self._end(claims, plans, world)
            self.waiting.say(reasons)
            ask = self._wait(reasons, world)

    def _ask(self, node: Node) -> bool:
        """Ask for the volumes; False: nothing is known to go on with."""
        trouble: Optional[Trouble] = None
        try:
            self.known.ask(node)
        except KrakenError as error:
            trouble = error.trouble
        self.waiting.asked(trouble)
        if trouble is None or (trouble.waits and self.known.volumes):
            return True
        self._hold_up(trouble)
        return False

    def _claims(self, node: Node) -> sets.Claims:
        return sets.claims(
            self.section,
            node,
            self.identity.zone,
            self.known.volumes,
            tags.declared(self.section, self.instance_tags),
            devices.root_volumes(self.paths),
        )

    def _look(self, claims: Sequence[Claim]) -> World:
        live = self.work.live(claims)
        self._there = self.observer.disks()
        world = self.observer.look(self.identity.instance_id, live)
        late = self.waiting.elapsed() >= self.section.boot_wait
        return replace(
            world,
            holders=self.known.holders,
            attached_now=frozenset(self.known.attached_now),
            awaited=self.known.awaited(live, world.devices),
            elapsed=self.waiting.elapsed(),
            overdue=late or self.waiting.left() <= 0,
            failed=frozenset(self.work.failed),
            not_grown=frozenset(self.work.not_grown),
            not_added=frozenset(self.work.not_added),
        )

    def _decide(
        self, node: Node, claims: Sequence[Claim], world: World
    ) -> Sequence[Plan]:
        plans = decision.decide(node, claims, world)
        plans = self.creating.plans(node, claims, plans)
        if self.claiming is None:
            return plans
        plans = tuple(self.claiming.check(claims, plans, world))
        if self.claiming.settled or self.dry_run:
            self._identified(node)
        return plans

    def _wait(self, reasons: Mapping[str, Trouble], world: World) -> bool:
        """Wait for a change; returns whether the cloud is to be asked."""
        ages = {}
        for name in reasons:
            awaited = self.work.volumes_of(name) & set(world.awaited)
            if awaited:
                ages[name] = min(world.awaited[volume] for volume in awaited)
        accounts: list[str] = []
        if any(trouble.kind == "owner-pending" for trouble in reasons.values()):
            accounts = [name for name, one in world.accounts.items() if one is None]
        come = accounts_come(self.clock, accounts)
        return self.waiting.wait(
            reasons, ages, lambda: self.observer.disks() != self._there or come()
        )

    def _report(
        self, claims: Sequence[Claim], plans: Sequence[Plan], world: World
    ) -> None:
        by_name = {claim.name: claim for claim in claims}
        self.report.only((*by_name, *self.work.failed))
        for plan in plans:
            held = self.waiting.put_off.held(plan.name) if asks(plan) else None
            plan_report.update(
                self.report,
                plan,
                by_name.get(plan.name),
                world,
                held.trouble if held else None,
                dry_run=self.dry_run,
            )
        self._count()
        self.report.write()

    def _end(self, claims: Sequence[Claim], plans: Sequence[Plan], world: World) -> str:
        plans, pending = self.work.end(plans)
        self._report(claims, plans, world)
        if any(self.report.set(name)["required"] for name in self.work.failed):
            return FAILED
        if pending:
            return PENDING
        plan_report.log_done(self.report, plans)
        return DONE


def _awaited_phase(done: Sequence[Plan]) -> Optional[str]:
    phases = {step.phase for plan in done for step in plan.steps}
    return next((one for one in (CREATE, ATTACH) if one in phases), None)
