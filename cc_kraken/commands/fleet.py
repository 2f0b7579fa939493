"""``cc-kraken fleet``: is the account in order, before anything boots?

It runs on a person's own machine and reads EC2 with that person's credentials.  It
changes nothing.  Exit status: 0 clean, 1 findings, 2 EC2 was not asked.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, Callable

from cc_kraken.config import loading
from cc_kraken.config.loading import Source
from cc_kraken.decide import adopting, fleet
from cc_kraken.decide.fleet import Finding, Fleet, Judged
from cc_kraken.model import Claim, KrakenError, Section, Trouble
from cc_kraken.state import report

CLEAN, FINDINGS, NOT_ASKED = 0, 1, 2
USAGE = (
    "cc-kraken fleet [-h] [--json] [--region REGION] [--profile PROFILE]\n"
    "                       [--namespace NAMESPACE] [--config FILE]\n"
    "                       [--adopt VOLUME ... SET] [PREFIX]"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = USAGE
    parser.add_argument("prefix", metavar="PREFIX", nargs="?", help="none: all")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--region", default="", help="default: as boto3 chooses")
    parser.add_argument("--profile", default="", help="of ~/.aws/config")
    parser.add_argument("--namespace", help="of the tags (default: KRKN-IN)")
    parser.add_argument(
        "--config", metavar="FILE", help="the cloud-config that the instances have"
    )
    parser.add_argument(
        "--adopt",
        nargs="+",
        metavar="VOLUME",
        help="print the commands that tag these volumes as the set that comes last "
        "(kafka/0/data), and run none",
    )
    parser.set_defaults(usage=parser.error)


def command(options: argparse.Namespace, table: Callable[[Fleet], str]) -> int:
    """What ``cc-kraken fleet`` does; its exit status.  ``table``: how people see it."""
    adopt = options.adopt
    if adopt is not None:
        if options.prefix or options.json:
            options.usage("--adopt goes with neither PREFIX nor --json")
        if len(adopt) < 2:
            options.usage("--adopt takes volumes and then the set: vol-… kafka/0/data")
        for one in adopt[:-1]:
            if not re.fullmatch("vol-[0-9a-f]+", one):
                options.usage(f"{one} is no id of a volume")
    try:
        section = _section(options)
        # Here, so that no other command imports it.
        from cc_kraken.cloud.account import Account

        account = Account(section, options.region, options.profile)
        volumes = account.tagged_volumes()
        chosen = account.these_volumes(adopt[:-1]) if adopt else ()
        held = [*volumes, *chosen]
        instances = account.instances(
            one.instance_id
            for each in held
            for one in each.attachments
            if one.instance_id
        )
    except KrakenError as error:
        print(f"cc-kraken: {report.with_more(str(error))}", file=sys.stderr)
        return NOT_ASKED
    except KeyboardInterrupt:
        print("cc-kraken: interrupted; nothing was judged", file=sys.stderr)
        return NOT_ASKED
    if adopt:
        found = adopting.wanted_tags(
            section, adopt[-1], adopt[:-1], chosen, volumes, instances
        )
        print(_create_tags(found, adopt[:-1], account.region, options, section))
        return CLEAN
    judged = fleet.judge(section, volumes, instances, options.prefix or "")
    if not judged.nodes:
        judged = _with_nobody(judged, section, account.region, options.prefix or "")
    if options.json:
        print(as_json(judged, account.region, section.tag_namespace))
    else:
        print(table(judged))
    return FINDINGS if judged.findings else CLEAN


def _section(options: argparse.Namespace) -> Section:
    """The section of the instances, as far as it is given here."""
    sources: list[Source] = []
    if options.config is not None:
        sources.append(Source(options.config, loading.of_cloud_config(options.config)))
    if options.namespace is not None:
        sources.append(Source("--namespace", {"tag_namespace": options.namespace}))
    return loading.build(sources) or Section()


def _with_nobody(judged: Fleet, section: Section, region: str, prefix: str) -> Fleet:
    """Most often the wrong region or profile: it must not look clean."""
    of = f" of {prefix}" if prefix else ""
    trouble = Trouble(
        "fleet-empty",
        f"No volume and no instance in {region} has the tags of a node{of} "
        f"({section.tag_namespace}:Prefix and {section.tag_namespace}:NodeId).",
        "",
        "Check --region, --profile, --namespace and the prefix.",
    )
    finding = Finding(trouble, prefix)
    return Fleet((), (finding, *judged.findings), judged.notes)


def as_json(judged: Fleet, region: str, namespace: str) -> str:
    """The fields are described in docs/guides/fleet.md."""
    document = {
        "region": region,
        "namespace": namespace,
        "nodes": [_node(one) for one in judged.nodes],
        "findings": [
            {
                "kind": one.trouble.kind,
                "prefix": one.prefix,
                "node_id": one.node_id,
                "set": one.set,
                "message": str(one.trouble),
            }
            for one in judged.findings
        ],
        "notes": list(judged.notes),
    }
    return json.dumps(document, indent=2)


def _node(one: Judged) -> dict[str, Any]:
    return {
        "prefix": one.node.prefix,
        "node_id": one.node.node_id,
        "zone": one.zone,
        "state": one.state,
        "comes_up": one.comes_up,
        "instance_id": one.instance_id or None,
        "instance_state": one.instance_state or None,
        "sets": [_set(claim) for claim in one.claims],
    }


def _set(claim: Claim) -> dict[str, Any]:
    wanted = claim.wanted
    return {
        "name": claim.name,
        "members": wanted.members,
        "raid_level": wanted.raid_level,
        "fs_type": wanted.fs_type,
        "mount_path": wanted.mount_path,
        "volumes": [volume.id for volume in claim.volumes],
        "error": claim.trouble.kind if claim.trouble else None,
    }


def _create_tags(
    found: dict[str, str],
    ids: Sequence[str],
    region: str,
    options: argparse.Namespace,
    section: Section,
) -> str:
    """The command for a shell; a value of any kind stays one word of it."""
    where = ["--region", region]
    if options.profile:
        where += ["--profile", options.profile]
    pairs = json.dumps([{"Key": key, "Value": found[key]} for key in found])
    words = ["aws", "ec2", "create-tags", *where]
    words += ["--resources", *dict.fromkeys(ids), "--tags", pairs]
    line = " ".join(map(shlex.quote, words))
    if adopting.is_mounted(found, section.tag_namespace):
        return line
    note = "# No other node says how this set is mounted: tag FsType and MountPath too."
    return f"{note}\n{line}"
