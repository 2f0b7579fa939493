"""Are the volumes of a set created, and which (design, section 15)?

Every tool that creates what is missing has made an empty volume beside the real one.
So none is created before two answers of EC2, some time apart, show that there is
none; each request has a token, so that two instances make one volume; and what could
be a volume with misspelt tags stops it.  Pure.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional, Union

from cc_kraken.config import creation, sets, tags
from cc_kraken.config.values import quoted
from cc_kraken.model import Creation, NewVolume, Node, Trouble, Volume, WantedSet

ATTEMPTS = 3
"""Tokens for one volume.  The next one is for when EC2 has burned the one before: a
volume that failed or was deleted."""
YOUNG = 3600.0
"""Seconds for which volumes count as part of a creation that was cut off."""
SKEW = 300.0
"""Seconds by which the clocks of EC2 and the instance may differ: with more EC2
refuses every request."""
FRESH = 10.0
"""Seconds for which an answer can be acted upon."""
DEAD = ("error", *sets.LEAVING)
"""States of a volume that nobody can use any more."""
MOST = 5
"""Volumes, or tags of one, in a message."""


@dataclass(frozen=True)
class Answer:
    """What EC2 has answered: every volume with tags like ours, of any zone and state.

    ``asked`` and ``answered``: moments of the run's clock, in seconds.
    """

    asked: float
    answered: float
    volumes: tuple[Volume, ...]


@dataclass(frozen=True)
class Wished:
    """The set whose volumes are wished for.  ``others``: other sets of the node that
    are declared, whose names may be like this one's."""

    namespace: str
    node: Node
    zone: str
    wanted: WantedSet
    others: tuple[str, ...] = ()

    @property
    def wish(self) -> Creation:
        assert self.wanted.create is not None
        return self.wanted.create


@dataclass(frozen=True)
class Begun:
    """A creation that was allowed at the moment ``since`` of the run's clock; None: it
    looks again before it goes on.

    ``made``: the volumes that EC2 has answered with, by the number of the member.
    """

    since: Optional[float]
    made: Mapping[int, str] = field(default_factory=dict)


# ------------------------------------------------------------------- answers


@dataclass(frozen=True)
class Wait:
    """Nothing is created yet.  EC2 is asked again in ``seconds``."""

    trouble: Trouble
    seconds: float


@dataclass(frozen=True)
class Create:
    """Create these members.  ``attempts``: tokens that may be tried for each.
    ``dead``: volumes that EC2 could not make, and may still answer with."""

    members: tuple[int, ...]
    attempts: int
    dead: tuple[str, ...] = ()


Step = Union[Wait, Create, Trouble, None]
"""A Trouble: somebody has to do something before any is created.  None: there is
nothing to create, and the ordinary rules say what is wrong, if anything."""


def next_step(
    wished: Wished,
    answers: Sequence[Answer],
    now: float,
    date: float,
    begun: Optional[Begun] = None,
    looked: Sequence[Volume] = (),
) -> Step:
    """What is to be done for a set of which not all volumes are there.

    ``answers``: the oldest first, all of this run.  ``now``: of the run's clock;
    ``date``: seconds since 1970.  ``looked``: the volumes of the set in the ordinary
    look, which may be older or newer than the last answer.
    """
    if not answers:
        return Wait(looking(wished), 0.0)
    latest = answers[-1]
    shown = present(wished, latest.volumes)
    again = max(latest.answered + FRESH - now, 0.0)
    failed = _failures(latest, shown, looked)
    if failed and all(_ours_and_young(wished, [one], date) for one in failed):
        return Wait(_failed(failed), again)
    if len(shown) >= wished.wanted.members:
        return None
    refused = _lookalike(wished, latest.volumes)
    if refused is None and not shown:
        refused = _elsewhere(wished, latest.volumes)
    if refused is not None:
        return refused
    if shown and not _ours_and_young(wished, shown, date):
        return None
    dead = _dead(answers)
    there = {number(wished, volume) for volume in shown}
    if begun and begun.since is not None and now - begun.since < YOUNG:
        made = {member for member, one in begun.made.items() if one not in dead}
        missing = _missing(wished, there | made)
        if missing:
            return Create(missing, ATTEMPTS, dead)
        return Wait(_unseen(wished, begun), again)
    first = _first_alike(wished, answers)
    # A dry run has no wait (0), and one look answers after it is asked.
    if wished.wish.after and latest.asked - first.answered < wished.wish.after:
        due = first.answered + wished.wish.after - now
        return Wait(looking(wished, shown), max(due, 0.0))
    if now - latest.answered > FRESH:
        return Wait(looking(wished, shown), 0.0)
    # One that was made and is gone has burned its first token: what may have been a
    # member of an array is not replaced. What this run has made has no data.
    own = set(begun.made.values()) if begun else set()
    others = {one.id for one in shown} - own
    return Create(_missing(wished, there), 1 if others else ATTEMPTS, dead)


def present(wished: Wished, volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """The volumes of the set, in any zone and state but leaving."""
    return tuple(
        volume
        for volume in volumes
        if volume.state not in sets.LEAVING
        and _is_of_node(wished, volume)
        and _name(wished, volume) == wished.wanted.name
    )


def _is_of_node(wished: Wished, volume: Volume) -> bool:
    return tags.node_of(volume.tags, wished.namespace) == wished.node


def _name(wished: Wished, volume: Volume) -> str:
    return tags.read(volume.tags, wished.namespace).get("volume_name", "")


def _failures(
    latest: Answer, shown: Sequence[Volume], looked: Sequence[Volume]
) -> list[Volume]:
    """The volumes that EC2 could not make.  Either answer may be the older one: what
    one of them shows as failed has failed."""
    gone = {one.id for one in latest.volumes if one.state in sets.LEAVING}
    failed = {one.id: one for one in (*shown, *looked) if one.state == "error"}
    return [one for key, one in failed.items() if key not in gone]


def _first_alike(wished: Wished, answers: Sequence[Answer]) -> Answer:
    """The earliest answer since which all have shown the same volumes of the set."""
    first = answers[-1]
    shown = {one.id for one in present(wished, first.volumes)}
    for answer in reversed(answers):
        if {one.id for one in present(wished, answer.volumes)} != shown:
            break
        first = answer
    return first


def number(wished: Wished, volume: Volume) -> int:
    """The number of a member that cc_kraken has created; 0 for any other volume."""
    text = tags.read(volume.tags, wished.namespace).get("member", "")
    plain = text.isascii() and text.isdigit() and len(text) <= 3
    return int(text) if plain and int(text) <= wished.wanted.members else 0


def _ours_and_young(wished: Wished, present: Sequence[Volume], date: float) -> bool:
    """Whether they are all part of one creation that was cut off: none of them can
    have served by then."""
    numbers = {number(wished, volume) for volume in present}
    return len(numbers - {0}) == len(present) and all(
        volume.zone == wished.zone
        and -SKEW < date - volume.created < YOUNG
        and volume.state in ("creating", "available", "error")
        and not volume.attachments
        and volume.size_gib == (wished.wish.size_gib or volume.size_gib)
        for volume in present
    )


def _missing(wished: Wished, there: "set[int]") -> tuple[int, ...]:
    every = range(1, wished.wanted.members + 1)
    return tuple(number for number in every if number not in there)


def _dead(answers: Sequence[Answer]) -> tuple[str, ...]:
    """Volumes that failed or were deleted, as far as EC2 has shown them."""
    return tuple(
        sorted(
            {one.id for each in answers for one in each.volumes if one.state in DEAD}
        )
    )


# --------------------------------------------------------------- the request


def new_volume(wished: Wished, member: int, attempt: int) -> NewVolume:
    """The request for one member; the same one at each time and on each instance."""
    return NewVolume(
        zone=wished.zone,
        wish=wished.wish,
        tags=tags_of(wished, member),
        token=token(wished, member, attempt),
    )


def token(wished: Wished, member: int, attempt: int) -> str:
    """SHA-256 in hex: the 64 characters that EC2 allows for a client token.

    Not of what the volume is to be: two templates that differ, in one refresh, make
    one volume, for EC2 refuses a token that comes again with other parameters.
    """
    node, name = wished.node, wished.wanted.name
    said = [node.prefix, node.node_id, name, member, wished.zone, attempt]
    text = json.dumps(said, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def tags_of(wished: Wished, member: int) -> dict[str, str]:
    """All tags that a new volume gets, in the call that creates it."""
    wanted, node = wished.wanted, wished.node
    name = f"{node.prefix}-{node.node_id}-{wanted.name}"
    ours = {
        tags.PREFIX: node.prefix,
        tags.NODE_ID: node.node_id,
        tags.VOLUME_NAME: wanted.name,
        tags.VOLUME_SIZE: str(wanted.members),
        tags.MEMBER: str(member),
        tags.tag_of("raid_level"): wanted.raid_level if wanted.members > 1 else None,
        tags.tag_of("fs_type"): wanted.fs_type,
        tags.tag_of("mount_path"): wanted.mount_path,
    }
    name += f"-{member}" if wanted.members > 1 else ""
    found = {"Name": name[: tags.LONGEST]}
    found.update(wished.wish.tags)
    for tag, value in ours.items():
        if value is not None and len(str(value)) <= tags.LONGEST:
            found[tags.name(wished.namespace, tag)] = str(value)
    return found


# ---------------------------------------------------- what may be the set already


def _lookalike(wished: Wished, volumes: Sequence[Volume]) -> Optional[Trouble]:
    """A volume that may be one of the set, with tags that are misspelt."""
    found = [
        volume
        for volume in volumes
        if volume.state not in sets.LEAVING and _may_be_meant(wished, volume)
    ]
    if not found:
        return None
    shown = ", ".join(f"{one.id} ({_tags_shown(one)})" for one in found[:MOST])
    return Trouble(
        "create-lookalike",
        f"The tags of {shown} look like those of the set {wished.wanted.name} of "
        f"{wished.node}.",
        "Before a volume is created, none may exist that could be meant.",
        "Correct its tags, or name its set in the section if it is another one. Then: "
        "cc-kraken apply.",
    )


def _may_be_meant(wished: Wished, volume: Volume) -> bool:
    # Few have these values in any tag: of thousands only they are looked at closely.
    values = {value.strip() for value in volume.tags.values()}
    for wanted in (wished.node.prefix, wished.node.node_id):
        if not any(_same(value, wanted) for value in values):
            return False
    meant = tags.meant(volume.tags, wished.namespace)
    name, node = meant.get("volume_name", ""), wished.node
    if name in wished.others or (name and not _near(name, wished.wanted.name)):
        return False
    if _is_of_node(wished, volume):
        own = _name(wished, volume)
        # Without any tag of a set it is attached and left alone.
        return own != wished.wanted.name if own else len(meant) > 2
    near = _same(meant.get("prefix", ""), node.prefix)
    return near and _same(meant.get("node_id", ""), node.node_id)


def _same(one: str, other: str) -> bool:
    """Whether two ids are the same but for case and leading zeros."""
    return _folded(one).lstrip("0") == _folded(other).lstrip("0")


def _folded(text: str) -> str:
    """A value without case, and without what a person does not see in it: other code
    points for the same letters, characters of no width (Unicode category Cf)."""
    if text.isascii():
        return text.casefold()
    shown = (one for one in text if unicodedata.category(one) != "Cf")
    return unicodedata.normalize("NFKC", "".join(shown)).casefold().strip()


def _near(one: str, other: str) -> bool:
    """Whether one name is probably meant for the other; data1 is not for data2."""
    one, other = _folded(one), _folded(other)
    if re.sub(r"\d", "", one) == re.sub(r"\d", "", other):
        return one == other
    return difflib.SequenceMatcher(None, one, other).ratio() >= 0.8


def _tags_shown(volume: Volume) -> str:
    """The tags of a volume by which it looks like one of ours."""
    keys = [
        key
        for key in sorted(volume.tags)
        if key.rpartition(":")[2].casefold() not in ("", "name") and ":" in key
    ]
    return ", ".join(f"{quoted(key)}={quoted(volume.tags[key])}" for key in keys[:MOST])


def _elsewhere(wished: Wished, volumes: Sequence[Volume]) -> Optional[Trouble]:
    """Volumes of the node in another zone: the instance is in the wrong one."""
    found = [
        volume
        for volume in volumes
        if volume.state not in sets.LEAVING
        and volume.zone != wished.zone
        and _is_of_node(wished, volume)
    ]
    if not found:
        return None
    shown = ", ".join(f"{one.id} is in {one.zone}" for one in found[:MOST])
    return Trouble(
        "create-zone",
        f"Volumes of {wished.node} exist in another zone: {shown}; this instance is in "
        f"{wished.zone}.",
        "All volumes of a node must be in one zone.",
        f"Launch the instance in {found[0].zone}.",
    )


# ------------------------------------------------------------------ in words


def looking(wished: Wished, present: Sequence[Volume] = ()) -> Trouble:
    wanted, after = wished.wanted, wished.wish.after
    missing = wanted.members - len(present)
    there = "No volume"
    if present:
        ids = ", ".join(one.id for one in present)
        there = f"Only {ids} of the {wanted.members} volumes"
    return Trouble(
        "create-waiting",
        f"{there} of the set {wanted.name} of {wished.node} exists.",
        f"Two looks, {after} s apart, must show the same before cc_kraken creates "
        f"{missing}.",
        "It looks again by itself. If the volumes exist, correct their tags now.",
        waits=True,
    )


def _unseen(wished: Wished, begun: Begun) -> Trouble:
    made = ", ".join(begun.made[number] for number in sorted(begun.made))
    return Trouble(
        "create-unseen",
        f"EC2 has created {made} for the set {wished.wanted.name}, and does not show "
        "them yet.",
        "EC2 must show the volumes before they are attached.",
        "This ends within a minute. If it stays, see who deletes them (CloudTrail: "
        "DeleteVolume).",
        waits=True,
    )


def _failed(failed: Sequence[Volume]) -> Trouble:
    return Trouble(
        "create-failed",
        f"EC2 could not make {', '.join(one.id for one in failed)} (state error).",
        "EC2 must be able to use the KMS key, and the snapshot if there is one.",
        "Check that the KMS key is enabled, and that the role of this instance may use "
        "it. EC2 removes the volume by itself; then it is created anew.",
        waits=True,
    )


def no_tokens(wished: Wished, member: int) -> Trouble:
    """That EC2 makes no volume for any of the tokens of a member."""
    return Trouble(
        "create-burned",
        f"Volume {member} of the set {wished.wanted.name} of {wished.node} was created "
        "before, and is no more.",
        "A volume that failed or was deleted is created anew only a few times, and "
        "never beside members that may have data.",
        "See in CloudTrail who deletes it (DeleteVolume), or whether its KMS key can "
        "be used. If the data is to begin anew, create and tag the volume yourself.",
    )


def described(wish: Creation) -> str:
    """One volume, as a plan shows it: ``100 GiB gp3, encrypted``."""
    words = [f"{wish.size_gib} GiB {wish.type}" if wish.size_gib else wish.type]
    words += [f"{wish.iops} IOPS"] * bool(wish.iops)
    words += [f"{wish.throughput} MiB/s"] * bool(wish.throughput)
    words += [
        "encrypted" if wish.encrypted else "encrypted only if the account says so"
    ]
    words += [f"with the KMS key {wish.kms_key_id}"] * bool(wish.kms_key_id)
    words += [f"from {wish.snapshot}"] * bool(wish.snapshot)
    return ", ".join(words)


def monthly(wish: Creation, members: int) -> str:
    """What these volumes add to the bill each month, in its units; not the price."""
    if not wish.size_gib:
        size = f"{members} times the size of {wish.snapshot}"
    else:
        size = f"{wish.size_gib * members} GiB"
    kind = creation.TYPES[wish.type]
    least, _ = kind.throughput or (0, 0)
    iops = max(0, wish.iops - kind.included) * members
    throughput = max(0, wish.throughput - least) * members
    more = [f"{iops} provisioned IOPS"] * bool(iops)
    more += [f"{throughput} MiB/s of throughput"] * bool(throughput)
    beyond = f" (and {' and '.join(more)} beyond what is included)" if more else ""
    return f"{size} of {wish.type}{beyond}"
