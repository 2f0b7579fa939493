"""Lines for mdadm, judged by us and by the real mdadm.

Before it opens any array ``mdadm --incremental`` says whether its configuration
lets it; that needs no md in the kernel.  Each call has a /dev and a /run of its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import crafted
from tests.conftest import attach
from tests.unit import worlds as w
from tests.unit.decide import test_array_line
from tests.unit.machine import test_mdadm_conf

pytestmark = [
    pytest.mark.long,
    pytest.mark.on_disk,
    pytest.mark.skipif(not shutil.which("mdadm"), reason="needs mdadm"),
]

#: $1: the configuration; $2 to $7: the numbers of three disks; then those that udev
#: asks about.
SCRIPT = r"""
set -eu
config=$1; shift
mount -t tmpfs none /run
mount -t tmpfs none /dev
for n in 1 2 3; do mknod /dev/nvme${n}n1 b "$1" "$2"; shift 2; done
mknod /dev/null c 1 3
mkdir -p /dev/disk/by-path /dev/disk/by-id
ln -s ../../nvme1n1 /dev/disk/by-path/one-1
for n in 1 2; do
    id=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0000000000000000$n
    ln -s ../../nvme${n}n1 $id; ln -s ../../nvme${n}n1 ${id}_1
done
for n in "$@"; do
    links=$(find /dev/disk -lname "*/nvme${n}n1")
    echo "disk $n: $(mdadm --incremental --config="$config" /dev/nvme${n}n1 \
        --offroot $links 2>&1 </dev/null | tr '\n' ' ')"
done
"""
BROADER = {
    "by UUID, as mdadm writes it": "4.2 reads the name; later ones do not",
    "by name": "4.3 and later do not read the name",
    "by name in other letters": "4.3 and later do not read the name",
    "ignored by name": "4.3 and later do not read the name",
    "by name without a host": "known so to mdadm --assemble --scan alone",
    "by devices, with a name that mdadm 4.3 does not read": "4.2 reads the name",
    "ignored, and other words differ": "4.2 reads the name",
}
"""What is of ours to us and not to every mdadm, and why."""


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Three disks that are members of the array of the tables."""
    size = 64 << 20
    devices = []
    for number in range(3):
        path = tmp_path_factory.mktemp("md") / f"member{number}"
        at, block = crafted.md1(
            size,
            level=0,
            disks=3,
            number=number,
            roles=(0, 1, 2),
            array_uuid=uuid.UUID(w.ARRAY),
        )
        with open(path, "wb") as file:
            file.truncate(size)
            file.seek(at)
            file.write(block)
        devices.append(attach(path))
    yield devices
    for device in devices:
        subprocess.run(["losetup", "--detach", device], check=True)


def said(members: list[str], tmp_path: Path, text: str, *disks: str) -> str:
    """What mdadm says when udev asks it about each of these disks."""
    config = tmp_path / "mdadm.conf"
    config.write_text(text)
    numbers = []
    for device in members:
        number = os.stat(device).st_rdev
        numbers += [str(os.major(number)), str(os.minor(number))]
    argv = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", str(config), *numbers]
    done = subprocess.run([*argv, *disks], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, shlex.join(argv)
    return done.stdout


def test_ours_alone_is_no_obstacle(members: list[str], tmp_path: Path) -> None:
    alone = said(members, tmp_path, f"ARRAY UUID={test_array_line.MD}\n", "1", "2", "3")
    assert alone.count("disk ") == 3
    for word in ("multiple lines", "cannot decide", "ignored", "not permitted"):
        assert word not in alone, alone


@pytest.mark.parametrize("name", test_array_line.ARRAY_LINES)
def test_what_mdadm_makes_of_a_line_beside_ours(
    members: list[str], tmp_path: Path, name: str
) -> None:
    text, becomes = test_array_line.ARRAY_LINES[name]
    both = f"{text}\nARRAY UUID={test_array_line.MD}\n"
    told = said(members, tmp_path, both, "1", "2", "3")
    refused = "multiple lines" in told or "cannot decide" in told
    if name in BROADER:
        assert becomes
    else:
        assert refused == bool(becomes), told


@pytest.mark.parametrize("text", test_mdadm_conf.DEVICE_LINES)
def test_disks_that_mdadm_does_not_look_at(
    members: list[str], tmp_path: Path, text: str
) -> None:
    told = said(members, tmp_path, f"{text}\n", "1", "2").splitlines()
    out = [line[5] for line in told if "not permitted by mdadm.conf" in line]
    assert "".join(out) == test_mdadm_conf.DEVICE_LINES[text], told
