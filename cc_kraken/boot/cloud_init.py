"""cloud-init as our host: what it knows, in our words.

Used inside a stage (with the ``cloud`` object that cloud-init hands over) and
outside (:func:`load`: command line, background unit).  Nothing of cloud-init
is imported at module level, and every attribute is read with care: the
objects are those of 22.2 to 26.2, or a pickle that another version wrote.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping
from typing import Any, Optional

from cc_kraken.boot.configured import attribute
from cc_kraken.config import tags
from cc_kraken.model import Identity, KrakenError, failure

LOG = logging.getLogger(__name__)

MODULE = "cc_kraken"


def identity(datasource: object) -> Identity:
    """This instance, from the identity document, else from the metadata; makes no
    request.  ``region`` may be "" where the datasource has none.

    Raises KrakenError ``instance-unknown``.
    """
    document = _mapping(attribute(datasource, "identity"))
    metadata = _mapping(attribute(datasource, "metadata"))
    placement = _mapping(metadata.get("placement"))
    services = _mapping(metadata.get("services"))
    instance_id = _word(document.get("instanceId"), metadata.get("instance-id"))
    zone = _word(document.get("availabilityZone"), placement.get("availability-zone"))
    region = _word(
        document.get("region"),
        placement.get("region"),
        attribute(datasource, "region"),
    )
    if not instance_id.startswith("i-") or not zone:
        found = f"instance id {instance_id or 'none'}, zone {zone or 'none'}"
        raise failure(
            "instance-unknown",
            f"cloud-init does not say which instance this is ({found}).",
            "It must know the EC2 instance id and the availability zone.",
            "Enable the metadata service of the instance. What cloud-init knows of it: "
            "cloud-init query ds.meta_data.",
        )
    return Identity(
        instance_id=instance_id,
        region=region,
        zone=zone,
        tags=_instance_tags(metadata),
        metadata_url=_word(attribute(datasource, "metadata_address")),
        partition=_word(services.get("partition")),
        domain=_word(services.get("domain")),
    )


def _instance_tags(metadata: Mapping[str, object]) -> Optional[Mapping[str, str]]:
    """Tags of the instance as of this boot; None where they are not offered
    (metadata ``tags/instance/``, since cloud-init 22.2)."""
    offered = _mapping(metadata.get("tags")).get("instance")
    if not isinstance(offered, Mapping):
        return None
    return {str(name): tags.text(value) for name, value in offered.items()}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _word(*values: object) -> str:
    """The first of these that is a text and not empty."""
    words = (value.strip() for value in values if isinstance(value, str))
    return next(filter(None, words), "")


def stage(cloud: object) -> str:
    """The stage that runs: ``network``, ``final`` or ``single``.

    By the name of the stage's reporter (cmd/main.py, 22.2 to 26.2).  The config
    stage counts as the network stage: the work is done in the first stage that the
    module is listed in.
    """
    name = attribute(attribute(cloud, "reporter"), "fullname")
    root = name.split("/", 1)[0] if isinstance(name, str) else ""
    return {"modules-final": "final", "single": "single"}.get(root, "network")


def final_entry(cfg: Mapping[str, Any]) -> bool:
    """Whether the module is listed in the final stage of ``cfg``."""
    return has_module(cfg.get("cloud_final_modules"))


def has_module(modules: object) -> bool:
    """Whether a list of modules has ours."""
    entries = modules if isinstance(modules, (list, tuple)) else ()
    return MODULE in map(module_name, entries)


def module_name(item: object) -> str:
    """The Python module that cloud-init makes of an entry of a list ("" if
    it makes none): ``write-files`` is ``cc_write_files``.

    An entry is a name, a list that begins with it, or a mapping that has it as
    ``name`` (config/modules.py).
    """
    if isinstance(item, Mapping):
        item = item.get("name")
    elif isinstance(item, (list, tuple)):
        item = item[0] if item else None
    if not isinstance(item, str):
        return ""
    plain = item.replace("-", "_")
    if plain.lower().endswith(".py"):
        plain = plain[:-3]
    plain = plain.strip()
    return plain if not plain or plain.startswith("cc_") else f"cc_{plain}"


def load() -> tuple[Mapping[str, Any], object]:
    """What cloud-init merged in this boot, and its DataSource, from its own cache.

    As ``cloud-init single`` does it, except that nothing is ever searched,
    fetched or deleted: without a datasource in the cache it is an error.
    Raises KrakenError ``cloud-init-missing``, ``cloud-init-not-run`` or
    ``cloud-init-unusable``.
    """
    try:
        from cloudinit import helpers, stages
    except ImportError as error:
        raise failure(
            "cloud-init-missing",
            f"cloud-init cannot be imported by {sys.executable} ({error}).",
            "The system's own Python must have cloud-init 22.2 or later.",
            "Install cloud-init, or run the command with the system's Python.",
        ) from error
    try:
        init = stages.Init(ds_deps=[])
        init.read_cfg()
        # fetch() would go on a search without it, and delete the instance's link.
        init.datasource = _cached(init.paths.get_ipath_cur("obj_pkl"))
        # What was made before the datasource was known is made anew, as
        # fetch() does.
        init._reset()
        merger = helpers.ConfigMerger(
            paths=init.paths,
            datasource=init.datasource,
            additional_fns=None,
            base_cfg=init.cfg,
        )
        return merger.cfg, init.datasource
    except KrakenError:
        raise
    except Exception as error:
        raise failure(
            "cloud-init-unusable",
            f"cloud-init's merged configuration cannot be read ({error}).",
            "cloud-init must work.",
            "See what it says of itself: cloud-init status --long.",
        ) from error


def _cached(path: str) -> object:
    """The datasource that this boot stored at ``path`` (a pickle of
    cloud-init's, in a directory that only root can write)."""
    import pickle

    try:
        with open(path, "rb") as file:
            return pickle.load(file)
    except FileNotFoundError as error:
        raise failure(
            "cloud-init-not-run",
            f"cloud-init has no instance data of this machine ({path} is missing).",
            "cloud-init must have found its datasource in this boot.",
            "Run the command after cloud-init's network stage. See whether that ran: "
            "cloud-init status --long.",
        ) from error
    except PermissionError as error:
        raise failure(
            "cloud-init-unusable",
            f"{path} of cloud-init is not readable.",
            "Only root may read it.",
            "Run the command as root (sudo).",
        ) from error
    except Exception as error:
        raise failure(
            "cloud-init-unusable",
            f"cloud-init's instance data in {path} cannot be read ({error}).",
            "This version of cloud-init must have written it.",
            "Reboot, so that cloud-init writes it anew.",
        ) from error


class Events:
    """The phases of a run, as sub-events of the module's own event.

    ``config-<name>/<phase>`` nests under the module in ``cloud-init analyze
    show``.  There is one at a time, because overlapping events break ``analyze``.
    Without cloud-init (or its reporter) nothing is reported.  An event never costs
    a run.
    """

    def __init__(self, cloud: object, name: str = "kraken") -> None:
        self._parent = attribute(cloud, "reporter")
        self._name = name
        self._phase: Optional[str] = None
        self._event = contextlib.ExitStack()

    def enter(self, phase: Optional[str]) -> None:
        """End the phase that runs, begin ``phase`` (None: no other)."""
        if self._parent is None or phase == self._phase:
            return
        self._phase = phase
        with contextlib.suppress(Exception):
            self._event.close()
        if phase is None:
            return
        try:
            from cloudinit.reporting import events

            event = events.ReportEventStack(
                name=f"config-{self._name}/{phase}",
                description=phase,
                parent=self._parent,
            )
            self._event.enter_context(event)
        except Exception as error:
            LOG.debug("no event for %s: %s", phase, error)
