"""The endpoints that releases of boto3 give, from the floor to today's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cloud.test_ec2 import REGIONS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
RELEASES = ("1.26.0", "1.28.0", "1.34.0", "1.36.0", "1.38.0", "1.40.0")
SCRIPT = """
import json, sys
import botocore
from cc_kraken.cloud.session import client
from cc_kraken.model import Ec2Options, Identity

assert botocore.__file__.startswith(sys.argv[1])
found = {}
for region, partition, domain in json.load(sys.stdin):
    here = Identity("i-1", region, "", partition=partition, domain=domain)
    found[region] = client(here, Ec2Options()).meta.endpoint_url
print(json.dumps(found))
"""


@pytest.mark.parametrize("release", RELEASES)
def test_each_region_has_its_endpoint_in_each_release(
    release: str, tmp_path: Path
) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--target",
    ]
    subprocess.run([*pip, str(tmp_path), f"boto3=={release}"], check=True)
    ours = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "AWS_EC2_METADATA_DISABLED": "true"}
    keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
    new = [("zz-1", "aws-zz", "zz.test")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        input=json.dumps([*REGIONS, *new]),
        env={"PATH": os.environ["PATH"], **ours, **keys},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {r: f"https://ec2.{r}.{domain}" for r, _, domain in [*REGIONS, *new]}
    assert json.loads(done.stdout) == expected
