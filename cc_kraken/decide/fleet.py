"""Every node of an account: would it come up, and what is wrong before it boots?

An instance's own rules judge each node: its identity (:mod:`cc_kraken.config.tags`),
its sets (:mod:`~cc_kraken.config.sets`), who holds its volumes
(:mod:`~cc_kraken.decide.attach`).  What is on the disks only a boot can see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Optional

from cc_kraken.config import sets, tags
from cc_kraken.decide import attach, claiming
from cc_kraken.decide.case import case_of
from cc_kraken.decide.peers import GOING, without_others_pins
from cc_kraken.decide.world import World
from cc_kraken.model import (
    Claim,
    Claimant,
    Instance,
    KrakenError,
    Node,
    Section,
    Trouble,
    Volume,
)

FREE, HELD, CLAIMED, STOPPED, LEAVING, WAITING, FOREIGN, SPLIT = (
    "free", "held", "claimed", "stopped", "leaving", "waiting", "foreign", "split",
)  # fmt: skip
"""Nobody has the node's volumes; its instance has them (``claimed``: one that may be
any node); that one is stopped; who has them goes away; its instance runs and has none;
an instance that is not the node has them; several instances have them."""

_PASSES = ("attaching", "holder-leaving", "holder-detaching", "volume-detaching")
"""Kinds of trouble with an attachment that end by themselves."""
_OF_A_ZONE = ("zone-other", "zone-mixed")
MOST_NAMED = 5  # nodes or volumes in one message


@dataclass(frozen=True)
class Finding:
    """Something wrong; ``set`` and ``node_id`` are "" where it is about more."""

    trouble: Trouble
    prefix: str = ""
    node_id: str = ""
    set: str = ""


@dataclass(frozen=True)
class Judged:
    """One node.  ``wrong``: why a boot of it would not come up.  ``view``: the
    instance that would boot, "" for a new one."""

    node: Node
    zone: str
    state: str
    claims: tuple[Claim, ...]
    wrong: tuple[Finding, ...]
    instance_id: str = ""
    instance_state: str = ""
    view: str = ""

    @property
    def comes_up(self) -> bool:
        return not self.wrong


@dataclass(frozen=True)
class Fleet:
    """All nodes in order, and everything that is wrong, the nodes' own first."""

    nodes: tuple[Judged, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def judge(
    section: Section,
    volumes: Sequence[Volume],
    instances: Mapping[str, Instance],
    prefix: str = "",
) -> Fleet:
    """``volumes``: all with a tag like ours.  ``instances``: those with one, and who
    holds these volumes.  ``prefix``: "" is all."""
    return _Account(section, volumes, instances).judged(prefix)


class _Account:
    def __init__(
        self,
        section: Section,
        volumes: Sequence[Volume],
        instances: Mapping[str, Instance],
    ) -> None:
        # A node_id in the section is one node's; tags tell which instance is which.
        self.section = replace(section, node_id=None)
        self.namespace = section.tag_namespace
        self.volumes = [one for one in volumes if one.state not in sets.LEAVING]
        self.instances = instances
        self.tags = {one.id: tags.read(one.tags, self.namespace) for one in volumes}
        self.roots = {
            volume.id: one
            for volume in self.volumes
            for one in volume.attachments
            if one.device and one.device == self.holder(one.instance_id).root_device
        }
        #: Which node each instance says it is: a Node, a Claimant or a Trouble.
        self.tagged = {
            key: tags.node(self.section, one.tags, key)
            for key, one in instances.items()
            if one.state not in (*GOING, "gone") and self._has_tags(one.tags)
        }
        self.by_who: dict[object, list[Instance]] = {}
        self.declared: dict[str, set[str]] = {}
        for key, who in self.tagged.items():
            self.by_who.setdefault(who, []).append(instances[key])
            if isinstance(who, (Node, Claimant)):
                said = tags.read(instances[key].tags, self.namespace).get("volumes", "")
                self.declared.setdefault(who.prefix, set()).add(said)
        self.own: dict[Node, list[Volume]] = {}
        for volume in self.volumes:
            node = tags.node_of(volume.tags, self.namespace)
            if node is not None and node.node_id != tags.ANY_NODE:
                self.own.setdefault(node, []).append(volume)
        for who in self.tagged.values():
            if isinstance(who, Node):
                self.own.setdefault(who, [])

    def judged(self, prefix: str) -> Fleet:
        order = sorted(
            self.own, key=lambda one: (one.prefix, claiming.by_number(one.node_id))
        )
        nodes = tuple(_Look(self, node).judged() for node in order)
        findings = [one for node in nodes for one in node.wrong]
        findings += [
            *self._instances(), *self._volumes(), *self._differences(nodes)
        ]  # fmt: skip
        if prefix:
            nodes = tuple(one for one in nodes if one.node.prefix == prefix)
            findings = [one for one in findings if one.prefix in ("", prefix)]
        return Fleet(nodes, tuple(findings), tuple(self._notes(nodes)))

    # ------------------------------------------------------------- instances

    def holder(self, instance_id: Optional[str]) -> Instance:
        gone = Instance(instance_id or "", "gone")
        return self.instances.get(gone.instance_id, gone)

    def _has_tags(self, found: Mapping[str, str]) -> bool:
        return bool(
            tags.read(found, self.namespace) or tags.misspelt(found, self.namespace)
        )

    def is_node(self, one: Instance, node: Node) -> bool:
        return self.tagged.get(one.instance_id) in (node, Claimant(node.prefix))

    def _instances(self) -> Iterator[Finding]:
        for key, who in self.tagged.items():
            own = tags.read(self.instances[key].tags, self.namespace)
            if isinstance(who, Trouble):
                yield Finding(abroad(who, key), own.get("prefix", ""))
            elif isinstance(who, Claimant):
                trouble = self._claim(self.instances[key], who.prefix)
                if trouble is not None and trouble.kind != "claim-none-free":
                    yield Finding(abroad(trouble, key), who.prefix)

    def _claim(self, one: Instance, prefix: str) -> Optional[Trouble]:
        """What keeps an instance that may be any node from being one."""
        declared = tags.declared(self.section, one.tags)
        if not declared:
            return None  # its own user-data may say so
        look = claiming.Situation(
            one.instance_id, self.section, prefix, one.zone, declared,
            tuple(self.volumes), system=self.roots_of(one),
        )  # fmt: skip
        answer = claiming.next_step(look)
        return answer if isinstance(answer, Trouble) else None

    def roots_of(self, one: Instance) -> frozenset[str]:
        here = one.instance_id
        return frozenset(k for k, at in self.roots.items() if at.instance_id == here)

    # --------------------------------------------------------------- volumes

    def _volumes(self) -> Iterator[Finding]:
        for volume in self.volumes:
            own = self.tags[volume.id]
            meant = tags.misspelt(volume.tags, self.namespace)
            if not own and not meant:
                continue
            prefix, node_id = own.get("prefix", ""), own.get("node_id", "")
            trouble = (
                self._root(volume)
                or self._nobodys(volume, own, meant)
                or self._deleted(volume)
            )
            if trouble is not None:
                yield Finding(trouble, prefix, node_id, own.get("volume_name", ""))

    def _root(self, volume: Volume) -> Optional[Trouble]:
        if volume.id not in self.roots:
            return None
        there = self.roots[volume.id].instance_id
        words = sorted(one for one in volume.tags if one.startswith(self.namespace))
        return Trouble(
            "root-volume-tagged",
            f"{volume.id} is the root volume of {there} and has tags of a data "
            f"volume ({', '.join(words)}).",
            "Only data volumes may have them.",
            f"Take them off {volume.id}. Often a launch template puts the instance's "
            "tags on all of its volumes: correct its TagSpecifications.",
        )

    def _nobodys(
        self, volume: Volume, own: Mapping[str, str], meant: Mapping[str, str]
    ) -> Optional[Trouble]:
        if own.get("node_id") == tags.ANY_NODE:
            return Trouble(
                "volume-any-node",
                f"{volume.id} has {self._tag(tags.NODE_ID)}=*.",
                "Only an instance may be any node. A volume belongs to one node.",
                f"Give {volume.id} the id of its node.",
            )
        missing = [t for t in (tags.PREFIX, tags.NODE_ID) if tags.NAMES[t] not in own]
        blanks = tags.with_blanks(volume.tags, self.namespace)
        if blanks:
            return Trouble(
                "volume-no-node",
                f"{volume.id} has {' and '.join(blanks)}. EC2 finds no volume for an "
                "instance whose value has no blank at its ends.",
                "Both tags must have the value of the instance.",
                "Take the blanks away.",
            )
        if not missing:
            return None
        odd = {one: tag for one, tag in meant.items() if tag in missing}
        if odd:
            return Trouble(
                "tag-misspelt",
                f"{volume.id} has the tag {tags.in_words(odd, self.namespace)}, so no "
                "node has this volume.",
                "The tag must have the name in parentheses.",
                "Correct the tag's name.",
            )
        words = " and no ".join(map(self._tag, missing))
        return Trouble(
            "volume-no-node",
            f"{volume.id} has tags of this namespace and no {words}.",
            "These two tags say which node the volume belongs to.",
            f"Add {words.replace(' no ', ' ')}, or take the other tags off.",
        )

    def _deleted(self, volume: Volume) -> Optional[Trouble]:
        for one in volume.attachments:
            if one.delete_on_termination:
                return Trouble(
                    "delete-on-termination",
                    f"EC2 deletes {volume.id} with {one.instance_id} "
                    "(DeleteOnTermination).",
                    "A data volume must outlive its instance.",
                    attach.keep_at_termination(one),
                )
        return None

    def _tag(self, tag: str) -> str:
        return tags.name(self.namespace, tag)

    # ---------------------------------------------------- nodes of one prefix

    def _differences(self, nodes: Sequence[Judged]) -> Iterator[Finding]:
        for prefix in dict.fromkeys(one.node.prefix for one in nodes):
            some = [one for one in nodes if one.node.prefix == prefix and one.claims]
            # Not a volume without a VolumeName, and there.
            names = {
                one.node.node_id: tuple(
                    each.name
                    for each in one.claims
                    if each.volumes and each.name != each.volumes[0].id
                )
                for one in some
            }
            yield from self._differs(prefix, "", "sets", names)
            for name in dict.fromkeys(one for each in names.values() for one in each):
                same = {
                    one.node.node_id: claim
                    for one in some
                    for claim in one.claims
                    if claim.name == name and claim.volumes
                }
                for key in dict.fromkeys(tags.SET_TAGS.values()):
                    values = {
                        one: self._said(claim, key) for one, claim in same.items()
                    }
                    what = f"{self._tag(tags.tag_of(key))} of the set {name}"
                    yield from self._differs(prefix, name, what, values)

    def _said(self, claim: Claim, key: str) -> tuple[str, ...]:
        """What the tags say of a set; each value once."""
        found = (self.tags[volume.id].get(key) for volume in claim.volumes)
        return tuple(dict.fromkeys(value for value in found if value))

    def _differs(
        self, prefix: str, name: str, what: str, values: Mapping[str, tuple[str, ...]]
    ) -> Iterator[Finding]:
        groups: dict[tuple[str, ...], list[str]] = {}
        for node_id, value in values.items():
            groups.setdefault(value, []).append(node_id)
        if len(groups) < 2:
            return
        rare_first = sorted(groups.items(), key=lambda group: len(group[1]))
        words = "; ".join(
            f"{_few([f'{prefix}/{one}' for one in ids])}: {', '.join(value) or 'none'}"
            for value, ids in rare_first[:MOST_NAMED]
        )
        trouble = Trouble(
            "nodes-differ",
            f"The nodes of {prefix} differ in {what} ({words}).",
            "The nodes of one prefix are set up alike.",
            "Tag the volumes alike, or give the nodes prefixes of their own.",
        )
        odd = rare_first[0][1] if len(rare_first[0][1]) == 1 else [""]
        yield Finding(trouble, prefix, odd[0], name)

    # ----------------------------------------------------------------- notes

    def _notes(self, nodes: Sequence[Judged]) -> Iterator[str]:
        shown = {one.node for one in nodes}
        data = [v for node, own in self.own.items() if node in shown for v in own]
        plain = [one.id for one in data if not one.encrypted]
        if plain:
            count = f"{len(plain)} of {len(data)}"
            yield f"{count} volumes are not encrypted: {_few(plain)}."
        for one in nodes:
            for claim in one.claims:
                yield from (f"{one.node}: {text}" for text in claim.warnings)
        prefixes = {one.prefix for one in shown}
        busy = set(_holders([one for one in self.volumes if one.id not in self.roots]))
        for key, who in self.tagged.items():
            if key in busy:
                continue
            if isinstance(who, Claimant) and who.prefix in prefixes:
                yield f"{key} may be any node of {who.prefix} and holds none."
            elif isinstance(who, Node) and who in shown and self.own[who]:
                others = _holders(self.own[who])
                if others:
                    yield (
                        f"{key} ({self.instances[key].state}) is tagged as {who} too "
                        f"and waits for {' and '.join(others)}."
                    )


class _Look:
    """One node, as the instance sees it that is the node or would become it."""

    def __init__(self, account: _Account, node: Node) -> None:
        self.account = account
        self.node = node
        self.own = sorted(account.own[node], key=lambda volume: volume.id)
        self.section = without_others_pins(account.section, self.own)
        data = [one for one in self.own if one.id not in account.roots]
        self.holders = [account.holder(key) for key in _holders(data)]
        self.view = self._view()
        self.system = account.roots_of(self.view) if self.view else frozenset()

    def _view(self) -> Optional[Instance]:
        """The instance that boots: the holder that is the node, else one that is
        tagged so.  None: a new one."""
        tagged = sorted(
            self.account.by_who.get(self.node, ()),
            key=lambda one: (one.state != "running", one.instance_id),
        )
        mine = [one for one in self.holders if self.account.is_node(one, self.node)]
        return next(iter([*mine, *tagged]), None)

    def judged(self) -> Judged:
        zone, claims, wrong = min(
            (self._in(zone) for zone in self._zones()), key=lambda one: len(one[2])
        )
        holder = self.holders[0] if self.holders else self.view
        return Judged(
            self.node,
            zone,
            self._state(),
            claims,
            tuple(wrong),
            holder.instance_id if holder else "",
            holder.state if holder else "",
            self.view.instance_id if self.view else "",
        )

    def _zones(self) -> Sequence[str]:
        if self.view is not None:
            return [self.view.zone]
        zones = [volume.zone for volume in self.own]
        return sorted(dict.fromkeys(zones), key=zones.count, reverse=True)

    def _state(self) -> str:
        if not self.holders:
            return WAITING if self.view else FREE
        if len(self.holders) > 1:
            return SPLIT
        (holder,) = self.holders
        attached = [one for volume in self.own for one in volume.attachments]
        going = all(one.state in attach.DETACHING for one in attached)
        if going or holder.state in (*GOING, "gone"):
            return LEAVING
        if not self.account.is_node(holder, self.node):
            return FOREIGN
        if holder.state in ("stopping", "stopped"):
            return STOPPED
        any_node = isinstance(self.account.tagged[holder.instance_id], Claimant)
        return CLAIMED if any_node else HELD

    # -------------------------------------------------------------- judgement

    def _in(self, zone: str) -> tuple[str, tuple[Claim, ...], list[Finding]]:
        """The sets as an instance in this zone sees them, and what is wrong."""
        own = self.view.tags if self.view else self._tags_of_others()
        declared = tags.declared(self.section, own)
        asked = sets.claims(
            self.section, self.node, zone, self.own, declared, self.system
        )
        unfit = self._unfit()
        if unfit is not None:
            return zone, asked.claims, [self._finding(unfit)]
        if not asked.claims:
            trouble = sets.no_volumes(self.node, self.section, asked.notes)
            return zone, (), [self._finding(trouble)]
        several = len({one.zone for one in self.own if one.id not in self.system}) > 1
        split = len(self.holders) > 1
        wrong: list[Finding] = []
        claims: list[Claim] = []
        for claim in asked.claims:
            found = claim.trouble or self._held(claim, asked.claims)
            claims.append(replace(claim, trouble=found))
            if found is None or not claim.wanted.required:
                continue
            of_zones = several and found.kind in _OF_A_ZONE
            if not of_zones and not (split and found.kind.startswith("holder-")):
                finding = self._finding(found, claim.name)
                # Two sets on one path have one trouble.
                if finding.trouble not in [one.trouble for one in wrong]:
                    wrong.append(finding)
        if several and any(
            claim.trouble and claim.trouble.kind in _OF_A_ZONE for claim in claims
        ):
            wrong.insert(0, self._finding(self._zones_mixed()))
        if split:
            wrong.insert(0, self._finding(self._split()))
        return zone, tuple(claims), wrong

    def _unfit(self) -> Optional[Trouble]:
        """Why no instance can be this node, whatever its tags say."""
        section = replace(
            self.section, prefix=self.node.prefix, node_id=self.node.node_id
        )
        who = tags.node(section, {})
        return who if isinstance(who, Trouble) else None

    def _tags_of_others(self) -> Mapping[str, str]:
        """A new instance declares what all instances of its prefix declare."""
        said = self.account.declared.get(self.node.prefix, set())
        name = tags.name(self.account.namespace, tags.VOLUMES)
        return {name: next(iter(said))} if len(said) == 1 else {}

    def _held(self, claim: Claim, claims: Sequence[Claim]) -> Optional[Trouble]:
        """What keeps the volumes of a complete set from being attached."""
        world = World(
            self.view.instance_id if self.view else "",
            holders=self.account.instances,
            elapsed=attach.CLAIM_SECONDS,
        )
        for volume in claim.volumes:
            one = replace(claim, volumes=(volume,))
            try:
                attach.steps(case_of(self.node, one, claims, world))
            except KrakenError as error:
                if error.trouble.kind not in _PASSES:
                    return self._with_tags(error.trouble, volume)
        return None

    def _with_tags(self, trouble: Trouble, volume: Volume) -> Trouble:
        """The same, with who the tags of the holder say that it is."""
        for one in volume.attachments:
            who = self.account.tagged.get(one.instance_id or "")
            says = f"say {who}" if isinstance(who, Node) else "name no node"
            if isinstance(who, Claimant):
                says = f"say any node of {who.prefix}"
            return replace(trouble, found=f"{trouble.found} Its tags {says}.")
        return trouble

    def _zones_mixed(self) -> Trouble:
        data = [one for one in self.own if one.id not in self.system]
        places = _few([f"{one.id} in {one.zone}" for one in data])
        return Trouble(
            "zone-mixed",
            f"The volumes of {self.node} are in several zones ({places}).",
            "An instance attaches volumes of its own zone alone.",
            "Make the volumes anew in one zone from snapshots, and take the tags off "
            "the others.",
        )

    def _split(self) -> Trouble:
        by_holder = [
            f"{one.instance_id or 'something that EC2 does not name'} has "
            + _few([v.id for v in self.own if one.instance_id in _holders([v])])
            for one in self.holders
        ]
        return Trouble(
            "node-split",
            f"Several instances hold volumes of {self.node}: {'; '.join(by_holder)}.",
            "One instance must hold all of them.",
            "Terminate the instance that is not to be the node, or detach the volumes "
            "from it.",
        )

    def _finding(self, trouble: Trouble, name: str = "") -> Finding:
        who = self.view.instance_id if self.view else f"an instance of {self.node}"
        node = self.node
        return Finding(abroad(trouble, who), node.prefix, node.node_id, name)


def abroad(trouble: Trouble, who: str) -> Trouble:
    """The same for somebody who is not on the instance."""
    return replace(
        trouble,
        found=trouble.found.replace("this instance", who),
        expected=trouble.expected.replace("this instance", who),
        remedy=trouble.remedy.replace("this instance", who),
    )


def _holders(volumes: Sequence[Volume]) -> list[str]:
    """The instances that hold some of these, each once."""
    return list(
        dict.fromkeys(
            one.instance_id or "" for volume in volumes for one in volume.attachments
        )
    )


def _few(words: Sequence[str]) -> str:
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return ", ".join(words[:MOST_NAMED]) + more
