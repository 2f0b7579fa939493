"""Create the volumes of a set that do not exist (design, section 15).

:func:`cc_kraken.decide.creating.next_step` says which and when; here EC2 is asked.
Nothing here deletes.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

from cc_kraken.cloud.protocol import LIMIT, TOKEN_BURNED, Cloud
from cc_kraken.config import sets, tags
from cc_kraken.decide import creating
from cc_kraken.decide.creating import Answer, Begun, Create, Nothing, Refuse, Wait
from cc_kraken.decide.plan import FAILED, PENDING, PLANNED, Plan
from cc_kraken.decide.steps import CreateVolumes
from cc_kraken.machine.clock import Clock
from cc_kraken.model import Claim, KrakenError, Node, Section, Trouble, Volume

LOG = logging.getLogger(__name__)

GONE_AFTER = 60.0
"""Seconds after which a volume that EC2 has made and does not show is no more."""
MOST_ANSWERS = 20
"""Answers of EC2 that are kept: an old one only makes the wait shorter."""

Made = Dict[int, str]
"""The ids of the volumes that EC2 has answered with, by the number of the member."""


@dataclass
class Progress:
    """What this run has begun for one set.

    ``since``: when it was allowed to; ``when``: when each volume was made, and by which
    token; ``tried``: tokens that made no volume, by member; ``from_``: answers of
    before do not count any more.
    """

    since: Optional[float] = None
    made: Made = field(default_factory=dict)
    when: Dict[int, Tuple[float, int]] = field(default_factory=dict)
    tried: Dict[int, int] = field(default_factory=dict)
    from_: float = -math.inf


Todo = Union[CreateVolumes, Wait, Refuse, Nothing]


class Creating:
    """What one run knows of volumes that do not exist, and what it has begun.

    ``dry_run``: one look is enough, for nothing is created.
    """

    def __init__(
        self,
        section: Section,
        zone: str,
        cloud: Cloud,
        clock: Clock,
        progress: Dict[Tuple[Node, str], Progress],
        *,
        dry_run: bool,
    ) -> None:
        self._namespace = section.tag_namespace
        self._zone = zone
        self._cloud = cloud
        self._clock = clock
        self.progress = progress
        self._dry_run = dry_run
        self._answers: List[Answer] = []

    def plans(
        self, node: Node, claims: Sequence[Claim], plans: Sequence[Plan]
    ) -> Tuple[Plan, ...]:
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
                outcomes=(f"this adds {answer.monthly}", _afterwards(answer)),
            )
        if isinstance(answer, Nothing) or plan.steps:
            return plan
        state = PENDING if answer.trouble.waits else FAILED
        return replace(plan, state=state, trouble=answer.trouble)

    def next_step(self, node: Node, claim: Claim, claims: Sequence[Claim]) -> Todo:
        """What is to be done for one set; asks EC2 where an answer is due."""
        others = tuple(
            one.name for one in claims if one.wanted.declared and one.name != claim.name
        )
        wanted = claim.wanted
        if self._dry_run and wanted.create is not None:
            wanted = replace(wanted, create=replace(wanted.create, after=0))
        wished = creating.Wished(self._namespace, node, self._zone, wanted, others)
        answer = self._judge(wished, claim.volumes)
        if isinstance(answer, Wait) and answer.seconds <= 0:
            self._ask()
            answer = self._judge(wished, claim.volumes)
        if not isinstance(answer, Create):
            return answer
        if answer.attempts > 1 and not self._dry_run:
            mine = self._of(wished)
            mine.since = self._clock.now() if mine.since is None else mine.since
        return CreateVolumes(claim.name, wished, answer)

    def _of(self, wished: creating.Wished) -> Progress:
        return self.progress.setdefault((wished.node, wished.wanted.name), Progress())

    def _judge(
        self, wished: creating.Wished, looked: Sequence[Volume]
    ) -> creating.Step:
        mine = self._of(wished)
        self._forget_gone(mine)
        begun = None if mine.since is None else Begun(mine.since, mine.made)
        answers = [one for one in self._answers if one.asked >= mine.from_]
        now, date = self._clock.now(), self._clock.date()
        return creating.next_step(wished, answers, now, date, begun, looked)

    def _forget_gone(self, mine: Progress) -> None:
        """EC2 may drop a volume that it could not make without ever showing it."""
        if not self._answers:
            return
        latest = self._answers[-1]
        shown = {volume.id for volume in latest.volumes}
        for member, (moment, attempt) in list(mine.when.items()):
            if mine.made[member] in shown or latest.asked - moment < GONE_AFTER:
                continue
            LOG.info("%s was created, and EC2 does not show it", mine.made[member])
            del mine.made[member], mine.when[member]
            mine.tried[member] = attempt
            mine.since, mine.from_ = None, latest.asked

    def refresh(self, oldest: float) -> None:
        """Ask EC2 where the last answer is older than so many seconds."""
        last = self._answers[-1].answered if self._answers else -math.inf
        if self._clock.now() - last > oldest:
            self._ask()

    def shown(self, node: Node) -> Tuple[Volume, ...]:
        """The volumes of a node in the last answer, in any zone."""
        last = self._answers[-1].volumes if self._answers else ()
        return tuple(
            volume
            for volume in last
            if volume.state not in sets.LEAVING
            and tags.node_of(volume.tags, self._namespace) == node
        )

    def _ask(self) -> None:
        asked = self._clock.now()
        volumes = self._cloud.marked_volumes()
        self._answers.append(Answer(asked, self._clock.now(), volumes))
        del self._answers[:-MOST_ANSWERS]


def _afterwards(step: CreateVolumes) -> str:
    snapshot = step.wished.wish.snapshot
    how = f"used as {snapshot} was" if snapshot else "used like blank ones"
    return f"then they are attached, and {how}"


def wants(claim: Claim) -> bool:
    """Whether volumes of a set may have to be created."""
    kind = claim.trouble.kind if claim.trouble is not None else ""
    lacks = kind in ("set-absent", "members-missing", "volume-state")
    return lacks and claim.wanted.create is not None and not claim.wanted.volume_ids


def create(
    cloud: Cloud,
    step: CreateVolumes,
    mine: Progress,
    check: Callable[[], None],
    now: Callable[[], float],
) -> None:
    """Carry out the step, one member after the other, and note each in ``mine``.

    ``check`` ends it when the run is to end; ``now``: the run's clock.
    """
    for member in step.create.members:
        check()
        made, attempt = _create_one(cloud, step, mine, member, now)
        mine.made[member], mine.when[member] = made, (now(), attempt)
        LOG.info("%s: %s is volume %d", step.set, mine.made[member], member)


def _create_one(
    cloud: Cloud,
    step: CreateVolumes,
    mine: Progress,
    member: int,
    now: Callable[[], float],
) -> Tuple[str, int]:
    """The id of the volume, and the first token that EC2 takes."""
    for attempt in range(mine.tried.get(member, 0) + 1, step.create.attempts + 1):
        new = creating.new_volume(step.wished, member, attempt)
        refused: Optional[Trouble] = None
        try:
            made = cloud.create_volume(new)
            if made not in step.create.dead:
                return made, attempt
        except KrakenError as error:
            refused = error.trouble
            if refused.kind not in (LIMIT, TOKEN_BURNED):
                raise
        there = _there(cloud, step)
        if member in there:
            return there[member], attempt
        if refused is not None and refused.kind == LIMIT:
            raise KrakenError(refused)
        mine.tried[member] = attempt
        LOG.info("%s: EC2 makes no volume %d for token %d", step.set, member, attempt)
        if refused is not None:
            # Burned, or another template's volume that EC2 does not show yet: look
            # again for as long as before the first one.
            mine.since, mine.from_ = None, now()
            raise KrakenError(creating.looking(step.wished))
        if set(there.values()) - set(mine.made.values()):
            break  # members that this run has not made: they may have data
    raise KrakenError(creating.no_tokens(step.wished, member))


def _there(cloud: Cloud, step: CreateVolumes) -> Made:
    """The volumes of the set that EC2 shows now; of no member are those without a
    number (0)."""
    volumes = creating.present(step.wished, cloud.marked_volumes())
    return {creating.number(step.wished, one): one.id for one in volumes}
