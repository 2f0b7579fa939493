"""The executor: order, who is asked first, and what an error costs."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from pytest_mock import MockerFixture

from cc_kraken.act.creating import Creating
from cc_kraken.act.executor import Executor
from cc_kraken.act.step_actions import Carried
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.decide import steps
from cc_kraken.decide.plan import PLANNED, Plan
from cc_kraken.decide.steps import (
    AddMember,
    AssembleArray,
    Attach,
    Detach,
    EraseRecords,
    GrowArray,
    GrowFilesystem,
    MakeDirectory,
    MakeFilesystem,
    MountFilesystem,
    RemoveFstab,
    SetOwner,
    Step,
    Wipe,
    WriteArrayLine,
    WriteFstab,
    WriteRecords,
)
from cc_kraken.decide.world import World
from cc_kraken.machine import command, devices, fstab, mount_points, systemd
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Ec2Options,
    FstabLine,
    Identity,
    KrakenError,
    Record,
    Section,
    Trouble,
)
from cc_kraken.state.report import Report
from tests.lab.clock import ManualClock
from tests.lab.ec2 import Ec2Lab
from tests.unit.tree import Tree

pytest.importorskip("boto3")
ZONE = "us-east-1a"
FS = "f1a3c0de-0000-4000-8000-0123456789ab"
UUID = "4a739fd5-5f39-2dd6-1b19-8f885cd3f50b"


class LabTime(Clock):
    """Waiting moves the lab's clock."""

    def __init__(self, lab: Ec2Lab) -> None:
        super().__init__()
        assert isinstance(lab.clock, ManualClock)
        self._lab = lab.clock

    def now(self) -> float:
        return self._lab.now()

    def sleep(self, seconds: float) -> None:
        self._lab.advance(max(seconds, 0.001))


class Bench:
    def __init__(self, tree: Tree, lab: Ec2Lab) -> None:
        self.tree, self.lab = tree, lab
        self.instance = lab.run_instance(zone=ZONE)
        self.clock = LabTime(lab)
        self.phases: list[str | None] = []
        options = Ec2Options(endpoint_url=lab.endpoint_url)
        self.report = Report(tree.paths, "apply")
        section = Section(ec2=options)
        cloud = Ec2(Identity(self.instance, "us-east-1", ZONE), section)
        self.executor = Executor(
            tree.paths,
            cloud,
            self.report,
            self.clock,
            Creating(section, ZONE, cloud, self.clock, dry_run=False),
            self.phases.append,
        )

    def volumes(self, count: int) -> tuple[str, ...]:
        made = (self.lab.create_volume(1, ZONE) for _ in range(count))
        return tuple(sorted(made))

    def carry_out(self, *plans: Plan, fstab: Mapping[str, FstabLine] = {}) -> Carried:
        for plan in plans:
            self.report.set(plan.name)
        return self.executor.carry_out(plans, World(self.instance, fstab=fstab))

    def attached(self) -> list[str]:
        """In the order in which they were asked for, refused ones too."""
        return [
            call.parameters["VolumeId"]
            for call in self.lab.calls
            if call.action == "AttachVolume"
        ]


def plan(name: str, *todo: Step) -> Plan:
    return Plan(name, PLANNED, steps=todo)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with Ec2Lab(clock=ManualClock()) as lab:
        yield Bench(Tree(tmp_path), lab)


def test_every_change_has_its_phase() -> None:
    assert {step.phase for step in steps.CHANGES} == set(steps.PHASES)
    assert len(set(steps.CHANGES)) == len(steps.CHANGES)


# ------------------------------------------------------------------- attach


def test_the_lowest_volume_is_asked_for_first(bench: Bench) -> None:
    volumes = bench.volumes(4)
    outcome = bench.carry_out(plan("data", Attach("data", volumes)))
    assert outcome.troubles == {}
    assert set(outcome.attached) == set(volumes)
    assert bench.attached()[0] == volumes[0]
    assert len(set(outcome.attached.values())) == 4


def test_who_does_not_get_the_first_asks_for_no_other(bench: Bench) -> None:
    volumes = bench.volumes(3)
    rival = bench.lab.run_instance(zone=ZONE)
    bench.lab.attach_volume(volumes[0], rival, "/dev/sdf")
    outcome = bench.carry_out(plan("data", Attach("data", volumes)))
    assert outcome.ask_again and outcome.attached == {}
    assert outcome.troubles["data"].waits
    assert bench.attached() == [volumes[0]]


def test_who_loses_a_later_one_knows_what_it_has(bench: Bench) -> None:
    volumes = bench.volumes(3)
    rival = bench.lab.run_instance(zone=ZONE)
    bench.lab.attach_volume(volumes[1], rival, "/dev/sdf")
    outcome = bench.carry_out(plan("data", Attach("data", volumes)))
    assert outcome.ask_again
    assert set(outcome.attached) == {volumes[0], volumes[2]}
    back = bench.carry_out(plan("data", Detach("data", (volumes[0], volumes[2]))))
    assert sorted(back.detached) == [volumes[0], volumes[2]]
    assert len(bench.lab.volume(volumes[1]).attachments) == 1


def test_names_that_are_taken_without_being_shown(bench: Bench) -> None:
    bench.lab.hide_device(bench.instance, "/dev/xvdba")
    bench.lab.hide_device(bench.instance, "/dev/xvdbb")
    (volume,) = bench.volumes(1)
    outcome = bench.carry_out(plan("data", Attach("data", (volume,))))
    assert outcome.attached == {volume: "/dev/xvdbc"}


# ------------------------------------------------------------------- errors


def line(tree: Tree, name: str) -> WriteFstab:
    where = str(tree.base / name)
    marked = ("nofail", f"X-kraken.set={name}")
    return WriteFstab(name, FstabLine("UUID=1", where, "ext4", marked, set=name))


def test_a_step_that_fails_ends_its_own_set_only(bench: Bench) -> None:
    tree = bench.tree
    (tree.base / "file").touch()
    below = MakeDirectory("bad", str(tree.base / "file" / "below"))
    good = MakeDirectory("good", str(tree.base / "good"))
    outcome = bench.carry_out(
        plan("bad", below, line(tree, "bad")), plan("good", good, line(tree, "good"))
    )
    assert set(outcome.troubles) == {"bad"}
    assert outcome.troubles["bad"].kind == "mount-point"
    text = Path(tree.paths.fstab).read_text()
    assert "set=good" in text and "set=bad" not in text
    assert bench.report.sets["good"]["done"] == [str(good), str(line(tree, "good"))]
    assert bench.report.sets["bad"]["done"] == []


def failed(kind: str) -> KrakenError:
    return KrakenError(Trouble(kind, "systemctl does not reload", "", ""))


@pytest.fixture
def reload(mocker: MockerFixture) -> MagicMock:
    """systemd's reload, which must not run on the machine of the tests."""
    return mocker.patch.object(systemd, "reload", autospec=True, return_value=True)


def test_systemd_reads_fstab_once_and_before_anything_is_mounted(
    bench: Bench, reload: MagicMock, mocker: MockerFixture
) -> None:
    """One reload of its units takes systemd longer than a mount."""
    tree = bench.tree
    seen: list[int | str] = []

    def read() -> bool:
        seen.append(Path(tree.paths.fstab).read_text().count("X-kraken.set=s"))
        return True

    def own(path: str, *_: object) -> bool:
        seen.append(os.path.basename(path))
        return True

    def own_it(name: str) -> SetOwner:
        return SetOwner(name, str(tree.base / name), None, None, 0o700)

    reload.side_effect = read
    mocker.patch.object(mount_points, "set_owner", autospec=True, side_effect=own)
    names = [f"s{number}" for number in range(12)]
    outcome = bench.carry_out(
        *(plan(name, line(tree, name), own_it(name)) for name in names),
        plan("bad", MakeDirectory("bad", "/dev/null/x"), own_it("bad")),
    )
    assert set(outcome.troubles) == {"bad"}
    assert seen[0] == 12 and sorted(map(str, seen[1:])) == sorted(names)
    # What changes no line makes systemd read nothing.
    bench.carry_out(plan("s1", own_it("s1")))
    bench.carry_out(plan("s1", MakeDirectory("s1", str(tree.base / "s1"))))
    assert [one for one in seen if isinstance(one, int)] == [12]


def test_systemd_has_read_fstab_before_anything_is_mounted(
    bench: Bench, reload: MagicMock
) -> None:
    """Its units of an older fstab could unmount what contradicts them."""
    seen: list[str] = []
    reload.side_effect = lambda: seen.append("reload")
    mount = {MountFilesystem: lambda step: seen.append(step.set)}
    bench.executor._do = {**bench.executor._do, **mount}
    names = ("a", "b")
    outcome = bench.carry_out(
        *(
            plan(name, line(bench.tree, name), mounting(name, str(bench.tree.base)))
            for name in names
        ),
        plan("gone", RemoveFstab("gone")),
    )
    assert outcome.troubles == {}
    assert seen[0] == "reload" and sorted(seen[1:]) == ["a", "b"]
    assert not os.path.exists(bench.tree.paths.unread)


def mounting(name: str, path: str) -> MountFilesystem:
    return MountFilesystem(
        name, path=path, type="ext4", uuid="1", options=(), volume_id="vol-1"
    )


def test_a_fault_of_ours_is_no_reading_of_fstab(
    bench: Bench, reload: MagicMock
) -> None:
    reload.side_effect = ZeroDivisionError("oops")
    outcome = bench.carry_out(plan("a", line(bench.tree, "a")))
    assert outcome.troubles["a"].kind == "internal-error"
    assert reload.call_count == 2
    assert os.path.exists(bench.tree.paths.unread)


@pytest.mark.parametrize("full", [0, 1, 12])
def test_the_lines_of_all_sets_are_written_together(
    bench: Bench, mocker: MockerFixture, full: int
) -> None:
    """A write waits for the disk: 24 of them took as long as 24 mkfs.  What is
    not written is nobody's, and the next set tries again."""
    tree = bench.tree
    real = fstab.write
    write = mocker.patch.object(fstab, "write", autospec=True)

    def fill_up(paths: Paths, text: str) -> bool:
        if write.call_count <= full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(paths, text)

    write.side_effect = fill_up
    names = [f"s{number}" for number in range(12)]
    outcome = bench.carry_out(*(plan(name, line(tree, name)) for name in names))
    assert write.call_count == min(full + 1, 12)
    text = Path(tree.paths.fstab).read_text() if full < 12 else ""
    assert re.findall("X-kraken.set=(s[0-9]+) ", text) == (names if full < 12 else [])
    done = {name for name in names if bench.report.sets[name]["done"]}
    assert len(done) == 12 - full and set(outcome.troubles) == set(names) - done


def test_nothing_is_mounted_when_systemd_cannot_read_fstab(
    bench: Bench, reload: MagicMock
) -> None:
    reload.side_effect = failed("command-failed")
    names = ("a", "b", "c")
    for name in (*names, "other"):
        (bench.tree.base / name).mkdir()

    def own_it(name: str) -> SetOwner:
        return SetOwner(name, str(bench.tree.base / name), None, None, 0o700)

    outcome = bench.carry_out(
        *(plan(name, line(bench.tree, name), own_it(name)) for name in names),
        plan("other", own_it("other")),
    )
    assert {one.kind for one in outcome.troubles.values()} == {"command-failed"}
    assert set(outcome.troubles) == set(names)
    assert all(len(bench.report.sets[name]["done"]) == 1 for name in names)
    assert len(bench.report.sets["other"]["done"]) == 1


def test_systemd_is_asked_twice_before_a_set_fails(
    bench: Bench, reload: MagicMock
) -> None:
    reload.side_effect = [failed("command-timeout"), True]
    outcome = bench.carry_out(plan("a", line(bench.tree, "a")))
    assert (outcome.troubles, reload.call_count) == ({}, 2)


def test_a_line_that_systemd_has_not_read_is_read_by_the_next_run(
    bench: Bench, reload: MagicMock
) -> None:
    """It is in fstab then, and nothing of fstab is to be changed."""
    reload.side_effect = [failed("command-failed"), failed("command-failed"), True]
    first = bench.carry_out(plan("a", line(bench.tree, "a")))
    assert first.troubles["a"].kind == "command-failed"
    assert reload.call_count == 2
    for _ in range(2):
        bench.carry_out(plan("a", mounting("a", "/nowhere")))
    assert reload.call_count == 3


def test_a_fault_of_ours_is_the_set_s_error_too(
    bench: Bench, mocker: MockerFixture
) -> None:
    oops = ZeroDivisionError("oops")
    mocker.patch.object(mount_points, "make_directory", autospec=True, side_effect=oops)
    outcome = bench.carry_out(plan("data", MakeDirectory("data", "/x")))
    assert outcome.troubles["data"].kind == "internal-error"
    assert "ZeroDivisionError: oops" in str(outcome.troubles["data"])


def test_what_cannot_be_grown_is_no_failure_of_the_set(bench: Bench) -> None:
    """Neither for a reason, nor for a fault of ours."""
    array = GrowArray("array", "an array that is gone", 1, 2)
    volume = GrowFilesystem(
        "volume", "/x", "ext4", 1, 2, volume_id="a volume that nobody has seen"
    )
    outcome = bench.carry_out(plan("array", array), plan("volume", volume))
    assert outcome.troubles == {}
    kinds = {name: why.kind for name, why in outcome.not_grown.items()}
    assert kinds == {"array": "array-absent", "volume": "internal-error"}


def test_an_array_that_gets_no_new_member_serves_without(bench: Bench) -> None:
    add = AddMember("data", "an array that is gone", "vol-0123456789abcdef0")
    outcome = bench.carry_out(plan("data", add, line(bench.tree, "data")))
    assert (
        outcome.troubles == {}
        and "X-kraken.set=data" in Path(bench.tree.paths.fstab).read_text()
    )
    assert outcome.not_added["data"].kind == "internal-error"  # no such volume


RECORD = Record("a1" * 32, "vol-0123456789abcdef0", "xfs", FS)
WIPE = Wipe("data", RECORD.volume_id, "f" * 64)
WRITE = WriteRecords("data", (RECORD,), member=False)
MAKE = MakeFilesystem(
    "data", type="xfs", uuid=FS, label="", options=(), records=(RECORD,)
)
ERASE = EraseRecords("data", (RECORD,), member=False)
DIRECTORY = MakeDirectory("data", "/data")
WHOLE = (WIPE, WRITE, MAKE, ERASE, DIRECTORY)


@pytest.mark.parametrize(
    ("within", "last"),
    [(WIPE, ERASE), (WRITE, WRITE), (MAKE, ERASE), (ERASE, ERASE)],
    ids=["wipe", "write", "mkfs", "erase"],
)
def test_told_to_stop_it_finishes_what_is_begun(
    bench: Bench, within: Step, last: Step
) -> None:
    """From the first byte that is given up or made to the erased record."""
    did: list[Step] = []

    def do(step: Step) -> None:
        did.append(step)
        if step == within:
            bench.clock.stop()

    todo = WHOLE if within == WIPE else WHOLE[1:]
    bench.executor._do = dict.fromkeys(steps.CHANGES, do)
    outcome = bench.carry_out(plan("data", *todo))
    assert did == list(todo[: todo.index(last) + 1])
    assert outcome.troubles["data"].kind == "stopped"


def test_told_to_stop_it_begins_no_step(bench: Bench) -> None:
    bench.clock.stop()
    outcome = bench.carry_out(plan("data", line(bench.tree, "data")))
    assert outcome.troubles["data"].kind == "stopped"
    assert not os.path.exists(bench.tree.paths.fstab)


def test_the_line_of_a_set_that_is_gone(bench: Bench) -> None:
    bench.carry_out(plan("old", line(bench.tree, "old")))
    outcome = bench.carry_out(plan("old", RemoveFstab("old")))
    assert outcome.troubles == {} and Path(bench.tree.paths.fstab).read_text() == ""


def test_phases_over_all_sets(bench: Bench) -> None:
    (volume,) = bench.volumes(1)
    bench.carry_out(plan("a", line(bench.tree, "a")), plan("b", Attach("b", (volume,))))
    assert bench.phases == ["attach", "mount"]


@pytest.mark.parametrize("copy", [False, True])
def test_what_udev_adds_while_an_array_is_put_together_is_seen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, copy: bool
) -> None:
    """Before the step that follows, which mounts it: a copy has the UUIDs of the
    member."""
    ids = [f"vol-{number:017x}" for number in (1, 2, 3)]
    for number, one in enumerate(ids, 1):
        bench.tree.disk(number, one.replace("-", ""))

    def mdadm(argv: Sequence[str], **_: object) -> command.Finished:
        other = "nvme3n1" if copy else "nvme2n1"
        bench.tree.array("md127", ["nvme1n1", other], uuid=UUID)
        return command.Finished(tuple(argv), 0, "", "")

    monkeypatch.setattr(command, "run", mdadm)
    todo = (
        AssembleArray(
            "data",
            uuid=UUID,
            name="KRKN-data",
            volume_ids=tuple(ids[:2]),
            degraded=False,
        ),
        WriteArrayLine("data", UUID),
    )
    bench.report.set("data")
    found = devices.scan(bench.tree.paths).by_volume
    world = World(bench.instance, devices=found)
    outcome = bench.executor.carry_out([plan("data", *todo)], world)
    done = bench.report.set("data")["done"]
    if copy:
        assert outcome.troubles["data"].kind == "array-stranger"
        assert f"nvme3n1 ({ids[2]})" in str(outcome.troubles["data"])
        assert not done
    else:
        assert outcome.troubles == {} and len(done) == 2
