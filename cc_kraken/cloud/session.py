"""A client of EC2 out of a plain boto3 session, set up by documented means.

Bounds: a connection is tried for 3 s, an answer awaited for 10 s, and each
request sent once, because the caller asks again in its next round with the
whole picture, and a throttle is met with patience, not with more requests.
The metadata service is asked for credentials only, through botocore, three
times for 2 s each, and never through a proxy.  A person's client (:func:`personal`)
looks for credentials where boto3 does, and sends a request again.

Sources: botocore's documentation of ``botocore.config.Config`` and of its
configuration variables.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Optional

from cc_kraken.cloud.errors import Ec2Error, fatal, plain, waiting
from cc_kraken.machine import schema_files
from cc_kraken.model import Ec2Options, Identity

CONNECT_TIMEOUT = 3  # seconds
READ_TIMEOUT = 10  # seconds
METADATA_TIMEOUT = 2  # seconds
METADATA_ATTEMPTS = 3
METADATA_ENDPOINT = "ec2_metadata_service_endpoint"  # for botocore
PERSONAL_READ_TIMEOUT = 30  # seconds: a page of a thousand volumes
PERSONAL_ATTEMPTS = 5
THREADS = 32  # connections that are kept
NOISY = ("boto3", "botocore", "urllib3", "s3transfer")


def client(identity: Identity, options: Ec2Options) -> Any:
    """A client that has credentials; Ec2Error where there can be none."""
    region = options.region or identity.region
    if not region:
        raise fatal(
            "region-missing",
            "No region is known.",
            "The instance's metadata or the configuration must say it.",
            "Set kraken.ec2.region.",
        )
    if options.ca_bundle:
        _check_bundle(options.ca_bundle)
    session, core = _session(region_name=region)
    _use_instance_profile(session, core, identity.metadata_url)
    # After the session, which reports a boto3 that is missing.
    from botocore.config import Config

    options = _resolved(session, region, identity, options)
    proxy = options.https_proxy
    return session.client(
        "ec2",
        endpoint_url=options.endpoint_url,
        verify=options.ca_bundle,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=THREADS,
            user_agent_extra="cc_kraken",
            proxies={"http": proxy, "https": proxy} if proxy else None,
            use_dualstack_endpoint=options.use_dualstack,
            use_fips_endpoint=options.use_fips,
        ),
    )


def _check_bundle(path: str) -> None:
    """botocore says of a bundle that it cannot load no more than "SSLError"."""
    import ssl

    found = f"There is no file {path}."
    if os.path.isfile(path):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
            return
        except OSError as error:  # ssl.SSLError, too
            reason = plain(error.strerror or str(error))
            reason = re.sub(r"^\[.*?\] | \(_ssl\.c:\d+\)$", "", reason)
            found = f"{path} holds no CA certificates that can be read ({reason})."
    raise fatal(
        "ca-bundle-missing",
        found,
        "kraken.ec2.ca_bundle must name a file with CA certificates (PEM).",
        "Correct the path, or write the file with write_files. The module "
        "ca_certs comes too late.",
    )


def personal(profile: str, region: str) -> Any:
    """A person's client, by boto3's own rules: AWS_PROFILE, ~/.aws, single sign-on.
    "" leaves the choice to them.  Ec2Error where there can be none."""
    session, _ = _session(profile_name=profile or None, region_name=region or None)
    from botocore.config import Config

    if not session.region_name:
        raise fatal(
            "region-missing",
            "No region is known.",
            "",
            "Name one with --region, in AWS_DEFAULT_REGION or in your profile.",
        )
    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=PERSONAL_READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": PERSONAL_ATTEMPTS},
        user_agent_extra="cc_kraken",
    )
    return session.client("ec2", config=config)


def _resolved(
    session: Any, region: str, identity: Identity, options: Ec2Options
) -> Ec2Options:
    """The options, with an endpoint where botocore would take one of another
    partition: an older one takes AWS's first for a region that it does not know.
    The metadata service knows the domain."""
    from botocore.exceptions import UnknownRegionError

    if options.endpoint_url:
        return replace(options, use_fips=False, use_dualstack=False)
    if region != identity.region or not identity.domain:
        return options
    try:
        known = session.get_partition_for_region(region)
    except UnknownRegionError:
        known = "aws"
    if known == identity.partition:
        return options
    if options.use_dualstack:
        raise fatal(
            "ec2-request",
            f"boto3 knows no dual-stack endpoint of EC2 in {region} (partition "
            f"{identity.partition}).",
            "boto3 must know this region.",
            "Install a newer boto3, or name the endpoint in kraken.ec2.endpoint_url "
            "in place of kraken.ec2.use_dualstack.",
        )
    host = "ec2-fips" if options.use_fips else "ec2"
    url = f"https://{host}.{region}.{identity.domain}"
    return replace(options, endpoint_url=url, use_fips=False, use_dualstack=False)


def silence() -> None:
    """boto3 and what it uses never log in this process: botocore writes session
    tokens at DEBUG, and ``cc-kraken --debug`` sets the root logger to it."""
    for name in NOISY:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False


def boto3_missing(error: ImportError) -> Ec2Error:
    return fatal(
        "boto3-missing",
        f"Python's boto3 cannot be imported ({plain(str(error))}).",
        "The system's own Python must have boto3 1.26 or later.",
        "Install the package python3-boto3. On RHEL it comes from EPEL.",
    )


def _session(**choice: Optional[str]) -> tuple[Any, Any]:
    """A boto3 session, and the one of botocore in it.

    It adds to botocore's description of EC2 what an older one lacks.  Debian 12's and
    13's drops from EC2's answer that a volume is a copy of another, and a copy must
    never be formatted.  The loader merges our file, as one of its "extras" (see
    botocore.loaders).
    """
    silence()
    try:
        import boto3.session
        import botocore.session
    except ImportError as error:
        raise boto3_missing(error) from None
    core = botocore.session.Session()
    loader = core.get_component("data_loader")
    path = schema_files.path(schema_files.EC2)
    loader.search_paths.append(path[: -len(schema_files.EC2)])
    loader.extras_types.append("kraken")
    return boto3.session.Session(botocore_session=core, **choice), core


def _use_instance_profile(session: Any, core: Any, metadata_url: str) -> None:
    """Fetch credentials, from where the datasource has found the metadata service, or
    where the environment says that it is."""
    core.set_config_variable("metadata_service_timeout", METADATA_TIMEOUT)
    core.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
    if metadata_url and not core.get_config_variable(METADATA_ENDPOINT):
        core.set_config_variable(METADATA_ENDPOINT, metadata_url)
    with _no_proxy_in_environment():
        recorder = _watch(core.get_component("credential_provider"))
    if session.get_credentials() is None:
        raise _no_credentials(recorder)


@contextmanager
def _no_proxy_in_environment() -> Iterator[None]:
    """botocore's metadata clients take their proxies from the environment when
    they are made, and proxies must never see instance credentials."""
    names = ("http_proxy", "https_proxy", "all_proxy")
    taken = {k: v for k, v in os.environ.items() if k.lower() in names}
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


class _Recorder:
    """Stands before the metadata client's HTTP session and notes the status.

    botocore has one answer for "there is no role" and "nobody answers"; a person
    who reads it needs to know which.
    """

    def __init__(self, http: Any) -> None:
        self._http = http
        self.asked = False
        self.status: Optional[int] = None

    def send(self, request: Any) -> Any:
        self.asked, self.status = True, None
        response = self._http.send(request)
        self.status = response.status_code
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._http, name)


def _watch(resolver: Any) -> Optional[_Recorder]:
    """A recorder at the metadata client; None when botocore has changed."""
    try:
        fetcher = resolver.get_provider("iam-role")._role_fetcher
        recorder = _Recorder(fetcher._session)
        fetcher._session = recorder
    except Exception:  # private names: do without
        return None
    return recorder


_MEANS = {
    None: ": the metadata service does not answer",
    200: ": the metadata service has none for the instance profile's role",
    404: ": this instance has no instance profile, or it has not arrived yet",
}


def _no_credentials(recorder: Optional[_Recorder]) -> Ec2Error:
    off = recorder is not None and not recorder.asked
    if off:
        why = ", and the metadata service is switched off"
    elif recorder is None:
        why = ""
    else:
        unknown = f": the metadata service answers with HTTP status {recorder.status}"
        why = _MEANS.get(recorder.status, unknown)
    return (fatal if off else waiting)(
        "credentials-missing",
        f"There are no AWS credentials{why}.",
        "The instance must have an instance profile.",
        "Give the instance a profile whose role has the IAM policy of the "
        "documentation (ec2:DescribeVolumes, ec2:DescribeTags, "
        "ec2:DescribeInstances, ec2:AttachVolume, ec2:DetachVolume).",
    )
