"""Our description of EC2 against the one in botocore."""

from __future__ import annotations

from typing import Any

import pytest

from cc_kraken import ec2api

pytest.importorskip("boto3")
import botocore.exceptions  # noqa: E402
import botocore.loaders  # noqa: E402

KINDS = {"boolean", "integer", "string"}
NEWER = {
    ("Volume", "SourceVolumeId"),
    ("Volume", "Operator"),
    ("EbsInfo", "MaximumEbsAttachments"),
}
"""What an older botocore does not know."""


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    loader = botocore.loaders.create_loader()
    found: dict[str, Any] = loader.load_service_model("ec2", "service-2")
    return found


def test_the_service_is_the_same(whole: dict[str, Any]) -> None:
    for key, value in whole["metadata"].items():
        assert ec2api.SERVICE["metadata"][key] == value
    for name, operation in ec2api.SERVICE["operations"].items():
        assert whole["operations"][name].items() >= operation.items()


def test_every_shape_is_the_same_where_it_is_used(whole: dict[str, Any]) -> None:
    """Followed from each operation: types, places, and what is required."""
    pairs = []
    for name, operation in ec2api.SERVICE["operations"].items():
        for side in ("input", "output"):
            theirs = whole["operations"][name][side]["shape"]
            pairs.append((operation[side]["shape"], theirs))
    seen, skipped = set(), set()
    while pairs:
        ours, theirs = pairs.pop()
        if (ours, theirs) in seen:
            continue
        seen.add((ours, theirs))
        own, other = ec2api.SERVICE["shapes"][ours], whole["shapes"][theirs]
        assert own["type"] == other["type"], ours
        assert own.get("required") == other.get("required"), ours
        assert own.get("locationName") == other.get("locationName"), ours
        if own["type"] in KINDS:
            continue
        if own["type"] == "list":
            members = {"member": own["member"]}
            known = {"member": other["member"]}
        else:
            members, known = own["members"], other["members"]
        for key, member in members.items():
            if key not in known and (ours, key) in NEWER:
                skipped.add(member["shape"])
                continue
            assert member.get("locationName") == known[key].get("locationName")
            assert "queryName" not in known[key]
            pairs.append((member["shape"], known[key]["shape"]))
    assert {ours for ours, _ in seen} | skipped == set(ec2api.SERVICE["shapes"])


def test_pages_are_the_same() -> None:
    loader = botocore.loaders.create_loader()
    whole = loader.load_service_model("ec2", "paginators-1")["pagination"]
    for name, page in ec2api.PAGINATORS["pagination"].items():
        assert whole[name] == page


def test_the_rest_is_botocores_own() -> None:
    loader = botocore.loaders.create_loader()
    own = ec2api.Loader(loader)
    for kind in ("endpoint-rule-set-1", "waiters-2"):
        assert own.load_service_model("ec2", kind) == loader.load_service_model(
            "ec2", kind
        )
    assert own.load_data("partitions") == loader.load_data("partitions")
    assert own.load_service_model("sts", "service-2")["metadata"]["serviceId"] == "STS"
    with pytest.raises(botocore.exceptions.BotoCoreError):
        own.load_service_model("ec2", "nothing-1")
