"""An account as ``cc-kraken fleet`` reads it, with a person's credentials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

from cc_kraken.cloud import answers, session
from cc_kraken.cloud.ec2 import FILTER_VALUES, Ec2
from cc_kraken.cloud.errors import Ec2Error, fatal, plain
from cc_kraken.model import Identity, Instance, Section, Volume

_HALF = 3
"""Characters that a half of a namespace needs to be looked for by itself."""
_REMEDIES: Mapping[str, str] = {
    "credentials-refused": "Sign in again (aws sso login), or name another --profile.",
    "permission-missing": "Ask for an IAM policy that allows ec2:DescribeVolumes and "
    "ec2:DescribeInstances.",
    "ec2-unreachable": "Check the network, the proxy (HTTPS_PROXY) and --region.",
    "ec2-throttled": "Wait a minute, and try again.",
}


def like(namespace: str) -> list[str]:
    """Filter values for the keys of a namespace, and of those that look like it.

    They find a typing error in one half of the name, or the two letters in the middle
    swapped.  Case matters to EC2, so the usual cases are
    asked for.
    """
    middle = len(namespace) // 2
    pair = namespace[middle - 1 : middle + 1][::-1]
    swapped = namespace[: middle - 1] + pair + namespace[middle + 1 :]
    cases = (namespace.lower(), namespace.upper(), namespace.title())
    found = [f"{answers.filter_value(o)}:*" for o in (namespace, swapped, *cases)]
    if middle >= _HALF:
        found.append(f"{answers.filter_value(namespace[:middle])}*")
        found.append(f"*{answers.filter_value(namespace[middle:])}:*")
    return list(dict.fromkeys(found))


class Account(Ec2):
    """One region of an account.  "" as profile or region: as boto3 chooses."""

    page = 1000  # results; of volumes EC2 gives 500 at most

    def __init__(self, section: Section, region: str = "", profile: str = "") -> None:
        super().__init__(Identity("", region, ""), section)
        self._profile = profile

    def tagged_volumes(self) -> tuple[Volume, ...]:
        """Every volume with a tag of ours, or with one that looks like it, by id."""
        filters = [{"Name": "tag-key", "Values": like(self.namespace)}]
        return self._described("with our tags", filters)

    def these_volumes(self, ids: Sequence[str]) -> tuple[Volume, ...]:
        """Those of these that EC2 knows, by id."""
        found: list[Volume] = []
        for start in range(0, len(ids), FILTER_VALUES):
            some = ids[start : start + FILTER_VALUES]
            filters = [{"Name": "volume-id", "Values": some}]
            found += self._described("of " + ", ".join(some[:3]), filters)
        return tuple(found)

    def instances(self, holders: Iterable[str]) -> Mapping[str, Instance]:
        """Every instance with a tag like ours, and these.  One that EC2 does not show
        has the state ``gone``."""
        filters = [{"Name": "tag-key", "Values": like(self.namespace)}]
        found: dict[str, Instance] = {}
        wanted = sorted(set(holders))
        while True:
            for raw in self._instances("", filters):
                one = answers.instance(raw, self.namespace)
                found[one.instance_id] = one
            left = [one for one in wanted if one not in found]
            if not left:
                return found
            ask = left[:FILTER_VALUES]
            found.update({key: Instance(key, "gone") for key in ask})
            filters = [{"Name": "instance-id", "Values": ask}]

    def _connect(self) -> Any:
        client = session.personal(self._profile, self.region)
        self.region = client.meta.region_name
        return client

    def _error(self, action: str, subject: str, error: Exception) -> Ec2Error:
        found = _of_settings(error) or super()._error(action, subject, error)
        remedy = _REMEDIES.get(found.trouble.kind, found.trouble.remedy)
        trouble = replace(found.trouble, remedy=remedy)
        return Ec2Error(trouble, found.reaction, found.code)


#: The errors of a person's own settings, by the names that botocore gives them.
_OWN_SETTINGS = {
    "NoCredentialsError": "There are no AWS credentials.",
    "PartialCredentialsError": "There are no AWS credentials.",
    "ProfileNotFound": "The profile cannot be used ({}).",
    "ConfigParseError": "The profile cannot be used ({}).",
    "CredentialRetrievalError": "The credentials cannot be had ({}).",
    "SSOError": "The credentials cannot be had ({}).",
    "UnknownRegionError": "The credentials cannot be had ({}).",
    "TokenRetrievalError": "The credentials cannot be had ({}).",
    "MissingDependencyException": "The credentials cannot be had ({}).",
    "InvalidRegionError": "The region is none ({}).",
}


def _of_settings(error: Exception) -> Optional[Ec2Error]:
    """The errors of a person's own settings; None for anything else."""
    for one in type(error).__mro__:
        if one.__module__ != "botocore.exceptions" or one.__name__ not in _OWN_SETTINGS:
            continue
        found = _OWN_SETTINGS[one.__name__].format(plain(str(error)).rstrip("."))
        if one.__name__ == "InvalidRegionError":
            remedy = "Correct --region, for example us-east-1."
            return fatal("region-missing", found, "", remedy)
        remedy = "Name a profile with --profile, or sign in (aws sso login)."
        return fatal("credentials-missing", found, "", remedy)
    return None
