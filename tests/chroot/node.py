"""A machine without a kernel of its own: a chroot in private namespaces.

    with Node(installed("bookworm"), user_data="#cloud-config\\n…") as node:
        node.boot()
        print(node.status()["status"])

Its file system is an overlay (written to in memory), its mounts, processes,
network and host name are its own, and so are ``/dev`` and ``/sys/block``: it
sees no disk but those that a test plugs.  It ends with the process that made
it, whatever happens to that one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.image import LabError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {
    "PATH": PATH,
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
SEED = "/var/lib/cloud/seed/nocloud"
INSTANCE = "iid-chroot"
METADATA_ADDRESS = "169.254.169.254"
ENDPOINT_ADDRESS = "169.254.42.1"
ENDPOINT = f"http://{ENDPOINT_ADDRESS}"

# As a process in the new namespaces, before it becomes the first process of
# the chroot: sees the host's files until pivot_root.
HOLDER = r"""
set -eu
lower=$1; upper=$2; work=$3; top=$4
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir "$top/root"
[ -n "$upper" ] || { upper=$top/upper; work=$top/work; mkdir "$upper" "$work"; }
mount -t overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" \
    overlay "$top/root"
cd "$top/root"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for made in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"
do
    set -- $made
    mknod -m 666 "dev/$1" c "$2" "$3"
done
# What the kernel shows, with disks and a hypervisor of the test's own.
mount -t tmpfs -o mode=755 tmpfs sys
mkdir -p sys/block sys/class/net sys/class/block sys/dev/block sys/all
mount -t sysfs sysfs sys/all
for part in bus devices fs kernel module; do
    mkdir "sys/$part"
    mount --bind "sys/all/$part" "sys/$part"
done
mount --bind sys/all/class/net sys/class/net
umount sys/all
rmdir sys/all
mkdir -p run/lock run/cloud-init run/old
ip link set lo up
ip link add eth0 address 52:54:00:12:34:56 type veth peer name far0
ip link set eth0 up
ip link set far0 up
ip address add 169.254.169.254/32 dev lo
ip address add 169.254.42.1/32 dev lo
pivot_root . run/old
cd /
umount -l run/old
rmdir run/old
exec /bin/sh -c 'echo ready; read never'
"""


@dataclass(frozen=True)
class Done:
    """A command that has ended; ``code`` as a shell counts."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"{' '.join(self.argv)}: {self.code}\n{self.out}{self.err}"


class Node:
    """``lower``: directories of the file system, topmost first.

    ``upper`` and ``work`` make what is written stay (an empty directory each,
    on one file system); otherwise it goes with the node.
    """

    def __init__(
        self,
        lower: Sequence[Path],
        *,
        upper: Path | None = None,
        work: Path | None = None,
        user_data: str | bytes | None = None,
    ) -> None:
        self._lower = tuple(lower)
        self._upper, self._work = upper, work
        self._user_data = user_data
        self._stack = contextlib.ExitStack()
        self._pid = 0

    def __enter__(self) -> Node:
        with contextlib.ExitStack() as stack:
            top = tempfile.mkdtemp(prefix="cc-chroot-")
            stack.callback(os.rmdir, top)
            argv = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc"]
            argv += ["--propagation", "private", "--fork", "--kill-child"]
            argv += ["sh", "-c", HOLDER, "holder", ":".join(map(str, self._lower))]
            argv += [str(self._upper or ""), str(self._work or ""), top]
            holder = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={"PATH": PATH},
            )
            stack.callback(_end, holder)
            assert holder.stdout is not None and holder.stderr is not None
            if holder.stdout.readline() != "ready\n":
                raise LabError(f"no chroot: {holder.stderr.read()}")
            children = f"/proc/{holder.pid}/task/{holder.pid}/children"
            self._pid = int(Path(children).read_text())
            self.write("/run/cloud-init/enabled", "")
            if self._user_data is not None:
                self.seed(self._user_data)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    # ------------------------------------------------------------ its files

    def path(self, path: str) -> Path:
        """A path of the node's as this process can open it.  Links in it are
        followed inside for all but absolute targets."""
        return Path(f"/proc/{self._pid}/root{path}")

    def read(self, path: str) -> str:
        return self.run("cat", path, check=True).out

    def exists(self, path: str) -> bool:
        return self.run("test", "-e", path).code == 0

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode() if isinstance(text, str) else text
        place.write_bytes(data)
        place.chmod(mode)

    def listing(self, *without: str) -> dict[str, str]:
        """Every file with its type, mode, owner and content (digest or
        target), but those whose path begins with one of ``without``."""
        code = (
            "import hashlib, os, stat, sys\n"
            "top = os.stat('/').st_dev\n"
            "for at, directories, files in os.walk('/'):\n"
            "    directories[:] = [d for d in directories if os.path.islink(\n"
            "        os.path.join(at, d)) or os.stat(os.path.join(at, d)).st_dev"
            " == top]\n"
            "    for name in directories + files:\n"
            "        path = os.path.join(at, name)\n"
            "        s = os.lstat(path)\n"
            "        what = ''\n"
            "        if stat.S_ISLNK(s.st_mode): what = os.readlink(path)\n"
            "        if stat.S_ISREG(s.st_mode):\n"
            "            with open(path, 'rb') as f:\n"
            "                what = hashlib.sha256(f.read()).hexdigest()\n"
            "        print(path, oct(s.st_mode), s.st_uid, s.st_gid, what, sep='\\t')\n"
        )
        found = {}
        for line in self.python(code).splitlines():
            path, _, rest = line.partition("\t")
            if not path.startswith(without):
                found[path] = rest
        return found

    # ------------------------------------------------------------- commands

    def run(
        self,
        *argv: str,
        check: bool = False,
        timeout: float = 300,
        input: str | None = None,
        **environment: str,
    ) -> Done:
        """Run a command inside, as root, and wait for it."""
        done = subprocess.run(
            [*self.enter, *argv],
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**ENVIRONMENT, **environment},
        )
        result = Done(argv, done.returncode, done.stdout, done.stderr)
        if check and result.code:
            raise AssertionError(str(result))
        return result

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command inside; its output is to be read."""
        return subprocess.Popen(
            [*self.enter, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    @property
    def enter(self) -> list[str]:
        """What stands before a command that is run inside."""
        namespaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--root")
        return ["nsenter", f"--target={self._pid}", *namespaces, "--wdns=/", "--"]

    def python(self, code: str, *words: str) -> str:
        """What a program of the node's own Python prints."""
        return self.run("/usr/bin/python3", "-c", code, *words, check=True).out

    # ----------------------------------------------------------- cloud-init

    def seed(self, user_data: str | bytes) -> None:
        """The next boot's user-data (datasource NoCloud)."""
        self.write(f"{SEED}/meta-data", f"instance-id: {INSTANCE}\n")
        self.write(f"{SEED}/user-data", user_data)

    def boot(self, *, timeout: float = 240) -> dict[str, Done]:
        """All stages, one after another, as the units run them."""
        stages = {
            "local": ("init", "--local"),
            "network": ("init",),
            "config": ("modules", "--mode=config"),
            "final": ("modules", "--mode=final"),
        }
        return {
            name: self.run("cloud-init", *words, timeout=timeout)
            for name, words in stages.items()
        }

    def disks(self) -> dict[str, str]:
        """Mount path to device, of the disks that a test plugged."""
        lines = self.read("/proc/self/mounts").splitlines()
        pairs = (line.split()[:2] for line in lines if line.startswith("/dev/"))
        return {path: source for source, path in pairs}

    def restart(self, *, mounted: bool = True) -> None:
        """What a reboot forgets: /run, and mounts.  ``mounted``: systemd has
        mounted by fstab what was mounted before."""
        disks = self.disks()
        for path in reversed(disks):
            self.run("umount", path, check=True)
        for entry in self.path("/run").iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self.path("/run/lock").mkdir()
        self.write("/run/cloud-init/enabled", "")
        if mounted:
            for path, device in disks.items():
                self.run("mount", device, path, check=True)

    def status(self) -> dict[str, Any]:
        """``cloud-init status`` in whatever form the version has; ``code`` is
        its exit status, ``text`` what it prints for people."""
        long = self.run("cloud-init", "status", "--long")
        told = dict(re.findall(r"^(\w+): *(.*)$", long.out, re.M))
        told |= {"code": long.code, "text": long.out + long.err}
        shown = self.run("cloud-init", "status", "--format", "json")
        with contextlib.suppress(ValueError):
            told |= json.loads(shown.out)
        return told

    def complaints(self) -> list[str]:
        """Records of cloud-init's log at WARNING or above, and DEPRECATED."""
        levels = r" - \S+\[(WARNING|ERROR|CRITICAL|DEPRECATED)\]: "
        return [line for line in self.log.splitlines() if re.search(levels, line)]

    @property
    def log(self) -> str:
        return self.read("/var/log/cloud-init.log")

    # ------------------------------------------------------------- hardware

    def become_ec2(self, uuid: str = "ec2f1b5c-0000-4000-8000-000000000000") -> None:
        """A hypervisor that says EC2, and the datasource for it."""
        # Not by DMI, which newer versions do not ask where they see a container.
        self.write("/sys/hypervisor/uuid", f"{uuid}\n")
        # The local stage has nobody to ask for an address: the metadata service
        # is there without.
        self.run("rm", "-f", "/sbin/dhclient", "/sbin/dhcpcd", check=True)
        # There is no udevd to be told of hot-plugged network cards.
        self.write(
            "/usr/local/sbin/udevadm",
            '#!/bin/sh\n[ "$1" = control ] || exec /usr/bin/udevadm "$@"\n',
            0o755,
        )
        self.write(
            "/etc/cloud/cloud.cfg.d/95_ec2.cfg", "datasource_list: [Ec2, None]\n"
        )

    def plug(self, name: str, serial: str, backing: str, size: int) -> None:
        """A disk ``name`` with that serial, which is the host's block device
        ``backing`` (``size`` bytes)."""
        number = os.stat(backing).st_rdev
        device = self.path(f"/dev/{name}")
        os.mknod(device, stat.S_IFBLK | 0o660, number)
        below = self.path("/sys") / f"new-{name}"
        (below / "device").mkdir(parents=True)
        (below / "holders").mkdir()
        major_minor = f"{os.major(number)}:{os.minor(number)}"
        for entry, text in (
            ("dev", major_minor),
            ("size", str(size // 512)),
            ("ro", "0"),
            ("device/serial", serial.replace("-", "")),
        ):
            (below / entry).write_text(f"{text}\n")
        below.rename(self.path("/sys/block") / name)
        for link in (f"class/block/{name}", f"dev/block/{major_minor}"):
            (self.path("/sys") / link).symlink_to(f"../../block/{name}")

    def unplug(self, name: str) -> None:
        """The disk is gone from /dev and /sys."""
        numbers = (self.path("/sys/block") / name / "dev").read_text().strip()
        for link in (f"class/block/{name}", f"dev/block/{numbers}"):
            (self.path("/sys") / link).unlink()
        shutil.rmtree(self.path("/sys/block") / name)
        self.path(f"/dev/{name}").unlink()

    def forward(self, address: str, port: int, to: int) -> None:
        """Connections to address:port inside end at 127.0.0.1:``to`` of the
        host, until the node ends."""
        listener = self._socket_inside(address, port)
        self._stack.callback(listener.close)
        self._stack.callback(_shut, listener)
        threading.Thread(target=_accept, args=(listener, to), daemon=True).start()

    def _socket_inside(self, address: str, port: int) -> socket.socket:
        """A listening socket of the node's network: a socket keeps the
        network that its thread had when it was made."""
        made: list[socket.socket] = []
        wrong: list[OSError] = []

        def make() -> None:
            # The thread ends right after: it need not go back.
            try:
                with open(f"/proc/{self._pid}/ns/net") as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.create_server((address, port)))
            except OSError as error:
                wrong.append(error)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if wrong:
            raise wrong[0]
        return made[0]


def _end(holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    holder.stdin.close()  # its "read" ends, and with it every process inside
    try:
        holder.wait(20)
    except subprocess.TimeoutExpired:
        holder.kill()
        holder.wait()
    for stream in (holder.stdout, holder.stderr):
        assert stream is not None
        stream.close()


def _shut(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, to: int) -> None:
    while True:
        try:
            inside, _ = listener.accept()
        except OSError:
            return
        try:
            outside = socket.create_connection(("127.0.0.1", to))
        except OSError:
            inside.close()
            continue
        for pair in ((inside, outside), (outside, inside)):
            threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    # Both ways are closed for writing when both have ended.
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
