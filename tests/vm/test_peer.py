"""The bench's peer: it is told what an instance is told, and that is enough."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.bench.machine import CASES, Bench
from tests.bench.peer import Peer
from tests.lab.cloud import Cloud
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

# One volume, by the means of an instance: no endpoint, no key, no authority.
PEER = """\
#!/usr/bin/python3
import os
import subprocess
import sys
import time
import urllib.request

import boto3

METADATA = "http://169.254.169.254/latest/"


def ask(path, method="GET", **headers):
    request = urllib.request.Request(METADATA + path, headers=headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
token = {"X-aws-ec2-metadata-token": ask("api/token", "PUT", **lifetime)}
me = ask("meta-data/instance-id", **token)
assert me == ask("meta-data/instance-id"), "version 1 is answered, too"
ec2 = boto3.client("ec2", ask("meta-data/placement/region", **token))
(instance,) = ec2.describe_instances(InstanceIds=[me])["Reservations"][0]["Instances"]
tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
wanted = [
    {"Name": "tag:" + key, "Values": [tags[key]]}
    for key in ("GOAT-IN:Prefix", "GOAT-IN:NodeId")
]
(volume,) = ec2.describe_volumes(Filters=wanted)["Volumes"]
tags = {tag["Key"]: tag["Value"] for tag in volume["Tags"]}
id = volume["VolumeId"]
ec2.attach_volume(VolumeId=id, InstanceId=me, Device="/dev/xvdf")
link = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_" + id.replace("-", "")
while not (os.path.exists("/dev/xvdf") and os.path.exists(link)):
    time.sleep(0.1)
assert os.path.realpath(link) == os.path.realpath("/dev/xvdf")
if sys.argv[1] == "give-up":
    sys.exit("it does not want to")
if subprocess.run(["blkid", "/dev/xvdf"]).returncode == 2:
    subprocess.run(["mkfs." + tags["GOAT-IN:FsType"], "-q", "/dev/xvdf"], check=True)
path = tags["GOAT-IN:MountPath"]
os.makedirs(path, exist_ok=True)
with open("/etc/fstab", "a") as fstab:
    fstab.write("/dev/xvdf " + path + " auto defaults,nofail 0 2\\n")
subprocess.run(["mount", path], check=True)
subprocess.Popen(["sleep", "infinity"], start_new_session=True)
print("mounted")
"""


def test_a_peer_and_what_is_said_of_it(tmp_path: Path) -> None:
    path = tmp_path / "peer.py"
    path.write_text(PEER)
    peer = Peer(f"{path} mount")
    sets = CASES["1"]
    (one,) = sets
    with Cloud(
        release=nodes.RELEASE, log=nodes.log, detach_seconds=0.1, real_name=True
    ) as cloud:
        bench = Bench(cloud, nodes.log, peer=peer)
        fstab = bench.node.read_file("/etc/fstab")

        volumes = bench.make(sets, "peer")
        for kind in ("first boot", "replaced"):
            taken = bench.take("1", kind, "peer", volumes)
            more = json.loads(json.dumps(asdict(taken)))["more"]
            assert (more["ended"], more["said"]) == ("exit status 0", "mounted"), more
            assert more["sets"] == {one.path: ""}
            assert more["refused"] == []
            assert more["calls"] == {
                "DescribeInstances": 1,
                "DescribeVolumes": 1,
                "AttachVolume": 1,
            }
            left = bench.node.run("pgrep -x sleep -a | grep infinity").out
            assert left == "", "nothing of it goes on"
            bench.clean(sets, volumes)
            assert bench.node.read_file("/etc/fstab") == fstab
            assert list(bench.node.serials().values()) == ["nvme0n1"]

        # What is on the volume is lost between the two.
        for volume in volumes[one.name]:
            cloud.backing(volume).write_bytes(b"")
            with open(cloud.backing(volume), "r+b") as file:
                file.truncate(1 << 30)
        more = bench.take("1", "replaced", "peer", volumes).more
        assert more["sets"] == {one.path: "the files of the first boot are gone"}
        bench.clean(sets, volumes)
        bench.drop(volumes)

        # It fails with a volume attached: a result, and the next one goes on.
        peer.arguments = ["give-up"]
        volumes = bench.make(sets, "peer")
        more = bench.take("1", "first boot", "peer", volumes).more
        assert (more["ended"], more["said"]) == ("exit status 1", "it does not want to")
        assert more["sets"] == {one.path: "nothing is mounted"}
        bench.clean(sets, volumes)
        bench.drop(volumes)
        volumes = bench.make(sets)
        bench.take("1", "first boot", "floor", volumes)
        bench.clean(sets, volumes)
