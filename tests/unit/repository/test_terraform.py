"""The Terraform module, by what can be known of it without Terraform: its files are
parsed, and every argument and every reference is compared with what there is."""

from __future__ import annotations

import email.mime.multipart
import email.mime.text
import json
import re
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from cc_kraken.commands import userdata
from cc_kraken.config import sets, tags
from cc_kraken.model import Node, Section, Volume
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

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
MODULE = EXAMPLES / "terraform"
CLUSTER = MODULE / "examples" / "kafka"

# ------------------------------------------------------------------- the files


def body_of(kind: str, name: str) -> dict[str, Any]:
    (found,) = (body for _, *key, body in entities(MODULE) if key == [kind, name])
    return found


@pytest.mark.parametrize(
    "entity", list(entities(MODULE)), ids=lambda e: ".".join(e[:3])
)
def test_every_argument_is_one_that_the_provider_documents(
    entity: tuple[str, str, str, dict[str, Any]],
) -> None:
    what, kind, _, body = entity
    assert wrong(body, KNOWN[what, kind], META) == []


def test_an_argument_that_is_misspelt_or_missing_is_seen() -> None:
    body = {"availability_zone": "a", "sise": 1, "lifecycle": [{"prevent": True}]}
    known = KNOWN["resource", "aws_ebs_volume"]
    assert wrong(body, known, META) == ["prevent is unknown", "sise is unknown"]
    assert "availability_zone is missing" in wrong({}, known, META)
    part = {"dynamic": [{'"part"': {"content": [{"contents": "x"}]}}]}
    assert wrong(part, KNOWN["data", "cloudinit_config"], META) == [
        "part: content is missing",
        "part: contents is unknown",
    ]


# ------------------------------------------------------------------ references


def fields(variable: str) -> set[str]:
    """The keys of the objects that a variable holds."""
    text = str(named(MODULE, "variable")[variable]["type"])
    return set(re.findall(r"[({,] ?(\w+) = ", text))


def test_names_lead_to_what_is_there() -> None:
    text = code(MODULE)
    variables = set(named(MODULE, "variable"))
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    locals_ = {name for one in load(MODULE / "main.tf")["locals"] for name in own(one)}
    assert set(re.findall(r"\blocal\.(\w+)", text)) == locals_
    there = {(what, kind, name) for what, kind, name, _ in entities(MODULE)}
    index = r"(?:\[[^\]]*(?:\[[^\]]*\])?[^\]]*\])?"
    pattern = rf"(data\.)?\b(aws_\w+|cloudinit_\w+)\.(\w+){index}(?:\.(\w+))?"
    used = re.findall(pattern, text)
    assert used
    for data, kind, name, attribute in used:
        what = "data" if data else "resource"
        assert (what, kind, name) in there, (kind, name)
        known = KNOWN[what, kind]
        every = known.attributes | known.required | known.optional
        assert not attribute or attribute in every, (kind, attribute)


def test_every_key_of_a_set_and_of_a_node_is_used_and_no_other() -> None:
    text = code(MODULE)
    told = re.search(r'variable "sets".*?\n}\n', text, re.S)
    assert told is not None
    rest = text.replace(told.group(), "")
    used = set(re.findall(r"\bset\.([a-z_]+)", rest))
    used |= set(re.findall(r"var\.sets\[each\.value\.set\]\.(\w+)", rest))
    assert used == fields("sets")
    instance = json.dumps(body_of("aws_instance", "node"))
    used = set(re.findall(r"each\.value\.(\w+)", instance))
    assert used == fields("nodes")
    used = set(re.findall(r"\bpart\.value\.(\w+)", rest))
    assert used == fields("user_data")
    used = set(re.findall(r"\bvar\.root_volume\.(\w+)", rest))
    assert used == fields("root_volume")


def test_the_cluster_gives_the_module_what_it_takes() -> None:
    variables = named(MODULE, "variable")
    required = {name for name, body in variables.items() if "default" not in body}
    (call,) = named(CLUSTER, "module").values()
    given = set(own(call)) - {"source"}
    assert required <= given <= set(variables)
    source = CLUSTER / plain(call["source"])
    assert source.resolve() == MODULE
    for node in call["nodes"].values():
        assert set(own(node)) <= fields("nodes")
    for one in call["sets"].values():
        assert {"size"} <= set(own(one)) <= fields("sets")
    for one in call["user_data"]:
        assert {"content"} <= set(own(one)) <= fields("user_data")
    outputs = set(re.findall(r"\bmodule\.kafka\.(\w+)", code(CLUSTER)))
    assert outputs <= set(named(MODULE, "output"))
    own_variables = set(re.findall(r"\bvar\.(\w+)", code(CLUSTER)))
    assert own_variables == set(named(CLUSTER, "variable"))


def test_the_readme_names_every_input_and_output() -> None:
    text = (MODULE / "README.md").read_text(encoding="utf-8")
    inputs, outputs = text.split("## Inputs")[1].split("## Outputs")
    rows = re.findall(r"(?m)^\| `(\w+)` \| (.*) \| (.*) \|$", inputs)
    variables = named(MODULE, "variable")
    assert {name for name, *_ in rows} == set(variables)
    for name, what, default in rows:
        assert (default == "required") == ("default" not in variables[name]), name
        if name in ("sets", "nodes", "user_data", "root_volume"):
            assert set(re.findall(r"`(\w+)`", what)) == fields(name), name
    assert set(re.findall(r"(?m)^\| `(\w+)` ", outputs)) == set(named(MODULE, "output"))
    for name, body in [*variables.items(), *named(MODULE, "output").items()]:
        assert body.get("description"), f"{name} has no description"


def test_providers_are_required_by_version_and_none_is_configured() -> None:
    document = load(MODULE / "versions.tf")
    (terraform,) = document["terraform"]
    (providers,) = terraform["required_providers"]
    prefixes = {kind.split("_")[0] for _, kind, _, _ in entities(MODULE)}
    assert prefixes == set(own(providers))
    for one in own(providers).values():
        assert re.fullmatch(r">= [\d.]+", plain(one["version"]))
    assert "provider" not in load(MODULE / "main.tf")


# ------------------------------------------------------- what nodes come out of it


def set_tags() -> dict[str, str]:
    """Name of each tag of a volume, and the expression that gives its value."""
    (map_,) = re.findall(r"for tag, value in \{(.*?)\n +\} :", code(MODULE), re.S)
    pairs = (line.split("=", 1) for line in map_.strip().splitlines())
    return {name.strip(): value.strip() for name, value in pairs}


def test_a_volume_gets_each_tag_from_the_key_of_its_name() -> None:
    expected = {tag: key for tag, key in tags.SET_TAGS.items() if tag != "VolumeSize"}
    found = set_tags()
    assert found.pop(tags.VOLUME_NAME) == "name"
    assert set(found) == set(expected)
    for tag, value in found.items():
        assert f"set.{expected[tag]}" in value, tag


def test_the_sets_of_the_cluster_are_complete() -> None:
    (call,) = named(CLUSTER, "module").values()
    described = []
    for name, given in call["sets"].items():
        values = {key: plain(value) for key, value in own(given).items()}
        own_tags = {
            f"KRKN-IN:{tag}": values[key]
            for tag, key in tags.SET_TAGS.items()
            if key in values and tag != "VolumeSize"
        }
        own_tags.setdefault("KRKN-IN:FsType", "ext4")
        own_tags |= {"KRKN-IN:VolumeName": name, "KRKN-IN:Prefix": plain("kafka")}
        own_tags |= {"KRKN-IN:NodeId": "1"}
        for _ in range(int(values.get("members", 1))):
            number = f"vol-{len(described):017x}"
            described.append(Volume(number, 100, "a", "available", tags=own_tags))
    claims = sets.claims(
        Section(), Node("kafka", "1"), "a", described, ("log", "data")
    ).claims
    found = {claim.name: (len(claim.volumes), claim.trouble) for claim in claims}
    assert found == {"log": (1, None), "data": (3, None)}


def test_volumes_are_never_destroyed_and_the_root_volume_is_no_member() -> None:
    volume = body_of("aws_ebs_volume", "member")
    assert volume["lifecycle"][0]["prevent_destroy"] is True
    instance = body_of("aws_instance", "node")
    assert "volume_tags" not in instance
    (root,) = instance["root_block_device"]
    assert "node_tags" not in root["tags"] and "set_tags" not in root["tags"]
    for one in ("local.node_tags[each.key]", ":Volumes"):
        assert one in instance["tags"]
    (metadata,) = instance["metadata_options"]
    assert plain(metadata["http_tokens"]) == "required"
    assert plain(metadata["instance_metadata_tags"]) == "enabled"


# -------------------------------------------------------------------- policies


def policy(name: str) -> Any:
    """A policy of the module as JSON, for prefix kafka in partition aws."""
    text = body_of("aws_iam_role_policy", name)["policy"]
    found = re.fullmatch(r"\$\{jsonencode\((.*)\)\}", text, re.S)
    assert found is not None
    literal = found[1]
    for expression, value in (
        ("${data.aws_partition.current.partition}", "aws"),
        ("${var.tag_namespace}", "KRKN-IN"),
        ("= var.prefix", '= "kafka"'),
        ("= local.kms_key_arns", '= "KEY"'),
    ):
        literal = literal.replace(expression, value)
    parsed = hcl2.loads(f"policy = {literal}\n")["policy"]

    def unquoted(value: Any) -> Any:
        if isinstance(value, dict):
            return {plain(key): unquoted(one) for key, one in own(value).items()}
        if isinstance(value, list):
            return [unquoted(one) for one in value]
        return plain(value)

    return unquoted(parsed)


def test_the_role_may_do_what_the_policies_of_the_examples_say() -> None:
    told = json.loads((EXAMPLES / "iam-policy.json").read_text())
    assert policy("volumes") == told
    keys = json.loads((EXAMPLES / "iam-policy-kms.json").read_text())
    for statement in keys["Statement"]:
        statement["Resource"] = "KEY"
    assert policy("keys") == keys


# ------------------------------------------------------------------- user-data


def test_user_data_of_the_module_and_of_the_caller_are_merged() -> None:
    config = body_of("cloudinit_config", "node")
    (first,) = config["part"]
    assert "yamlencode({kraken = merge({enabled = true}, " in first["content"]
    (dynamic,) = config["dynamic"]
    (later,) = dynamic['"part"']["content"]
    message = email.mime.multipart.MIMEMultipart()
    ours = {"kraken": {"enabled": True, "volumes": {"data": {"required": True}}}}
    theirs = {"kraken": {"boot_wait": 60}, "runcmd": [["true"]]}
    for content, merge in ((ours, ""), (theirs, plain(later["merge_type"]))):
        text = f"#cloud-config\n{yaml.safe_dump(content)}"
        part = email.mime.text.MIMEText(text, "cloud-config")
        if merge:
            part["X-Merge-Type"] = merge
        message.attach(part)
    checked = userdata.check(message.as_bytes(), "user-data")
    assert checked.sections and checked.findings == []
    # Without that, the second section takes the place of the first.
    text = message.as_bytes().replace(b"X-Merge-Type", b"X-Other")
    assert "replaces that of" in str(userdata.check(text, "user-data").findings)
