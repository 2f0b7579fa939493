"""A shell whose AWS is an EC2 on loopback: type the README and the guides in it.

    make shell

What is launched boots in a chroot of Debian 12 with the package. Nothing stays but the
chroot, and what the user writes into this directory.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from tests.chroot import base
from tests.chroot.ec2 import Machine, api
from tests.chroot.node import ENVIRONMENT
from tests.chroot.reader import Reader
from tests.lab import image
from tests.lab.image import LabError, ended_by_signals
from tests.pages import ROOT
from tests.trial import RELEASE, missing, say

WELCOME = f"""
This shell is your machine. Its AWS is an EC2 on loopback. What you launch boots in a
chroot of Debian {RELEASE} with cc_kraken; the package lies in its /root, too. There is
no systemd, RAID, Auto Scaling or CloudFormation.

Type "EC2 in five minutes" of the README, then the guides. Leave "Clean up" until the
end: the guides need what it removes.

  node [INSTANCE]   a shell on the instance (without a name: the newest)
  exit              ends all and takes it away
"""
#: Session Manager needs a plugin here and an agent there: `node` is in its place.
RC = r"""
PS1='your machine \$ '
node() {
    local running='Name=instance-state-name,Values=pending,running' entry
    # The newest by EC2: what was launched just now is there before it boots.
    [ -n "${1-}" ] || set -- "$(
        command aws ec2 describe-instances --filters "$running" --output text \
            --query 'sort_by(Reservations[].Instances[], &LaunchTime)[-1].InstanceId'
    )"
    entry=$NODES/$1
    until [ -f "$entry" ]; do
        command aws ec2 describe-instances --filters "$running" --instance-ids "$1" \
            2>/dev/null | grep -q '"InstanceId"' || break
        sleep 1
    done
    [ -f "$entry" ] || { echo "node: no such instance runs here" >&2; return 1; }
    sh "$entry"
}
aws() {
    if [ "${1-} ${2-} ${3-}" = "ssm start-session --target" ]; then
        node "${4-}"
    else
        command aws "$@"
    fi
}
"""


class Playground(Reader):
    """Boots what is launched, at once, and many at a time. ``directory``: an empty
    one; it gets a script for each instance that runs, which opens a shell on it."""

    #: The package of this tree: the file's name and content.
    package, content = "", b""

    def appeared(self, machine: Machine) -> None:
        machine.node.write(f"/root/{self.package}", self.content)
        # Weaker than any file that a guide writes.
        section = {"kraken": {**api(), "enabled": False}}
        machine.node.write("/etc/cc-kraken/conf.d/api.yaml", yaml.safe_dump(section))
        # There is no DNS: sudo asks for the name of its own host.
        name = machine.metadata.facts.hostname
        short = name.partition(".")[0]
        machine.node.write("/etc/hosts", f"127.0.0.1 localhost {name} {short}\n")
        prompt = f"PS1={machine.id} \\$ "
        words = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        words += ["HOME=/root", f"TERM={os.environ.get('TERM', 'dumb')}", prompt]
        argv = [*machine.node.enter, "env", "-i", *words, "bash", "--norc"]
        if sys.stdin.isatty():
            argv.append("-i")
        (self.directory / machine.id).write_text(f"exec {shlex.join(argv)}\n")
        # The end of the shell ends the boot, too.
        threading.Thread(target=machine.boot, daemon=True).start()

    def boot_all(self, ended: threading.Event) -> None:
        while not ended.wait(0.5):
            try:
                self.settle()
            except (AssertionError, LabError, OSError) as error:
                if not ended.is_set():
                    say(f"An instance does not boot: {error}")
            for machine in self.machines:
                if self._state(machine.id) == "terminated":
                    (self.directory / machine.id).unlink(missing_ok=True)


def play(stack: ExitStack) -> None:
    """Until the user leaves the shell."""
    layers = base.installed(RELEASE, say)
    at = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cc-shell-")))
    reader = stack.enter_context(Playground(at, layers))
    deb = image.package(image.SOURCE)
    reader.package, reader.content = deb.name, deb.read_bytes()
    rc = at / "rc"
    rc.write_text(RC)
    ended = threading.Event()
    booting = threading.Thread(target=reader.boot_all, args=(ended,))
    booting.start()
    stack.callback(booting.join)  # what is booting ends first
    stack.callback(ended.set)
    say(WELCOME)
    argv = ["bash", "--noprofile", "--rcfile", str(rc), "-i"]
    if not sys.stdin.isatty():
        argv = ["bash", "-c", f". {rc}; . /dev/stdin"]
    with ctrl_c_is_for_the_shell():
        subprocess.run(argv, cwd=ROOT, env={**reader.environment, "NODES": str(at)})


@contextmanager
def ctrl_c_is_for_the_shell() -> Iterator[None]:
    """A handler, not SIG_IGN: that one the shell and its commands would inherit."""
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> int:
    why = missing()
    if why:
        say(f"make shell cannot run: {why}.")
        return 1
    os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
    try:
        with ended_by_signals(), ExitStack() as stack:
            play(stack)
    except KeyboardInterrupt:
        say("\nInterrupted. All that was started is ended and taken away.")
        return 130
    except LabError as error:
        say(f"FAILED: {error}")
        return 1
    say("All of it is taken away again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
