"""What a run sends to journald, as its socket gets it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.chroot.ec2 import Machine, api, cloud_config
from tests.chroot.node import Done

SOCKET = "/run/systemd/journal/socket"
SECTION = cloud_config({"kraken": api()})
# As systemd starts a service whose standard error is journald's.
SERVICE = """
import os, sys
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Journal:
    """Stands for journald; what it has got."""

    def __init__(self, machine: Machine) -> None:
        path = machine.node.path(SOCKET)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.got: list[dict[str, list[str]]] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        while told := self.socket.recv(1 << 16).decode():
            entry: dict[str, list[str]] = {}
            for line in told.splitlines():
                key, _, value = line.partition("=")
                entry.setdefault(key, []).append(value)
            self.got.append(entry)

    def close(self) -> None:
        # An empty datagram is the end.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.sendto(b"", self.socket.getsockname())
        self.reader.join()
        self.socket.close()


@pytest.fixture
def made(machine: Callable[..., Machine]) -> Machine:
    return machine(SECTION)


@pytest.fixture
def journal(made: Machine) -> Iterator[Journal]:
    with contextlib.closing(Journal(made)) as listening:
        yield listening


def as_service(machine: Machine, *words: str) -> Done:
    return machine.node.run("python3", "-c", SERVICE, "cc-kraken", *words)


def test_the_network_stage_tells_of_each_set_with_its_name_kind_and_volume(
    made: Machine, journal: Journal
) -> None:
    up = made.volume("log", FsType="ext4", MountPath="/krkn_log")
    other = made.volume("data", FsType="xfs", MountPath="/krkn_data")
    backing = made.account.backing(other)
    subprocess.run(["mkfs.btrfs", "-q", backing], check=True)
    made.boot()
    entries = journal.got
    assert all(entry["SYSLOG_IDENTIFIER"] == ["cc-kraken"] for entry in entries)
    of_log = [entry for entry in entries if entry.get("KRAKEN_SET") == ["log"]]
    assert any(up in entry.get("KRAKEN_VOLUME", ()) for entry in of_log), entries
    assert any("at /krkn_log" in entry["MESSAGE"][0] for entry in of_log)
    # Others may be awaited before it.
    (refused,) = (one for one in entries if one.get("KRAKEN_KIND") == ["content-other"])
    assert refused["KRAKEN_SET"] == ["data"] and refused["PRIORITY"] == ["3"]
    assert other in refused["KRAKEN_VOLUME"]
    for one in entries:
        assert one["PRIORITY"] in (["6"], ["4"], ["3"])


def test_the_service_tells_journald_and_repeats_nothing_on_standard_error(
    made: Machine, journal: Journal
) -> None:
    made.volume("data", FsType="xfs", MountPath="/krkn_data")
    made.boot()
    del journal.got[:]
    made.node.run("umount", "/krkn_data", check=True)
    done = as_service(made, "apply", "--background")
    assert done.code == 0 and done.err == "", done
    told = [entry["MESSAGE"][0] for entry in journal.got]
    assert any(text.startswith("data: mount ") for text in told), told
    done = as_service(made, "wait", "other")
    assert done.code == 1 and done.err == "", done
    last = journal.got[-1]
    assert last["KRAKEN_SET"] == ["other"] and last["KRAKEN_KIND"] == ["set-not-up"]


def test_by_hand_nothing_goes_to_journald(made: Machine, journal: Journal) -> None:
    made.volume("data", FsType="xfs", MountPath="/krkn_data")
    made.boot()
    del journal.got[:]
    made.node.run("umount", "/krkn_data", check=True)
    done = made.node.run("cc-kraken", "apply")
    assert done.code == 0 and "data: mount " in done.err, done
    assert journal.got == []
