"""Every example of user-data, booted with and without the example of an image."""

from __future__ import annotations

import email.mime.multipart
import email.mime.text
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.chroot.ec2 import Machine
from tests.chroot.test_boot import booted, states
from tests.conftest import soon

ROOT = Path(__file__).parents[2]
DEFAULTS = (ROOT / "examples/image-defaults.cfg").read_text()


def of_cloudformation() -> str:
    """What stands below UserData in the template, as text."""
    text = (ROOT / "examples/cloudformation.yaml").read_text()
    found = re.search(r"^( +)Fn::Base64: \|\n((?:\1  .*\n)+)", text, re.M)
    assert found is not None
    return re.sub(rf"(?m)^{found[1]}  ", "", found[2])


def of_the_readme() -> str:
    """The first user-data there, without what fetches the package."""
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"^(#cloud-config\n.*?)^runcmd", readme, re.M | re.S)
    assert found is not None
    return found[1]


USER_DATA: dict[str, Callable[[], str]] = {
    "user-data.yaml": (ROOT / "examples/user-data.yaml").read_text,
    "cloudformation": of_cloudformation,
    "README": of_the_readme,
}
PAIRS = [f"{name}{image}" for image in (" in the image", "") for name in USER_DATA]


@pytest.mark.parametrize("pair", soon(PAIRS[:1], PAIRS))
def test_the_example_brings_the_volumes_up(
    machine: Callable[..., Machine], pair: str
) -> None:
    name, image, _ = pair.partition(" in the image")
    text = USER_DATA[name]()
    assert "kraken" in yaml.safe_load(text)
    made = machine(text)
    made.api_in_image()
    if image:
        made.node.write("/etc/cloud/cloud.cfg.d/91-kraken.cfg", DEFAULTS)
    for one in ("log", "data"):
        made.volume(one, FsType="ext4", MountPath=f"/krkn_{one}")
    booted(made)
    assert states(made) == {"log": "mounted", "data": "mounted"}


def test_the_parts_that_terraform_sends_are_merged_at_a_boot(
    machine: Callable[..., Machine],
) -> None:
    main = (ROOT / "examples/terraform/main.tf").read_text()
    (merge,) = re.findall(r'merge_type += "(.*)"', main)
    cluster = (ROOT / "examples/terraform/examples/kafka/main.tf").read_text()
    (theirs,) = re.findall(r"(?s)content = <<-EOT\n(.*?)\n +EOT", cluster)
    message = email.mime.multipart.MIMEMultipart()
    ours = "#cloud-config\nkraken: {enabled: true, volumes: {data: {owner: kafka}}}\n"
    message.attach(email.mime.text.MIMEText(ours, "cloud-config"))
    part = email.mime.text.MIMEText(textwrap.dedent(theirs), "cloud-config")
    part["X-Merge-Type"] = merge
    message.attach(part)
    made = machine(message.as_string())
    made.api_in_image()
    made.volume("data", FsType="ext4", MountPath="/krkn_data")
    booted(made)
    assert states(made) == {"data": "mounted"}
    # The user of the second part is there, for the set of the first.
    made.node.run("cc-kraken", "wait", "data", check=True)
    assert made.node.run("stat", "-c", "%U", "/krkn_data").out == "kafka\n"
