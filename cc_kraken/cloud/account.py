"""An account as ``cc-kraken fleet`` reads it, with a person's credentials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

from cc_kraken.cloud import answers, session
from cc_kraken.cloud.ec2 import FILTER_VALUES, Ec2
from cc_kraken.cloud.errors import Ec2Error, fatal, plain
from cc_kraken.model import Identity, Instance, Section, Volume

PAGE = 1000  # results; of volumes EC2 gives 500 at most

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

    A slip is in one half of the name, and the other half is right; or the two letters
    in the middle have changed places.  Case matters to EC2, so the usual cases are
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

    def __init__(self, section: Section, region: str = "", profile: str = "") -> None:
        super().__init__(Identity("", region, ""), section)
        self._profile = profile

    def tagged_volumes(self) -> tuple[Volume, ...]:
        """Every volume with a tag of ours, or with one that looks like it, by id."""
        filters = [{"Name": "tag-key", "Values": like(self.namespace)}]
        return self._some_volumes("with our tags", filters)

    def these_volumes(self, ids: Sequence[str]) -> tuple[Volume, ...]:
        """Those of these that EC2 knows, by id."""
        found: list[Volume] = []
        for start in range(0, len(ids), FILTER_VALUES):
            some = ids[start : start + FILTER_VALUES]
            filters = [{"Name": "volume-id", "Values": some}]
            found += self._some_volumes("of " + ", ".join(some[:3]), filters)
        return tuple(found)

    def _some_volumes(self, subject: str, filters: Any) -> tuple[Volume, ...]:
        pages = self._pages("DescribeVolumes", subject, PAGE, Filters=filters)
        found = [answers.volume(raw) for page in pages for raw in page["Volumes"]]
        return tuple(sorted(found, key=lambda one: one.id))

    def instances(self, holders: Iterable[str]) -> Mapping[str, Instance]:
        """Every instance with a tag like ours, and these.  One that EC2 does not show
        has the state ``gone``."""
        filters = [{"Name": "tag-key", "Values": like(self.namespace)}]
        found: dict[str, Instance] = {}
        wanted = sorted(set(holders))
        while True:
            pages = self._pages("DescribeInstances", "", PAGE, Filters=filters)
            for page in pages:
                for reservation in page["Reservations"]:
                    for raw in reservation["Instances"]:
                        one = answers.instance(raw, self.namespace)
                        found[one.instance_id] = one
            left = [one for one in wanted if one not in found]
            if not left:
                return found
            ask = left[:FILTER_VALUES]
            found.update({key: Instance(key, "gone") for key in ask})
            filters = [{"Name": "instance-id", "Values": ask}]

    # ---------------------------------------------------------------- inside

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = session.personal(self._profile, self.region)
                self.region = self._made.meta.region_name
                self._made.meta.events.register("before-send.ec2", self._count)
            return self._made

    def _error(self, action: str, subject: str, error: Exception) -> Ec2Error:
        found = _of_credentials(error) or super()._error(action, subject, error)
        remedy = _REMEDIES.get(found.trouble.kind, found.trouble.remedy)
        trouble = replace(found.trouble, remedy=remedy)
        return Ec2Error(trouble, found.reaction, found.code)


def _of_credentials(error: Exception) -> Optional[Ec2Error]:
    """The errors of a person's own settings; None for anything else."""
    from botocore import exceptions as e

    if isinstance(error, (e.NoCredentialsError, e.PartialCredentialsError)):
        found = "There are no AWS credentials"
    elif isinstance(error, (e.ProfileNotFound, e.ConfigParseError)):
        found = f"The profile cannot be used ({plain(str(error)).rstrip('.')})"
    elif type(error).__module__ == "botocore.exceptions" and (
        isinstance(
            error, (e.CredentialRetrievalError, e.SSOError, e.UnknownRegionError)
        )
        or type(error).__name__ in ("TokenRetrievalError", "MissingDependencyException")
    ):
        found = f"The credentials cannot be had ({plain(str(error)).rstrip('.')})"
    elif isinstance(error, e.InvalidRegionError):
        return fatal(
            "region-missing",
            f"The region is none ({plain(str(error)).rstrip('.')}).",
            "",
            "Correct --region, for example us-east-1.",
        )
    else:
        return None
    return fatal(
        "credentials-missing",
        f"{found}.",
        "",
        "Name a profile with --profile, or sign in (aws sso login).",
    )
