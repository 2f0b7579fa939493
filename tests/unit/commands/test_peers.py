"""``cc-kraken peers`` against the strict EC2, over HTTP."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Optional

import pytest
from pytest_mock import MockerFixture

from cc_kraken import cli
from cc_kraken.boot import stage
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.commands import peers
from cc_kraken.commands.peers import Query
from cc_kraken.machine.clock import Clock
from cc_kraken.model import Ec2Options, Identity, Section
from tests.conftest import LATER, soon
from tests.lab.clock import ManualClock
from tests.lab.ec2 import Ec2Lab
from tests.lab.world import seed_ids
from tests.unit.act.test_run import LabClock, environment
from tests.unit.state.test_node_env import SHARED, by_systemd

__all__ = ["environment"]  # a fixture

ROOT = Path(__file__).parents[3]
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
SETS = {"log": 1, "data": 2}


def krkn(**words: str) -> dict[str, str]:
    return {f"KRKN-IN:{key}": value for key, value in words.items() if value}


class Cluster:
    """A lab with the nodes of one prefix, and this instance, which is one of them."""

    def __init__(self, seed: int = 1, declared: str = "log,data", **lab: Any) -> None:
        seed_ids(seed)
        self.clock = ManualClock(1000.0)
        self.lab = Ec2Lab(clock=self.clock, attach_seconds=2.0, **lab)
        self.lab.start()
        self.declared = declared
        self.nodes: dict[str, list[str]] = {}
        self.me = self.launch(ZONES[0], Volumes=declared)

    def launch(self, zone: str, **more: str) -> str:
        own = krkn(Prefix="kafka", NodeId="*", **more)
        return self.lab.run_instance(zone=zone, tags=own)

    def node(self, node_id: str, zone: str = ZONES[0]) -> list[str]:
        """The volumes of a new node, the anchor first."""
        made = [
            self.volume(node_id, name, zone, size)
            for name, size in SETS.items()
            for _ in range(size)
        ]
        self.nodes[node_id] = sorted(made)
        return self.nodes[node_id]

    def volume(self, node_id: str, name: str, zone: str, size: int) -> str:
        own = krkn(
            Prefix="kafka", NodeId=node_id, VolumeName=name, VolumeSize=f"{size}"
        )
        return self.lab.create_volume(1, zone, own)

    def attach(self, volume_id: str, instance_id: str) -> None:
        taken = {one.device for one in self.lab.attached_to(instance_id)}
        names = (f"/dev/sd{letter}" for letter in "fghijklmnop")
        device = next(name for name in names if name not in taken)
        self.lab.attach_volume(volume_id, instance_id, device)

    def section(self, **more: Any) -> Section:
        return Section(ec2=Ec2Options(endpoint_url=self.lab.endpoint_url), **more)

    def asked(self, section: Optional[Section] = None) -> Query:
        section = section or self.section()
        identity = Identity(self.me, "us-east-1", ZONES[0])
        cloud = Ec2(identity, section)
        return Query(section, identity, cloud, LabClock(self.clock))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.lab.stop()


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    cluster: Cluster, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> Command:
    """``cc-kraken peers``: its exit status, what it prints, and what it says."""

    def run(*words: str, **section: Any) -> tuple[int, str, str]:
        source = SimpleNamespace(
            cloud_name="aws",
            metadata={},
            identity={"instanceId": cluster.me, "availabilityZone": ZONES[0]},
            region="us-east-1",
        )
        loaded = cluster.section(**section), source
        mocker.patch.object(stage, "load_by_hand", lambda _: loaded)
        mocker.patch.object(peers, "Clock", lambda: LabClock(cluster.clock))
        mocker.patch("os.geteuid", return_value=0)
        code = cli.main(["peers", *words])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return run


def three(cluster: Cluster) -> list[str]:
    """Three nodes, of which the third has no instance; who holds the first two."""
    first, second = cluster.node("0"), cluster.node("1", ZONES[1])
    cluster.node("2", ZONES[2])
    other = cluster.launch(ZONES[1])
    for volume in first:
        cluster.attach(volume, cluster.me)
    for volume in second:
        cluster.attach(volume, other)
    cluster.clock.advance(60)
    return [cluster.me, other]


# ------------------------------------------------------------------ what it prints


def test_the_table(cluster: Cluster, command: Command) -> None:
    me, other = three(cluster)
    code, out, err = command()
    assert (code, err) == (0, "")
    addresses = [cluster.lab.instance(one).private_ip for one in (me, other)]
    assert [line.split() for line in out.splitlines()] == [
        ["NODE", "STATE", "INSTANCE", "ADDRESS", "ZONE"],
        ["0", "held", me, addresses[0], ZONES[0], "this", "instance"],
        ["1", "held", other, addresses[1], ZONES[1]],
        ["2", "vacant", "-", "-", ZONES[2]],
    ]


def test_as_json(cluster: Cluster, command: Command) -> None:
    me, other = three(cluster)
    code, out, _ = command("--json")
    told = json.loads(out)
    assert code == 0 and told["instance_id"] == me
    assert [one["instance_id"] for one in told["nodes"]] == [me, other, ""]
    assert told["nodes"][1] == {
        "prefix": "kafka",
        "node_id": "1",
        "state": "held",
        "zone": ZONES[1],
        "anchor": cluster.nodes["1"][0],
        "instance_id": other,
        "instance_state": "running",
        "private_ip": (ip := cluster.lab.instance(other).private_ip),
        "private_dns": f"ip-{ip.replace('.', '-')}.ec2.internal",
        "reason": "",
    }


def test_as_a_list_for_a_configuration(cluster: Cluster, command: Command) -> None:
    ips = [cluster.lab.instance(one).private_ip for one in three(cluster)]
    text = "{node_id}={private_ip}:2380"
    code, out, _ = command("--format", text, "--join", ",")
    assert (code, out) == (0, f"0={ips[0]}:2380,1={ips[1]}:2380\n")
    code, out, _ = command("--format", "{{{node_id}}}")
    assert (code, out) == (0, "{0}\n{1}\n")


def test_three_calls_and_no_more(cluster: Cluster, command: Command) -> None:
    three(cluster)
    command()
    assert cluster.lab.calls.counts() == {
        "DescribeTags": 1,
        "DescribeVolumes": 1,
        "DescribeInstances": 1,
    }


def test_an_instance_that_is_told_its_node_has_peers_too(
    cluster: Cluster, command: Command
) -> None:
    """And where no set is declared, the lowest of its volumes is a node's anchor."""
    three(cluster)
    cluster.lab.tag(cluster.me, krkn(NodeId="0"))
    cluster.lab.tag(cluster.me, {"KRKN-IN:Volumes": ""})
    before = command("--format", "{node_id} {instance_id} {anchor}")
    assert before[1].splitlines() == [
        f"0 {cluster.me} {cluster.nodes['0'][0]}",
        f"1 {three_of(cluster)} {cluster.nodes['1'][0]}",
    ]


def three_of(cluster: Cluster) -> str:
    (one,) = cluster.lab.volume(cluster.nodes["1"][0]).attachments
    return str(one.instance_id)


# ------------------------------------------------- what goes wrong prints nothing

FAULTS: dict[str, tuple[Callable[[Ec2Lab], None], str]] = {
    f"{what} of {action}": (do, kind)
    for action in ("DescribeTags", "DescribeVolumes", "DescribeInstances")
    for what, do, kind in (
        (
            "throttling",
            lambda lab, action=action: lab.throttle(action, None),
            "[ec2-throttled]",
        ),
        (
            "a refusal",
            lambda lab, action=action: lab.forbid(action),
            "[permission-missing]",
        ),
        (
            "a failure",
            lambda lab, action=action: lab.fail(
                action, "InternalError", "Text.", status=500, calls=None
            ),
            "[ec2-unavailable]",
        ),
    )
}


SHAPES: list[tuple[str, ...]] = [(), ("--json",), ("--format", "{node_id}")]


@pytest.mark.parametrize("fault", soon(list(FAULTS)[::4], FAULTS, LATER))
def test_a_call_that_fails_prints_nothing(
    cluster: Cluster, command: Command, fault: str
) -> None:
    three(cluster)
    do, kind = FAULTS[fault]
    shape = SHAPES[list(FAULTS).index(fault) % 3]
    do(cluster.lab)
    code, out, err = command(*shape)
    assert (code, out) == (1, "")
    assert err.startswith(f"cc-kraken: {kind} ")


def test_no_ec2_prints_nothing(cluster: Cluster, command: Command) -> None:
    three(cluster)
    cluster.lab.down("refuse")
    code, out, err = command("--json")
    assert (code, out) == (1, "") and "[ec2-unreachable]" in err


def test_a_later_page_that_fails_prints_nothing(
    cluster: Cluster, command: Command
) -> None:
    """Half a cluster is worse than none."""
    three(cluster)
    cluster.lab.page_size = 5
    send, pages = cluster.lab.call, []

    def second(action: str, *words: Any) -> Any:
        pages.append(action)
        if pages.count("DescribeVolumes") == 2:
            cluster.lab.fail(action, "Unavailable", "Overloaded.", status=503)
        return send(action, *words)

    cluster.lab.call = second  # type: ignore[method-assign]
    code, out, err = command("--format", "{node_id}")
    assert (code, out) == (1, "") and "[ec2-unavailable]" in err


def test_no_node_at_all_is_no_cluster(cluster: Cluster, command: Command) -> None:
    code, out, err = command("--json")
    assert (code, out) == (1, "")
    assert "[peers-unknown]" in err and "KRKN-IN:Prefix=kafka" in err


def test_a_list_that_may_lack_a_node_is_not_printed(
    cluster: Cluster, command: Command
) -> None:
    three(cluster)
    cluster.volume("1", "log", ZONES[1], 1)  # a copy, say
    code, out, err = command("--format", "{node_id}")
    assert (code, out) == (1, "")
    assert "kafka/1 is unclear, because its set log has 2 of 1 volumes" in err
    code, out, _ = command()
    assert code == 0 and "its set log has 2 of 1 volumes" in out


def test_a_list_that_would_be_misread_is_not_printed(
    cluster: Cluster, command: Command
) -> None:
    for volume in cluster.node("0=evil:2380,1"):
        cluster.attach(volume, cluster.me)
    cluster.clock.advance(60)
    code, out, err = command("--format", "{node_id}", "--join", ",")
    assert (code, out) == (1, "") and "[peer-unfit]" in err
    assert command("--format", "{zone}", "--join", ",")[:2] == (0, f"{ZONES[0]}\n")


def test_a_field_that_a_node_has_not_is_an_error(
    cluster: Cluster, command: Command, mocker: MockerFixture
) -> None:
    """An instance with IPv6 alone, for one."""
    three(cluster)
    shape = cluster.lab._instance_xml
    mocker.patch.object(
        cluster.lab, "_instance_xml", lambda one: {**shape(one), "privateIpAddress": ""}
    )
    code, out, err = command("--format", "{node_id}={private_ip}")
    assert (code, out) == (1, "") and "has no private_ip" in err
    assert command("--format", "{private_dns}")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--format", "{node}"],
        ["--format", "{}"],
        ["--format", "{0}"],
        ["--format", "{node_id.__class__}"],
        ["--format", "{node_id[0]}"],
        ["--format", "{node_id!r}"],
        ["--format", "{node_id:>9999999999}"],
        ["--format", "{node_id"],
        ["--format", "node_id}"],
        ["--format", "{node_id}", "--json"],
        ["--join", ","],
        ["--wait", "0"],
        ["--wait", "-1"],
        ["--wait", "x"],
    ],
)
def test_wrong_usage(
    command: Command, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(*words)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == "" and "usage: cc-kraken peers" in told.err


@pytest.mark.parametrize("missing", ["section", "cloud"])
def test_where_there_is_no_cluster(
    cluster: Cluster, command: Command, mocker: MockerFixture, missing: str
) -> None:
    command()  # the command's own edges
    section = None if missing == "section" else cluster.section()
    source = SimpleNamespace(cloud_name="aws" if missing == "section" else "azure")
    mocker.patch.object(stage, "load_by_hand", lambda _: (section, source))
    assert cli.main(["peers"]) == 1


def test_only_root_can_ask(
    cluster: Cluster, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mocker.patch("os.geteuid", return_value=1000)
    assert cli.main(["peers"]) == 1
    assert "[not-root]" in capsys.readouterr().err


# -------------------------------------------------------------------------- --wait


def test_until_as_many_are_held(cluster: Cluster, command: Command) -> None:
    three(cluster)
    late = cluster.launch(ZONES[2])

    def come() -> None:
        for volume in cluster.nodes["2"]:
            cluster.attach(volume, late)

    cluster.clock.later(100, come)
    cluster.lab.throttle("DescribeVolumes", 3)
    code, out, err = command("--wait", "3", "--format", "{node_id}", "--join", " ")
    assert (code, out) == (0, "0 1 2\n")
    assert "Waiting: [ec2-throttled]" in err
    assert "2 of 3 nodes are held (kafka/2 is vacant)" in err
    counts = cluster.lab.calls.counts()
    assert counts["DescribeTags"] == 1
    assert counts["DescribeInstances"] == 1, "asked when as many have a holder"
    assert counts["DescribeVolumes"] < 20


def test_waiting_has_an_end(cluster: Cluster, command: Command) -> None:
    three(cluster)
    begun = cluster.clock.now()
    code, out, err = command("--wait", "4", wait=600)
    assert (code, out) == (1, "")
    assert "[peers-missing] 2 of 4 nodes are held" in err
    assert "EC2 shows 3 in all" in err
    assert 500 < cluster.clock.now() - begun <= 600


@pytest.mark.parametrize("words", [[], ["--wait", "3"]])
def test_a_module_that_is_switched_off_asks_nobody(
    cluster: Cluster, command: Command, words: list[str]
) -> None:
    """Of its section nothing but that is known, not even the endpoint."""
    three(cluster)
    code, out, err = command(*words, enabled=False)
    assert (code, out) == (1, "")
    assert "[peers-unknown]" in err and "switched off by enabled: false." in err
    assert not cluster.lab.calls


def test_what_time_does_not_cure_is_not_waited_for(
    cluster: Cluster, command: Command
) -> None:
    three(cluster)
    cluster.lab.fail("DescribeVolumes", "OptInRequired", "Text.", calls=None)
    begun = cluster.clock.now()
    code, out, err = command("--wait", "3")
    assert (code, out) == (1, "") and "[account-refused]" in err
    assert cluster.clock.now() == begun


def test_a_list_waits_for_a_node_that_is_unclear(
    cluster: Cluster, command: Command
) -> None:
    """EC2 does not show an instance at once everywhere."""
    three(cluster)
    copy = cluster.volume("1", "log", ZONES[1], 1)
    cluster.clock.later(50, lambda: cluster.lab.tag(copy, krkn(NodeId="9")))
    code, out, _ = command("--wait", "1", "--format", "{node_id}", "--join", " ")
    assert (code, out) == (0, "0 1\n")
    assert cluster.clock.now() >= 1050


# ------------------------------------------------- never one that never held it


@dataclass
class Story:
    """A cluster in which things happen by chance, and who has ever been which node."""

    cluster: Cluster
    chance: random.Random
    instances: list[str] = field(default_factory=list)
    ever: set[tuple[str, str]] = field(default_factory=set)

    def note(self) -> None:
        """By the rule, straight from EC2's own books."""
        names = self.cluster.declared.split(",") if self.cluster.declared else SETS
        for node_id, volumes in self.cluster.nodes.items():
            members = [
                volume
                for volume in map(self.cluster.lab.volume, volumes)
                if volume.tags["KRKN-IN:VolumeName"] in names
            ]
            for one in min(members, key=lambda volume: volume.id).attachments:
                self.ever.add((node_id, str(one.instance_id)))

    def step(self) -> None:
        do = self.chance.choice(
            [self.attach, self.attach, self.attach, self.detach, self.launch]
            + [self.terminate, self.add, self.copy, self.nothing]
        )
        do()
        self.note()
        self.cluster.clock.advance(self.chance.choice([0.5, 2, 5, 15]))
        self.note()

    def nothing(self) -> None:
        pass

    def attach(self) -> None:
        """Any volume, as those do who lose a race, or do it by hand."""
        free = [
            volume
            for volumes in self.cluster.nodes.values()
            for volume in volumes
            if self.cluster.lab.volume(volume).state == "available"
        ]
        volume = self.chance.choice(free) if free else ""
        zone = self.cluster.lab.volume(volume).zone if volume else ""
        takers = [one for one in self.instances if self.takes(one, zone)]
        if takers:
            self.cluster.attach(volume, self.chance.choice(takers))

    def takes(self, instance_id: str, zone: str) -> bool:
        instance = self.cluster.lab.instance(instance_id)
        return instance.state == "running" and instance.zone == zone

    def detach(self) -> None:
        held = [
            volume
            for volumes in self.cluster.nodes.values()
            for volume in volumes
            for one in self.cluster.lab.volume(volume).attachments
            if one.state == "attached"
            and self.cluster.lab.instance(str(one.instance_id)).state == "running"
        ]
        if held:
            self.cluster.lab.detach_volume(self.chance.choice(held))

    def launch(self) -> None:
        self.instances.append(self.cluster.launch(self.chance.choice(ZONES)))

    def terminate(self) -> None:
        there = [
            one
            for one in self.instances
            if self.cluster.lab.instance(one).state == "running"
        ]
        if len(there) > 3:
            self.cluster.lab.terminate_instance(self.chance.choice(there))

    def add(self) -> None:
        if len(self.cluster.nodes) < 6:
            node_id = str(len(self.cluster.nodes))
            self.cluster.node(node_id, self.chance.choice(ZONES))

    def copy(self) -> None:
        """A copy of a log with all of its tags."""
        if self.chance.random() < 0.3:
            node_id = self.chance.choice(list(self.cluster.nodes))
            zone = self.cluster.lab.volume(self.cluster.nodes[node_id][0]).zone
            made = self.cluster.volume(node_id, "log", zone, 1)
            self.cluster.nodes[node_id].append(made)


@pytest.mark.parametrize("declared", ["log,data", ""])
@pytest.mark.parametrize("seed", soon((0,), range(12), LATER))
def test_nobody_is_named_who_never_held_the_anchor(seed: int, declared: str) -> None:
    """Under answers up to 30 s old, in another order each time; where sets are
    declared, even if each page of an answer is from another moment."""
    cluster = Cluster(seed, declared, page_size=5 if declared else None)
    try:
        story = Story(cluster, random.Random(seed))
        for number in range(3):
            cluster.node(str(number), ZONES[number])
            story.launch()
        cluster.clock.advance(40)  # so that EC2 knows this instance everywhere
        asked, named = cluster.asked(), 0
        for turn in range(60):
            story.step()
            cluster.lab.lag(30, share=0.6, spread=True, seed=seed * 1000 + turn)
            for one in asked.once():
                if one.instance_id:
                    named += 1
                    assert (one.node_id, one.instance_id) in story.ever
                    holder = cluster.lab.instance(one.instance_id)
                    assert one.private_ip in ("", holder.private_ip)
        assert named > 5
    finally:
        cluster.lab.stop()


def test_the_story_finds_who_is_named_wrongly() -> None:
    """The judge itself: another instance has a member, and not the anchor."""
    cluster = Cluster()
    try:
        story = Story(cluster, random.Random(1))
        anchor, member, _ = cluster.node("0")
        story.launch()
        cluster.attach(anchor, cluster.me)
        other = cluster.launch(ZONES[0])
        cluster.attach(member, other)
        story.note()
        assert story.ever == {("0", cluster.me)}
    finally:
        cluster.lab.stop()


def test_the_clock_is_the_machine_s_own() -> None:
    assert peers.Clock is Clock


# ------------------------------------------------------- the example for etcd

WRAPPED = """\
#!{python} -I
import os, sys
from types import SimpleNamespace
sys.path.insert(0, {root!r})
from cc_kraken import cli
from cc_kraken.boot import stage
from cc_kraken.model import Ec2Options, Section

source = SimpleNamespace(
    cloud_name="aws",
    metadata={{}},
    identity={{"instanceId": {me!r}, "availabilityZone": {zone!r}}},
    region="us-east-1",
)
section = Section(ec2=Ec2Options(endpoint_url={url!r}), wait=30)
stage.load_by_hand = lambda _: (section, source)
os.geteuid = lambda: 0
sys.exit(cli.main())
"""
ETCDCTL = """\
#!/bin/sh
echo "$*" >>{base}/etcdctl.log
[ ! -e {base}/down ] || exit 1
case $* in *"member list")
    url=$(cat {base}/url)
    echo "8211f1d0f64f3269, started, node0, $url, http://x:2379, false"
    echo '91bc3c398fb3c146, started, node1, http://10.9.9.8:2380, http://x:2379, false'
esac
"""


class Etcd:
    """The script on this instance, with the real command, and etcdctl's edge."""

    def __init__(self, cluster: Cluster, base: Path) -> None:
        self.base = base
        (base / "bin").mkdir()
        words = {"python": sys.executable, "root": str(ROOT), "me": cluster.me}
        words.update(zone=ZONES[0], url=cluster.lab.endpoint_url)
        self.program("cc-kraken", WRAPPED.format(**words))
        self.program("etcdctl", ETCDCTL.format(base=base))
        self.data = base / "the data"
        env = f"KRAKEN_NODE_ID=0\nKRAKEN_INSTANCE_ID={cluster.me}\n"
        (base / "node.env").write_text(f'{env}KRAKEN_PATH_DATA="{self.data}"\n')
        script = (ROOT / "examples/cluster/etcd-cluster").read_text()
        assert script.count("/run/cc-kraken/node.env") == 1
        there = f"'{base}/node.env'"
        self.program("etcd-cluster", script.replace("/run/cc-kraken/node.env", there))
        self.file = base / "etcd.env"

    def program(self, name: str, text: str) -> None:
        path = self.base / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, members: int) -> subprocess.CompletedProcess[str]:
        path = f"{self.base}/bin:{os.environ['PATH']}"
        return subprocess.run(
            ["etcd-cluster", str(members), str(self.file)],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def etcd(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Etcd:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    return Etcd(cluster, tmp_path)


@pytest.mark.long
def test_etcd_is_told_its_members(cluster: Cluster, etcd: Etcd) -> None:
    a, b = (cluster.lab.instance(one).private_ip for one in three(cluster))
    done = etcd.run(2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert by_systemd_or_shell(etcd.file) == {
        "ETCD_NAME": "node0",
        "ETCD_DATA_DIR": f"{etcd.data}/etcd",
        "ETCD_INITIAL_CLUSTER": f"node0=http://{a}:2380,node1=http://{b}:2380",
        "ETCD_INITIAL_CLUSTER_STATE": "new",
        "ETCD_INITIAL_ADVERTISE_PEER_URLS": f"http://{a}:2380",
        "ETCD_LISTEN_PEER_URLS": f"http://{a}:2380",
        "ETCD_ADVERTISE_CLIENT_URLS": f"http://{a}:2379",
        "ETCD_LISTEN_CLIENT_URLS": f"http://{a}:2379",
    }
    assert not (etcd.base / "etcdctl.log").exists()


@pytest.mark.long
def test_an_etcd_with_data_tells_the_others_where_it_is(
    cluster: Cluster, etcd: Etcd
) -> None:
    """Also when not all members are there: it waits for none."""
    a, b = (cluster.lab.instance(one).private_ip for one in three(cluster))
    (etcd.data / "etcd/member").mkdir(parents=True)
    asked = f"--endpoints=http://{b}:2379 member list"
    moved = (
        f"--endpoints=http://{b}:2379 member update 8211f1d0f64f3269 "
        f"--peer-urls=http://{a}:2380"
    )
    log, url = etcd.base / "etcdctl.log", etcd.base / "url"
    for known, calls in (("10.9.9.9", [asked, moved]), (a, [asked])):
        url.write_text(f"http://{known}:2380\n")
        done = etcd.run(3)
        assert (done.returncode, done.stderr) == (0, "")
        assert log.read_text().splitlines() == calls
        log.unlink()
    etcd.file.unlink()
    (etcd.base / "down").touch()
    assert etcd.run(3).returncode == 0, "all of them start at the same time"
    assert etcd.file.exists()


@pytest.mark.long
def test_etcd_is_told_nothing_where_ec2_tells_nothing(
    cluster: Cluster, etcd: Etcd
) -> None:
    three(cluster)
    cluster.lab.forbid("DescribeInstances")
    (etcd.data / "etcd/member").mkdir(parents=True)
    done = etcd.run(3)
    assert done.returncode == 1 and "[permission-missing]" in done.stderr
    assert not etcd.file.exists()


def by_systemd_or_shell(path: Path) -> dict[str, str]:
    """The variables, as systemd reads them (tests/unit/state/test_node_env.py)."""
    if SHARED:
        return by_systemd(path)
    lines = path.read_text().splitlines()
    return {
        name: shlex.split(value)[0]
        for name, _, value in (line.partition("=") for line in lines)
    }
