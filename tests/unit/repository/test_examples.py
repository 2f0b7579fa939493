"""The examples, each by the tools that exist for it."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml

from cc_kraken import cli
from cc_kraken.cloud.errors import KMS_PERMISSIONS
from cc_kraken.config import creation, loading, sets, tags
from cc_kraken.model import Node, Section, Volume
from tests.unit.terraform import load, plain

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
ZONE = "us-east-1a"
#: They have tests of their own: test_terraform.py, test_monitoring.py, and
#: tests/chroot/test_repo.py.
ELSEWHERE = [
    path
    for name in ("terraform", "ansible", "monitoring")
    for path in (EXAMPLES / name).rglob("*")
    if path.is_file()
]


def text(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


#: What test_cluster.py checks, with all that lies beside main.tf.
CLUSTER = (
    "cluster/terraform/main.tf",
    "cluster/cloudformation.yaml",
    "cluster/complete-launch",
    "cluster/complete-launch.service",
    "cluster/iam-policy-hook.json",
)


def test_every_example_is_named_in_the_index_and_checked_here() -> None:
    main = EXAMPLES / CLUSTER[0]
    beside_the_cluster = {path for path in main.parent.rglob("*") if path != main}
    files = {
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.rglob("*")
        if path.is_file() and path not in beside_the_cluster
    }
    told = set(re.findall(r"\]\(([^)]+)\)", text("README.md")))
    files -= {str(path.relative_to(EXAMPLES)) for path in ELSEWHERE}
    for name in ("terraform", "ansible", "monitoring"):
        assert f"{name}/README.md" in told
    assert files == {name for name in told if (EXAMPLES / name) not in ELSEWHERE} | {
        "README.md"
    }
    source = Path(__file__).read_text(encoding="utf-8")
    for name in files:
        assert f'"{name}"' in source, f"{name} is not checked"


@pytest.mark.long
def test_ansible_lint_has_no_word_against_the_playbook(tmp_path: Path) -> None:
    here = tmp_path / "ansible"
    shutil.copytree(EXAMPLES / "ansible", here)
    tools = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(tmp_path / "home"),
    }

    def lint() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tools / "ansible-lint", "--offline", "--profile=production", "image.yml"],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
        )

    done = lint()
    assert done.returncode == 0, done.stdout + done.stderr
    (tasks,) = here.glob("roles/*/tasks/main.yml")
    tasks.write_text(tasks.read_text() + "- ansible.builtin.shell: cat /etc/fstab\n")
    assert "name[missing]" in lint().stdout


# ------------------------------------------------------------------- user-data


def section(document: str, name: str) -> Section:
    value = yaml.safe_load(document)["kraken"]
    found = loading.build([loading.Source(name, value)])
    assert found is not None
    return found


def test_the_user_data_is_right_and_names_its_schema(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = text("user-data.yaml")
    assert document.startswith("#cloud-config\n")
    assert set(section(document, "user-data.yaml").volumes) == {"log", "data"}
    assert cli.main(["check", str(EXAMPLES / "user-data.yaml")]) == 0
    assert "is right" in capsys.readouterr().out
    (named,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", document, re.M)
    schema = json.loads((EXAMPLES / named).read_text(encoding="utf-8"))
    validator = jsonschema.Draft4Validator(schema)
    assert list(validator.iter_errors(yaml.safe_load(document))) == []
    wrong = document.replace("owner: kafka", "ownr: kafka")
    assert list(validator.iter_errors(yaml.safe_load(wrong)))


def test_check_finds_our_mistake_among_keys_of_cloud_init(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "user-data"
    wrong.write_text(text("user-data.yaml").replace("boot_wait", "boot_wiat"))
    assert cli.main(["check", str(wrong)]) == 1
    assert "kraken.boot_wiat" in capsys.readouterr().err


def test_the_image_defaults_are_right() -> None:
    found = section(text("image-defaults.cfg"), "image-defaults.cfg")
    assert found.enabled is False
    on = loading.build(
        [
            *loading.parse(text("image-defaults.cfg"), "image"),
            *loading.parse("kraken: {enabled: true}", "user-data"),
        ]
    )
    assert on is not None and on.enabled
    assert on.defaults["fs_type"] == "ext4" and on.wait == 1800


# -------------------------------------------------------------------- policies


def statements(policy: dict[str, Any]) -> list[dict[str, Any]]:
    assert policy["Version"] == "2012-10-17"
    found: list[dict[str, Any]] = policy["Statement"]
    return found


def actions(statement: dict[str, Any]) -> set[str]:
    named = statement["Action"]
    return {named} if isinstance(named, str) else set(named)


def operations(service: str) -> set[str]:
    model = botocore.session.get_session().get_service_model(service)
    return {f"{service}:{name}" for name in model.operation_names}


def calls_of_the_module() -> set[str]:
    """The actions that ec2.py asks for, by their names in its source."""
    tree = ast.parse(
        (ROOT / "cc_kraken" / "cloud" / "ec2.py").read_text(encoding="utf-8")
    )
    return {
        f"ec2:{node.args[0].value}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("_call", "_pages")
        and isinstance(node.args[0], ast.Constant)
    }


CREATES = {"ec2:CreateVolume"}
"""What only a section with ``create`` asks for."""


def check_policy(policy: dict[str, Any], prefix: object) -> None:
    """All that the module calls, nothing else, and changes by tag only."""
    allowed: set[str] = set()
    for statement in statements(policy):
        assert statement["Effect"] == "Allow"
        allowed |= actions(statement)
        if all(action.startswith("ec2:Describe") for action in actions(statement)):
            assert statement["Resource"] == "*"
            continue
        assert actions(statement) == {"ec2:AttachVolume", "ec2:DetachVolume"}
        key = f"aws:ResourceTag/{tags.name('KRKN-IN', tags.PREFIX)}"
        assert statement["Condition"] == {"StringEquals": {key: prefix}}
    assert allowed == calls_of_the_module() - CREATES
    assert allowed <= operations("ec2")


def test_the_policy_is_what_the_module_calls() -> None:
    policy = json.loads(text("iam-policy.json"))
    check_policy(policy, "kafka")
    resources = statements(policy)[1]["Resource"]
    assert resources == ["arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:volume/*"]


@pytest.mark.parametrize(
    "name",
    [
        "iam-policy-aws-cn.json",
        "iam-policy-aws-eusc.json",
        "iam-policy-aws-us-gov.json",
        "iam-policy-create-aws-cn.json",
        "iam-policy-create-aws-eusc.json",
        "iam-policy-create-aws-us-gov.json",
    ],
)
def test_the_policy_of_a_partition_differs_in_its_arns_alone(name: str) -> None:
    base, partition = name[: -len(".json")].split("-aws-")
    partition = f"aws-{partition}"
    assert partition in botocore.session.get_session().get_available_partitions()
    expected = text(f"{base}.json").replace("arn:aws:", f"arn:{partition}:")
    assert text(name) == expected


def test_the_policy_for_creating_is_bound_by_tags_size_type_and_encryption() -> None:
    volume, snapshot, tag = statements(json.loads(text("iam-policy-create.json")))
    key = f"KRKN-IN:{tags.PREFIX}"
    assert actions(volume) == actions(snapshot) == CREATES <= calls_of_the_module()
    assert volume["Resource"] == tag["Resource"] == "arn:aws:ec2:*:*:volume/*"
    equal = volume["Condition"]["StringEquals"]
    assert equal == {f"aws:RequestTag/{key}": "kafka", "ec2:VolumeType": "gp3"}
    assert volume["Condition"]["Bool"] == {"ec2:Encrypted": "true"}
    assert set(volume["Condition"]["NumericLessThanEquals"]) == {"ec2:VolumeSize"}
    # A snapshot has no account in its ARN.
    assert snapshot["Resource"] == "arn:aws:ec2:*::snapshot/*"
    assert snapshot["Condition"] == {
        "StringEquals": {f"aws:ResourceTag/{key}": "kafka"}
    }
    assert actions(tag) == {"ec2:CreateTags"}
    assert tag["Condition"]["StringEquals"] == {
        f"aws:RequestTag/{key}": "kafka",
        "ec2:CreateAction": "CreateVolume",
    }
    assert CREATES | actions(tag) <= operations("ec2")


def test_the_user_data_that_creates_fits_the_policy() -> None:
    assert cli.main(["check", str(EXAMPLES / "user-data-create.yaml")]) == 0
    found = section(text("user-data-create.yaml"), "user-data-create.yaml")
    (volume, *_) = statements(json.loads(text("iam-policy-create.json")))
    most = int(volume["Condition"]["NumericLessThanEquals"]["ec2:VolumeSize"])
    nodes = [creation.nodes(found, zone) for zone in found.node_ids]
    assert nodes == [("0", "1"), ("2", "3")]
    for settings in found.volumes.values():
        create = settings["create"]
        assert isinstance(create, dict)
        wish = creation.read(create, found.tag_namespace)
        assert wish.type == "gp3" and wish.encrypted and wish.size_gib <= most


def test_the_policy_is_explained_action_by_action() -> None:
    page = (ROOT / "docs" / "reference" / "security.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(ec2:\w+)` \|", page, re.M))
    assert told == calls_of_the_module() | {"ec2:CreateTags"}
    told = set(re.findall(r"^\| `(kms:[\w*]+)`", page, re.M))
    assert told == kms_actions()


def kms_actions() -> set[str]:
    policy = json.loads(text("iam-policy-kms.json"))
    return {action for one in statements(policy) for action in actions(one)}


def test_the_policy_for_kms_is_what_the_error_asks_for() -> None:
    assert kms_actions() == set(re.findall(r"kms:[A-Z][\w*]+", KMS_PERMISSIONS)) - {
        "kms:GrantIsForAWSResource"
    }
    known = operations("kms")
    for action in kms_actions():
        if action.endswith("*"):
            assert any(name.startswith(action[:-1]) for name in known), action
        else:
            assert action in known or action.startswith("kms:ReEncrypt"), action
    for statement in statements(json.loads(text("iam-policy-kms.json"))):
        if "kms:CreateGrant" in actions(statement):
            condition = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
            assert statement["Condition"] == condition


# --------------------------------------------------------------------- systemd


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)
def test_the_service_is_a_unit_that_needs_the_set(tmp_path: Path) -> None:
    unit = tmp_path / "consumer.service"
    unit.write_text(text("systemd/consumer.service"))
    template = ROOT / "debian" / "cloud-init-kraken@.cc-kraken.service"
    # The command is not installed here: only its path is not looked at.
    body = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", template.read_text())
    (tmp_path / "cc-kraken@.service").write_text(body)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for key in ("Requires", "After"):
        assert f"\n{key}=cc-kraken@data.service\n" in unit.read_text()


NODE_UNITS = {
    "systemd/member.service": "member.service",
    "cluster/hostname.service": "hostname.service",
    "cluster/kafka.conf": "kafka.service.d/kraken.conf",
    "cluster/etcd.conf": "etcd.service.d/kraken.conf",
}


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)
@pytest.mark.parametrize("name", NODE_UNITS)
def test_a_unit_that_needs_to_know_the_node(tmp_path: Path, name: str) -> None:
    units = ROOT / "debian"
    for unit in ("cc-kraken-node.service", "cc-kraken@.service"):
        source = "cloud-init-kraken"
        source += "@.cc-kraken.service" if "@" in unit else f".{unit}"
        place_unit(tmp_path / unit, (units / source).read_text())
    place = tmp_path / NODE_UNITS[name]
    unit = place
    if place.parent != tmp_path:
        # A drop-in for a unit that a package brings.
        unit = tmp_path / place.parent.name[: -len(".d")]
        place_unit(unit, "[Service]\nExecStart=/bin/false package\n")
    place_unit(place, text(name))
    done = analyze(unit)
    assert (done.returncode, done.stderr) == (0, "")
    for key in ("Requires", "After"):
        assert re.search(rf"(?m)^{key}=cc-kraken-node\.service\b", text(name))
    assert "\nEnvironmentFile=/run/cc-kraken/node.env\n" in text(name)
    # What is wrong in it would be seen.
    place_unit(place, text(name).replace("[Unit]", "[Unit]\nRequirez=x", 1))
    assert "Requirez" in analyze(unit).stderr


def place_unit(path: Path, body: str) -> None:
    """The commands are not installed here: only their paths are not looked at."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(re.sub(r"(?m)^(ExecStart\w*=\+?)/\S+", r"\1/bin/true", body))


def analyze(unit: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit.name],
        cwd=unit.parent,
        capture_output=True,
        text=True,
    )


def test_the_script_that_names_the_members_of_etcd() -> None:
    """What it writes: tests/unit/commands/test_peers.py."""
    script = EXAMPLES / "cluster/etcd-cluster"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(script)]).returncode == 0
    usage = subprocess.run(["sh", str(script)], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage" in usage.stderr


# ------------------------------------------------------------- infrastructure


def check_sets(volumes: list[dict[str, str]], expected: dict[str, int]) -> None:
    """Volumes with these tags make complete sets of one node."""
    (ident,) = {(one["KRKN-IN:Prefix"], one["KRKN-IN:NodeId"]) for one in volumes}
    described = [
        Volume(f"vol-{number:017x}", 100, ZONE, "available", tags=one)
        for number, one in enumerate(volumes)
    ]
    found = sets.claims(Section(), Node(*ident), ZONE, described, ("log", "data"))
    sizes = {}
    for claim in found.claims:
        assert (claim.trouble, claim.warnings) == (None, ())
        assert claim.wanted.fs_type and claim.wanted.mount_path
        sizes[claim.name] = len(claim.volumes)
    assert sizes == expected


def check_instance(own: dict[str, str]) -> None:
    node = tags.node(Section(), own)
    assert isinstance(node, Node)
    assert tags.declared(Section(), own) == ("log", "data")
    assert tags.misspelt(own, "KRKN-IN") == {}


def references(document: str, kind: str) -> set[str]:
    bare = re.sub(r"#.*", "", document)
    return set(re.findall(rf"\b{kind}\.(\w+)", bare))


class Template(yaml.SafeLoader):
    """CloudFormation's short forms (``!Ref Prefix``) as mappings."""


def _short(loader: Template, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix: value}


Template.add_multi_constructor("!", _short)


def template() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(text("cloudformation.yaml"), Template)
    return found


def told(listed: list[dict[str, Any]]) -> dict[str, str]:
    known = {"Prefix": "kafka", "NodeId": "1"}
    return {
        one["Key"]: known[one["Value"]["Ref"]]
        if isinstance(one["Value"], dict) and "Ref" in one["Value"]
        else str(one["Value"])
        for one in listed
    }


def resources(kind: str) -> Iterator[dict[str, Any]]:
    for body in template()["Resources"].values():
        if body["Type"] == kind:
            yield body


def test_the_node_in_cloudformation() -> None:
    volumes = list(resources("AWS::EC2::Volume"))
    check_sets([told(v["Properties"]["Tags"]) for v in volumes], {"log": 1, "data": 3})
    for body in volumes:
        assert body["DeletionPolicy"] == body["UpdateReplacePolicy"] == "Retain"
    (group,) = resources("AWS::AutoScaling::AutoScalingGroup")
    check_instance(told(group["Properties"]["Tags"]))
    assert all(one["PropagateAtLaunch"] for one in group["Properties"]["Tags"])
    assert group["Properties"]["MaxSize"] == "1"
    (role,) = resources("AWS::IAM::Role")
    (policy,) = role["Properties"]["Policies"]
    check_policy(policy["PolicyDocument"], {"Ref": "Prefix"})
    (launch,) = resources("AWS::EC2::LaunchTemplate")
    data = launch["Properties"]["LaunchTemplateData"]
    assert "TagSpecifications" not in data, "the root volume would be tagged"
    user_data = data["UserData"]["Fn::Base64"]
    assert set(section(user_data, "UserData").volumes) == {"log", "data"}


@pytest.mark.long
def test_cfn_lint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).parent / "cfn-lint"
    done = subprocess.run(
        [str(linter), str(EXAMPLES / "cloudformation.yaml")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # It has no aliases: CloudFormation does not take them.
    assert not re.search(r": [&*]\w", text("cloudformation.yaml"))


# ---------------------------------------------------------------------- images


def test_the_script_that_builds_an_image() -> None:
    script = EXAMPLES / "image/build.sh"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(script)]).returncode == 0
    usage = subprocess.run(["sh", str(script)], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage" in usage.stderr


TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >>"$SAID"
[ "$(basename "$0") $*" != "$FAILS" ]
"""
CHECK = "cc-kraken enable --check"


@pytest.mark.parametrize(
    "package, fails, expected",
    [
        (
            "x_0.1.0_all.deb",
            "",
            ["apt-get -q update", "apt-get -q -y install --no-install-recommends {}"],
        ),
        ("x-1.amzn2023.noarch.rpm", "", ["dnf -y install {}"]),
        ("x-1.el9.noarch.rpm", "", ["rpm -q epel-release", "dnf -y install {}"]),
        (
            "x-1.el9.noarch.rpm",
            "rpm -q epel-release",
            ["rpm -q epel-release", "rpm -E %{rhel}", "dnf -y install https://"],
        ),
        ("x-1.amzn2023.noarch.rpm", CHECK, ["dnf -y install {}", CHECK]),
    ],
)
def test_the_image_is_built_from_either_package(
    tmp_path: Path, package: str, fails: str, expected: list[str]
) -> None:
    """With tools that say what they are told; a check that fails ends it."""
    for name in ("apt-get", "dnf", "rpm", "cc-kraken", "cloud-init"):
        (tmp_path / name).write_text(TOOL)
        (tmp_path / name).chmod(0o755)
    said = tmp_path / "said"
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        ["sh", str(EXAMPLES / "image/build.sh"), package],
        cwd=tmp_path,
        env={"PATH": path, "SAID": str(said), "FAILS": fails},
    )
    lines = said.read_text().splitlines()
    for line, start in zip(lines, expected):
        assert line.startswith(start.replace("{}", str(tmp_path / package)))
    assert (done.returncode == 0) is (fails != CHECK)
    assert (lines[-1] == "cloud-init clean --logs --machine-id") is (fails != CHECK)
    assert CHECK in lines


def test_the_image_with_packer() -> None:
    document = load(EXAMPLES / "image/kraken.pkr.hcl")
    assert references(text("image/kraken.pkr.hcl"), "var") == {
        plain(name) for one in document["variable"] for name in one
    }
    steps = [one for build in document["build"] for one in build["provisioner"]]
    assert [plain(name) for one in steps for name in one if name[0] == '"'] == [
        "file",
        "file",
        "shell",
    ]
    for name in re.findall(
        r'\$\{path\.root\}/([\w./-]+)"', text("image/kraken.pkr.hcl")
    ):
        assert (EXAMPLES / "image" / name).exists(), name


# ------------------------------------------------------------------------- RPM


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not (shutil.which("rpmbuild") and shutil.which("rpm")):
        pytest.skip("rpmbuild is not installed (apt-get install rpm)")
    out = tmp_path_factory.mktemp("rpms")
    done = subprocess.run(
        [str(ROOT / "packaging" / "build-rpm"), str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pattern = r"cloud-init-kraken-[\d.]+-1\.(\w+)\.noarch\.rpm"
    built = {re.fullmatch(pattern, path.name)[1]: path for path in out.iterdir()}
    assert sorted(built) == ["amzn2023", "el10", "el9"]
    return built


@pytest.fixture
def rpm(rpms: dict[str, Path]) -> Path:
    return rpms["el9"]


def query(rpm: Path, *words: str) -> list[str]:
    done = subprocess.run(
        ["rpm", "-qp", *words, str(rpm)], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


SITE = "/usr/lib/python3.9/site-packages/cc_kraken"


def test_the_rpm_holds_the_files_of_this_tree(rpm: Path) -> None:
    lines = query(rpm, "--queryformat", "[%{FILENAMES} %{FILEDIGESTS}\n]")
    # Where documents go is named with the version or without, by distribution.
    plain = [re.sub(r"(/cloud-init-kraken)-\d[\d.]*/", r"\1/", line) for line in lines]
    there = dict(line.split(" ", 1) for line in plain)
    expected = {
        f"{SITE}/{path.relative_to(ROOT / 'cc_kraken')}": path
        for path in (ROOT / "cc_kraken").rglob("*.py")
    }
    for path in (ROOT / "schema").rglob("*.json"):
        expected[f"{SITE}/schemas/{path.relative_to(ROOT / 'schema')}"] = path
    expected[f"{SITE}/docs/operations.md"] = ROOT / "docs/operations.md"
    for path in (
        "bash-completion/completions/cc-kraken",
        "zsh/site-functions/_cc-kraken",
    ):
        name = "_cc-kraken" if "zsh" in path else "cc-kraken.bash"
        expected[f"/usr/share/{path}"] = ROOT / "packaging/completion" / name
    debian = ROOT / "debian"
    units = "/usr/lib/systemd/system"
    expected[f"{units}/cc-kraken.service"] = (
        debian / "cloud-init-kraken.cc-kraken.service"
    )
    expected[f"{units}/cc-kraken@.service"] = (
        debian / "cloud-init-kraken@.cc-kraken.service"
    )
    expected[f"{units}/cc-kraken-node.service"] = (
        debian / "cloud-init-kraken.cc-kraken-node.service"
    )
    expected["/usr/share/man/man8/cc-kraken.8"] = debian / "cc-kraken.8"
    held = f"{units}/mdadm-last-resort@.service.d/50-cc-kraken.conf"
    expected[held] = debian / "last-resort.conf"
    asked = "/usr/lib/cloud-init-kraken/last-resort"
    expected[asked] = debian / "last-resort"
    assert f"ExecCondition={asked} " in (debian / "last-resort.conf").read_text()
    for path in (*(ROOT / "docs").iterdir(), *EXAMPLES.rglob("*")):
        if path.is_file():
            name = path.relative_to(ROOT)
            expected[f"/usr/share/doc/cloud-init-kraken/{name}"] = path
    for name, source in expected.items():
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        assert there[name] == digest, name
    ours = {
        name for name in there if name.startswith(SITE) and "." in name[len(SITE) :]
    }
    assert ours == {name for name in expected if name.startswith(SITE)}
    for name in ("/usr/bin/cc-kraken", "/etc/cloud/clean.d/50-cc-kraken"):
        assert there[name]
    assert "/etc/cc-kraken/conf.d" in there
    modes = dict(
        line.split(" ")
        for line in query(rpm, "--queryformat", "[%{FILENAMES} %{FILEMODES:octal}\n]")
    )
    assert modes["/usr/bin/cc-kraken"] == "100755"
    assert modes["/usr/lib/cloud-init-kraken/last-resort"] == "100755"
    assert modes["/etc/cloud/clean.d/50-cc-kraken"] == "100755"


@pytest.mark.parametrize("name, abi", [("amzn2023", "3.9"), ("el10", "3.12")])
def test_the_rpm_of_another_distribution_differs_in_its_python(
    rpms: dict[str, Path], name: str, abi: str
) -> None:
    def files(rpm: Path, version: str) -> list[str]:
        return [line.replace(f"python{version}", "") for line in query(rpm, "-l")]

    assert files(rpms[name], abi) == files(rpms["el9"], "3.9")
    needs = query(rpms[name], "--requires")
    assert {one for one in needs if "python(abi)" in one} == {f"python(abi) = {abi}"}


def test_the_rpm_needs_and_runs_what_it_should(rpm: Path) -> None:
    needs = "\n".join(query(rpm, "--requires"))
    for name in ("cloud-init >= 22.2", "python3-boto3 >= 1.26", "mdadm", "xfsprogs"):
        assert name in needs
    assert "python(abi) = 3.9" in needs
    assert query(rpm, "--configfiles") == ["/etc/cloud/clean.d/50-cc-kraken"]
    scripts = "\n".join(query(rpm, "--scripts", "--triggers"))
    assert scripts.count("cc_kraken.boot.enable refresh") == 2
    assert scripts.count("cc_kraken.boot.enable withdraw") == 1
    assert "-- cloud-init" in scripts
