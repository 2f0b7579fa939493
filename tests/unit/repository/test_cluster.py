"""The cluster in an Auto Scaling group, in Terraform and CloudFormation: both are
parsed, and an instance of theirs claims a node of theirs by the code of a run."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore import xform_name

from cc_kraken.commands import userdata
from cc_kraken.config import tags
from cc_kraken.decide.claiming import Situation, Take, next_step
from cc_kraken.model import Attachment, Claimant, Section, Trouble, Volume
from tests.unit.repository.test_examples import (
    ROOT,
    Template,
    actions,
    analyze,
    operations,
    place_unit,
    statements,
    text,
)
from tests.unit.terraform import (
    KNOWN,
    META,
    code,
    entities,
    load,
    named,
    own,
    plain,
    wrong,
)

MODULE = ROOT / "examples" / "cluster" / "terraform"
ZONES = {"0": "us-east-1a", "1": "us-east-1b", "2": "us-east-1c"}
HOOK = "volumes"

# --------------------------------------------------------------- Terraform's files


def resource(kind: str) -> dict[str, Any]:
    (found,) = (body for _, of, _, body in entities(MODULE) if of == kind)
    return found


def locals_() -> dict[str, Any]:
    (found,) = load(MODULE / "main.tf")["locals"]
    return own(found)


def block(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    (found,) = body[name]
    return own(found)


def dynamic(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    (found,) = (own(one)[name] for one in body["dynamic"])
    return own(found)


@pytest.mark.parametrize(
    "entity", list(entities(MODULE)), ids=lambda e: ".".join(e[:3])
)
def test_every_argument_is_one_that_the_provider_documents(
    entity: tuple[str, str, str, dict[str, Any]],
) -> None:
    what, kind, _, body = entity
    assert wrong(body, KNOWN[what, kind], META) == []


def test_an_argument_that_is_misspelt_or_missing_is_seen() -> None:
    known = KNOWN["resource", "aws_autoscaling_group"]
    body = {
        "max_size": 3,
        "desired": 3,
        "initial_lifecycle_hook": [{"name": "x", "default": "ABANDON"}],
        "dynamic": [
            {'"instance_refresh"': {"content": [{"preferences": [{"min": 0}]}]}}
        ],
        "lifecycle": [{"precondition": [{"condition": True}]}],
    }
    assert sorted(wrong(body, known, META)) == [
        "desired is unknown",
        "initial_lifecycle_hook: default is unknown",
        "initial_lifecycle_hook: lifecycle_transition is missing",
        "instance_refresh: preferences: min is unknown",
        "instance_refresh: strategy is missing",
        "min_size is missing",
        "precondition: error_message is missing",
    ]


def test_names_lead_to_what_is_there() -> None:
    variables = named(MODULE, "variable")
    outputs = named(MODULE, "output")
    assert set(re.findall(r"\bvar\.(\w+)", code(MODULE))) == set(variables)
    assert set(re.findall(r"\blocal\.(\w+)", code(MODULE))) == set(locals_())
    for name, body in [*variables.items(), *outputs.items()]:
        assert body.get("description"), f"{name} has no description"
    there = {(what, kind, name) for what, kind, name, _ in entities(MODULE)}
    used = re.findall(r"(data\.)?\b(aws_\w+)\.(\w+)(?:\.(\w+))?", code(MODULE))
    assert used
    for data, kind, name, attribute in used:
        what = "data" if data else "resource"
        assert (what, kind, name) in there, (kind, name)
        known = KNOWN[what, kind]
        every = known.attributes | known.required | known.optional
        assert not attribute or attribute in every, (kind, attribute)
    for name in re.findall(r'\$\{path\.module\}/([\w./-]+)"', code(MODULE)):
        assert (MODULE / name).exists(), name


PLUGINS = os.environ.get("TF_PLUGIN_DIR", "")
"""A directory with hashicorp/aws, as "terraform providers mirror" makes one."""


@pytest.mark.long
@pytest.mark.skipif(
    not (shutil.which("terraform") and PLUGINS),
    reason="terraform is not installed, or TF_PLUGIN_DIR names no plugins",
)
def test_terraform_plans_both_forms(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    module = tmp_path / "examples/cluster/terraform"
    environment = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull}

    def terraform(*words: str) -> str:
        done = subprocess.run(
            ["terraform", *words],
            cwd=module,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    terraform("fmt", "-check", "-recursive")
    terraform("init", "-input=false", f"-plugin-dir={PLUGINS}")
    terraform("validate")
    assert "3 passed, 0 failed" in terraform("test", "-no-color")


# -------------------------------------------------------- CloudFormation's template

PARAMETERS = {
    "Prefix": "kafka",
    **{f"Zone{letter}": zone for letter, zone in zip("ABC", ZONES.values())},
}


def template() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(text("cluster/cloudformation.yaml"), Template)
    return found


def resolve(value: Any, each_zone: bool = False) -> Any:
    """A value with parameters and conditions put in; other references are names."""
    if isinstance(value, list):
        return [resolve(one, each_zone) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Ref"}:
        return PARAMETERS.get(value["Ref"], value["Ref"])
    if set(value) == {"If"}:
        condition, yes, no = value["If"]
        # Nobody has named a managed policy.
        holds = {"EachZone": each_zone, "HasRolePolicies": False}[condition]
        return resolve(yes if holds else no, each_zone)
    if set(value) == {"Sub"}:
        known = {**PARAMETERS, "AWS::Partition": "aws"}
        return re.sub(
            r"\$\{([\w:]+)\}", lambda found: known.get(found[1], found[1]), value["Sub"]
        )
    return {key: resolve(one, each_zone) for key, one in value.items()}


def made(kind: str, each_zone: bool = False) -> dict[str, dict[str, Any]]:
    """The resources of a type that the stack has in one of its two forms."""
    return {
        name: resolve(body, each_zone)
        for name, body in template()["Resources"].items()
        if body["Type"] == kind and (each_zone or body.get("Condition") != "EachZone")
    }


def listed_tags(listed: list[dict[str, str]]) -> dict[str, str]:
    return {one["Key"]: one["Value"] for one in listed}


@pytest.mark.long
def test_cfn_lint_has_nothing_to_say_of_the_cluster() -> None:
    linter = Path(sys.executable).parent / "cfn-lint"
    done = subprocess.run(
        [str(linter), str(ROOT / "examples/cluster/cloudformation.yaml")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ------------------------------------------------------ an instance claims a node


def filled(expression: object, known: Mapping[str, str]) -> str:
    """A string of Terraform's with references put in."""
    found = plain(expression)
    for reference, value in known.items():
        found = found.replace(f"${{{reference}}}", value)
    assert "${" not in found, found
    return found


def terraform_volumes() -> list[tuple[str, dict[str, str]]]:
    """Zone and tags of each volume that main.tf makes of three nodes."""
    body = resource("aws_ebs_volume")
    assert plain(body["availability_zone"]) == "${local.zones[each.value.node_id]}"
    found = []
    for node_id, zone in ZONES.items():
        for name in sets_of_terraform():
            known = {
                "var.prefix": "kafka",
                "each.key": f"{node_id}/{name}",
                "each.value.node_id": node_id,
                "each.value.set": name,
            }
            volume = {key: filled(one, known) for key, one in own(body["tags"]).items()}
            found.append((zone, volume))
    return found


def sets_of_terraform() -> list[str]:
    """Terraform's keys() sorts them."""
    return sorted(own(named(MODULE, "variable")["sizes"]["default"]))


def cloudformation_volumes() -> list[tuple[str, dict[str, str]]]:
    bodies = [body["Properties"] for body in made("AWS::EC2::Volume").values()]
    return [(one["AvailabilityZone"], listed_tags(one["Tags"])) for one in bodies]


def terraform_instance() -> dict[str, str]:
    specification = block(resource("aws_launch_template"), "tag_specifications")
    assert plain(specification["resource_type"]) == "instance"
    known = {
        "var.prefix": "kafka",
        'join(",", keys(var.sizes))': ",".join(sets_of_terraform()),
    }
    return {key: filled(one, known) for key, one in own(specification["tags"]).items()}


def cloudformation_instance() -> dict[str, str]:
    (specification,) = launch_data()["TagSpecifications"]
    assert specification["ResourceType"] == "instance"
    return listed_tags(specification["Tags"])


def launch_data() -> dict[str, Any]:
    (body,) = made("AWS::EC2::LaunchTemplate").values()
    found: dict[str, Any] = body["Properties"]["LaunchTemplateData"]
    return found


FORMS = {
    "terraform": (terraform_volumes, terraform_instance),
    "cloudformation": (cloudformation_volumes, cloudformation_instance),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_instance_claims_the_free_node_of_its_zone(form: str) -> None:
    volumes_of, instance_of = FORMS[form]
    instance = instance_of()
    assert tags.misspelt(instance, "KRKN-IN") == {}
    assert tags.node(Section(), instance) == Claimant("kafka")
    declared = tags.declared(Section(), instance)
    assert sorted(declared) == ["data", "log"]
    volumes = [
        Volume(f"vol-{number:017x}", 100, zone, "available", tags=own_tags)
        for number, (zone, own_tags) in enumerate(volumes_of())
    ]
    assert len(volumes) == 6
    for node_id, zone in ZONES.items():
        ids = [volume.id for volume in volumes if volume.zone == zone]

        def step(there: list[Volume], zone: str = zone) -> object:
            me = "i-0000000000000beef"
            return next_step(
                Situation(me, Section(), "kafka", zone, declared, tuple(there))
            )

        assert step(volumes) == Take(node_id, min(ids))
        # Without one of its volumes, or while another instance is it: not claimed.
        for one in ids:
            without = step([volume for volume in volumes if volume.id != one])
            assert isinstance(without, Trouble), one
            assert without.kind == "claim-none-free"
        theirs = [
            Volume(
                volume.id,
                100,
                volume.zone,
                "in-use",
                volume.tags,
                (Attachment("i-0000000000000cafe", "/dev/sdf", "attached"),),
            )
            for volume in volumes
        ]
        taken = step(theirs)
        assert isinstance(taken, Trouble) and taken.waits


@pytest.mark.parametrize("form", FORMS)
def test_each_set_of_a_node_is_mounted(form: str) -> None:
    for _, own_tags in FORMS[form][0]():
        assert tags.misspelt(own_tags, "KRKN-IN") == {}
        name = own_tags["KRKN-IN:VolumeName"]
        assert own_tags["KRKN-IN:MountPath"] == f"/krkn_{name}"
        assert own_tags["KRKN-IN:FsType"] == "ext4"


def test_volumes_outlive_the_cluster() -> None:
    assert block(resource("aws_ebs_volume"), "lifecycle")["prevent_destroy"] is True
    for body in made("AWS::EC2::Volume").values():
        assert body["DeletionPolicy"] == body["UpdateReplacePolicy"] == "Retain"


def test_an_instance_sees_its_tags_by_imdsv2_alone() -> None:
    ours = block(resource("aws_launch_template"), "metadata_options")
    theirs = launch_data()["MetadataOptions"]
    for key, value in {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "InstanceMetadataTags": "enabled",
    }.items():
        assert theirs[key] == value == plain(ours[xform_name(key)])


# ------------------------------------------------------------ settings of the group


def settings_of_the_guide() -> dict[str, str]:
    page = (ROOT / "docs/guides/auto-scaling.md").read_text(encoding="utf-8")
    return dict(re.findall(r"(?m)^\| `(\w+)` \| `([^`]+)`", page))


def terraform_settings() -> dict[str, str]:
    group = resource("aws_autoscaling_group")
    refresh = own(dynamic(group, "instance_refresh")["content"][0])
    preferences = block(refresh, "preferences")
    policy = block(group, "instance_maintenance_policy")
    for key in ("min_healthy_percentage", "max_healthy_percentage"):
        assert preferences[key] == policy[key]
    assert policy["min_healthy_percentage"] == "${local.min_healthy[each.key]}"
    variables = named(MODULE, "variable")
    assert group["default_instance_warmup"] == "${var.warmup}"
    hook = block(group, "initial_lifecycle_hook")
    assert plain(hook["heartbeat_timeout"]) == "${var.heartbeat_timeout}"
    distribution = block(group, "availability_zone_distribution")
    return {
        "MinHealthyPercentage": str(min_healthy(3)),
        "MaxHealthyPercentage": str(policy["max_healthy_percentage"]),
        "CapacityDistributionStrategy": plain(
            distribution["capacity_distribution_strategy"]
        ),
        "LifecycleTransition": plain(hook["lifecycle_transition"]),
        "HeartbeatTimeout": str(variables["heartbeat_timeout"]["default"]),
        "DefaultResult": plain(hook["default_result"]),
        "DefaultInstanceWarmup": str(variables["warmup"]["default"]),
        "HealthCheckType": plain(group["health_check_type"]),
        "HealthCheckGracePeriod": str(group["health_check_grace_period"]),
    }


def min_healthy(nodes: int) -> int:
    """What main.tf computes for a group of so many."""
    found = re.search(r"floor\([^}]*\)", locals_()["min_healthy"])
    assert found is not None
    known = {"floor": math.floor, "length": len, "subnets": range(nodes)}
    value = eval(found.group(), {"__builtins__": {}}, known)
    assert isinstance(value, int)
    return value


def cloudformation_settings(body: dict[str, Any]) -> dict[str, str]:
    group = body["Properties"]
    refresh = body["UpdatePolicy"]["AutoScalingInstanceRefresh"]["Preferences"]
    policy = group["InstanceMaintenancePolicy"]
    for key in ("MinHealthyPercentage", "MaxHealthyPercentage"):
        assert refresh[key] == policy[key]
    (hook,) = group["LifecycleHookSpecificationList"]
    every = {**policy, **group["AvailabilityZoneDistribution"], **hook, **group}
    return {key: str(every[key]) for key in settings_of_the_guide()}


def test_the_settings_are_those_of_the_guide() -> None:
    told = settings_of_the_guide()
    assert terraform_settings() == told
    (group,) = made("AWS::AutoScaling::AutoScalingGroup").values()
    assert cloudformation_settings(group) == told


@pytest.mark.parametrize("nodes", range(1, 13))
def test_a_refresh_lets_one_instance_end_before_the_next_starts(nodes: int) -> None:
    """EC2 rounds the instances that must stay up, so percent must be rounded down."""
    assert math.ceil(min_healthy(nodes) * nodes / 100) == nodes - 1
    assert settings_of_the_guide()["MaxHealthyPercentage"] == "100"


def test_one_group_has_an_instance_for_each_node() -> None:
    (group,) = made("AWS::AutoScaling::AutoScalingGroup").values()
    ours = resource("aws_autoscaling_group")
    for key in ("MinSize", "MaxSize", "DesiredCapacity"):
        assert group["Properties"][key] == "3"
        assert ours[xform_name(key)] == "${length(each.value)}"
    subnets = ["SubnetA", "SubnetB", "SubnetC"]
    assert group["Properties"]["VPCZoneIdentifier"] == subnets
    assert ours["suspended_processes"] == ['"AZRebalance"']
    # CloudFormation has no such property: the stack says how.
    told = resolve(template()["Outputs"]["SuspendAZRebalance"]["Value"])
    assert told == (
        "aws autoscaling suspend-processes --auto-scaling-group-name GroupA "
        "--scaling-processes AZRebalance"
    )


def test_a_group_for_each_zone_has_one_node_each() -> None:
    groups = made("AWS::AutoScaling::AutoScalingGroup", each_zone=True)
    assert sorted(groups) == ["GroupA", "GroupB", "GroupC"]
    expected = {**settings_of_the_guide(), "MinHealthyPercentage": "0"}
    for name, body in groups.items():
        assert cloudformation_settings(body) == expected
        assert body["Properties"]["VPCZoneIdentifier"] == [f"Subnet{name[-1]}"]
        for key in ("MinSize", "MaxSize", "DesiredCapacity"):
            assert body["Properties"][key] == "1"


def test_groups_of_zones_are_never_refreshed_at_the_same_time() -> None:
    groups = made("AWS::AutoScaling::AutoScalingGroup", each_zone=True)
    assert groups["GroupB"]["DependsOn"] == ["GroupA"]
    assert groups["GroupC"]["DependsOn"] == ["GroupB"]
    refresh = dynamic(resource("aws_autoscaling_group"), "instance_refresh")
    assert refresh["for_each"] == '${var.group_per_zone ? [] : ["one"]}'


def test_no_group_has_a_warm_pool_or_launches_before_it_terminates() -> None:
    assert not made("AWS::AutoScaling::WarmPool", each_zone=True)
    for body in made("AWS::AutoScaling::AutoScalingGroup", each_zone=True).values():
        assert "CapacityRebalance" not in body["Properties"]
        assert "AutoScalingRollingUpdate" not in body["UpdatePolicy"]
    assert not {"warm_pool", "capacity_rebalance"} & set(
        resource("aws_autoscaling_group")
    )


# ------------------------------------------------------------- the hook is completed


def hook_policy() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text("cluster/iam-policy-hook.json"))
    return found


def test_the_role_may_complete_the_hook_of_its_own_group_alone() -> None:
    find, complete = statements(hook_policy())
    assert actions(complete) == {"autoscaling:CompleteLifecycleAction"}
    key = "aws:ResourceTag/KRKN-IN:Prefix"
    assert complete["Condition"] == {"StringEquals": {key: "kafka"}}
    assert actions(find) | actions(complete) == calls_of_the_program()
    assert calls_of_the_program() <= operations("autoscaling")
    # The groups have the tag. Their instances have it from the launch template.
    tag = block(resource("aws_autoscaling_group"), "tag")
    assert (plain(tag["key"]), tag["value"]) == ("KRKN-IN:Prefix", "${var.prefix}")
    for body in made("AWS::AutoScaling::AutoScalingGroup", each_zone=True).values():
        (one,) = body["Properties"]["Tags"]
        assert (one["Key"], one["Value"]) == ("KRKN-IN:Prefix", "kafka")


def calls_of_the_program() -> set[str]:
    tree = ast.parse(text("cluster/complete-launch"))
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    return {
        action
        for action in operations("autoscaling")
        if xform_name(action.partition(":")[2]) in called
    }


def test_the_role_has_both_policies() -> None:
    policy = resource("aws_iam_role_policy")
    files = own(policy["for_each"])
    assert {name: plain(one).rpartition("/")[2] for name, one in files.items()} == {
        "volumes": "iam-policy.json",
        "hook": "iam-policy-hook.json",
    }
    # The prefix is put into both in the place of this word, the partition into ARNs.
    for name in ("iam-policy.json", "cluster/iam-policy-hook.json"):
        assert text(name).count('"kafka"') == 1
    assert 'file(each.value), "\\"kafka\\"", jsonencode(var.prefix)' in code(MODULE)
    (role,) = made("AWS::IAM::Role").values()
    inline = {
        one["PolicyName"]: one["PolicyDocument"]
        for one in role["Properties"]["Policies"]
    }
    assert inline == {
        "volumes": json.loads(text("iam-policy.json")),
        "hook": hook_policy(),
    }


def terraform_user_data() -> Any:
    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: read(one) for key, one in own(value).items()}
        if isinstance(value, list):
            return [read(one) for one in value]
        found = re.fullmatch(r'\$\{file\("\$\{path\.module\}/([^"]+)"\)\}', str(value))
        if found:
            return (MODULE / found[1]).read_text(encoding="utf-8")
        return plain(value) if isinstance(value, str) else value

    assert '"#cloud-config\\n${yamlencode(local.user_data)}"' in code(MODULE)
    return read(locals_()["user_data"])


def test_both_give_the_same_user_data_with_the_files_as_they_are() -> None:
    document = launch_data()["UserData"]["Fn::Base64"]
    checked = userdata.check(document.encode(), "user-data")
    assert checked.sections and checked.findings == []
    theirs = yaml.safe_load(document)
    assert terraform_user_data() == theirs
    assert [one["content"] for one in theirs["write_files"]] == [
        text("cluster/complete-launch"),
        text("cluster/complete-launch.service"),
    ]
    # The unit runs the file that is written.
    program, unit = (one["path"] for one in theirs["write_files"])
    assert f" {program} {HOOK}\n" in text("cluster/complete-launch.service")
    assert theirs["runcmd"][-1] == ["systemctl", "start", "--no-block", Path(unit).name]


def test_the_unit_completes_the_hook_that_the_groups_have() -> None:
    hook = block(resource("aws_autoscaling_group"), "initial_lifecycle_hook")
    assert plain(hook["name"]) == HOOK
    for body in made("AWS::AutoScaling::AutoScalingGroup", each_zone=True).values():
        (one,) = body["Properties"]["LifecycleHookSpecificationList"]
        assert one["LifecycleHookName"] == HOOK


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)
def test_the_unit_waits_for_every_set_that_the_instance_declares(
    tmp_path: Path,
) -> None:
    body = text("cluster/complete-launch.service")
    needed = ["cc-kraken-node.service"]
    for name in tags.declared(Section(), cloudformation_instance()):
        needed.append(f"cc-kraken@{name}.service")
    for key in ("Requires", "After"):
        (line,) = re.findall(rf"(?m)^{key}=(.*)$", body)
        assert sorted(line.split()) == sorted(needed)
    units = ROOT / "debian"
    template = (units / "cloud-init-kraken@.cc-kraken.service").read_text()
    node = (units / "cloud-init-kraken.cc-kraken-node.service").read_text()
    place_unit(tmp_path / "cc-kraken@.service", template)
    place_unit(tmp_path / "cc-kraken-node.service", node)
    unit = tmp_path / "complete-launch.service"
    place_unit(unit, body)
    done = analyze(unit)
    assert (done.returncode, done.stderr) == (0, "")
    place_unit(unit, body.replace("[Unit]", "[Unit]\nRequirez=x", 1))
    assert "Requirez" in analyze(unit).stderr


DESCRIBED = """<DescribeAutoScalingInstancesResponse
  xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/">
  <DescribeAutoScalingInstancesResult><AutoScalingInstances>{members}
  </AutoScalingInstances></DescribeAutoScalingInstancesResult>
</DescribeAutoScalingInstancesResponse>"""
MEMBER = """<member><InstanceId>i-0000000000000beef</InstanceId>
  <AutoScalingGroupName>kafka-1a</AutoScalingGroupName>
  <LifecycleState>{state}</LifecycleState></member>"""
COMPLETED = """<CompleteLifecycleActionResponse
  xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/">
  <CompleteLifecycleActionResult/></CompleteLifecycleActionResponse>"""


class AutoScaling(HTTPServer):
    """Auto Scaling with one instance, or none; it notes what is asked."""

    def __init__(self, state: str) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.state = state
        self.asked: list[dict[str, str]] = []

    def answer(self, query: dict[str, str]) -> str:
        self.asked.append(query)
        if query["Action"] == "CompleteLifecycleAction":
            self.state = "InService"
            return COMPLETED
        member = MEMBER.format(state=self.state) if self.state else ""
        return DESCRIBED.format(members=member)


class Answer(BaseHTTPRequestHandler):
    server: AutoScaling

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer = self.server.answer(dict(urllib.parse.parse_qsl(sent))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Not into the output of the tests."""


def run_program(server: AutoScaling) -> subprocess.CompletedProcess[str]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        return subprocess.run(
            [sys.executable, str(ROOT / "examples/cluster/complete-launch"), HOOK],
            env={
                "PATH": os.environ["PATH"],
                "KRAKEN_INSTANCE_ID": "i-0000000000000beef",
                "KRAKEN_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
                "AWS_ACCESS_KEY_ID": "x",
                "AWS_SECRET_ACCESS_KEY": "x",
            },
            capture_output=True,
            text=True,
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_program_completes_the_hook_of_an_instance_that_waits() -> None:
    server = AutoScaling("Pending:Wait")
    done = run_program(server)
    assert (done.returncode, done.stderr) == (0, "")
    describe, complete = server.asked
    assert describe["InstanceIds.member.1"] == "i-0000000000000beef"
    assert complete == {
        "Action": "CompleteLifecycleAction",
        "Version": "2011-01-01",
        "AutoScalingGroupName": "kafka-1a",
        "InstanceId": "i-0000000000000beef",
        "LifecycleActionResult": "CONTINUE",
        "LifecycleHookName": HOOK,
    }


@pytest.mark.parametrize(
    ("state", "status", "said"),
    [
        ("InService", 0, "was InService"),
        ("Pending:Proceed", 0, "was Pending:Proceed"),
        ("Terminating:Wait", 0, "was Terminating:Wait"),
        ("Pending", 1, "does not wait for volumes yet"),  # systemd tries again
        ("", 1, "in no Auto Scaling group"),
    ],
)
def test_the_program_completes_nothing_else(state: str, status: int, said: str) -> None:
    server = AutoScaling(state)
    done = run_program(server)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert [one["Action"] for one in server.asked] == ["DescribeAutoScalingInstances"]


def test_the_program_says_how_it_is_used() -> None:
    program = ROOT / "examples/cluster/complete-launch"
    assert program.stat().st_mode & 0o111
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 1 and "usage" in done.stderr
