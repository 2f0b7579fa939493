"""The examples of an alarm: the script against an SNS and a socket of an agent, the
rules of Prometheus against the metrics of a status."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer
from moto.sns.models import sns_backends
from prometheus_client.parser import text_string_to_metric_families

from cc_kraken.machine.paths import Paths
from cc_kraken.model import Identity, Node, Trouble
from cc_kraken.state import metrics, report
from cc_kraken.state.report import Report

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "examples" / "monitoring"
#: ``make prepare`` puts it there.
PROMTOOL = Path(sys.executable).parent / "promtool"
ACCOUNT, REGION = "123456789012", "eu-west-1"


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a command that shows a status, and nothing of the caller's."""
    command = tmp_path / "cc-kraken"
    command.write_text('#!/bin/sh\necho "failed: node kafka/0 ($1)"\nexit 1\n')
    command.chmod(0o755)
    keys = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "secret"}
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", **keys}


def alarm(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = MONITORING / "kraken-alarm"
    return subprocess.run(
        [sys.executable, str(script), "cc-kraken@data.service"],
        capture_output=True,
        text=True,
        env=environment,
    )


def test_the_topic_gets_the_status(endpoint: str, environment: dict[str, str]) -> None:
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


def test_the_agent_counts_it(environment: dict[str, str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        host, port = agent.getsockname()
        done = alarm({**environment, "STATSD": f"{host}:{port}"})
        assert done.returncode == 0, done.stderr
        assert agent.recv(100) == b"cc_kraken_failed:1|c"


def test_without_somebody_to_tell_it_fails(environment: dict[str, str]) -> None:
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


# ------------------------------------------------------------------- Prometheus

RULES = MONITORING / "prometheus-rules.yml"
ALERTS: dict[str, dict[str, Any]] = {
    one["alert"]: one
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for one in group["rules"]
}
MINUTES = 60
UP = 'up{job="node",instance="a"}'
DISK = 'node_filesystem_size_bytes{job="node",instance="a",mountpoint="/data"}'
TROUBLE = Trouble("zone-other", "found", "expected", "Do this.")


def status(state: str, data: Optional[str] = None, **more: Any) -> Report:
    """The report of a run that ended so, with a set ``data`` in this state."""
    told = Report(Paths(run="/nowhere"), "background", kept=False)
    told.identify(Identity("i-1", "us-east-1", "us-east-1a"), Node("kafka", "0"))
    if data is not None:
        told.set("data").update(state=data, mount_path="/data", **more)
    if state != "running":
        told.finish(state)
    return told


def series(told: Report, values: str = f"{{}}x{MINUTES}") -> dict[str, str]:
    """What Prometheus has of a report by way of node_exporter: by the name of each
    series its values, one a minute, in promtool's notation."""
    found = {}
    for family in text_string_to_metric_families(metrics.text(told.status)):
        for one in family.samples:
            labels = {"job": "node", "instance": "a", **one.labels}
            text = ",".join(f'{key}="{value}"' for key, value in labels.items())
            found[f"{one.name}{{{text}}}"] = values.format(int(one.value))
    return {**found, UP: f"1x{MINUTES}", DISK: f"1x{MINUTES}"}


def turns() -> dict[str, str]:
    """Runs that end as pending, and the next that goes on, by turns."""
    found = series(status("running", "pending"))
    for state, values in (("running", "1 0 " * 30), ("pending", "0 1 " * 30)):
        (name,) = (one for one in found if "run_state" in one and state in one)
        found[name] = values.strip()
    return found


def cut(found: dict[str, str]) -> dict[str, str]:
    """Five minutes of it: then the instance is terminated, and not scraped any more."""
    return {name: f"{values.split('x')[0]}x5 _x55" for name, values in found.items()}


UP_AND_WELL = series(status("done", "mounted"))
CASES: dict[str, Any] = {
    "all is well": (UP_AND_WELL, set()),
    "a set has failed": (series(status("failed", "failed")), {"KrakenSetFailed"}),
    "a set that need not be there has failed": (
        series(status("done", "failed", required=False)),
        set(),
    ),
    "the run has failed before it knew a set": (
        series(status("failed")),
        {"KrakenRunFailed"},
    ),
    "a volume is awaited": (turns(), {"KrakenPendingTooLong"}),
    "the node is gone": (cut(UP_AND_WELL), {"KrakenNodeAbsent"}),
    "no run has written a file": ({UP: f"1x{MINUTES}"}, {"KrakenSilent"}),
    "the array lacks a member": (
        series(status("done", "mounted", array={"degraded": 1})),
        {"KrakenArrayDegraded"},
    ),
    "somebody has unmounted it": (
        {name: values for name, values in UP_AND_WELL.items() if name != DISK},
        {"KrakenMountGone"},
    ),
    "it is in a warm pool": (series(status("standby")), set()),
    "it is switched off": (series(status("off")), set()),
}


def test_each_alert_has_a_case_and_says_what_to_do() -> None:
    assert set(ALERTS) == set().union(*(fires for _, fires in CASES.values()))
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        for key in ("summary", "description"):
            assert rule["annotations"][key].endswith(".")


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_asks_for_metrics_that_there_are(name: str) -> None:
    told = status("failed", "failed", array={"degraded": 1})
    told.set("data")["error"] = report.error(TROUBLE)
    there = {one.partition("{")[0]: one for one in series(told)}
    asked = set(
        re.findall(r"\b(?:cc_kraken|node_filesystem)_\w+", ALERTS[name]["expr"])
    )
    assert asked and asked <= set(there)


@pytest.mark.parametrize("case", CASES)
def test_the_rules_fire_when_they_should_and_at_no_other_time(
    tmp_path: Path, case: str
) -> None:
    found, fires = CASES[case]
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in found.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": "40m",
                        "exp_samples": [
                            {"labels": f'{{alertname="{name}"}}', "value": 1}
                            for name in sorted(fires)
                        ],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
