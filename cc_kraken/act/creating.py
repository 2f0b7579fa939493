"""Create the volumes of a set that do not exist (design, section 15).

:func:`cc_kraken.decide.creating.next_step` says which and when; here EC2 is asked.
Nothing here deletes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Optional, Union

from cc_kraken.act.waiting import stopped
from cc_kraken.cloud.protocol import LIMIT, TOKEN_BURNED, Cloud
from cc_kraken.config import sets, tags
from cc_kraken.decide import creating
from cc_kraken.decide.creating import Answer, Begun, Create, Wait
from cc_kraken.decide.plan import FAILED, PENDING, PLANNED, Plan
from cc_kraken.decide.steps import CreateVolumes
from cc_kraken.machine.clock import Clock
from cc_kraken.model import Claim, KrakenError, Node, Section, Trouble, Volume

LOG = logging.getLogger(__name__)

GONE_AFTER = 60.0
"""Seconds after which a volume that EC2 has made and does not show is no more."""
MOST_ANSWERS = 20
"""Answers of EC2 that are kept: the oldest alike one makes the wait shorter."""


@dataclass(frozen=True)
class _Made:
    """A volume that EC2 has answered with: when, and to which token."""

    id: str
    at: float
    attempt: int


@dataclass
class _Progress:
    """What this run has begun for one set.

    ``since``: when it was allowed to; ``made``: by the number of the member; ``tried``:
    tokens that made no volume, by member; ``from_``: answers of before do not count
    any more.
    """

    since: Optional[float] = None
    made: dict[int, _Made] = field(default_factory=dict)
    tried: dict[int, int] = field(default_factory=dict)
    from_: float = -math.inf

    @property
    def ids(self) -> dict[int, str]:
        return {member: one.id for member, one in self.made.items()}


Todo = Union[CreateVolumes, Wait, Trouble, None]


@dataclass
class Creating:
    """What one run knows of volumes that do not exist, and what it has begun.

    ``dry_run``: one look is enough, for nothing is created.
    """

    section: Section
    zone: str
    cloud: Cloud
    clock: Clock
    dry_run: bool

    def __post_init__(self) -> None:
        self._progress: dict[tuple[Node, str], _Progress] = {}
        self._answers: list[Answer] = []

    def plans(
        self, node: Node, claims: Sequence[Claim], plans: Sequence[Plan]
    ) -> tuple[Plan, ...]:
        """The plans, in which volumes that do not exist are created or awaited."""
        by_name = {claim.name: claim for claim in claims}
        return tuple(
            self._plan(node, by_name[plan.name], claims, plan)
            if plan.name in by_name and wants(by_name[plan.name])
            else plan
            for plan in plans
        )

    def _plan(
        self, node: Node, claim: Claim, claims: Sequence[Claim], plan: Plan
    ) -> Plan:
        try:
            answer = self.next_step(node, claim, claims)
        except KrakenError as error:
            answer = Wait(error.trouble, 0.0)
        if isinstance(answer, CreateVolumes):
            return replace(
                plan,
                state=PLANNED,
                steps=(answer,),
                trouble=None,
                outcomes=(
                    f"this adds {answer.monthly} to the monthly bill",
                    _afterwards(answer),
                ),
            )
        if answer is None or plan.steps:
            return plan
        trouble = answer.trouble if isinstance(answer, Wait) else answer
        state = PENDING if trouble.waits else FAILED
        return replace(plan, state=state, trouble=trouble)

    def next_step(self, node: Node, claim: Claim, claims: Sequence[Claim]) -> Todo:
        """What is to be done for one set; asks EC2 where an answer is due."""
        others = tuple(
            one.name for one in claims if one.wanted.declared and one.name != claim.name
        )
        wanted = claim.wanted
        if self.dry_run and wanted.create is not None:
            wanted = replace(wanted, create=replace(wanted.create, after=0))
        wished = creating.Wished(
            self.section.tag_namespace, node, self.zone, wanted, others
        )
        answer = self._judge(wished, claim.volumes)
        if isinstance(answer, Wait) and answer.seconds <= 0:
            self._ask()
            answer = self._judge(wished, claim.volumes)
        if not isinstance(answer, Create):
            return answer
        if answer.attempts > 1 and not self.dry_run:
            mine = self._of(wished)
            mine.since = self.clock.now() if mine.since is None else mine.since
        return CreateVolumes(claim.name, wished, answer)

    def _of(self, wished: creating.Wished) -> _Progress:
        key = wished.node, wished.wanted.name
        return self._progress.setdefault(key, _Progress())

    def _judge(
        self, wished: creating.Wished, looked: Sequence[Volume]
    ) -> creating.Step:
        mine = self._of(wished)
        self._forget_gone(mine)
        begun = Begun(mine.since, mine.ids)
        answers = [one for one in self._answers if one.asked >= mine.from_]
        now, date = self.clock.now(), self.clock.date()
        return creating.next_step(wished, answers, now, date, begun, looked)

    def _forget_gone(self, mine: _Progress) -> None:
        """EC2 may drop a volume that it could not make without ever showing it."""
        if not self._answers:
            return
        latest = self._answers[-1]
        shown = {volume.id for volume in latest.volumes}
        for member, made in list(mine.made.items()):
            if made.id in shown or latest.asked - made.at < GONE_AFTER:
                continue
            LOG.info("%s was created, and EC2 does not show it", made.id)
            del mine.made[member]
            mine.tried[member] = made.attempt
            mine.since, mine.from_ = None, latest.asked

    def refresh(self, oldest: float) -> None:
        """Ask EC2 where the last answer is older than so many seconds."""
        last = self._answers[-1].answered if self._answers else -math.inf
        if self.clock.now() - last > oldest:
            self._ask()

    def shown(self, node: Node) -> tuple[Volume, ...]:
        """The volumes of a node in the last answer, in any zone."""
        last = self._answers[-1].volumes if self._answers else ()
        return tuple(
            volume
            for volume in last
            if volume.state not in sets.LEAVING
            and tags.node_of(volume.tags, self.section.tag_namespace) == node
        )

    def _ask(self) -> None:
        asked = self.clock.now()
        volumes = self.cloud.marked_volumes()
        self._answers.append(Answer(asked, self.clock.now(), volumes))
        if len(self._answers) > MOST_ANSWERS:
            del self._answers[_spare(self._answers)]

    def create(self, step: CreateVolumes) -> None:
        """Carry out the step, one member after the other, and note each."""
        mine = self._of(step.wished)
        for member in step.create.members:
            if self.clock.stopped:
                raise KrakenError(stopped(step))
            made, attempt = self._create_one(step, mine, member)
            mine.made[member] = _Made(made, self.clock.now(), attempt)
            LOG.info("%s: %s is volume %d", step.set, made, member)

    def _create_one(
        self, step: CreateVolumes, mine: _Progress, member: int
    ) -> tuple[str, int]:
        """The id of the volume, and the first token that EC2 takes."""
        for attempt in range(mine.tried.get(member, 0) + 1, step.create.attempts + 1):
            new = creating.new_volume(step.wished, member, attempt)
            refused: Optional[Trouble] = None
            try:
                made = self.cloud.create_volume(new)
                if made not in step.create.dead:
                    return made, attempt
            except KrakenError as error:
                refused = error.trouble
                if refused.kind not in (LIMIT, TOKEN_BURNED):
                    raise
            there = self._there(step)
            if member in there:
                return there[member], attempt
            if refused is not None and refused.kind == LIMIT:
                raise KrakenError(refused)
            mine.tried[member] = attempt
            LOG.info("%s: token %d makes no volume %d", step.set, attempt, member)
            if refused is not None:
                # Burned, or another template's volume that EC2 does not show yet:
                # look again for as long as before the first one.
                mine.since, mine.from_ = None, self.clock.now()
                raise KrakenError(creating.looking(step.wished))
            if set(there.values()) - set(mine.ids.values()):
                break  # members that this run has not made: they may have data
        raise KrakenError(creating.no_tokens(step.wished, member))

    def _there(self, step: CreateVolumes) -> dict[int, str]:
        """The volumes of the set that EC2 shows now; of no member are those without a
        number (0)."""
        volumes = creating.present(step.wished, self.cloud.marked_volumes())
        return {creating.number(step.wished, one): one.id for one in volumes}


def _spare(answers: Sequence[Answer]) -> int:
    """The place of the answer that tells least: it shows what those beside it show,
    which are close to it in time.  Where there is none, the oldest."""
    shown = [
        {one.id: (one.state in creating.DEAD, one.tags) for one in answer.volumes}
        for answer in answers
    ]
    between = [
        at
        for at in range(1, len(answers) - 1)
        if shown[at - 1] == shown[at] == shown[at + 1]
    ]
    gap = {at: answers[at + 1].asked - answers[at - 1].asked for at in between}
    return min(between, key=gap.__getitem__, default=0)


def _afterwards(step: CreateVolumes) -> str:
    snapshot = step.wished.wish.snapshot
    one = step.wished.wanted.members == 1
    blank = "used like a blank one" if one else "used like blank ones"
    how = f"used as {snapshot} was" if snapshot else blank
    return f"then {'it is' if one else 'they are'} attached, and {how}"


def wants(claim: Claim) -> bool:
    """Whether volumes of a set may have to be created."""
    kind = claim.trouble.kind if claim.trouble is not None else ""
    lacks = kind in ("set-absent", "members-missing", "volume-state")
    return lacks and claim.wanted.create is not None and not claim.wanted.volume_ids
