"""The module in under a minute, without a virtual machine and without an account.

    make try

A node with two volumes boots in a chroot of Debian: with the release's own
cloud-init, on an EC2 of this machine's, with loop devices as disks.  It is
terminated, and another instance takes its place.  A volume that holds what nobody
knows is left alone.  Nothing of it stays but the chroot, for the next time.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from tests.chroot import base
from tests.chroot.conftest import obstacle
from tests.chroot.ec2 import Account, Machine, api, cloud_config
from tests.chroot.node import Node
from tests.conftest import loop_obstacle
from tests.lab.cloud import krkn
from tests.lab.image import LabError, ended_by_signals

RELEASE = "bookworm"
FILE = "the-old-one-wrote-this"
#: Shorter than a node's: what is refused here has nobody to put it right.
SECTION = api(boot_wait=5, wait=5, final_wait=0)


def say(text: str) -> None:
    print(text, flush=True)


def chapter(text: str) -> None:
    say(f"\n{text.upper()}")


def show(node: Node, command: str) -> str:
    """Run a command inside, and print it as a person would see it."""
    done = node.run("sh", "-c", command)
    say(f"  # {command}")
    for line in (done.out + done.err).rstrip().splitlines():
        say(f"  {line}")
    return done.out


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until it is known what there is to take away."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Trial:
    """One account, and the instances that come and go in it."""

    def __init__(self, stack: ExitStack) -> None:
        say(f"Debian {RELEASE} with cc_kraken, in a chroot:")
        self.layers = base.installed(RELEASE, say)
        self.stack = stack
        with uninterrupted():
            self.account = stack.enter_context(Account())

    def boot(self) -> Machine:
        user_data = cloud_config({"kraken": SECTION})
        with uninterrupted():
            node = self.stack.enter_context(Node(self.layers))
            machine = Machine(node, user_data, self.account)
            self.stack.enter_context(machine)
        begun = time.monotonic()
        machine.boot()
        seconds = time.monotonic() - begun
        say(f"{machine.id} has booted in {seconds:.1f} s.")
        return machine

    def volume(self, name: str, fs_type: str) -> str:
        tags = krkn(prefix="kafka", node_id=0, volume_name=name, members=1)
        tags |= krkn(fs_type=fs_type, mount_path=f"/krkn_{name}")
        made = self.account.lab.create_volume(1, "us-east-1a", tags)
        said = [f"{key.split(':')[1]}={value}" for key, value in tags.items()]
        say(f"{made}: {', '.join(said)}")
        return made

    def tell(self) -> None:
        chapter("1. A node: two empty volumes, and an instance that boots")
        self.volume("log", "ext4")
        self.volume("data", "xfs")
        first = self.boot()
        show(first.node, "cc-kraken status")
        show(first.node, "findmnt --real -o TARGET,SOURCE,FSTYPE,SIZE -t ext4,xfs")
        show(first.node, f"echo '{first.id} was here' | tee /krkn_data/{FILE}")

        chapter("2. The instance is terminated, its volumes stay")
        first.terminate()
        say(f"{first.id} is terminated.")

        chapter("3. Another one takes its place. A third volume is not blank")
        stray = self.volume("more", "ext4")
        with open(self.account.backing(stray), "r+b") as disk:
            disk.seek(8 << 20)
            disk.write(b"What nobody knows. " * 99)
        second = self.boot()
        show(second.node, "cc-kraken status")
        found = show(second.node, f"cat /krkn_data/{FILE}")
        if found != f"{first.id} was here\n":
            raise LabError(f"/krkn_data/{FILE} holds {found!r}")
        say("\nThe same files on another instance, and not a byte of the third lost.")
        say("make demo tells it with arrays, reboots, and real machines.")


def interrupted(_number: int, _frame: FrameType | None) -> None:
    """The first Ctrl-C ends the trial; a second one must not cut off the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def missing() -> str:
    """Why it cannot be tried here; "" if it can."""
    return obstacle() or loop_obstacle()


def main() -> int:
    why = missing()
    if why:
        say(f"make try cannot run: {why}.")
        return 1
    signal.signal(signal.SIGINT, interrupted)
    begun = time.monotonic()
    try:
        with ended_by_signals(), ExitStack() as stack:
            Trial(stack).tell()
    except KeyboardInterrupt:
        say("\nInterrupted. All that was started is ended and taken away.")
        return 130
    except LabError as error:
        say(f"FAILED: {error}")
        return 1
    say(f"{time.monotonic() - begun:.0f} s; all of it is taken away again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
