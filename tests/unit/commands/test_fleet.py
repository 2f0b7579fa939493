"""``cc-kraken fleet`` against an account of the lab, over HTTP, with a user's keys."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
from pytest_mock import MockerFixture

from cc_kraken import cli
from cc_kraken.cloud import answers
from cc_kraken.cloud.account import like
from cc_kraken.commands import shown
from cc_kraken.config import tags as config_tags
from cc_kraken.decide import fleet as decide_fleet
from cc_kraken.model import Attachment, Node, Section, Trouble, Volume
from tests.conftest import LATER, soon
from tests.fleet import wire
from tests.lab.clock import ManualClock
from tests.lab.ec2 import Ec2Lab
from tests.lab.query import wildcard
from tests.pages import ROOT, blocks
from tests.unit.simulations.test_fleet_boots import Direct

pytest.importorskip("boto3")

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
LOG = {"VolumeName": "log", "FsType": "ext4", "MountPath": "/log"}
DATA = {
    "VolumeName": "data",
    "FsType": "xfs",
    "MountPath": "/data",
    "RaidLevel": "0",
    "Members": "3",
}


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ec2Lab]:
    """An EC2 that a person's settings lead to; nothing of this machine's own."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\n[profile ops]\n")
    (tmp_path / ".aws" / "credentials").write_text(
        "[ops]\naws_access_key_id = AKIAOPERATOR\naws_secret_access_key = secret\n"
    )
    with Ec2Lab(clock=ManualClock(1.7e9)) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", made.endpoint_url)
        yield made


def tags(**words: str) -> dict[str, str]:
    return {f"KRKN-IN:{key}": value for key, value in words.items()}


class Account:
    """What people do in an account; volumes and instances by a name."""

    def __init__(self, lab: Ec2Lab) -> None:
        self.lab = lab

    def node(
        self, prefix: str, node_id: str, zone: str, *, without: str = "", **more: str
    ) -> list[str]:
        """The volumes of a node: log, and data of three; ``more``: tags of log."""
        both = {"Prefix": prefix, "NodeId": node_id}
        log = {**both, **LOG, **more}
        log.pop(without, "")
        wanted = [log, *[{**both, **DATA}] * 3]
        return [self.lab.create_volume(8, zone, tags(**one)) for one in wanted]

    def instance(
        self,
        prefix: str,
        node_id: str,
        zone: str,
        volumes: Sequence[str] = (),
        **more: str,
    ) -> str:
        own = {"Prefix": prefix, "NodeId": node_id, "Volumes": "log,data", **more}
        made = self.lab.run_instance(zone=zone, tags=tags(**own))
        for number, volume in enumerate(volumes):
            self.lab.attach_volume(volume, made, f"/dev/sd{'fghijk'[number]}")
        return made

    def clean(self) -> "Account":
        """Held, claimed, free and stopped nodes, and what is none of ours."""
        for number, zone in enumerate(ZONES):
            one = str(number)
            self.instance("kafka", one, zone, self.node("kafka", one, zone))
        self.node("kafka", "3", "us-east-1a")
        self.instance("pool", "*", "us-east-1a", self.node("pool", "0", "us-east-1a"))
        self.node("pool", "1", "us-east-1b")
        stopped = self.instance("db", "0", ZONES[0], self.node("db", "0", ZONES[0]))
        self.lab.stop_instance(stopped)
        self.lab.create_volume(8, ZONES[0], {"Name": "web", "KRKX": "1", "K-IN:a": "b"})
        self.lab.create_volume(8, ZONES[0], {"kubernetes.io/created-for/pvc/name": "x"})
        self.lab.run_instance(tags={"Name": "web", "Prefix": "kafka"})
        gone = self.instance("old", "0", ZONES[0])
        self.lab.terminate_instance(gone)
        self.lab.clock.advance(60)  # type: ignore[attr-defined]
        return self


Ran = tuple[int, str, str]


@pytest.fixture
def fleet(lab: Ec2Lab, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*words: str) -> Ran:
        code = cli.main(["fleet", "--region", "us-east-1", "--profile", "ops", *words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def found(ran: Ran) -> dict[str, list[str]]:
    """The messages of the findings, by kind."""
    code, out, error = ran
    assert not error
    kinds: dict[str, list[str]] = {}
    for one in json.loads(out)["findings"]:
        kinds.setdefault(one["kind"], []).append(one["message"])
    assert code == (1 if kinds else 0)
    return kinds


def nodes(ran: Ran) -> dict[str, Any]:
    return {
        f"{one['prefix']}/{one['node_id']}": one for one in json.loads(ran[1])["nodes"]
    }


# --------------------------------------------------------------- clean accounts


def test_a_clean_account_has_no_finding(lab: Ec2Lab, fleet: Callable[..., Ran]) -> None:
    Account(lab).clean()
    ran = fleet("--json")
    assert found(ran) == {}
    there = nodes(ran)
    assert {key: (one["state"], one["comes_up"]) for key, one in there.items()} == {
        "db/0": ("stopped", True),
        "kafka/0": ("held", True),
        "kafka/1": ("held", True),
        "kafka/2": ("held", True),
        "kafka/3": ("free", True),
        "pool/0": ("claimed", True),
        "pool/1": ("free", True),
    }
    assert there["kafka/1"]["zone"] == "us-east-1b"
    data = next(one for one in there["kafka/0"]["sets"] if one["name"] == "data")
    assert len(data["volumes"]) == data["members"] == 3
    assert (data["fs_type"], data["mount_path"]) == ("xfs", "/data")
    assert data["raid_level"] == 0 and data["error"] is None


def test_what_is_not_encrypted_is_a_note(
    lab: Ec2Lab, fleet: Callable[..., Ran]
) -> None:
    Account(lab).node("kafka", "0", ZONES[0])
    code, out, _ = fleet("--json")
    (note,) = json.loads(out)["notes"]
    assert code == 0 and note.startswith("4 of 4 volumes are not encrypted: vol-")


def test_it_changes_nothing(lab: Ec2Lab, fleet: Callable[..., Ran]) -> None:
    Account(lab).clean()
    fleet()
    assert set(lab.calls.counts()) == {"DescribeVolumes", "DescribeInstances"}


# -------------------------------------------------------------------- mistakes


def _prefix_misspelt(a: Account) -> str:
    volume = a.node("kafka", "9", ZONES[0])[0]
    a.lab.untag(volume, "KRKN-IN:Prefix")
    a.lab.tag(volume, {"KRKN-IN:Prefx": "kafka"})
    return f"{volume} has the tag 'KRKN-IN:Prefx' (KRKN-IN:Prefix?)"


def _namespace_misspelt(a: Account) -> str:
    words = {"Prefix": "kafka", "NodeId": "9", **LOG}
    own = {f"KRKN_IN:{key}": value for key, value in words.items()}
    volume = a.lab.create_volume(8, ZONES[0], own)
    return f"{volume} has the tag 'KRKN_IN:NodeId'"


def _namespace_in_lower_case(a: Account) -> str:
    own = {"krkn-in:Prefix": "kafka", "krkn-in:NodeId": "9"}
    return f"{a.lab.create_volume(8, ZONES[0], own)} has the tag 'krkn-in:NodeId'"


def _path_misspelt(a: Account) -> str:
    log = a.node("kafka", "3x", ZONES[0], without="MountPath", Mountpath="/log")[0]
    return f"{log} has the tag 'KRKN-IN:Mountpath' (KRKN-IN:MountPath?)"


def _any_node(a: Account) -> str:
    both = tags(Prefix="kafka", NodeId="*", **LOG)
    return f"{a.lab.create_volume(8, ZONES[0], both)} has KRKN-IN:NodeId=*"


def _incomplete(a: Account) -> str:
    a.lab.delete_volume(a.node("kafka", "4", ZONES[0])[3])
    return "The set data has 2 of 3 volumes"


def _unseen(a: Account) -> str:
    a.node("kafka", "7\u200b", ZONES[0])
    return r"'7\u200b', has the character U+200B"


def _surplus(a: Account) -> str:
    data = a.node("kafka", "4", ZONES[0])[1]
    snapshot = a.lab.create_snapshot(data)
    own = a.lab.volume(data).tags
    copy = a.lab.create_volume(8, ZONES[0], own, snapshot_id=snapshot)
    return f"copies: {copy}."


def _zones(a: Account) -> str:
    log = a.node("kafka", "4", ZONES[0])[0]
    a.lab.delete_volume(log)
    moved = tags(Prefix="kafka", NodeId="4", **LOG)
    volume = a.lab.create_volume(8, ZONES[1], moved)
    return f"{volume} in us-east-1b"


def _sizes(a: Account) -> str:
    a.lab.resize_volume(a.node("kafka", "4", ZONES[0])[2], 9)
    return "differ in size"


def _one_path(a: Account) -> str:
    for number, volume in enumerate(a.node("db", "0", ZONES[1])):
        if number:
            a.lab.tag(volume, tags(MountPath="/log"))
        a.lab.tag(volume, tags(Prefix="paths"))
    return "The sets data and log have the same mount path /log"


def _unlike(a: Account) -> str:
    a.node("kafka", "4", ZONES[0], MountOptions="noatime")
    return (
        "The nodes of kafka differ in KRKN-IN:MountOptions of the set log "
        "(kafka/4: noatime; kafka/0, kafka/1, kafka/2, kafka/3: none)"
    )


def _no_fs_type(a: Account) -> str:
    a.node("kafka", "4", ZONES[0], without="FsType")
    return "KRKN-IN:FsType of the set log (kafka/4: none; "


def _set_missing(a: Account) -> str:
    for volume in a.node("spare", "1", ZONES[0])[1:]:
        a.lab.delete_volume(volume)
    a.node("spare", "0", ZONES[0])
    a.node("spare", "2", ZONES[0])
    return "differ in sets (spare/1: log; spare/0, spare/2: data, log)"


def _deleted(a: Account) -> str:
    volumes = a.node("kafka", "4", ZONES[0])
    there = a.instance("kafka", "4", ZONES[0], volumes)
    a.lab.set_delete_on_termination(volumes[2], True)
    return (
        f"EC2 deletes {volumes[2]} with {there} (DeleteOnTermination). A data volume "
        "must outlive its instance. Switch it off: aws ec2 modify-instance-attribute "
        f"--instance-id {there} --block-device-mappings DeviceName=/dev/sdh"
    )


def _root(a: Account) -> str:
    there = a.instance("kafka", "4", ZONES[0], a.node("kafka", "4", ZONES[0]))
    (root, *_) = a.lab.attached_to(there)
    a.lab.tag(root.volume_id, tags(Prefix="kafka", NodeId="4"))
    return f"{root.volume_id} is the root volume of {there}"


def _orphan(a: Account) -> str:
    return f"{a.lab.create_volume(8, ZONES[0], tags(**LOG))} has tags of this name"


def _split(a: Account) -> str:
    log, *data = a.node("kafka", "4", ZONES[0])
    one = a.instance("kafka", "4", ZONES[0], [log])
    a.instance("kafka", "4", ZONES[0], data)
    return f"{one} has {log}"


def _foreign(a: Account) -> str:
    there = a.instance("web", "1", ZONES[0], a.node("kafka", "4", ZONES[0]), Volumes="")
    a.lab.untag(there, "KRKN-IN:Prefix", "KRKN-IN:NodeId", "KRKN-IN:Volumes")
    return f"is attached to {there}, which is running and is not this node (kafka/4)"


def _other_node(a: Account) -> str:
    volumes = a.node("kafka", "4", ZONES[0])
    there = next(
        one.attachments[0].instance_id
        for one in a.lab.volumes()
        if tags(Prefix="kafka", NodeId="0").items() <= one.tags.items()
    )
    a.lab.attach_volume(volumes[0], there, "/dev/sdm")
    return (
        f"{volumes[0]} is attached to {there}, which is running and is not this node "
        "(kafka/4). Its tags say kafka/0."
    )


def _instance_misspelt(a: Account) -> str:
    there = a.lab.run_instance(tags={"KRKN-IN:Prefix": "kafka", "KRKN-IN:Nodeid": "5"})
    return f"{there} has no tag KRKN-IN:NodeId, but 'KRKN-IN:Nodeid'"


def _no_volumes(a: Account) -> str:
    a.instance("kafka", "7", ZONES[0], Volumes="")
    return "No volume in this region has the tags KRKN-IN:Prefix=kafka and"


def _wrong_zone(a: Account) -> str:
    a.node("kafka", "4", ZONES[0])
    there = a.instance("kafka", "4", ZONES[2])
    return f"in us-east-1a, {there} is in us-east-1c"


def _nowhere(a: Account) -> str:
    there = a.instance("pool", "*", ZONES[2])
    assert there
    return "No volume in us-east-1c has the tag KRKN-IN:Prefix=pool"


#: What somebody does, and the kinds that are found then, the one that is meant first.
MISTAKES: Mapping[Callable[[Account], str], tuple[str, ...]] = {
    _prefix_misspelt: ("tag-misspelt", "set-absent", "nodes-differ"),
    _namespace_misspelt: ("tag-misspelt",),
    _namespace_in_lower_case: ("tag-misspelt",),
    _path_misspelt: ("tag-misspelt", "nodes-differ"),
    _any_node: ("volume-any-node",),
    _incomplete: ("members-missing",),
    _unseen: ("identity-unfit",),
    _surplus: ("members-surplus",),
    _zones: ("zone-mixed",),
    _sizes: ("sizes-differ",),
    _one_path: ("mount-path-shared",),
    _unlike: ("nodes-differ",),
    _no_fs_type: ("nodes-differ", "mount-incomplete"),
    _set_missing: ("nodes-differ",),
    _deleted: ("delete-on-termination",),
    _root: ("root-volume-tagged",),
    _orphan: ("volume-no-node",),
    _split: ("node-split",),
    _foreign: ("holder-running",),
    _other_node: ("holder-running",),
    _instance_misspelt: ("identity-missing",),
    _no_volumes: ("no-volumes",),
    _wrong_zone: ("zone-other",),
    _nowhere: ("claim-none-here",),
}


def label(mistake: object) -> str:
    return getattr(mistake, "__name__", str(mistake)).strip("_").replace("_", " ")


@pytest.mark.parametrize(
    "mistake",
    soon([_prefix_misspelt, _unseen, _surplus, _deleted], MISTAKES, LATER),
    ids=label,
)
def test_a_mistake_is_found_and_nothing_else(
    mistake: Callable[[Account], str], lab: Ec2Lab, fleet: Callable[..., Ran]
) -> None:
    words = mistake(Account(lab).clean())
    kinds = MISTAKES[mistake]
    told = found(fleet("--json"))
    assert set(told) == set(kinds), told
    assert any(words in text for text in told[kinds[0]]), (words, told[kinds[0]])
    for texts in told.values():
        assert "this instance" not in " ".join(texts)


def test_ten_mistakes_in_one_account(lab: Ec2Lab, fleet: Callable[..., Ran]) -> None:
    """Each has its finding, and the nodes beside them stay clean."""
    a = Account(lab).clean()
    words = [_prefix_misspelt(a), _namespace_misspelt(a), _any_node(a), _orphan(a)]
    words += [_one_path(a), _set_missing(a)]
    log, *data = a.node("m5", "0", ZONES[0])
    lab.delete_volume(data[0])
    words.append("The set data has 2 of 3 volumes")
    a.node("m6", "0", ZONES[0])
    moved = tags(Prefix="m6", NodeId="0", **{**LOG, "VolumeName": "more"})
    lab.tag(lab.create_volume(8, ZONES[1], moved), tags(MountPath="/more"))
    words.append("The volumes of m6/0 are in several zones")
    volumes = a.node("m7", "0", ZONES[0])
    lab.resize_volume(volumes[3], 9)
    words.append("The volumes of the set data differ in size")
    volumes = a.node("m8", "0", ZONES[0])
    there = a.instance("m8", "0", ZONES[0], volumes)
    lab.set_delete_on_termination(volumes[0], True)
    words.append(f"EC2 deletes {volumes[0]} with {there}")
    ran = fleet("--json")
    texts = [text for each in found(ran).values() for text in each]
    for one in words:
        assert any(one in text for text in texts), (one, texts)
    there = nodes(ran)
    for number in range(4):
        assert there[f"kafka/{number}"]["comes_up"]
    assert there["m8/0"]["comes_up"], "EC2 deletes a volume later"
    assert not any(there[f"m{number}/0"]["comes_up"] for number in (5, 6, 7))


# --------------------------------------------------------------- what is asked


def _slips(name: str) -> Iterator[str]:
    """Every way to mistype one key of a name."""
    for place in range(len(name) + 1):
        before, after = name[:place], name[place:]
        yield from (before + letter + after for letter in "xX_-")
        yield from (before + letter + after[1:] for letter in "xX_-" if after)
        yield before + after[1:]
        yield before + after[1::-1] + after[2:]
    yield from (name.lower(), name.upper(), name.title())


@pytest.mark.parametrize("namespace", ["KRKN-IN", "GOAT-IN", "acme:kraken", "K*R?K\\N"])
def test_ec2_shows_every_key_that_looks_like_ours(namespace: str) -> None:
    patterns = [wildcard(one) for one in like(namespace)]
    seen = 0
    for slip in _slips(namespace):
        key = f"{slip}:Prefix"
        if config_tags.misspelt({key: "kafka"}, namespace):
            seen += 1
            assert any(one.fullmatch(key) for one in patterns), key
    assert seen > 20


def test_a_short_namespace_does_not_ask_for_the_whole_account() -> None:
    assert "*" not in {one[0] for one in like("K-IN")} | set(like("KR"))


@LATER
def test_five_thousand_volumes_take_eleven_answers(lab: Ec2Lab) -> None:
    """EC2 gives 500 volumes a page at most, and 1000 instances."""
    a = Account(lab)
    for number in range(1250):
        volumes = a.node("kafka", str(number), ZONES[number % 3])
        if number < 1000:
            a.instance("kafka", str(number), ZONES[number % 3], volumes)
    account = Direct(Section(), lab, wire())
    volumes_ = account.tagged_volumes()
    held = {one.instance_id or "" for each in volumes_ for one in each.attachments}
    there = account.instances(held)
    assert (len(volumes_), len(there)) == (5000, 1000)
    assert account.calls == {"DescribeVolumes": 10, "DescribeInstances": 1}
    judged = decide_fleet.judge(Section(), volumes_, there)
    assert len(judged.nodes) == 1250 and not judged.findings


def test_holders_without_tags_are_asked_for_by_their_ids(lab: Ec2Lab) -> None:
    shown = [lab.run_instance() for _ in range(3)]
    unknown = [f"i-{number:017x}" for number in range(250)]
    account = Direct(Section(), lab, wire())
    there = account.instances([*shown, *unknown])
    assert {there[one].state for one in shown} == {"running"}
    assert {there[one].state for one in unknown} == {"gone"}
    assert account.calls == {"DescribeInstances": 3}


def test_a_holder_that_ec2_does_not_name_is_said_so_and_not_asked_for(
    lab: Ec2Lab, fleet: Callable[..., Ran], mocker: MockerFixture
) -> None:
    """A volume that another service has attached shows no instance."""
    Account(lab).clean()
    own = {**LOG, "Prefix": "kafka", "NodeId": "0", "VolumeName": "more"}
    volume = lab.create_volume(8, ZONES[0], tags(**{**own, "MountPath": "/more"}))
    shown, nobody = answers.volume, Attachment(None, None, "attached")

    def attached(raw: Mapping[str, Any]) -> Volume:
        found = shown(raw)
        return replace(found, attachments=(nobody,)) if found.id == volume else found

    mocker.patch.object(answers, "volume", attached)
    (split,) = found(fleet("--json"))["node-split"]
    assert f"something that EC2 does not name has {volume}" in split
    asked = [one for one in lab.calls if one.action == "DescribeInstances"]
    assert not any("" in one.parameters.values() for one in asked)


# ------------------------------------------------------------- not asked: exit 2


def _no_keys(lab: Ec2Lab, home: Path) -> None:
    (home / ".aws" / "credentials").write_text("")


def _half_a_key(lab: Ec2Lab, home: Path) -> None:
    (home / ".aws" / "credentials").write_text("[ops]\naws_access_key_id = A\n")


def _no_profile(lab: Ec2Lab, home: Path) -> None:
    (home / ".aws" / "config").write_text("")
    (home / ".aws" / "credentials").write_text("")


def _broken_file(lab: Ec2Lab, home: Path) -> None:
    (home / ".aws" / "config").write_text("[profile ops\nx")


def _no_volumes_permission(lab: Ec2Lab, home: Path) -> None:
    lab.forbid("DescribeVolumes")


def _no_instances_permission(lab: Ec2Lab, home: Path) -> None:
    lab.forbid("DescribeInstances")


def _expired(lab: Ec2Lab, home: Path) -> None:
    lab.fail("DescribeVolumes", "RequestExpired", "Request has expired.", calls=None)


@pytest.mark.parametrize(
    "what, kind, words",
    [
        (_no_keys, "credentials-missing", "There are no AWS credentials."),
        (_half_a_key, "credentials-missing", "There are no AWS credentials."),
        (_no_profile, "credentials-missing", "The config profile (ops) could not"),
        (_broken_file, "credentials-missing", "The profile cannot be used"),
        (_no_volumes_permission, "permission-missing", "Ask for an IAM policy"),
        (_no_instances_permission, "permission-missing", "ec2:DescribeInstances"),
        (_expired, "credentials-refused", "Sign in again (aws sso login)"),
    ],
    ids=label,
)
def test_what_keeps_it_from_asking(
    what: Callable[[Ec2Lab, Path], None],
    kind: str,
    words: str,
    lab: Ec2Lab,
    fleet: Callable[..., Ran],
    tmp_path: Path,
) -> None:
    Account(lab).node("kafka", "0", ZONES[0])
    what(lab, tmp_path)
    code, out, error = fleet("--json")
    assert (code, out) == (2, "")
    assert error.startswith(f"cc-kraken: [{kind}] ") and words in error
    assert f"cc-kraken explain {kind}" in error and "Traceback" not in error


def test_no_region(lab: Ec2Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fleet", "--profile", "ops"]) == 2
    assert "[region-missing] No region is known." in capsys.readouterr().err


def test_a_region_of_the_profile(
    lab: Ec2Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / ".aws" / "config").write_text("[profile ops]\nregion = us-east-1\n")
    cli.main(["fleet", "--profile", "ops", "--json"])
    assert json.loads(capsys.readouterr().out)["region"] == "us-east-1"


def test_interrupted(lab: Ec2Lab, fleet: Callable[..., Ran], mocker: Any) -> None:
    mocker.patch(
        "botocore.client.BaseClient._make_api_call", side_effect=KeyboardInterrupt
    )
    assert fleet() == (2, "", "cc-kraken: interrupted; nothing was judged\n")


# --------------------------------------------------------------------- options


def test_an_account_without_any_node_does_not_look_clean(
    lab: Ec2Lab, fleet: Callable[..., Ran]
) -> None:
    (text,) = found(fleet("--json"))["fleet-empty"]
    assert "No volume and no instance in us-east-1 has the tags of a node" in text
    Account(lab).clean()
    (text,) = found(fleet("--json", "kafak"))["fleet-empty"]
    assert "a node of kafak (KRKN-IN:Prefix" in text


def test_one_prefix(lab: Ec2Lab, fleet: Callable[..., Ran]) -> None:
    a = Account(lab).clean()
    _incomplete(a)
    assert found(fleet("--json", "db")) == {}
    assert list(nodes(fleet("--json", "db"))) == ["db/0"]
    assert set(found(fleet("--json", "kafka"))) == {"members-missing"}


def test_another_namespace(lab: Ec2Lab, fleet: Callable[..., Ran]) -> None:
    own = {"GOAT-IN:Prefix": "kafka", "GOAT-IN:NodeId": "0"}
    lab.create_volume(8, ZONES[0], {**own, "GOAT-IN:VolumeName": "log"})
    ran = fleet("--json", "--namespace", "GOAT-IN")
    assert found(ran) == {} and list(nodes(ran)) == ["kafka/0"]


def test_a_namespace_that_no_tag_can_have(fleet: Callable[..., Ran]) -> None:
    code, out, error = fleet("--namespace", "aws:x")
    assert (code, out) == (2, "") and "[config-value]" in error


def test_the_section_of_the_instances(
    lab: Ec2Lab, fleet: Callable[..., Ran], tmp_path: Path
) -> None:
    """What the section says of a set, no tag has to say."""
    both = tags(Prefix="kafka", NodeId="0", VolumeName="data")
    for _ in range(2):
        lab.create_volume(8, ZONES[0], both)
    assert set(found(fleet("--json"))) == {"members-surplus"}
    file = tmp_path / "user-data.yaml"
    file.write_text(
        "#cloud-config\npackages: [xfsprogs]\nkraken:\n  volumes:\n    data: "
        "{members: 2, raid_level: 0, fs_type: xfs, mount_path: /data}\n"
    )
    ran = fleet("--json", "--config", str(file))
    assert found(ran) == {}
    (data,) = nodes(ran)["kafka/0"]["sets"]
    assert (data["members"], data["mount_path"]) == (2, "/data")


@pytest.mark.parametrize(
    "text, kind",
    [
        ("a: [", "config-syntax"),
        ("packages: []", "config-type"),
        ("kraken: {volums: {}}", "config-unknown-key"),
    ],
)
def test_a_section_that_is_wrong(
    text: str, kind: str, lab: Ec2Lab, fleet: Callable[..., Ran], tmp_path: Path
) -> None:
    file = tmp_path / "user-data.yaml"
    file.write_text(text)
    code, out, error = fleet("--config", str(file))
    assert (code, out) == (2, "") and f"[{kind}]" in error
    code, _, error = fleet("--config", str(tmp_path / "none"))
    assert code == 2 and "[config-unreadable]" in error


# --------------------------------------------------------------------- a table


def test_the_table(lab: Ec2Lab, fleet: Callable[..., Ran]) -> None:
    a = Account(lab)
    there = a.instance("kafka", "0", ZONES[0], a.node("kafka", "0", ZONES[0]))
    lab.delete_volume(a.node("kafka", "1", ZONES[1])[1])
    code, out, _ = fleet()
    lines = out.splitlines()
    assert code == 1
    assert lines[0].split("  ")[0] == "NODE" and "COMES UP" in lines[0]
    assert lines[1].split() == ["kafka/0", "us-east-1a", "held", "yes", there,
                                "data", "(3),", "log"]  # fmt: skip
    assert lines[2].split() == ["kafka/1", "us-east-1b", "free", "no", "-",
                                "data", "(2),", "log"]  # fmt: skip
    assert lines[4].startswith("finding: kafka/1/data: [members-missing] The set data")
    assert lines[-2] == "2 nodes, 1 finding."
    assert lines[-1] == "More: cc-kraken explain members-missing"
    assert "\033[" not in out


def test_a_table_in_a_terminal() -> None:
    node = decide_fleet.Judged(Node("kafka", "0"), ZONES[0], "held", (), ())
    trouble = Trouble("nodes-differ", "The nodes " + "differ " * 30 + ".", "", "")
    finding = decide_fleet.Finding(trouble, "kafka")
    judged = decide_fleet.Fleet((node,), (finding,), ("A note.",))
    text = shown.fleet_text(judged, 80, colour=True)
    assert "\033[32mheld\033[0m" in text
    assert "\033[31mfinding: \033[0mkafka: [nodes-differ]" in text
    assert "\033[33mnote: \033[0mA note." in text
    plain = re.sub("\033\\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 80
    assert plain == shown.fleet_text(judged, 80)


# ------------------------------------------------------------------- --adopt

AWS = shutil.which("aws", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


CLI = pytest.mark.skipif(AWS is None, reason="the AWS command line is not installed")


def adopted(lab: Ec2Lab, ran: Ran) -> str:
    """What is left to say after the commands were run by sh and the AWS CLI."""
    code, out, error = ran
    assert (code, error) == (0, "") and AWS is not None
    path = f"{Path(AWS).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-eu"], input=out, text=True, capture_output=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def bare(lab: Ec2Lab, count: int = 1, zone: str = ZONES[0]) -> list[str]:
    return [lab.create_volume(8, zone, {"Name": "old"}) for _ in range(count)]


@LATER
@CLI
def test_volumes_become_the_set_that_the_other_nodes_have(
    lab: Ec2Lab, fleet: Callable[..., Ran]
) -> None:
    a = Account(lab).clean()
    log, data = bare(lab), bare(lab, 3)
    adopted(lab, fleet("--adopt", *log, "kafka/4/log"))
    adopted(lab, fleet("--adopt", *data, "kafka/4/data"))
    both = tags(Prefix="kafka", NodeId="4")
    assert lab.volume(log[0]).tags == {"Name": "old", **both, **tags(**LOG)}
    assert lab.volume(data[2]).tags == {"Name": "old", **both, **tags(**DATA)}
    ran = fleet("--json")
    assert found(ran) == {} and nodes(ran)["kafka/4"]["comes_up"]
    assert a.lab.calls.counts()["CreateTags"] == 2


@LATER
@CLI
def test_no_value_gets_out_of_its_word(
    lab: Ec2Lab, fleet: Callable[..., Ran], tmp_path: Path
) -> None:
    odd = "a'; touch " + str(tmp_path / "x") + '; echo $(id) `id` \\ " , =é'
    (volume,) = bare(lab)
    assert adopted(lab, fleet("--adopt", volume, f"{odd}/0/log")) == ""
    assert lab.volume(volume).tags["KRKN-IN:Prefix"] == odd
    assert not (tmp_path / "x").exists()


def test_the_commands_are_printed_and_none_is_run(
    lab: Ec2Lab, fleet: Callable[..., Ran]
) -> None:
    (volume,) = bare(lab)
    code, out, _ = fleet("--adopt", volume, "kafka/0/log")
    note, line = out.splitlines()
    assert code == 0 and note.startswith("# No other node says how")
    words = shlex.split(line)
    assert words[:3] == ["aws", "ec2", "create-tags"]
    assert words[3:9] == ["--region", "us-east-1", "--profile", "ops",
                          "--resources", volume]  # fmt: skip
    assert {one["Key"]: one["Value"] for one in json.loads(words[-1])} == tags(
        Prefix="kafka", NodeId="0", VolumeName="log"
    )
    assert lab.volume(volume).tags == {"Name": "old"}
    assert set(lab.calls.counts()) == {"DescribeVolumes", "DescribeInstances"}


def test_the_holder_says_which_node_it_is(
    lab: Ec2Lab, fleet: Callable[..., Ran]
) -> None:
    a = Account(lab).clean()
    (volume,) = bare(lab)
    a.instance("kafka", "7", ZONES[0], [volume])
    _, out, _ = fleet("--adopt", volume, "log")
    assert '"Value": "7"' in out and '"Value": "/log"' in out


@pytest.mark.parametrize(
    "target, prepare, words",
    [
        ("log", lambda a, v: None, "Nobody says of which node the set is"),
        ("kafka/0/not fit!", lambda a, v: None, "is not fit for a name"),
        ("kafka/4/log", lambda a, v: a.lab.delete_volume(v[0]), "EC2 shows no vol-"),
        ("kafka/4/log", lambda a, v: a.lab.tag(v[0], tags(Prefix="db")), "Prefix=db"),
        ("kafka/0/log", lambda a, v: None, "has 3 volumes instead of 1"),
        ("kafka/4/log", lambda a, v: None, "has no RaidLevel"),
    ],
)
def test_what_is_not_adopted(
    target: str,
    prepare: Callable[[Account, list[str]], None],
    words: str,
    lab: Ec2Lab,
    fleet: Callable[..., Ran],
) -> None:
    a = Account(lab).clean()
    volumes = bare(lab, 2)
    prepare(a, volumes)
    code, out, error = fleet("--adopt", *volumes, target)
    assert (code, out) == (1, "")
    assert words in error.replace("KRKN-IN:", "").replace("2 members and", "has")


def test_a_root_volume_is_not_adopted(lab: Ec2Lab, fleet: Callable[..., Ran]) -> None:
    (root, *_) = lab.attached_to(lab.run_instance())
    code, out, error = fleet("--adopt", root.volume_id, "kafka/0/log")
    assert (code, out) == (1, "") and "is the root volume of" in error


@pytest.mark.parametrize(
    "words",
    [
        ["--adopt", "kafka/0/log"],
        ["--adopt", "vol-1", "vol-2;x", "kafka/0/log"],
        ["--json", "--adopt", "vol-1", "kafka/0/log"],
        ["kafka", "--adopt", "vol-1", "kafka/0/log"],
    ],
)
def test_wrong_usage(words: list[str], fleet: Callable[..., Ran]) -> None:
    with pytest.raises(SystemExit) as ended:
        fleet(*words)
    assert ended.value.code == 2


# ------------------------------------------------------------------- the guide

GUIDE = "docs/guides/fleet.md"


@LATER
@CLI
def test_the_commands_of_the_guide(lab: Ec2Lab, tmp_path: Path) -> None:
    """All but the installation, each as it stands, in one directory."""
    for number in range(3):
        Account(lab).node("kafka", str(number), ZONES[0])
    (volume,) = bare(lab)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    program = tmp_path / "cc-kraken"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cc_kraken "$@"\n')
    program.chmod(0o755)
    look, config, pipeline, adopt = (
        block.text for block in blocks(GUIDE) if "make wheel" not in block.text
    )
    for text in (look, config, pipeline, adopt):
        known = re.sub("^volume=.*$", f"volume={volume}", text, flags=re.M)
        done = subprocess.run(
            ["sh", "-eu", "-c", known], cwd=tmp_path, text=True, capture_output=True,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}",
                 "PYTHONPATH": str(ROOT), "AWS_PROFILE": "ops",
                 "AWS_DEFAULT_REGION": "us-east-1"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), text
    assert json.loads((tmp_path / "fleet.json").read_text())["findings"] == []
    assert '"Value": "/log"' in done.stdout and volume in done.stdout


def test_the_guide_has_every_state_and_field(
    lab: Ec2Lab, fleet: Callable[..., Ran]
) -> None:
    text = (ROOT / GUIDE).read_text()
    states = set(re.findall(r"^\| `(\w+)` \| (?:are|is) ", text, re.M))
    assert states == {
        getattr(decide_fleet, name)
        for name in ("FREE", "HELD", "CLAIMED", "STOPPED", "LEAVING", "WAITING",
                     "FOREIGN", "SPLIT")
    }  # fmt: skip
    _incomplete(Account(lab).clean())
    document = json.loads(fleet("--json")[1])
    told = set(re.findall("`([a-z_]+)(?:\\[\\])?`", text))
    one = document["nodes"][0]
    fields = {*document, *one, *one["sets"][0], *document["findings"][0]}
    assert fields <= told | {"sets"}


def test_the_table_of_the_guide_is_printed_so(
    lab: Ec2Lab, fleet: Callable[..., Ran]
) -> None:
    a = Account(lab)
    a.instance("kafka", "0", ZONES[0], a.node("kafka", "0", ZONES[0]))
    a.node("kafka", "1", ZONES[1])
    lab.delete_volume(a.node("kafka", "2", ZONES[2])[1])
    both = {"KRKN-IN:Prefx": "kafka", "KRKN-IN:NodeId": "3"}
    lab.create_volume(8, ZONES[0], both)
    _, out, _ = fleet("kafka")
    (table,) = re.findall(
        "^```text\n(.*?)^```$", (ROOT / GUIDE).read_text(), re.M | re.S
    )
    assert _without_ids(out) == _without_ids(table)


def _without_ids(text: str) -> str:
    return re.sub(r"\b(vol|i)-[0-9a-f]{17}\b", r"\1-", text)
