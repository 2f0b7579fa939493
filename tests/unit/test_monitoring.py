"""The example of an alarm: the script against an SNS and a socket of an agent."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer
from moto.sns.models import sns_backends

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "examples" / "monitoring"
ACCOUNT, REGION = "123456789012", "eu-west-1"


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(tmp_path: Path) -> Dict[str, str]:
    """With a command that shows a status, and nothing of the caller's."""
    command = tmp_path / "cc-kraken"
    command.write_text('#!/bin/sh\necho "failed: node kafka/0 ($1)"\nexit 1\n')
    command.chmod(0o755)
    keys = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "secret"}
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", **keys}


def alarm(environment: Dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = MONITORING / "kraken-alarm"
    return subprocess.run(
        [sys.executable, str(script), "cc-kraken@data.service"],
        capture_output=True,
        text=True,
        env=environment,
    )


def test_the_topic_gets_the_status(endpoint: str, environment: Dict[str, str]) -> None:
    client = boto3.client(
        "sns",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="AK",
        aws_secret_access_key="secret",
    )
    arn = client.create_topic(Name="storage")["TopicArn"]
    environment |= {"TOPIC_ARN": arn, "AWS_ENDPOINT_URL_SNS": endpoint}
    done = alarm(environment)
    assert done.returncode == 0, done.stderr
    (sent,) = sns_backends[ACCOUNT][REGION].topics[arn].sent_notifications
    _, message, subject, *_ = sent
    assert message == "failed: node kafka/0 (status)\n"
    assert subject == f"{socket.gethostname()}: cc-kraken@data.service has failed"


def test_the_agent_counts_it(environment: Dict[str, str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        host, port = agent.getsockname()
        done = alarm({**environment, "STATSD": f"{host}:{port}"})
        assert done.returncode == 0, done.stderr
        assert agent.recv(100) == b"cc_kraken_failed:1|c"


def test_without_somebody_to_tell_it_fails(environment: Dict[str, str]) -> None:
    done = alarm(environment)
    assert done.returncode == 2 and "TOPIC_ARN or STATSD" in done.stderr


def test_the_file_of_the_agent_fits_the_script_and_the_page() -> None:
    text = (MONITORING / "amazon-cloudwatch-agent.json").read_text()
    metrics = json.loads(text)["metrics"]
    page = (MONITORING / "README.md").read_text()
    address = metrics["metrics_collected"]["statsd"]["service_address"]
    assert f"STATSD={address}" in page
    assert f"--namespace {metrics['namespace']} " in page
    script = (MONITORING / "kraken-alarm").read_text()
    (name,) = re.findall(r'b"(\w+):1\|c"', script)
    assert f"--metric-name {name} " in page


def test_the_policy_lets_it_publish_and_nothing_else() -> None:
    policy = json.loads((MONITORING / "iam-policy-alarm.json").read_text())
    assert [one["Action"] for one in policy["Statement"]] == ["sns:Publish"]


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)
@pytest.mark.parametrize("unit", ["cc-kraken.service", "cc-kraken@.service"])
def test_a_unit_that_fails_starts_the_alarm(tmp_path: Path, unit: str) -> None:
    source = ROOT / "debian" / f"cloud-init-kraken{unit[9:-8]}.cc-kraken.service"
    for name, text in (
        (unit, source.read_text()),
        (
            "kraken-alarm@.service",
            (MONITORING / "kraken-alarm@.service").read_text(),
        ),
    ):
        # The commands are not installed here: only their paths are not looked at.
        text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text)
        (tmp_path / name).write_text(text)
    drop_in = tmp_path / f"{unit}.d"
    drop_in.mkdir()
    shutil.copy(MONITORING / "alarm.conf", drop_in)
    instance = unit.replace("@", "@data")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", instance],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    conf = (MONITORING / "alarm.conf").read_text()
    assert "\nOnFailure=kraken-alarm@%n.service\n" in conf
    page = (MONITORING / "README.md").read_text()
    assert "alarm.conf /etc/systemd/system/$unit.service.d/alarm.conf" in page
