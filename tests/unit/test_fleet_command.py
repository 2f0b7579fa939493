"""``cc-kraken fleet`` against an account of the lab, over HTTP, with somebody's keys."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

import pytest
from pytest_mock import MockerFixture

from cc_kraken import cli
from cc_kraken.cloud.account import like
from tests.lab.clock import ManualClock
from tests.lab.ec2 import Ec2Lab
from tests.lab.query import wildcard

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


def tags(**words: str) -> Dict[str, str]:
    return {f"KRKN-IN:{key}": value for key, value in words.items()}


class Account:
    """What people do in an account; volumes and instances by a name."""

    def __init__(self, lab: Ec2Lab) -> None:
        self.lab = lab

    def node(
        self, prefix: str, node_id: str, zone: str, *, without: str = "", **more: str
    ) -> List[str]:
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


Ran = Tuple[int, str, str]


@pytest.fixture
def fleet(lab: Ec2Lab, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*words: str) -> Ran:
        code = cli.main(["fleet", "--region", "us-east-1", "--profile", "ops", *words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def found(ran: Ran) -> Dict[str, List[str]]:
    """The messages of the findings, by kind."""
    code, out, error = ran
    assert not error
    kinds: Dict[str, List[str]] = {}
    for one in json.loads(out)["findings"]:
        kinds.setdefault(one["kind"], []).append(one["message"])
    assert code == (1 if kinds else 0)
    return kinds


def nodes(ran: Ran) -> Dict[str, Any]:
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
    return "the set data has 2 of 3 volumes"


def _surplus(a: Account) -> str:
    data = a.node("kafka", "4", ZONES[0])[1]
    snapshot = a.lab.create_snapshot(data)
    own = a.lab.volume(data).tags
    copy = a.lab.create_volume(8, ZONES[0], own, snapshot_id=snapshot)
    return f"of these {copy} are copies"


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
    return "the sets data and log have the same mount path /log"


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
    return "no volume in this region has the tags KRKN-IN:Prefix=kafka and"


def _wrong_zone(a: Account) -> str:
    a.node("kafka", "4", ZONES[0])
    there = a.instance("kafka", "4", ZONES[2])
    return f"in us-east-1a, {there} is in us-east-1c"


def _nowhere(a: Account) -> str:
    there = a.instance("pool", "*", ZONES[2])
    assert there
    return "No volume in us-east-1c has the tag KRKN-IN:Prefix=pool"


#: What somebody does, and the kinds that are found then, the one that is meant first.
MISTAKES: Mapping[Callable[[Account], str], Tuple[str, ...]] = {
    _prefix_misspelt: ("tag-misspelt", "set-absent", "nodes-differ"),
    _namespace_misspelt: ("tag-misspelt",),
    _namespace_in_lower_case: ("tag-misspelt",),
    _path_misspelt: ("tag-misspelt", "nodes-differ"),
    _any_node: ("volume-any-node",),
    _incomplete: ("members-missing",),
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


@pytest.mark.parametrize("mistake", MISTAKES, ids=label)
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
