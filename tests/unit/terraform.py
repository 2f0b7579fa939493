"""Terraform's files without Terraform: they are parsed, and every argument is
compared with what the provider documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hcl2

# ------------------------------------------------------- what the provider knows


def words(listed: str) -> set[str]:
    return set(listed.split())


@dataclass
class Arguments:
    """Of a resource, a data source or a block."""

    required: set[str] = field(default_factory=set)
    optional: set[str] = field(default_factory=set)
    blocks: Mapping[str, Arguments] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)


META = words("count for_each depends_on provider")
LIFECYCLE = Arguments(
    optional=words("create_before_destroy prevent_destroy ignore_changes"),
    blocks={"precondition": Arguments(required=words("condition error_message"))},
)

#: From the Argument Reference and the Attribute Reference of each page of
#: hashicorp/terraform-provider-aws, website/docs/{r,d}/NAME.html.markdown (6.x), and
#: of hashicorp/terraform-provider-cloudinit, docs/data-sources/config.md. Left out
#: are what is deprecated and the blocks for other purposes.
KNOWN: Mapping[tuple[str, str], Arguments] = {
    ("data", "aws_subnet"): Arguments(
        optional=words(
            "availability_zone availability_zone_id cidr_block default_for_az id"
            " ipv6_cidr_block state tags vpc_id"
        ),
        attributes=words("arn availability_zone vpc_id owner_id"),
    ),
    ("data", "aws_partition"): Arguments(
        attributes=words("partition dns_suffix reverse_dns_prefix id")
    ),
    ("data", "aws_service_principal"): Arguments(
        required={"service_name"},
        optional={"region"},
        attributes=words("id name service suffix region"),
    ),
    ("data", "cloudinit_config"): Arguments(
        optional=words("gzip base64_encode boundary"),
        blocks={
            "part": Arguments(
                required={"content"},
                optional=words("content_type filename merge_type"),
            )
        },
        attributes=words("id rendered"),
    ),
    ("resource", "aws_ebs_volume"): Arguments(
        required={"availability_zone"},
        optional=words(
            "encrypted final_snapshot iops multi_attach_enabled size snapshot_id"
            " outpost_arn type kms_key_id tags throughput volume_initialization_rate"
        ),
        attributes=words("arn create_time id tags_all"),
    ),
    ("resource", "aws_iam_role"): Arguments(
        required={"assume_role_policy"},
        optional=words(
            "description force_detach_policies max_session_duration name name_prefix"
            " path permissions_boundary tags"
        ),
        attributes=words("arn create_date id name tags_all unique_id"),
    ),
    ("resource", "aws_iam_role_policy"): Arguments(
        required=words("policy role"),
        optional=words("name name_prefix"),
        attributes=words("id name policy role"),
    ),
    ("resource", "aws_iam_instance_profile"): Arguments(
        optional=words("name name_prefix path role tags"),
        attributes=words("arn create_date id name role tags_all unique_id"),
    ),
    ("resource", "aws_instance"): Arguments(
        optional=words(
            "ami associate_public_ip_address availability_zone disable_api_stop"
            " disable_api_termination ebs_optimized enable_primary_ipv6 hibernation"
            " host_id host_resource_group_arn iam_instance_profile"
            " instance_initiated_shutdown_behavior instance_type ipv6_address_count"
            " ipv6_addresses key_name monitoring placement_group placement_group_id"
            " placement_partition_number private_ip region secondary_private_ips"
            " source_dest_check subnet_id tags tenancy user_data user_data_base64"
            " user_data_replace_on_change vpc_security_group_ids"
        ),
        blocks={
            "metadata_options": Arguments(
                optional=words(
                    "http_endpoint http_protocol_ipv6 http_put_response_hop_limit"
                    " http_tokens instance_metadata_tags"
                )
            ),
            "root_block_device": Arguments(
                optional=words(
                    "delete_on_termination encrypted iops kms_key_id tags throughput"
                    " volume_size volume_type"
                )
            ),
        },
        attributes=words("arn id private_ip availability_zone"),
    ),
    ("resource", "aws_launch_template"): Arguments(
        optional=words(
            "region default_version description disable_api_stop"
            " disable_api_termination ebs_optimized image_id"
            " instance_initiated_shutdown_behavior instance_type kernel_id key_name"
            " name name_prefix ram_disk_id security_group_names tags"
            " update_default_version user_data vpc_security_group_ids"
        ),
        blocks={
            "iam_instance_profile": Arguments(optional=words("arn name")),
            "metadata_options": Arguments(
                optional=words(
                    "http_endpoint http_protocol_ipv6 http_put_response_hop_limit"
                    " http_tokens instance_metadata_tags"
                )
            ),
            "tag_specifications": Arguments(optional=words("resource_type tags")),
        },
        attributes=words("arn id latest_version tags_all"),
    ),
    ("resource", "aws_autoscaling_group"): Arguments(
        required=words("max_size min_size"),
        optional=words(
            "name name_prefix availability_zones capacity_rebalance context"
            " default_cooldown default_instance_warmup launch_configuration"
            " ignore_failed_scaling_activities health_check_grace_period"
            " health_check_type desired_capacity desired_capacity_type force_delete"
            " load_balancers vpc_zone_identifier target_group_arns"
            " termination_policies suspended_processes placement_group"
            " metrics_granularity enabled_metrics wait_for_capacity_timeout"
            " min_elb_capacity wait_for_elb_capacity protect_from_scale_in"
            " service_linked_role_arn max_instance_lifetime force_delete_warm_pool"
        ),
        blocks={
            "availability_zone_distribution": Arguments(
                required={"capacity_distribution_strategy"}
            ),
            "launch_template": Arguments(optional=words("id name version")),
            "initial_lifecycle_hook": Arguments(
                required=words("name lifecycle_transition"),
                optional=words(
                    "default_result heartbeat_timeout notification_metadata"
                    " notification_target_arn role_arn"
                ),
            ),
            "instance_maintenance_policy": Arguments(
                required=words("min_healthy_percentage max_healthy_percentage")
            ),
            "instance_refresh": Arguments(
                required={"strategy"},
                optional={"triggers"},
                blocks={
                    "preferences": Arguments(
                        optional=words(
                            "checkpoint_delay checkpoint_percentages instance_warmup"
                            " max_healthy_percentage min_healthy_percentage"
                            " skip_matching auto_rollback"
                            " scale_in_protected_instances standby_instances"
                        )
                    )
                },
            ),
            "tag": Arguments(required=words("key value propagate_at_launch")),
        },
        attributes=words("id arn availability_zones name"),
    ),
}


# ------------------------------------------------------------------- the files


def plain(value: object) -> str:
    return str(value).strip('"')


def load(path: Path) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = hcl2.load(file)
    return found


def code(at: Path) -> str:
    """The files of a folder without their comments."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(at.glob("*.tf"))]
    return re.sub(r"(?m)^\s*#.*$", "", "\n".join(texts))


def own(body: Mapping[str, Any]) -> dict[str, Any]:
    return {plain(key): one for key, one in body.items() if not key.startswith("__")}


def named(at: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The blocks of a kind with one label (variable, output, module)."""
    found: dict[str, dict[str, Any]] = {}
    for path in at.glob("*.tf"):
        for one in load(path).get(kind, []):
            found.update({plain(name): body for name, body in one.items()})
    return found


def entities(at: Path) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Each resource and data source of main.tf: what, type, name, body."""
    document = load(at / "main.tf")
    for what in ("resource", "data"):
        for one in document[what]:
            for kind, bodies in own(one).items():
                for name, body in own(bodies).items():
                    yield what, kind, name, body


def wrong(body: Mapping[str, Any], known: Arguments, meta: set[str]) -> list[str]:
    """What the provider would refuse in a block."""
    given = own(body)
    bodies: dict[str, list[Mapping[str, Any]]] = {}
    for one in given.pop("dynamic", []):
        for label, inner in own(one).items():
            bodies.setdefault(label, []).extend(inner["content"])
    for name in known.blocks:
        bodies.setdefault(name, []).extend(given.pop(name, []))
    found = [f"{name} is unknown" for name in bodies if name not in known.blocks]
    for name, several in bodies.items():
        nested = known.blocks.get(name, Arguments())
        for inner in several:
            found += [f"{name}: {said}" for said in wrong(inner, nested, set())]
    for inner in given.pop("lifecycle", []) if meta else []:
        found += wrong(inner, LIFECYCLE, set())
    found += [f"{name} is missing" for name in sorted(known.required - set(given))]
    unknown = set(given) - known.required - known.optional - meta
    return found + [f"{name} is unknown" for name in sorted(unknown)]
