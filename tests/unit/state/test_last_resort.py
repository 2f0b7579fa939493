"""Which arrays udev's last-resort timer leaves alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cc_kraken.machine.paths import Paths
from cc_kraken.state import last_resort
from tests.unit import worlds as w

DEBIAN = Path(__file__).parents[3] / "debian"
SCRIPT = DEBIAN / "last-resort"
TMPFILES = DEBIAN / "cloud-init-kraken.tmpfiles"
MINE = w.volume_id(1)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(state=str(tmp_path / "state"), run=str(tmp_path / "run"))


def test_the_members_of_arrays_are_listed(paths: Paths) -> None:
    claims = [
        w.claim(w.raid(2), w.volume(2), w.volume(1)),
        w.claim(w.single(), w.volume(3)),
    ]
    assert last_resort.write(paths, w.ME, claims)
    assert not last_resort.write(paths, w.ME, claims), "written once"
    expected = f"instance {w.ME}\n{w.volume_id(1)}\n{w.volume_id(2)}\n"
    for directory in (paths.state, paths.run):
        assert Path(last_resort.location(directory)).read_text() == expected


def test_the_instance_that_wrote_the_list(paths: Paths) -> None:
    assert last_resort.instance(paths) == ""
    last_resort.write(paths, w.ME, [])
    assert last_resort.instance(paths) == w.ME
    Path(last_resort.location(paths.state)).write_bytes(b"\xff\n")
    assert last_resort.instance(paths) == ""


def test_a_reboot_brings_the_list_back_before_any_run(tmp_path: Path) -> None:
    """The real systemd-tmpfiles, by the line that the package installs."""
    tool = shutil.which("systemd-tmpfiles", path="/usr/bin:/bin")
    if tool is None:
        pytest.skip("no systemd-tmpfiles here")
    text = TMPFILES.read_text().replace("/var/lib", f"{tmp_path}/var/lib")
    text = text.replace("C /run", f"C {tmp_path}/run")
    (tmp_path / "conf").write_text(text)

    def boot() -> None:
        subprocess.run([tool, "--create", str(tmp_path / "conf")], check=True)

    boot()  # nothing to be copied yet
    assert not (tmp_path / "run/cc-kraken/members").exists()
    listed(tmp_path)
    shutil.rmtree(tmp_path / "run/cc-kraken")
    boot()
    (tmp_path / "var/lib/cc-kraken/members").unlink()
    assert asked(tmp_path, SERIAL) == 1


def test_a_list_that_tmpfiles_may_not_copy_is_read_where_it_lies(
    tmp_path: Path,
) -> None:
    """Debian's SELinux policy does not let systemd-tmpfiles read it."""
    listed(tmp_path)
    shutil.rmtree(tmp_path / "run/cc-kraken")
    assert asked(tmp_path, SERIAL) == 1


def test_a_disk_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    paths = Paths(state=str(tmp_path / "file" / "below"), run=str(tmp_path))
    assert not last_resort.write(paths, w.ME, [])


def asked(tmp_path: Path, *serials: str) -> int:
    """The exit status of the condition for an array of these disks."""
    for number, serial in enumerate(serials):
        member = tmp_path / "sys" / "block" / "md127" / "md" / f"dev-nvme{number}n1"
        (member / "block" / "device").mkdir(parents=True, exist_ok=True)
        (member / "block" / "device" / "serial").write_text(serial)
    text = SCRIPT.read_text()
    for place in ("/run/", "/sys/", "/var/"):
        assert place in text
        text = text.replace(place, f"{tmp_path}{place}")
    assert "/var/lib/cloud" not in text, "SELinux does not permit that"
    return subprocess.run(["sh", "-c", text, "sh", "md127"]).returncode


def listed(tmp_path: Path, instance: str = w.ME, now: str = w.ME) -> None:
    last_resort.write(
        Paths(
            state=str(tmp_path / "var/lib/cc-kraken"),
            run=str(tmp_path / "run/cc-kraken"),
        ),
        instance,
        [w.claim(w.raid(2), w.volume(1), w.volume(2))],
    )
    data = tmp_path / "run/cloud-init"
    data.mkdir(parents=True)
    (data / ".instance-id").write_text(f"{now}\n")


SERIAL = MINE.replace("-", "")


@pytest.mark.parametrize("serial", [SERIAL, f"{SERIAL}\n", f"{SERIAL}   \n", MINE])
def test_a_set_of_this_node_is_kept_from_the_timer(tmp_path: Path, serial: str) -> None:
    listed(tmp_path)
    assert asked(tmp_path, "AWS0123", serial) == 1


@pytest.mark.parametrize("serial", ["", "\n", "AWS0123", SERIAL + "0", "vol", "vol-"])
def test_what_is_not_ours_is_started(tmp_path: Path, serial: str) -> None:
    listed(tmp_path)
    assert asked(tmp_path, serial) == 0


def test_without_a_list_all_is_started(tmp_path: Path) -> None:
    assert asked(tmp_path, SERIAL) == 0


def test_the_list_of_another_instance_means_nothing(tmp_path: Path) -> None:
    listed(tmp_path, now="i-00000000000000009")
    assert asked(tmp_path, SERIAL) == 0


def test_without_members_all_is_started(tmp_path: Path) -> None:
    listed(tmp_path)
    assert asked(tmp_path) == 0
