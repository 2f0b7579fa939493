"""The work on the sets of one run: whose turn it is, and what came of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cc_kraken.act.cloud_view import UNDONE_LIMIT, CloudView
from cc_kraken.act.executor import Executor
from cc_kraken.act.plan_report import to_come
from cc_kraken.act.step_actions import Carried
from cc_kraken.act.waiting import PASSING_KINDS, Waiting, out_of_time
from cc_kraken.cloud.protocol import IN_USE, THROTTLED
from cc_kraken.decide.attach import WHOLE_SECONDS
from cc_kraken.decide.plan import Plan
from cc_kraken.decide.steps import ATTACH, LAST, OF_CLOUD, Attach, Detach
from cc_kraken.decide.world import World
from cc_kraken.model import Claim, Trouble, of_set
from cc_kraken.state.report import FAILED, PENDING, Report

LOG = logging.getLogger(__name__)

SAME_STEPS_LIMIT = 4


def asks(plan: Plan) -> bool:
    """Whether the cloud is asked for something by the steps of a plan."""
    return any(step.phase in OF_CLOUD for step in plan.steps)


@dataclass
class Work:
    """The sets of one run, by name.

    ``failed``: those that it has given up.  ``not_grown``: those that could not
    be grown.  ``not_added``: those whose array did not get a new member.
    """

    executor: Executor
    report: Report
    known: CloudView
    waiting: Waiting
    failed: dict[str, Trouble] = field(default_factory=dict)
    not_grown: set[str] = field(default_factory=set)
    not_added: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._volumes: dict[str, set[str]] = {}
        self._repeats: Counter[tuple[str, ...]] = Counter()

    def live(self, claims: Sequence[Claim]) -> list[Claim]:
        """The claims that are not given up; what follows is about these."""
        live = [claim for claim in claims if claim.name not in self.failed]
        self._volumes = {
            claim.name: {volume.id for volume in claim.volumes} for claim in live
        }
        return live

    def volumes_of(self, name: str) -> set[str]:
        return self._volumes.get(name, set())

    def keep_failed(self, decided: Sequence[Plan]) -> list[Plan]:
        """The plans, where what has failed stays so."""
        plans = []
        for plan in decided:
            if plan.name in self.failed:
                plan = Plan(plan.name, FAILED, trouble=self.failed[plan.name])
            elif plan.trouble is not None and not plan.trouble.waits:
                self.fail(plan.name, plan.trouble)
            plans.append(plan)
        return plans

    def fail(self, name: str, trouble: Trouble) -> None:
        if name in self.failed:
            return
        self.failed[name] = trouble
        required = self.report.set(name)["required"]
        level = logging.ERROR if required else logging.WARNING
        text = "The set %s is not up: %s"
        LOG.log(level, text, name, trouble, extra=of_set(name))

    def in_turn(self, plans: Sequence[Plan]) -> list[Plan]:
        """The plans without the sets that are not attached yet: the lowest volume id
        comes first, until a volume of the node is here.  Whoever gets that one gets
        the whole node, where two instances of one node boot together."""
        here = any(
            one.attached_to(self.known.instance_id) for one in self.known.volumes
        )
        if here or self.waiting.elapsed() >= WHOLE_SECONDS:
            return list(plans)
        attaching = sorted(
            (min(step.volume_ids), plan.name)
            for plan in plans
            for step in plan.steps
            if isinstance(step, Attach)
        )
        later: set[str] = set()
        for position, (_, name) in enumerate(attaching):
            held = self.waiting.put_off.held(name)
            # What concerns this volume alone (a modification) holds up no other set.
            if held is None or held.trouble.kind in (IN_USE, *PASSING_KINDS):
                later = {other for _, other in attaching[position + 1 :]}
                break
        return [plan for plan in plans if plan.name not in later]

    def due(self, plans: Sequence[Plan]) -> list[Plan]:
        """The plans whose steps can be begun now.

        While the cloud throttles, one set at a time asks, and first of all one
        that has some of its volumes.
        """
        moment = self.waiting.clock.now()
        put_off = self.waiting.put_off
        local = [
            plan
            for plan in plans
            if plan.steps
            and not asks(plan)
            # What waits for its disk is not tried again without a pause.
            and put_off.until_tried(plan.name) <= moment
        ]
        asking = [
            plan for plan in plans if asks(plan) and put_off.until(plan.name) <= moment
        ]
        if put_off.throttled:
            asking.sort(key=lambda plan: not self._begun(plan.name))
            asking = asking[:1]
        return [*local, *asking]

    def _begun(self, name: str) -> bool:
        return bool(self.volumes_of(name) & self.known.attached_now)

    def act(self, todo: Sequence[Plan], world: World) -> bool:
        """Carry out the steps; returns whether the cloud must be asked again."""
        for plan in todo:
            self._check_progress(plan)
        todo = [plan for plan in todo if plan.name not in self.failed]
        self.report.waiting(None)
        outcome = self.executor.carry_out(todo, world)
        for volume_id, device in outcome.attached.items():
            self.known.attached(volume_id, device)
        self._note_detached(outcome)
        for name in outcome.used:
            self.known.attached_now -= self.volumes_of(name)
        for name, why in outcome.not_grown.items():
            self.not_grown.add(name)
            self.report.warn(f"{name} could not be grown: {why}", name)
        for name, why in outcome.not_added.items():
            self.not_added.add(name)
            self.report.warn(f"The array of {name} got no new member: {why}", name)
        ask = outcome.ask_again
        for plan in todo:
            ask = self._note(plan, outcome, world) or ask
        return ask

    def _note(self, plan: Plan, outcome: Carried, world: World) -> bool:
        """What came of a plan; returns whether the cloud must be asked again."""
        put_off, now = self.waiting.put_off, self.waiting.clock.now()
        trouble = outcome.troubles.get(plan.name)
        if trouble is None or self.volumes_of(plan.name) & set(outcome.attached):
            put_off.progress(plan.name)
        if trouble is None:
            self._repeats[_key(plan)] += 1
        elif trouble.kind == THROTTLED:
            begun = any(self._begun(name) for name in self._volumes)
            put_off.throttle(trouble, now, begun=begun)
        elif trouble.waits:
            put_off.hold(plan.name, trouble, now, asked=asks(plan))
        else:
            self.fail(plan.name, trouble)
            return self._let_go(plan, world)
        return False

    def _check_progress(self, plan: Plan) -> None:
        """Fail a set whose steps are carried out, and change nothing."""
        undone = self.known.undone(self.volumes_of(plan.name))
        if undone is not None:
            self.fail(plan.name, _attachment_undone(undone))
        elif self._repeats[_key(plan)] >= SAME_STEPS_LIMIT:
            self.fail(plan.name, _no_progress(plan))

    def _let_go(self, plan: Plan, world: World) -> bool:
        """A set that cannot be attached in whole is given back in whole, as
        far as nothing has used it; returns whether there was anything."""
        unused = sorted(self.volumes_of(plan.name) & self.known.attached_now)
        if not unused or any(step.phase != ATTACH for step in plan.steps):
            return False
        steps = (Detach(plan.name, tuple(unused)),)
        self.give_back(Plan(plan.name, FAILED, steps=steps), world)
        return True

    def give_back(self, plan: Plan, world: World) -> Plan:
        """Do what is still to be done for a set that has failed: detach what it
        does not use, put its line in fstab right.  The plan that is left."""
        if plan.name not in self.failed:
            return plan
        steps = tuple(step for step in plan.steps if isinstance(step, LAST))
        outcome = self.executor.carry_out([replace(plan, steps=steps)], world)
        self._note_detached(outcome)
        for trouble in outcome.troubles.values():
            text = "%s could not %s: %s"
            own = of_set(plan.name)
            LOG.warning(text, plan.name, steps[0], trouble, extra=own)
        return replace(plan, steps=())

    def end(self, plans: Sequence[Plan]) -> tuple[list[Plan], bool]:
        """The plans when the run ends, and whether one goes on in the background.
        Where nobody goes on, what is still awaited has failed."""
        limits, pending, ended = self.waiting.limits, False, []
        for plan in map(self._unfinished, plans):
            trouble = plan.trouble
            soft = trouble is not None and trouble.kind == "owner-pending"
            if trouble is None or not trouble.waits:
                pass
            elif limits.final and (limits.background or not soft):
                self.fail(plan.name, self.waiting.over(trouble))
            elif not soft:
                pending = True
                text = "%s is not up yet, goes on in the background: %s"
                LOG.info(text, plan.name, trouble)
            if plan.name in self.failed:
                plan = replace(plan, state=FAILED, trouble=self.failed[plan.name])
            ended.append(plan)
        return ended, pending

    def _unfinished(self, plan: Plan) -> Plan:
        """A plan whose steps were not begun any more has not ended well."""
        if not to_come(plan) or plan.trouble is not None:
            return plan
        if plan.name not in self.report.sets:
            return plan  # the line of a set that is gone can wait
        held = self.waiting.put_off.held(plan.name)
        trouble = held.trouble if held is not None else out_of_time(str(plan.steps[0]))
        return replace(plan, state=PENDING, trouble=trouble)

    def _note_detached(self, outcome: Carried) -> None:
        self.known.detached(outcome.detached)
        # What somebody uses by now is not given back any more, either.
        self.known.attached_now.difference_update(outcome.kept)


def _key(plan: Plan) -> tuple[str, ...]:
    return (plan.name, *(str(step) for step in plan.steps))


def _no_progress(plan: Plan) -> Trouble:
    return Trouble(
        "no-progress",
        f"{SAME_STEPS_LIMIT} rounds of the same steps have changed nothing "
        f"({plan.steps[0]}).",
        "Each step must change something.",
        "This is a fault of cc_kraken: please report it with "
        "/run/cc-kraken/status.json and the log.",
    )


def _attachment_undone(volume_id: str) -> Trouble:
    return Trouble(
        "attach-undone",
        f"EC2 has accepted AttachVolume of {volume_id} {UNDONE_LIMIT} times, and "
        "each time the volume was not attached after it.",
        "It must stay attached.",
        "See in CloudTrail who detaches it (DetachVolume). If it is encrypted, check "
        "that its KMS key is enabled, and that the role of this instance may use it.",
    )
