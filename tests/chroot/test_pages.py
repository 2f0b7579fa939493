"""The commands of the README and of the guides, typed as a reader would.

The real AWS command line against the strict EC2, and what it launches boots in a
chroot.  `tests/chroot/reader.py` says what is left out, and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chroot.conftest import RELEASE
from tests.chroot.reader import IMAGE, LEFT_OUT, Reader
from tests.lab.cloud import krkn
from tests.pages import ROOT, blocks, commands

Readers = Callable[[tuple[Path, ...]], Reader]

pytestmark = pytest.mark.skipif(
    RELEASE != "bookworm", reason="the pages launch Debian 12"
)


@pytest.fixture
def readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Readers]:
    """Makes a reader whose instances boot from these layers."""
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    made: list[Reader] = []

    def make(layers: tuple[Path, ...]) -> Reader:
        made.append(Reader(tmp_path, layers).__enter__())
        return made[-1]

    yield make
    for one in made:
        one.__exit__()


@pytest.fixture
def reader(readers: Readers, installed: tuple[Path, ...]) -> Reader:
    """One who has a node already: an image with the package, and a volume."""
    made = readers(installed)
    made.settled_in()
    return made


NODE = krkn(prefix="kafka", node_id=0)
ANY = krkn(prefix="kafka", node_id="*", volumes="data")
WHO = pytest.mark.parametrize("who", [NODE, ANY], ids=["fixed", "claimed"])
FILE = "/krkn_data/kept"


def begin(reader: Reader, who: dict[str, str] = NODE) -> str:
    """The node kafka/0 with a file on its set ``data``; the volume."""
    volume = reader.volume("data", FsType="ext4", MountPath="/krkn_data")
    reader.launch(**who)
    reader.node.write(FILE, "kept")
    return volume


def tag(reader: Reader, volume: str, name: str) -> str:
    return reader.lab.volume(volume).tags.get(f"KRKN-IN:{name}", "")


def test_ec2_in_five_minutes(
    readers: Readers, bare: tuple[Path, ...], deb: Path, tmp_path: Path
) -> None:
    reader = readers(bare)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "deb").symlink_to(deb.parent)
    said = reader.read("README.md", "EC2 in five minutes")
    assert re.search(r"^data +mounted +/krkn_data +ext4 +/dev/\S+ +vol-", said, re.M)
    assert said.count("status: done") == 2
    last = said[said.rindex("status: done") :]
    assert last.count("I was here") == 1, "read on the next instance"
    one, two = (reader.lab.instance(each.id) for each in reader.machines)
    for instance in (one, two):
        assert instance.image_id == IMAGE
        assert (instance.profile, instance.key_name) == ("kafka-node", "kafka-try")
        assert instance.metadata_options["HttpTokens"] == "required"
        assert instance.state == "terminated"
    # Cleaned up: nothing is left in the account, nor beside the reader.
    assert reader.lab.volumes() == []
    iam, s3 = reader.lab.client("iam"), reader.lab.client("s3")
    assert iam.list_roles()["Roles"] == []
    assert iam.list_instance_profiles()["InstanceProfiles"] == []
    assert s3.list_buckets()["Buckets"] == []
    assert reader.lab.client().describe_key_pairs()["KeyPairs"] == []
    assert {path.name for path in tmp_path.iterdir()} <= {".shell", "build", "examples"}


def backups(reader: Reader) -> set[str]:
    """The names of the backups that were taken."""
    answer = reader.lab.client().describe_snapshots()
    tags = [tag for one in answer["Snapshots"] for tag in one["Tags"]]
    return {tag["Value"] for tag in tags if tag["Key"] == "Backup"}


@WHO
def test_another_zone(reader: Reader, who: dict[str, str]) -> None:
    old = begin(reader, who)
    said = reader.read("docs/guides/other-zone.md")
    assert "mounted" in said
    assert reader.node.read(FILE) == "kept"
    assert reader.lab.instance(reader.machine.id).zone == "us-east-1b"
    assert old not in {one.id for one in reader.lab.volumes()}


def restored(reader: Reader, who: dict[str, str] = NODE) -> str:
    """A node that lost its file, and has it again; its old volume."""
    old = begin(reader, who)
    reader.read("docs/guides/restore.md", "Take snapshots")
    reader.node.run("rm", FILE, check=True)
    (backup,) = backups(reader)
    said = reader.read("docs/guides/restore.md", "Restore", backup=backup)
    assert f"{backup}\t" in said, "it is in the list"
    assert reader.node.read(FILE) == "kept"
    assert reader.lab.volume(old).state == "available", "it is kept"
    assert tag(reader, old, "NodeId") == ""
    return old


@WHO
def test_restore(reader: Reader, who: dict[str, str]) -> None:
    old = restored(reader, who)
    reader.read("docs/guides/restore.md", "Delete what is left")
    assert old not in {one.id for one in reader.lab.volumes()}
    assert reader.node.read(FILE) == "kept"


@WHO
def test_decommission(reader: Reader, who: dict[str, str]) -> None:
    old = begin(reader, who)
    reader.read("docs/guides/decommission.md")
    left = [one.id for one in reader.lab.volumes()]
    assert left == []
    answer = reader.lab.client().describe_snapshots()
    (snapshot,) = answer["Snapshots"]
    assert snapshot["VolumeId"] == old and snapshot["State"] == "completed"


def test_restore_after_a_decommission(reader: Reader) -> None:
    """Instance and volumes are gone: the two steps for them stop, and say why."""
    begin(reader)
    first = reader.machine.id
    reader.read("docs/guides/decommission.md")
    reader.operator("unset instance volumes snapshots backup")
    (backup,) = backups(reader)
    zone = reader.lab.zones[0]
    mine = f"ami={IMAGE} type=t3.small subnet={reader.lab.subnet(zone)} zone={zone}"
    stopped = []
    for block in blocks("docs/guides/restore.md", "Restore"):
        reader.settle()
        if "terminate-instances" in block.text or "delete-tags" in block.text:
            assert reader.operator(mine).returncode == 0
            stopped.append(reader.operator(block.text))
        else:
            reader.type(block, {"backup": backup})
    said = [one.stderr.strip().rpartition(": ")[2] for one in stopped]
    assert said == ["no instance", "no volumes"]
    assert reader.machine.id != first
    assert reader.node.read(FILE) == "kept"


GUARDED = ("decommission", "restore", "other-zone", "new-ami", "rename-prefix")


@pytest.mark.parametrize("page", GUARDED)
def test_nothing_is_touched_where_no_instance_is_found(
    reader: Reader, page: str
) -> None:
    """Pasted to the end, whatever the commands say: a shell in which one types
    goes on after an error."""
    volume = reader.volume("data", FsType="ext4")
    tags = dict(reader.lab.volume(volume).tags)
    instance = reader.lab.run_instance(tags=krkn(prefix="kafka", node_id=7))
    before = {one.id for one in reader.lab.volumes()}
    typed = [
        block.text
        for block in blocks(f"docs/guides/{page}.md")
        if block.place == "your machine"
    ]
    no_wait = 'aws() { [ "$2" = wait ] || command aws "$@"; }\n'
    told = reader.pasted(no_wait + "".join(typed))
    assert "no instance" in told
    assert {one.id for one in reader.lab.volumes()} == before
    left = reader.lab.volume(volume)
    assert (left.state, left.tags) == ("available", tags)
    answer = reader.lab.client().describe_instances()
    (found,) = [one for each in answer["Reservations"] for one in each["Instances"]]
    assert found["InstanceId"] == instance
    assert found["State"]["Name"] in ("pending", "running")


@WHO
def test_a_new_image(reader: Reader, who: dict[str, str]) -> None:
    volume = begin(reader, who)
    first = reader.machine.id
    said = reader.read("docs/guides/new-ami.md")
    assert reader.machine.id != first and "status: done" in said
    assert reader.node.read(FILE) == "kept"
    held = reader.lab.volume(volume).attachments[0].instance_id
    assert held == reader.machine.id
    tags = reader.lab.instance(reader.machine.id).tags
    assert {key: tags[key] for key in who} == who


def test_another_prefix(reader: Reader) -> None:
    volume = begin(reader)
    reader.lab.client("iam").create_role(
        RoleName="kafka-node", AssumeRolePolicyDocument="{}"
    )
    said = reader.read("docs/guides/rename-prefix.md")
    assert "done: node events/0" in said
    assert tag(reader, volume, "Prefix") == "events"
    assert reader.node.read(FILE) == "kept"
    policy = reader.lab.client("iam").get_role_policy(
        RoleName="kafka-node", PolicyName="volumes"
    )
    text = str(policy["PolicyDocument"])
    assert "events" in text and "kafka" not in text
    assert not (reader.directory / "policy.json").exists()


def test_another_prefix_of_a_claimed_node(reader: Reader) -> None:
    """It stays what it is, and its successor has the new name."""
    begin(reader, ANY)
    reader.lab.client("iam").create_role(
        RoleName="kafka-node", AssumeRolePolicyDocument="{}"
    )
    for block in blocks("docs/guides/rename-prefix.md"):
        if block.place == "your machine":
            reader.type(block)
        else:
            assert reader.inside(block.text)[0] == 1
    assert reader.inside("cc-kraken status")[1].count("[claim-two-nodes]") == 1
    assert sorted(reader.node.disks()) == ["/krkn_data"]
    said = reader.read("docs/guides/new-ami.md", prefix="events")
    assert "done: node events/0" in said
    assert reader.node.read(FILE) == "kept"


def from_the_readme(reader: Reader) -> None:
    """A node, and the variables of "EC2 in five minutes" in the reader's shell."""
    begin(reader)
    reader.lab.client("iam").create_role(
        RoleName="kafka-node", AssumeRolePolicyDocument="{}"
    )
    zone = reader.lab.zones[0]
    known = f"prefix=kafka zone={zone} ami={IMAGE} subnet={reader.lab.subnet(zone)}"
    assert reader.operator(known).returncode == 0


def test_clean_up_after_a_restore(reader: Reader) -> None:
    """The node is on other volumes than the reader's variables say."""
    kept = restored(reader)
    known = f"prefix=kafka volume={kept} bucket=none"
    last = [
        block
        for block in blocks("README.md", "EC2 in five minutes")
        if "delete-volume" in block.text or "describe-snapshots" in block.text
    ]
    told = "".join(reader.pasted(f"{known}\n{block.text}") for block in last)
    assert reader.lab.instance(reader.machines[-1].id).state == "terminated"
    assert [one.id for one in reader.lab.volumes()] == [kept]
    (snapshot,) = reader.lab.client().describe_snapshots()["Snapshots"]
    assert kept in told and snapshot["SnapshotId"] in told


def test_creating_volumes(reader: Reader) -> None:
    from_the_readme(reader)
    iam, told = reader.lab.client("iam"), []
    for block in blocks("docs/guides/create-volumes.md"):
        if "delete-role-policy" in block.text:
            policy = iam.get_role_policy(
                RoleName="kafka-node", PolicyName="create-volumes"
            )
            assert "ec2:CreateVolume" in str(policy["PolicyDocument"])
        # Not a minute between the two looks.
        text = re.sub(r"^( +)size: .*\n", r"\g<0>\1after: 10\n", block.text, flags=re.M)
        told.append(reader.type(replace(block, text=text)))
        reader.settle()
    said = "".join(told)
    assert "node kafka/1" in said
    assert "create volume 1 of 1 (50 GiB gp3, encrypted) in us-east-1a" in said
    assert sorted(reader.node.disks()) == ["/krkn_data", "/krkn_more"]
    assert iam.list_role_policies(RoleName="kafka-node")["PolicyNames"] == []


def test_a_claim(reader: Reader) -> None:
    from_the_readme(reader)
    said = reader.read("docs/guides/auto-scaling.md", "Try a claim")
    peers = re.findall(r"^(\d+) +held +(i-\w+)", said, re.M)
    assert [node for node, _ in peers] == ["0", "10", "11"]
    ended = {
        node for node, one in peers if reader.lab.instance(one).state == "terminated"
    }
    (node,) = ended
    assert f"node kafka/{node} on {reader.machine.id}" in said
    reader.read("docs/guides/decommission.md", node_id=node)
    assert reader.lab.instance(reader.machines[-1].id).state == "terminated"
    assert node not in {one.tags.get("KRKN-IN:NodeId") for one in reader.lab.volumes()}


def test_another_level(reader: Reader) -> None:
    """A chroot has no md: the new set has one member.  The copy and the exchange
    of the paths are the same."""
    old = begin(reader)
    reader.read("docs/guides/raid-level.md", members="1", size="1")
    disks = reader.node.disks()
    assert sorted(disks) == ["/krkn_data", "/krkn_old"]
    assert reader.node.read(FILE) == "kept"
    held = reader.account.machines[reader.machine.id].device(old)
    assert disks["/krkn_old"] == held


def test_a_failed_member(reader: Reader) -> None:
    """A chroot has no md: what is typed on the node is not typed here.  What the run
    makes of it is a row of tests/unit/decide/test_array.py; here the set has its
    number of volumes again."""
    page = "docs/guides/replace-member.md"
    failed, well = (
        reader.volume("data", Members="2", RaidLevel="1", FsType="ext4")
        for _ in range(2)
    )
    instance = reader.lab.run_instance(tags=NODE)
    for number, volume in enumerate((failed, well)):
        reader.lab.attach_volume(volume, instance, f"/dev/sd{'fg'[number]}")
    for block in blocks(page):
        if block.place == "your machine":
            reader.type(block, {"failed": failed})
    (new,) = {
        one.id
        for one in reader.lab.volumes()
        if one.tags.get("KRKN-IN:NodeId") == "0" and one.id != well
    }
    assert new != failed
    assert reader.lab.volume(new).tags == reader.lab.volume(well).tags
    assert reader.lab.volume(new).snapshot_id == ""
    assert reader.lab.volume(failed).state == "available"


def test_existing_data(
    readers: Readers, bare: tuple[Path, ...], deb: Path, tmp_path: Path
) -> None:
    reader = readers(bare)
    reader.settled_in()
    machine = reader.launch(Name="kafka-0")
    node = machine.node
    theirs, lvm = (reader.lab.create_volume(1, "us-east-1a") for _ in range(2))
    for volume, device in ((theirs, "/dev/sdf"), (lvm, "/dev/sdg")):
        reader.lab.attach_volume(volume, machine.id, device)
        reader.lab.wait_until(
            lambda one=volume: reader.lab.volume(one).attachments[0].state == "attached"
        )
    disk = machine.device(theirs)
    with open(reader.account.backing(lvm), "r+b") as stream:
        stream.seek(512)
        stream.write(b"LABELONE" + bytes(16) + b"LVM2 001")
    before = reader.account.backing(lvm).read_bytes()
    node.run("mkfs.ext4", "-q", "-L", "theirs", disk, check=True)
    node.write("/etc/fstab", f"{disk} /data ext4 noatime 0 2\n")
    node.run("mkdir", "/data", check=True)
    node.run("mount", "/data", check=True)
    node.write("/data/kept", "kept")
    node.write("/root/" + deb.name, deb.read_bytes())
    said = reader.read("docs/guides/existing-data.md")
    assert "nothing has been changed" in said
    line = next(
        one
        for one in said.splitlines()
        if one.endswith("=data 0 0") or "kraken.set=data" in one
    )
    assert line.startswith("UUID=") and "nofail" in line and "noatime" in line
    assert node.read("/krkn_new/kept") == "kept"
    # The old one is given up: neither mounted, nor in fstab, nor of the node.
    assert sorted(node.disks()) == ["/krkn_new"]
    assert "/data" not in node.read("/etc/fstab")
    assert reader.lab.volume(theirs).state == "available"
    assert reader.lab.volume(theirs).tags == {}
    assert reader.account.backing(lvm).read_bytes() == before


def test_monitoring(reader: Reader) -> None:
    begin(reader)
    kept = reader.volume("data", FsType="ext4")
    reader.lab.client().delete_tags(Resources=[kept], Tags=[{"Key": "KRKN-IN:NodeId"}])
    said = reader.read("docs/guides/monitoring.md")
    assert "well\n" in said and kept not in said
    conf = reader.node.read("/etc/mdadm/mdadm.conf")
    assert re.findall("^MAILADDR.*", conf, re.M) == ["MAILADDR ops@example.org"]
    assert 'cc_kraken_set_state{set="data",state="mounted"} 1\n' in said
    assert 'cc_kraken_run_state{state="done"} 1\n' in said
    reader.node.run("umount", "/krkn_data", check=True)
    assert reader.node.run("cc-kraken", "status").code == 1


# ---------------------------------------------------------------- completeness

#: Pages that are no list of commands, and where the tests of what they say are.
NOT_TYPED = {
    "auto-scaling.md": "tests/unit/repository/test_cluster.py, and test_a_claim here",
    "fleet.md": "tests/unit/commands/test_fleet.py",
    "from-goat.md": "tests/loop/test_changes.py, tests/vm/test_changes.py",
    "images.md": "tests/chroot/test_images.py",
    "services.md": "tests/vm/test_services.py",
}
GUIDES = [
    path
    for path in sorted((ROOT / "docs" / "guides").glob("*.md"))
    if path.name not in NOT_TYPED
]


def test_every_guide_is_typed() -> None:
    told = Path(__file__).read_text()
    for path in GUIDES:
        assert f'"docs/guides/{path.name}"' in told


PAGES = ("README.md", *(f"docs/guides/{path.name}" for path in GUIDES))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_typed_as_it_stands(page: str) -> None:
    for block in blocks(page):
        for command in commands(block.text):
            assert "…" not in command, f"{block.where}: {command}"


@pytest.mark.parametrize("page", PAGES)
def test_no_command_swallows_the_lines_after_it(page: str) -> None:
    """sudo reads what is pasted behind it, and drops it: the reader is root."""
    for block in blocks(page):
        for command in commands(block.text):
            assert "sudo " not in command, f"{block.where}: {command}"


def test_what_is_left_out_is_in_a_page() -> None:
    typed = [c for page in PAGES for b in blocks(page) for c in commands(b.text)]
    for beginning in LEFT_OUT:
        assert any(one.startswith(beginning) for one in typed), beginning
