"""Somebody who reads a page and types every command of it.

    with Reader(directory, layers) as reader:
        reader.read("docs/guides/other-zone.md")

The commands for the reader's machine run in bash, with the real AWS command line,
against the lab's EC2 (IAM, SSM and S3 are moto's).  What is launched so boots in a
chroot, and the commands for the node run there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.chroot.ec2 import ZONE, Account, Machine, api
from tests.chroot.node import Node
from tests.lab.cloud import krkn
from tests.pages import MACHINE, ROOT, Block, blocks, commands

#: The image that Debian's public parameter names.
IMAGE = "ami-0debian0012amd640"
PARAMETER = "/aws/service/debian/release/12/latest/amd64"
#: What no chroot and no loopback has, and why it is left out.
LEFT_OUT = {
    "make ": "the package of this tree is there already",
    "aws ssm start-session": "needs a shell at an agent on a real instance",
    "systemctl ": "no systemd in a chroot; the service is the reader's own",
}
USER_DATA = "#cloud-config\nkraken: {enabled: true}\n"
SECTION = api(boot_wait=20, wait=20, final_wait=5)


class Reader:
    """``directory``: an empty one, where the reader works; ``layers``: what the
    instances boot from."""

    def __init__(self, directory: Path, layers: tuple[Path, ...]) -> None:
        self.directory = directory
        self.layers = layers
        self.account = Account()
        self.lab = self.account.lab
        self.machines: list[Machine] = []
        self.left_out: list[str] = []
        self.region = ""  # of the reader's own configuration
        self._stack = ExitStack()

    def __enter__(self) -> Reader:
        from moto.moto_api._internal import moto_api_backend  # type: ignore

        moto_api_backend.reset()
        self._stack.enter_context(self.account)
        self._public_image()
        (self.directory / "examples").symlink_to(ROOT / "examples")
        return self

    def settled_in(self) -> None:
        """A reader who has nodes already, and a shell that is set up."""
        self.region = self.lab.region
        (self.directory / "user-data.yaml").write_text(USER_DATA)

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _public_image(self) -> None:
        """Nobody can write to the reserved names but who has made them."""
        from moto.ssm.models import Parameter, ssm_backends  # type: ignore

        known = ssm_backends["123456789012"][self.lab.region]._parameters
        known[PARAMETER] = [
            Parameter(
                account_id="amazon",
                name=PARAMETER,
                value=IMAGE,
                parameter_type="String",
                description="",
                allowed_pattern=None,
                keyid=None,
                last_modified_date=0,
                version=1,
                data_type="aws:ec2:image",
            )
        ]

    # --------------------------------------------------------------- the world

    @property
    def machine(self) -> Machine:
        """The instance that was launched last, and still runs."""
        return [one for one in self.machines if self._state(one.id) == "running"][-1]

    @property
    def node(self) -> Node:
        return self.machine.node

    def _state(self, instance: str) -> str:
        return self.lab.instance(instance).state

    def volume(self, name: str, **more: str) -> str:
        tags = {**krkn(prefix="kafka", node_id=0, volume_name=name, members=1)}
        tags |= {f"KRKN-IN:{key}": value for key, value in more.items()}
        return self.lab.create_volume(1, ZONE, tags)

    def launch(self, **tags: str) -> Machine:
        """What was there before the page was read: an instance that runs."""
        from moto.iam.models import iam_backends  # type: ignore

        known = iam_backends["123456789012"]["aws"].instance_profiles
        if "kafka-node" not in {one.name for one in known.values()}:
            self.lab.client("iam").create_instance_profile(
                InstanceProfileName="kafka-node"
            )
        self.lab.client().run_instances(
            ImageId=IMAGE,
            MinCount=1,
            MaxCount=1,
            InstanceType="t3.small",
            SubnetId=self.lab.subnet(ZONE),
            IamInstanceProfile={"Name": "kafka-node"},
            MetadataOptions={"InstanceMetadataTags": "enabled"},
            UserData=USER_DATA,
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": k, "Value": v} for k, v in tags.items()],
                }
            ],
        )
        self.settle()
        return self.machine

    def settle(self) -> None:
        """What was launched boots, to the end."""
        answer = self.lab.client().describe_instances()
        known = {one.id for one in self.machines}
        for reservation in answer["Reservations"]:
            for instance in reservation["Instances"]:
                wanted = instance["State"]["Name"] in ("pending", "running")
                if wanted and instance["InstanceId"] not in known:
                    self._boot(instance["InstanceId"])

    def _boot(self, instance: str) -> None:
        self.lab.wait_until(lambda: self._state(instance) == "running")
        node = self._stack.enter_context(Node(self.layers))
        machine = Machine(node, account=self.account, instance=instance)
        self.machines.append(self._stack.enter_context(machine))
        # A URL that was made on the reader's machine holds on the node, too.
        node.forward("127.0.0.1", self.lab.port, self.lab.port)
        node.write("/usr/local/bin/curl", CURL, 0o755)
        node.write("/var/local/agent.deb", self._agent().read_bytes())
        node.write("/etc/apt/apt.conf.d/99here", 'Acquire::Retries "0";\n')
        self.appeared(machine)

    def appeared(self, machine: Machine) -> None:
        """It has power: boot it.  Its image is switched off."""
        machine.api_in_image({**SECTION, "enabled": False})
        machine.boot()

    def _agent(self) -> Path:
        """A package in the place of the agent for Session Manager."""
        tree = self.account.disks / "agent"
        deb = self.account.disks / "agent.deb"
        if not deb.exists():
            (tree / "DEBIAN").mkdir(parents=True)
            (tree / "DEBIAN" / "control").write_text(AGENT)
            argv = ["dpkg-deb", "--build", "--root-owner-group", tree, deb]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        return deb

    # ---------------------------------------------------------------- the page

    def read(self, page: str, heading: str = "", **values: str) -> str:
        """Type every block; what they printed.  ``values``: what this reader has
        for a variable of the page."""
        told = []
        for block in blocks(page, heading):
            self.settle()
            told.append(self.type(block, values))
        self.settle()
        return "".join(told)

    def type(self, block: Block, values: Mapping[str, str] = {}) -> str:
        text = "".join(self._possible(block))
        for name, value in values.items():
            text = re.sub(rf"^{name}=.*$", f"{name}={value}", text, flags=re.M)
        assert block.place, f"{block.where}: where is this typed?"
        if block.place == MACHINE:
            done = self.operator(text)
            code, out, error = done.returncode, done.stdout, done.stderr
        else:
            code, out, error = self.inside(text)
        print(f"--- {block.where}\n{out}{error}")
        assert code == 0, f"{block.where}: exit status {code}\n{text}\n{out}{error}"
        return out

    def inside(self, text: str) -> tuple[int, str, str]:
        """Type it on the node, as root: exit status, output, errors."""
        done = self.node.run("bash", "-eu", "-c", text, HOME="/root")
        return done.code, done.out, done.err

    def _possible(self, block: Block) -> list[str]:
        found = []
        for command in commands(block.text):
            if command.startswith(tuple(LEFT_OUT)):
                self.left_out.append(command)
            else:
                found.append(command)
        return found

    def operator(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run it in the reader's own shell: its variables and functions stay."""
        kept = self.directory / ".shell"
        kept.touch()
        keep = "{ declare -p | grep -Ev '^declare -[a-zA-Z]*[rAa]'; declare -f; }"
        script = f". {kept} 2>/dev/null; set -eu\n{text}\n{keep} >{kept}\n"
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def pasted(self, text: str) -> str:
        """Paste it into a shell in which one types, which goes on after an error;
        all that is printed."""
        done = subprocess.run(
            ["bash", "--norc", "--noprofile", "-i"],
            cwd=self.directory,
            env=self.environment,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """Of a shell whose AWS is this EC2."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "MAKE"))
        }
        return inherited | {
            "AWS_ACCESS_KEY_ID": "AKIAREADER",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_CONFIG_FILE": str(self.directory / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.directory / "none"),
            "AWS_ENDPOINT_URL": self.lab.endpoint_url,
            "AWS_PAGER": "",
            **({"AWS_DEFAULT_REGION": self.region} if self.region else {}),
            "PATH": f"{Path(sys.executable).parent}:{inherited['PATH']}",
        }


AGENT = """\
Package: amazon-ssm-agent
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: stands in for the agent
"""
#: The chroots have no curl, and no way to AWS.
CURL = """\
#!/usr/bin/python3
import sys, urllib.request
words = [word for word in sys.argv[1:] if not word.startswith("-")]
path, url = words
if url.startswith("https://s3.amazonaws.com/ec2-downloads-windows/SSMAgent/latest/"):
    url = "file:///var/local/agent.deb"
with urllib.request.urlopen(url) as source, open(path, "wb") as target:
    target.write(source.read())
"""
