"""One run: look, decide, do, look again, until nothing is left to do.

The loop ends when every set is up or refused, or when its time is over.  A
run that was cut off at any point is finished by the next one, because every
round starts from what is found.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import (
    Dict,
    FrozenSet,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
)

from cc_kraken.act import array_history, last_resort, report, udev_rules
from cc_kraken.act.executor import Carried, Executor
from cc_kraken.act.observe import Observer, account_number
from cc_kraken.act.pacing import Backoff, PutOff
from cc_kraken.act.report import DONE, FAILED, PENDING, Report
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.config import sets, tags
from cc_kraken.decide import decision
from cc_kraken.decide.plan import MOUNTED, PLANNED, Plan
from cc_kraken.decide.steps import GROW, LAST, Detach
from cc_kraken.decide.world import World
from cc_kraken.machine import command, devices
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Attachment,
    Claim,
    Holder,
    Identity,
    KrakenError,
    Node,
    Section,
    Trouble,
    Volume,
)

LOG = logging.getLogger(__name__)

FIRST_POLL, POLL_GROWTH, LONGEST_POLL, SLOW_POLL = 1.5, 1.8, 12.0, 40.0
SLOW_AFTER = 120.0
"""Seconds: who waits this long is not helped by asking every ten."""
FIRST_RETRY, RETRY_GROWTH, LONGEST_RETRY, LONGEST_BEGUN = 1.5, 2.0, 30.0, 10.0
HOLDERS_FOR = 30.0
"""Seconds for which an answer about the holders of volumes is good."""
BELIEVED_FOR = 30.0
"""Seconds in which an accepted attachment counts for more than an answer that
does not show it: describe calls can be old."""
UNDONE_LIMIT = 3
TOLD_AGAIN_AFTER = 60.0
"""Seconds: reasons that come and go by turns are not told each time."""
DEVICE_GRACE = 10.0
"""Seconds in which an accepted attachment is looked for in sysfs only."""
SAME_STEPS_LIMIT = 4

IDENTIFY = "identify"
TITLES = {
    IDENTIFY: "1: who is this instance, and which volumes are its own",
    "attach": "2: attaching volumes",
    "assemble": "3: putting arrays together",
    "mkfs": "4: making filesystems",
    "mount": "5: mounting",
    "grow": "6: growing what was enlarged",
}
"""The phases, as a person reads them in the log."""
LOCAL_KINDS = ("parent-not-mounted", "device-unseen")
"""Cured by what this run itself does."""
ACCOUNTS_EVERY, OWNER_EVERY = 1.0, 30.0
"""Seconds: is the user there; is there another reason to end the waiting."""
REFUSED_KINDS = ("ec2-throttled", "credentials-refused", "credentials-missing")
"""EC2 has done nothing of what it was asked for: what is known stays true."""
PASSING_KINDS = (
    *REFUSED_KINDS,
    "ec2-unavailable",
    "ec2-unreachable",
    "ec2-answer",
)
"""Told by their kind: whichever call it was that met with them."""


class Events(Protocol):
    """Who hears of the phases: cloud-init's reporter, or nobody."""

    def enter(self, phase: Optional[str]) -> None:
        """``phase`` begins, and the one before has ended; None: none begins."""


@dataclass
class Limits:
    """How long a run may take.

    ``seconds`` from its start; ``final``: what is still awaited then has
    failed (the network stage hands it on instead).  ``settle_owners``: wait
    for users that do not exist yet.
    """

    seconds: float
    final: bool
    settle_owners: bool = False


@dataclass
class _Knowledge:
    """What EC2 has said so far in this run."""

    volumes: Tuple[Volume, ...] = ()
    holders: Mapping[str, Holder] = field(default_factory=dict)
    holders_at: float = 0.0


class Run:
    """A run for one node; :meth:`go` returns its end state."""

    def __init__(
        self,
        section: Section,
        identity: Identity,
        paths: Paths,
        told: Report,
        limits: Limits,
        events: Events,
        *,
        ask_tags: bool,
        dry_run: bool = False,
        ec2: Optional[Ec2] = None,
        clock: Optional[Clock] = None,
    ) -> None:
        self.section = section
        self.identity = identity
        self.paths = paths
        self.report = told
        self.limits = limits
        self.events = events
        self.ask_tags = ask_tags
        self.dry_run = dry_run
        self.ec2 = ec2 or Ec2(identity.region, section.ec2, LOG)
        self.clock = clock or Clock()
        self.observer = Observer(paths, section)
        self.executor = Executor(
            paths,
            identity.instance_id,
            self.ec2,
            told,
            self._enter,
            self.clock,
        )
        self.begun = self.clock.now()
        self.known = _Knowledge()
        self.instance_tags: Mapping[str, str] = {}
        self.failed: Dict[str, Trouble] = {}
        self.not_grown: Set[str] = set()
        self.awaited_since: Dict[str, float] = {}
        self.attached_now: Set[str] = set()
        self.put_off = PutOff(FIRST_RETRY, RETRY_GROWTH, LONGEST_RETRY, LONGEST_BEGUN)
        self.repeats: Counter[Tuple[str, ...]] = Counter()
        self._set_volumes: Dict[str, Set[str]] = {}
        self._there: FrozenSet[Tuple[str, str, str]] = frozenset()
        """The disks when it was looked around last."""
        self._phase: Optional[str] = None
        self._polls = Backoff(FIRST_POLL, POLL_GROWTH, LONGEST_POLL)
        self._next_ask = self.begun
        self._not_asked: Optional[Trouble] = None
        self._accepted: Dict[str, Tuple[float, Attachment]] = {}
        self._undone: Counter[str] = Counter()
        self._told: Dict[FrozenSet[Tuple[str, str]], float] = {}
        self._told_last: FrozenSet[Tuple[str, str]] = frozenset()
        self._awaited: FrozenSet[Tuple[str, str]] = frozenset()
        self._processes_before = sum(command.STARTED.values())

    # ---- time

    def _left(self) -> float:
        if self.clock.stopped:
            return 0.0
        return self.limits.seconds - self._elapsed()

    def _elapsed(self) -> float:
        return self.clock.now() - self.begun

    def _pause(self) -> float:
        """The next interval between questions to EC2, with jitter."""
        if self._elapsed() > SLOW_AFTER:
            self._polls.longest = SLOW_POLL
        return max(0.0, min(self._polls.interval(), self._left()))

    def _enter(self, phase: Optional[str]) -> None:
        if phase is not None and phase != self._phase:
            LOG.info("%s", TITLES[phase])
        self._phase = phase
        self.report.phase(phase)
        self.events.enter(phase)

    # ---- the run

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
        self.report.count(
            self.ec2.calls, sum(command.STARTED.values()) - self._processes_before
        )

    def _go(self) -> str:
        self._enter(IDENTIFY)
        node = self._identify()
        if node is None:
            return self._node_end()
        return self._rounds(node)

    def _node_end(self) -> str:
        """The end of a run that did not learn which sets there are."""
        trouble = self._node_trouble
        assert trouble is not None
        if trouble.waits and not self.limits.final:
            self.report.waiting(str(trouble), quiet=True)
            LOG.info("Not up yet, goes on in the background: %s", trouble)
            return PENDING
        raise KrakenError(self._over(trouble))

    def _over(self, trouble: Trouble) -> Trouble:
        """A trouble whose time is over."""
        if not trouble.waits:
            return trouble
        found = f"{trouble.found} (awaited for {int(self._elapsed())} s"
        if self._not_asked is not None and self._not_asked is not trouble:
            found += f"; not asked again: {self._not_asked.found}"
        return replace(trouble, waits=False, found=found + ")")

    _node_trouble: Optional[Trouble] = None

    def _identify(self) -> Optional[Node]:
        """The node that this instance is; waits for tags that come late."""
        LOG.info("instance %s in %s", self.identity.instance_id, self.identity.zone)
        read = self.identity.tags
        ask = self.ask_tags or read is None
        while True:
            try:
                if ask:
                    read = self.ec2.instance_tags(self.identity.instance_id)
                node = tags.node(self.section, read, self.identity.instance_id)
                if isinstance(node, Node):
                    self.instance_tags = read or {}
                    self.report.identify(self.identity, node)
                    return node
                trouble = node
            except KrakenError as error:
                trouble = error.trouble
            self.report.identify(self.identity, None)
            self._node_trouble = trouble
            ask_before, ask = ask, True
            if not trouble.waits or self._left() <= 0 or self.dry_run:
                return None
            if ask_before:
                self._say_waiting({"": trouble})
                self.clock.sleep(self._pause())

    def _rounds(self, node: Node) -> str:
        LOG.info("node %s", node)
        describe = True
        while True:
            if describe:
                trouble = self._ask(node)
                if trouble is not None:
                    # What is known already is enough to go on with.
                    go_on = trouble.waits and bool(self.known.volumes)
                    self._node_trouble = trouble
                    if not go_on and (
                        not trouble.waits or self._left() <= 0 or self.dry_run
                    ):
                        return self._node_end()
                    if not go_on:
                        self._say_waiting({"": trouble})
                        self.clock.sleep(self._pause())
                        continue
            claims, notes = self._claims(node)
            self.report.notes("", notes)
            if not self.dry_run:
                last_resort.write(self.paths, self.identity.instance_id, claims)
            world = self._look(node, claims)
            for _ in claims:
                if not self._more_came(claims, world):
                    break
                world = self._look(node, claims)
            plans = self._decide(node, claims, world)
            if not self.dry_run:
                array_history.save(self.paths, self.identity.instance_id, claims, world)
            self._tell(claims, plans, world)
            if self.dry_run and claims:
                return self._dry_end(plans)
            if not claims:
                trouble = sets.no_volumes(node, self.section, notes)
                self._node_trouble = trouble
                if self._left() <= 0 or self.dry_run:
                    return self._node_end()
                self._say_waiting({"": trouble})
                self.clock.sleep(self._pause())
                describe = True
                continue
            udev_rules.keep(self.paths, claims, plans, world, self.report.warn)
            plans = tuple(self._give_back(plan, world) for plan in plans)
            todo = self._due(plans)
            if todo and self._left() > 0:
                describe = self._act(todo, world)
                continue
            waiting = self._reasons(plans)
            if not waiting or self._left() <= 0:
                return self._end(claims, plans, world)
            self._say_waiting(waiting)
            describe = self._wait(waiting, world)

    # ---- one round

    def _ask(self, node: Node) -> Optional[Trouble]:
        """Ask EC2 for the volumes of the node and who holds them."""
        try:
            volumes = self.ec2.volumes(
                node.prefix, node.node_id, self.section.tag_namespace
            )
            others = sorted(
                {
                    attachment.instance_id
                    for volume in volumes
                    for attachment in volume.attachments
                    if attachment.instance_id
                    and attachment.instance_id != self.identity.instance_id
                }
            )
            holders, holders_at = self._holders(others)
        except KrakenError as error:
            self._not_asked = error.trouble
            self._next_ask = self.clock.now() + self._pause()
            return error.trouble
        self._not_asked = None
        volumes = tuple(self._believed(volume) for volume in volumes)
        self.known = _Knowledge(volumes, holders, holders_at)
        self._next_ask = self.clock.now() + self._pause()
        return None

    def _holders(self, others: Sequence[str]) -> Tuple[Mapping[str, Holder], float]:
        """Who holds volumes of ours; asked for again when it is somebody else,
        or after a while."""
        moment = self.clock.now()
        if not others:
            return {}, moment
        known, at = self.known.holders, self.known.holders_at
        if set(others) <= set(known) and moment - at < HOLDERS_FOR:
            return known, at
        return self.ec2.holders(others, self.section.tag_namespace), moment

    def _believed(self, volume: Volume) -> Volume:
        """The volume with the attachment that EC2 has accepted, where an old
        answer does not show it."""
        accepted = self._accepted.get(volume.id)
        if accepted is None or any(
            attachment.instance_id == self.identity.instance_id
            for attachment in volume.attachments
        ):
            return volume
        since, attachment = accepted
        if self.clock.now() - since < BELIEVED_FOR:
            return replace(volume, state="in-use", attachments=(attachment,))
        del self._accepted[volume.id]
        self._undone[volume.id] += 1
        return volume

    def _claims(self, node: Node) -> sets.Claims:
        return sets.claims(
            self.section,
            node,
            self.identity.zone,
            self.known.volumes,
            tags.declared(self.section, self.instance_tags),
            devices.root_volumes(self.paths),
        )

    def _look(self, node: Node, claims: Sequence[Claim]) -> World:
        live = [claim for claim in claims if claim.name not in self.failed]
        self._set_volumes = {
            claim.name: {volume.id for volume in claim.volumes} for claim in live
        }
        self._there = self.observer.disks()
        world = self.observer.look(
            self.identity.instance_id,
            node,
            live,
            self.known.holders,
            attached_now=frozenset(self.attached_now),
        )
        moment = self.clock.now()
        awaited: Dict[str, float] = {}
        for claim in live:
            for volume in claim.volumes:
                if volume.id in world.devices or not self._is_ours(volume):
                    self.awaited_since.pop(volume.id, None)
                    continue
                since = self.awaited_since.setdefault(volume.id, moment)
                awaited[volume.id] = moment - since
        overdue = self._elapsed() >= self.section.boot_wait or self._left() <= 0
        failed = frozenset(self.failed)
        return replace(
            world,
            awaited=awaited,
            overdue=overdue,
            failed=failed,
            not_grown=frozenset(self.not_grown),
        )

    def _more_came(self, claims: Sequence[Claim], world: World) -> bool:
        """Whether the last disk of another set has come while it was looked
        around: what is done is then done for all of them, and systemd reads
        fstab once.  Their disks are read already; a full proof is too long to
        keep the others waiting."""
        if self.section.blank_proof == "full" or self._left() <= 0:
            return False
        disks = self.observer.disks()
        now = {volume for _, volume, _ in disks}
        return disks != self._there and any(
            ids <= now and not ids <= set(world.devices)
            for ids in self._set_volumes.values()
            if ids and not ids & set(world.duplicates)
        )

    def _is_ours(self, volume: Volume) -> bool:
        return any(
            attachment.instance_id == self.identity.instance_id
            for attachment in volume.attachments
        )

    def _decide(
        self, node: Node, claims: Sequence[Claim], world: World
    ) -> Tuple[Plan, ...]:
        plans = []
        for plan in decision.decide(node, claims, world):
            failed = self.failed.get(plan.name)
            if failed is not None:
                plan = Plan(plan.name, FAILED, trouble=failed)
            elif plan.trouble is not None and not plan.trouble.waits:
                self._fail(plan.name, plan.trouble)
            plans.append(plan)
        return tuple(plans)

    def _fail(self, name: str, trouble: Trouble) -> None:
        if name in self.failed:
            return
        self.failed[name] = trouble
        required = self.report.set(name)["required"]
        LOG.log(
            logging.ERROR if required else logging.WARNING,
            "The set %s is not up: %s",
            name,
            trouble,
        )

    def _due(self, plans: Sequence[Plan]) -> Sequence[Plan]:
        """The plans whose steps can be begun now.

        While EC2 throttles, one set at a time asks, and first of all one that
        has some of its volumes.
        """
        moment = self.clock.now()
        local, asking = [], []
        for plan in plans:
            if plan.steps and not _asks(plan):
                local.append(plan)
            elif plan.steps and self.put_off.until(plan.name) <= moment:
                asking.append(plan)
        if self.put_off.throttled:
            asking.sort(key=lambda plan: not self._begun(plan.name))
            asking = asking[:1]
        return [*local, *asking]

    def _begun(self, name: str) -> bool:
        return bool(self._volumes_of(name) & self.attached_now)

    def _act(self, todo: Sequence[Plan], world: World) -> bool:
        """Carry out the steps; returns whether EC2 must be asked again."""
        for plan in todo:
            self._check_progress(plan)
        todo = [plan for plan in todo if plan.name not in self.failed]
        self.report.waiting(None)
        outcome = self.executor.carry_out(todo, world)
        for volume_id, device in outcome.attached.items():
            self._note_attached(volume_id, device)
        self._note_detached(outcome)
        self.attached_now -= {
            volume
            for plan in todo
            if plan.name in outcome.used
            for volume in self._volumes_of(plan.name)
        }
        for name, why in outcome.not_grown.items():
            self.not_grown.add(name)
            self.report.warn(f"{name} could not be grown: {why}", name)
        ask = outcome.ask_again
        for plan in todo:
            trouble = outcome.troubles.get(plan.name)
            if trouble is None or self._volumes_of(plan.name) & set(outcome.attached):
                self.put_off.progress(plan.name)
            if trouble is None:
                self.repeats[_key(plan)] += 1
            elif trouble.kind == "ec2-throttled":
                begun = any(self._begun(name) for name in self._set_volumes)
                self.put_off.throttle(trouble, self.clock.now(), begun=begun)
            elif trouble.waits:
                self.put_off.hold(plan.name, trouble, self.clock.now())
            else:
                self._fail(plan.name, trouble)
                ask = self._let_go(plan, world) or ask
        self._enter(decision_phase(todo))
        return ask

    def _check_progress(self, plan: Plan) -> None:
        """Fail a set whose steps are carried out, and change nothing."""
        undone = [
            volume
            for volume in sorted(self._volumes_of(plan.name))
            if self._undone[volume] >= UNDONE_LIMIT
        ]
        if undone:
            self._fail(plan.name, _attachment_undone(undone[0]))
        elif self.repeats[_key(plan)] >= SAME_STEPS_LIMIT:
            self._fail(plan.name, _no_progress(plan))

    def _let_go(self, plan: Plan, world: World) -> bool:
        """A set that cannot be attached in whole is given back in whole, as
        far as nothing has used it; returns whether there was anything."""
        unused = sorted(self._volumes_of(plan.name) & self.attached_now)
        if not unused or any(step.phase != "attach" for step in plan.steps):
            return False
        steps = (Detach(plan.name, tuple(unused)),)
        self._give_back(Plan(plan.name, FAILED, steps=steps), world)
        return True

    def _give_back(self, plan: Plan, world: World) -> Plan:
        """Do what is still to be done for a set that has failed: detach what it
        does not use, put its line in fstab right.  The plan that is left."""
        if plan.name not in self.failed:
            return plan
        steps = tuple(step for step in plan.steps if isinstance(step, LAST))
        outcome = self.executor.carry_out([replace(plan, steps=steps)], world)
        self._note_detached(outcome)
        for trouble in outcome.troubles.values():
            LOG.warning("%s could not %s: %s", plan.name, steps[0], trouble)
        return replace(plan, steps=())

    def _volumes_of(self, name: str) -> Set[str]:
        """The volumes of the set whose claim was looked at last."""
        return self._set_volumes.get(name, set())

    def _note_attached(self, volume_id: str, device: str) -> None:
        """EC2 has accepted: no need to ask before the disk shows itself."""
        attachment = Attachment(self.identity.instance_id, device, "attaching")
        self.attached_now.add(volume_id)
        self._accepted[volume_id] = (self.clock.now(), attachment)
        self.known.volumes = tuple(
            replace(volume, state="in-use", attachments=(attachment,))
            if volume.id == volume_id
            else volume
            for volume in self.known.volumes
        )

    def _note_detached(self, outcome: Carried) -> None:
        """What somebody uses by now is not given back any more, either."""
        self.attached_now -= {*outcome.detached, *outcome.kept}
        for volume_id in outcome.detached:
            self._accepted.pop(volume_id, None)

    # ---- waiting

    def _waits(self, plan: Plan) -> bool:
        if plan.trouble is None or not plan.trouble.waits:
            return False
        if plan.trouble.kind == "owner-pending":
            return self.limits.settle_owners
        return True

    def _reasons(self, plans: Sequence[Plan]) -> Dict[str, Trouble]:
        """What each set that is not up yet waits for."""
        reasons: Dict[str, Trouble] = {}
        for plan in plans:
            held = self.put_off.held(plan.name) if plan.steps else None
            if held is not None:
                reasons[plan.name] = held.trouble
            elif plan.trouble is not None and self._waits(plan):
                reasons[plan.name] = plan.trouble
        return reasons

    def _say_waiting(self, reasons: Mapping[str, Trouble]) -> None:
        """One line when the reasons change; ``""`` is the whole node."""
        told = dict(reasons)
        if self._not_asked is not None and "" not in told:
            told[""] = self._not_asked
        text = "; ".join(
            f"{name}: {trouble}" if name else str(trouble)
            for name, trouble in told.items()
        )
        key = _identity_of(told)
        moment = self.clock.now()
        before = self._told.get(key)
        quiet = key == self._told_last or (
            before is not None and moment - before < TOLD_AGAIN_AFTER
        )
        self._told[key], self._told_last = moment, key
        self.report.waiting(text, quiet=quiet)

    def _wait(self, waiting: Mapping[str, Trouble], world: World) -> bool:
        """Wait for a change; returns whether EC2 is to be asked."""
        self._ask_sooner(waiting)
        moments = [
            self._moment(name, trouble, world) for name, trouble in waiting.items()
        ]
        end = min(moment for moment, _ in moments)
        owners = any(trouble.kind == "owner-pending" for trouble in waiting.values())
        self._watch(world, min(end - self.clock.now(), self._left()), owners)
        now = self.clock.now()
        return any(ask and moment <= now for moment, ask in moments)

    def _ask_sooner(self, waiting: Mapping[str, Trouble]) -> None:
        """Something has changed: more may follow soon."""
        key = _identity_of(
            {n: t for n, t in waiting.items() if t.kind not in PASSING_KINDS}
        )
        if key != self._awaited:
            self._awaited = key
            self._polls.reset()
            self._next_ask = min(self._next_ask, self.clock.now() + self._pause())

    def _moment(self, name: str, trouble: Trouble, world: World) -> Tuple[float, bool]:
        """When there is something to do again for a set, and whether EC2 is to
        be asked then."""
        now = self.clock.now()
        held = self.put_off.held(name)
        if held is not None and held.trouble is trouble:
            return held.until, trouble.kind not in REFUSED_KINDS
        if trouble.kind in LOCAL_KINDS:
            return now + 1.0, False
        if trouble.kind == "owner-pending":
            return now + OWNER_EVERY, False
        if trouble.kind == "attaching":
            ages = [
                world.awaited[volume]
                for volume in self._volumes_of(name)
                if volume in world.awaited
            ]
            grace = DEVICE_GRACE - min(ages, default=DEVICE_GRACE)
            if grace > 0:
                return now + grace, False
        return self._next_ask, True

    def _watch(self, world: World, seconds: float, owners: bool) -> None:
        """Return when a disk comes or goes, a user or group that is wanted has
        come (``owners``), or when the time is over."""
        absent = [name for name, number in world.accounts.items() if number is None]
        next_look = self.clock.now() + ACCOUNTS_EVERY

        def changed() -> bool:
            nonlocal next_look
            if self.observer.disks() != self._there:
                return True
            if not owners or self.clock.now() < next_look:
                return False
            next_look = self.clock.now() + ACCOUNTS_EVERY
            return any(account_number(name) is not None for name in absent)

        self.clock.watch(seconds, changed)

    # ---- telling

    def _tell(
        self,
        claims: Sequence[Claim],
        plans: Sequence[Plan],
        world: World,
    ) -> None:
        by_name = {claim.name: claim for claim in claims}
        self.report.only((*by_name, *self.failed))
        for plan in plans:
            claim = by_name.get(plan.name)
            if claim is None:
                for text in plan.warnings:
                    self.report.warn(text)
                continue
            array = world.array(plan.array_uuid) if plan.array_uuid else None
            self.report.describe(claim, world.devices, array, plan.mount_path)
            entry = self.report.set(plan.name)
            entry["plan"] = [str(step) for step in plan.steps]
            entry["outcomes"] = list(plan.outcomes)
            if plan.filesystem is not None and plan.filesystem.uuid:
                entry["filesystem"] = {
                    "type": plan.filesystem.type,
                    "uuid": plan.filesystem.uuid,
                    "label": plan.filesystem.label,
                }
            trouble = plan.trouble
            refused = trouble is not None and not trouble.waits
            entry["error"] = report.error(trouble) if trouble and refused else None
            entry["reason"] = str(trouble) if trouble and not refused else None
            entry["state"] = plan.state
            if plan.steps and self.dry_run and plan.state != MOUNTED:
                entry["state"] = PLANNED
            entry["owner"] = _owner(claim) if _owner_pending(trouble) else None
            self.report.notes(plan.name, plan.notes)
            if _to_come(plan) and trouble is None and not self.dry_run:
                held = self.put_off.held(plan.name) if _asks(plan) else None
                entry["state"] = PENDING
                entry["reason"] = (
                    str(held.trouble) if held else f"to do: {plan.steps[0]}"
                )
            for text in plan.warnings:
                self.report.warn(f"{plan.name}: {text}", plan.name)
        self._count()
        self.report.write()

    def _dry_end(self, plans: Sequence[Plan]) -> str:
        for plan in plans:
            if plan.trouble is not None:
                LOG.info("%s: %s", plan.name, plan.trouble)
            for step in plan.steps:
                LOG.info("%s: would %s", plan.name, step)
            for outcome in plan.outcomes:
                LOG.info("%s: %s", plan.name, outcome)
        refused = any(plan.trouble and not plan.trouble.waits for plan in plans)
        return FAILED if refused else DONE

    def _end(self, claims: Sequence[Claim], plans: Sequence[Plan], world: World) -> str:
        pending = False
        plans = [self._unfinished(plan) for plan in plans]
        for plan in plans:
            trouble = plan.trouble
            if trouble is None or not trouble.waits:
                continue
            soft = trouble.kind == "owner-pending"
            if self.limits.final and not (soft and not self.limits.settle_owners):
                self._fail(plan.name, self._over(trouble))
            elif not soft:
                pending = True
                LOG.info(
                    "%s is not up yet, goes on in the background: %s",
                    plan.name,
                    trouble,
                )
        self._tell(claims, self._final_plans(plans), world)
        if any(self.report.set(name)["required"] for name in self.failed):
            return FAILED
        if pending:
            return PENDING
        self._say_done(plans)
        return DONE

    def _unfinished(self, plan: Plan) -> Plan:
        """A plan whose steps were not begun any more has not ended well."""
        if not _to_come(plan) or plan.trouble is not None:
            return plan
        if plan.name not in self.report.sets:
            return plan  # the line of a set that is gone can wait
        held = self.put_off.held(plan.name)
        trouble = (
            held.trouble
            if held is not None
            else Trouble(
                "out-of-time",
                f"There was no time left to {plan.steps[0]}",
                "the set up in time",
                "Run again, or give it more time (boot_wait, wait).",
                waits=True,
            )
        )
        return replace(plan, state=PENDING, trouble=trouble)

    def _final_plans(self, plans: Sequence[Plan]) -> Tuple[Plan, ...]:
        return tuple(
            replace(plan, state=FAILED, trouble=self.failed[plan.name])
            if plan.name in self.failed
            else plan
            for plan in plans
        )

    def _say_done(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            entry = self.report.sets.get(plan.name)
            if entry is None:
                continue
            where = f" at {entry['mount_path']}" if entry["mount_path"] else ""
            did = "; ".join(entry["done"]) or "nothing to do"
            LOG.info("%s is %s%s (%s)", plan.name, plan.state, where, did)


def _identity_of(reasons: Mapping[str, Trouble]) -> FrozenSet[Tuple[str, str]]:
    """What makes reasons the same ones, though their words may differ."""
    return frozenset(
        (name, trouble.kind if trouble.kind in PASSING_KINDS else trouble.found)
        for name, trouble in reasons.items()
    )


def _to_come(plan: Plan) -> bool:
    """Whether a set is not up before these steps: growing is no such step."""
    return any(step.phase != GROW for step in plan.steps)


def _asks(plan: Plan) -> bool:
    return any(step.phase == "attach" for step in plan.steps)


def _no_progress(plan: Plan) -> Trouble:
    return Trouble(
        "no-progress",
        f"{SAME_STEPS_LIMIT} rounds of the same steps have changed nothing "
        f"({plan.steps[0]})",
        "a change after each step",
        "This is a fault of cc_kraken: please report it with "
        "/run/cc-kraken/status.json and the log.",
    )


def _attachment_undone(volume_id: str) -> Trouble:
    return Trouble(
        "attach-undone",
        f"EC2 has accepted AttachVolume of {volume_id} {UNDONE_LIMIT} times, and "
        "each time the volume was not attached after it",
        "an attachment that stays",
        "Look for who else detaches it (CloudTrail: DetachVolume), and for an "
        "encrypted volume whether its KMS key is enabled and the role may use it.",
    )


def _key(plan: Plan) -> Tuple[str, ...]:
    return (plan.name, *(str(step) for step in plan.steps))


def decision_phase(plans: Sequence[Plan]) -> Optional[str]:
    """The phase that follows: waiting after an attachment belongs to it."""
    if any(step.phase == "attach" for plan in plans for step in plan.steps):
        return "attach"
    return None


def _owner_pending(trouble: Optional[Trouble]) -> bool:
    return trouble is not None and trouble.kind == "owner-pending"


def _owner(claim: Claim) -> Dict[str, object]:
    """What cc-kraken wait needs to settle the owner by itself."""
    wish = claim.wanted
    return {"owner": wish.owner, "group": wish.group, "mode": wish.mode}
