"""The lab itself: an instance boots, its disks come and go, its power fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cloud import Cloud, krkn
from tests.lab.image import Image, LabError, missing
from tests.lab.machine import Hardware, Machine

needs_machines = pytest.mark.skipif(bool(missing()), reason="; ".join(missing()))
needs_qemu = pytest.mark.skipif(
    any("qemu" in reason for reason in missing()), reason="; ".join(missing())
)

TAGS = krkn(prefix="kafka", node_id=0)
MARKER = "written before the power went"


def log(line: str) -> None:
    print(line, flush=True)


@pytest.fixture
def no_boots(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud for what needs no instance that runs: its disk has no system."""
    root = tmp_path / "root.raw"
    root.write_bytes(b"")
    os.truncate(root, 1 << 20)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"this is no kernel")
    with Cloud(image=Image("none", root, kernel, kernel)) as cloud:
        yield cloud


@pytest.mark.slow
@needs_machines
def test_the_life_of_an_instance() -> None:
    with Cloud(log=log, installed=False) as cloud:
        first, second = cloud.volumes(2, tags=TAGS)
        untouched = cloud.backing_checksum(second)
        node = cloud.launch(tags=TAGS, user_data=cloud.config({"wait": 5}))

        status = node.wait_ready()
        assert status["datasource"].startswith("DataSourceEc2")
        assert status["result"]["errors"] == []
        for key, value in (
            ("instance_id", node.id),
            ("region", "us-east-1"),
            ("availability_zone", "us-east-1a"),
            ("userdata", cloud.config({"wait": 5})),
        ):
            said = node.run(["cloud-init", "query", key], check=True).out
            assert said.strip() == value.strip()
        assert list(node.serials().values()) == ["nvme0n1"], "only the root disk"

        # A volume arrives while it runs, by a call of the API, and is the right one.
        node.attach(first, "/dev/sdf")
        node.attach(second, "/dev/sdg")
        for volume_id in (first, second):
            cloud.wait_for("attached", lambda one=volume_id: _attached(cloud, one))
        node.wait_for_disks(first, second)
        disk = "/dev/" + node.serials()[_serial(first)]
        node.run(["sh", "-c", f"echo '{MARKER}' | dd of={disk} conv=fsync"], check=True)
        assert cloud.backing(first).read_bytes().startswith(MARKER.encode())

        # The power fails, and comes back: the disks are there from the start.
        boot_id = node.read_file("/proc/sys/kernel/random/boot_id")
        node.cut()
        assert not node.machine.running
        assert node.state == "running", "nobody has told EC2"
        node.power_on()
        node.wait_reachable()
        assert node.read_file("/proc/sys/kernel/random/boot_id") != boot_id
        node.wait_for_disks(first, second)
        disk = "/dev/" + node.serials()[_serial(first)]
        assert node.run(f"head -c {len(MARKER)} {disk}").out == MARKER

        # One is taken away while it runs, the other stays.
        node.detach(first)
        node.wait_released(first)
        assert _serial(first) not in node.serials()
        assert _serial(second) in node.serials()

        node.wait_ready()
        node.terminate(release=1)
        assert node.state == "terminated"
        assert not node.machine.running
        node.wait_released(second)
        assert cloud.backing_checksum(second) == untouched
        assert cloud.ec2.hook_errors == []


@pytest.mark.slow
@needs_machines
def test_a_reboot_and_a_stop_keep_the_volumes() -> None:
    with Cloud(log=log, installed=False) as cloud:
        volume = cloud.volume(tags=TAGS)
        node = cloud.launch(tags=TAGS, attached=[volume])
        node.wait_ready()
        assert _serial(volume) in node.serials()

        node.reboot()
        assert node.wait_ready()["result"]["errors"] == []
        assert node.machine.boots == 2 + node.machine.early_panics
        assert _serial(volume) in node.serials()

        node.run("nohup systemctl poweroff >/dev/null 2>&1 &")
        cloud.wait_for("stopped", lambda: node.state == "stopped", 120)
        assert not node.machine.running
        later = cloud.volume(tags=TAGS)
        node.attach(later, "/dev/sdk")
        node.start()
        node.wait_reachable()
        node.wait_for_disks(volume, later)
        node.terminate()


def test_a_checksum_is_of_the_content(no_boots: Cloud) -> None:
    cloud = no_boots
    one, other, big = cloud.volume(), cloud.volume(), cloud.volume(2)
    blank = cloud.backing_checksum(one)
    assert blank == cloud.backing_checksum(other)
    assert blank != cloud.backing_checksum(big)
    with open(cloud.backing(one), "r+b") as backing:
        backing.seek(1 << 29)
        backing.write(bytes(1 << 20))
        backing.flush()
        os.fsync(backing.fileno())
        assert cloud.backing_checksum(one) == blank, "zeros are zeros"
        backing.seek((1 << 29) + 4097)
        backing.write(b"x")
    assert cloud.backing_checksum(one) != blank
    with open(cloud.backing(other), "r+b") as backing:
        backing.seek((1 << 29) + 4098)
        backing.write(b"x")
    assert cloud.backing_checksum(one) != cloud.backing_checksum(other)


def test_a_copy_has_the_content_and_says_where_it_is_from(no_boots: Cloud) -> None:
    cloud = no_boots
    origin = cloud.volume(tags=TAGS)
    with open(cloud.backing(origin), "r+b") as backing:
        backing.write(b"here")
    made = cloud.copy(origin)
    assert cloud.backing_checksum(made) == cloud.backing_checksum(origin)
    assert cloud.ec2.volume(made).snapshot_id.startswith("snap-")
    assert cloud.ec2.volume(made).tags == TAGS


@needs_qemu
def test_a_machine_that_cannot_start_says_why(tmp_path: Path) -> None:
    root = tmp_path / "root.raw"
    root.write_bytes(bytes(1 << 20))
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"this is no kernel")
    hardware = Hardware("i-0", "ec2", "02:00:00:00:00:01", "vol0")
    machine = Machine(tmp_path / "m", Image("none", root, kernel, kernel), hardware)
    with pytest.raises(LabError, match="QEMU did not start"):
        machine.power_on()
    assert not machine.running
    machine.close()


@needs_qemu
def test_nothing_is_left_of_a_cloud(tmp_path: Path) -> None:
    root = tmp_path / "root.raw"
    root.write_bytes(bytes(1 << 20))
    kernel = _idle_kernel(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        with Cloud(image=Image("none", root, kernel, kernel)) as cloud:
            node = cloud.launch()
            pid, home = node.machine.pid, cloud.home
            assert pid is not None
            assert Path(f"/proc/{pid}").exists()
            raise KeyboardInterrupt
    assert not Path(f"/proc/{pid}").exists()
    assert not home.exists()


def _idle_kernel(at: Path) -> Path:
    """A multiboot "kernel" of one loop, for a machine that merely runs.

    Multiboot specification 0.6.96, section 3.1: magic, flags (bit 16: addresses
    follow), checksum, header, load, end of load, end of bss, entry.
    """
    load = 0x100000
    flags = 1 << 16
    magic = 0x1BADB002
    size = 36
    words = [magic, flags, -(magic + flags) & 0xFFFFFFFF]
    words += [load, load, load + size, load + size, load + 32]
    header = b"".join(word.to_bytes(4, "little") for word in words)
    path = at / "idle"
    path.write_bytes(header + b"\xf4\xeb\xfd\x90")  # hlt; jmp to it
    return path


def _serial(volume_id: str) -> str:
    return volume_id.replace("-", "")


def _attached(cloud: Cloud, volume_id: str) -> bool:
    states = [one.state for one in cloud.ec2.volume(volume_id).attachments]
    return states == ["attached"]
