"""What runs on disks cost, in numbers that cannot blur: calls of EC2,
processes, bytes read and written.  Where nothing is to be done:
tests/unit/simulations/test_counts.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cc_kraken.act.observe import Observer
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.config import sets
from cc_kraken.filesystems.base import Geometry
from cc_kraken.model import Blank, Look, Section
from cc_kraken.proof import probe, rehearsal
from cc_kraken.state.report import DONE
from tests.conftest import LATER, soon
from tests.counting import Counts, count, proof_cost
from tests.loop.test_run import GIB, MIB, NODE, ZONE, Machine, machine
from tests.unit.act.test_run import ME, Scene

__all__ = ["machine"]  # a fixture

pytest.importorskip("boto3")


def run(
    machine: Machine, stage: str = "apply", deaf: bool = False
) -> tuple[Counts, dict[str, int]]:
    """A whole run in an interpreter of its own; what it cost, and its calls."""
    mark = machine.lab.calls.mark()
    aws = {key: text for key, text in os.environ.items() if key.startswith("AWS_")}
    job: dict[str, Any] = {
        "witnesses": r"loop\d+",
        "deaf": deaf,
        "paths": vars(machine.paths),
        "cfg": {
            "kraken": {
                "ec2": {"endpoint_url": machine.lab.endpoint_url},
                "boot_wait": 60,
            }
        },
        "stage": stage,
        "source": {
            "cloud_name": "aws",
            "metadata": {
                "instance-id": machine.id,
                "placement": {"availability-zone": ZONE},
            },
            "identity": {},
            "region": "us-east-1",
        },
    }
    found = count(job, aws)
    assert found.error == ""
    return found, dict(machine.lab.calls.counts(mark))


# ------------------------------------------------------------------ whole runs

ONE_PROOF = proof_cost(GIB)[1]
TOOLS = 24 * MIB
"""What wipefs and a mkfs read of one volume, all in all."""
PROOFS = 1
"""The look that decides; what follows it knows that nothing was written."""


def test_the_life_of_one_volume(machine: Machine) -> None:
    machine.volume("log")
    first, calls = run(machine)
    assert calls == {
        "DescribeTags": 1,
        "DescribeVolumes": 1,
        "DescribeInstances": 1,
        "AttachVolume": 1,
    }
    assert first.started == {"wipefs": 1, "mkfs.ext4": 1, "mount": 1}
    assert PROOFS * ONE_PROOF <= first.read <= PROOFS * ONE_PROOF + TOOLS
    assert PROOFS * ONE_PROOF <= first.disk <= PROOFS * ONE_PROOF + TOOLS
    assert first.written <= 8 * MIB

    # All is in place: what cc-kraken.service does once in every boot.
    again, calls = run(machine, "background")
    assert calls == {"DescribeTags": 1, "DescribeVolumes": 1}
    assert again.started == {}
    assert again.read <= TOOLS and again.written <= 16 * 1024
    assert again.disk <= TOOLS

    # The next instance: no proof, nothing written to the volume by us.
    machine.unmount()
    shutil.rmtree(machine.paths.etc)
    os.mkdir(machine.paths.etc)
    after, calls = run(machine)
    assert calls == {"DescribeTags": 1, "DescribeVolumes": 1}
    assert after.started == {"blkid": 1, "wipefs": 1, "mount": 1}
    assert after.read <= 2 * TOOLS and after.written <= 32 * 1024
    assert after.disk <= 2 * TOOLS


def test_nothing_of_a_first_boot_stays_in_cloud_inits_process(
    machine: Machine,
) -> None:
    """With version 24.3 and later it carries all stages of the boot."""
    machine.volume("log")
    boot, calls = run(machine, "network")
    assert calls["AttachVolume"] == 1
    # What is left is Python's own, which cloud-init has imported already, and six
    # packages of ours that hold a docstring each.
    assert boot.bundled == 0 and boot.own <= 27


@pytest.mark.parametrize("others", [0, 10_000])
def test_the_size_of_the_account_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """The filters are the server's: one page, however many volumes there are."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    scene = Scene(tmp_path)
    try:
        scene.volume()
        for number in range(others):
            node = {**ME, "KRKN-IN:NodeId": str(number + 1)}
            scene.lab.create_volume(1, ZONE, node)
        assert scene.run(60) == DONE
        assert scene.calls == {
            "DescribeVolumes": 1,
            "DescribeInstances": 1,
            "AttachVolume": 1,
        }
    finally:
        scene.lab.stop()


# ------------------------------------------------------------------- the proof

#: GiB to MiB that one proof reads at most (docs/project/speed.md has the table).
PROOF = {1: 130, 2047: 230}


@pytest.mark.parametrize("size", [1, pytest.param(2047, marks=pytest.mark.long)])
def test_what_the_proof_reads(loop_device: Callable[..., str], size: int) -> None:
    look = probe.look(loop_device(size * GIB))
    assert isinstance(look.content, Blank)
    assert look.bytes_read <= PROOF[size] * MIB
    assert look.reads <= 4600


def test_the_largest_volume_has_the_largest_proof() -> None:
    """16 TiB: 2.1 s at 125 MiB/s."""
    reads, volume = proof_cost(16384 * GIB)
    assert volume <= 262 * MIB and reads <= 7400
    assert all(proof_cost(size * GIB)[1] <= volume for size in (1, 100, 4096))


def test_members_are_looked_at_side_by_side(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look waits until all three are under way."""
    together = threading.Barrier(3, timeout=20)

    def look(*given: Any, **named: Any) -> Look:
        together.wait()
        return Look(Blank())

    monkeypatch.setattr(probe, "look", look)
    for _ in range(3):
        volume = machine.volume("data", 3, RaidLevel="0")
        machine.plug(volume)
    observer = Observer(machine.paths, Section())
    volumes = Ec2(machine.identity, machine.section()).volumes(NODE)
    claims = sets.claims(Section(), NODE, ZONE, volumes).claims
    world = observer.look(machine.id, claims)
    assert len(world.looks) == 3


# ------------------------------------------------------------------------ mkfs

#: Type and GiB to MiB that mkfs may write to a blank volume.  Of xfs all but
#: 1 MiB is the log, which mkfs.xfs zeroes whatever it is told.
MKFS = {
    ("ext4", 1): 1,
    ("ext4", 100): 6,
    ("ext4", 1024): 17,
    ("xfs", 1): 66,
    ("xfs", 100): 66,
    ("xfs", 1024): 516,
    ("xfs", 2047): 1026,
    ("btrfs", 1): 6,
    ("btrfs", 2047): 6,
}


QUICK = [one for one, most in MKFS.items() if most < 100]


@pytest.mark.parametrize(
    "what", soon(QUICK, MKFS, LATER), ids=lambda what: f"{what[0]}-{what[1]}"
)
def test_what_mkfs_writes(
    loop_device: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
    what: tuple[str, int],
) -> None:
    kind, size = what
    # Not in memory: a large xfs begins with a log of a gigabyte.
    path = tmp_path_factory.mktemp("disk") / "volume"
    with open(path, "xb") as file:
        file.truncate(size * GIB)
    device = loop_device(path=path)
    path.unlink()
    argv = rehearsal.command_line(kind, device, Geometry(), uuid=str(uuid4()))
    before = written(device)
    subprocess.run(argv, check=True)
    subprocess.run(["blockdev", "--flushbufs", device], check=True)
    assert written(device) - before <= MKFS[kind, size] * MIB


def written(device: str) -> int:
    """Bytes written and discarded, as the kernel counts them
    (Documentation/block/stat.rst)."""
    text = Path("/sys/block", os.path.basename(device), "stat").read_text()
    fields = [int(field) for field in text.split()]
    return (fields[6] + fields[13]) * 512
