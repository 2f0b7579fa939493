"""Our entries in cloud-init's module lists: enable, disable, refresh.

The key in cloud-init's schema goes along (:mod:`cc_kraken.boot.diversion`).

A file in ``cloud.cfg.d`` cannot append to a list of modules, it replaces it.
So the effective lists are read as cloud-init merges them, ``[kraken, always]``
is put in, and the result goes into one generated file that sorts last.  It
holds a digest of the lists it was made from: when those change (a new
cloud-init, an edited ``cloud.cfg``) it is stale and has to be made again,
which the Debian package does by a trigger.

What the administrator chose (``disable``, ``--no-schema``) is remembered in
``/etc/cc-kraken/enable.json``, and :func:`refresh` follows it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional

from cc_kraken.boot.clean import run_for_script
from cc_kraken.boot.cloud_init import MODULE, has_module, module_name
from cc_kraken.boot.diversion import SCHEMA, Diversion, schema_of_this_python
from cc_kraken.cloud.session import boto3_missing
from cc_kraken.config import loading
from cc_kraken.machine.files import read_text, remove, write_atomic, write_json
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, failure
from cc_kraken.state import udev_rules

ENTRY = ["kraken", "always"]


@dataclass(frozen=True)
class Place:
    """Where the entry goes in a list: after the first name of ``after`` that is
    there, else before the first module that ``before`` has, else at the end; but
    always behind ``behind``."""

    after: tuple[str, ...]
    before: tuple[str, ...]
    behind: str = ""


NETWORK_LIST = "cloud_init_modules"
PLACES: Mapping[str, Place] = {
    # write_files makes the files of kraken.d.
    NETWORK_LIST: Place(
        ("cc_mounts", "cc_disk_setup"), ("cc_users_groups",), behind="cc_write_files"
    ),
    "cloud_final_modules": Place(
        ("cc_write_files_deferred", "cc_package_update_upgrade_install"),
        (
            "cc_scripts_vendor",
            "cc_scripts_per_once",
            "cc_scripts_per_boot",
            "cc_scripts_per_instance",
            "cc_scripts_user",
        ),
    ),
}

DROP_IN = "zzz-cc-kraken.cfg"
HEADER = (
    '# Written by "cc-kraken enable": cloud-init\'s lists of modules with ours'
    " in them.\n"
    '# Do not edit: "cc-kraken enable" writes it anew, "cc-kraken disable"'
    " removes it.\n"
)
DIGEST = "# made from: "
NEEDED = ("cloudinit", "boto3", "jsonschema", "yaml")

Lists = dict[str, Sequence[object]]
Files = Mapping[str, Mapping[str, Any]]
"""cloud-init's system configuration, by path; the later file has the last word."""


@dataclass(frozen=True)
class Choice:
    """What the administrator wants of us in cloud-init."""

    modules: bool = True
    schema: Optional[bool] = None
    """None: nobody said. The schema is changed then where dpkg diverts the file."""


def enable(paths: Paths, schema: Optional[bool] = None) -> list[str]:
    """Put the module into cloud-init's lists, and remember that.

    ``schema``: whether the key goes into cloud-init's schema; None leaves it with
    what was asked for, else with what the distribution permits.  Returns sentences
    that say what was done; a second call changes nothing.  Raises KrakenError when
    the configuration of cloud-init cannot be read or the result would not take
    effect; then nothing was changed.
    """
    if schema is None and chosen(paths).schema:
        schema = True
    choice = Choice(schema=schema)
    said = _write_lists(paths)
    write_json(_choice_path(paths), asdict(choice))
    return said + _write_schema(choice, paths)


def disable(paths: Paths) -> list[str]:
    """Take back what :func:`enable` did, and remember that it is not wanted,
    so that no upgrade brings it back."""
    configuration = os.path.join(paths.etc, "cloud", "cloud.cfg")
    if not os.path.exists(configuration) and not os.path.exists(_drop_in(paths)):
        return [f"There is no cloud-init here ({configuration}): nothing to do."]
    choice = Choice(modules=False, schema=chosen(paths).schema)
    write_json(_choice_path(paths), asdict(choice))
    return withdraw(paths)


def refresh(paths: Paths) -> list[str]:
    """Do again what is enabled (after cloud-init or its configuration
    changed); nothing after ``disable``."""
    choice = chosen(paths)
    if not choice.modules:
        return ["cc-kraken was disabled here, and stays so (cc-kraken enable)."]
    return _write_lists(paths) + _write_schema(choice, paths)


def withdraw(paths: Paths) -> list[str]:
    """Take back what :func:`enable` did, and leave the choice remembered as
    it is (removal of the package)."""
    path = _drop_in(paths)
    said = _schema(paths).unregister()
    if udev_rules.remove(paths):
        # Nobody is left to keep up with volumes that are exchanged.
        said.append(f"Removed {udev_rules.location(paths)}.")
    if _read_own(path) is None:
        return ["The module is not in cloud-init's lists through us.", *said]
    remove(path)
    return [f"Removed {path}: cloud-init's own lists of modules hold again.", *said]


def stale(paths: Paths) -> Optional[str]:
    """A sentence when the generated lists are older than what they were made
    from, or None (also when there are none).  Raises KrakenError when the
    configuration of cloud-init cannot be read."""
    path = _drop_in(paths)
    text = _read_own(path)
    if text is None or _digest(_lists(_sources(paths))) in text:
        return None
    return (
        f"{path} was made from other lists of modules than"
        " cloud-init has now. Run: cc-kraken enable"
    )


def faults(paths: Paths) -> list[str]:
    """Why cloud-init will not run the module at the next boot; empty: it will."""
    found = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            why = f"{sys.executable} cannot import {name}: {error}"
            found.append(str(boto3_missing(error)) if name == "boto3" else why)
    try:
        found += [
            f"The module is not in {key}. Run: cc-kraken enable"
            for key, modules in _lists(_sources(paths, own=True)).items()
            if not has_module(modules)
        ]
        old = stale(paths)
        found += [old] if old else []
        if chosen(paths).schema and not _schema(paths).registered:
            found.append(
                "cloud-init's schema does not know the key kraken, though --schema was"
                " asked for. Run: cc-kraken enable"
            )
    except KrakenError as error:
        found.append(str(error))
    return found


# ---------------------------------------------- cloud-init's configuration


def with_entry(modules: Sequence[object], place: Place) -> Sequence[object]:
    """``modules`` with our entry in its place, every other kept in order.

    An entry of ours that is there (an administrator's) is left as it is.
    """
    names = [module_name(item) for item in modules]
    if MODULE in names:
        return modules
    # The last of a name counts: a list may have a module twice.
    behind = {name: at for at, name in enumerate(names, start=1)}
    first = [names.index(name) for name in place.before if name in names]
    at = next(
        (behind[name] for name in place.after if name in behind),
        min(first, default=len(names)),
    )
    at = max(at, behind.get(place.behind, 0))
    return [*modules[:at], list(ENTRY), *modules[at:]]


def _lists(files: Files) -> Lists:
    """The two lists as cloud-init merges them: of each, the last that a file sets.

    Raises KrakenError where there is none, or where a file asks for another way
    of merging: its modules would come behind ours a second time.
    """
    lists: Lists = {}
    for key in PLACES:
        setting = [path for path in files if key in files[path]]
        modules = files[setting[-1]][key] if setting else None
        if not isinstance(modules, list):
            raise failure(
                "cloud-config-lists",
                f"{key} in {setting[-1]} is not a list."
                if modules is not None
                else f"cloud-init's configuration has no list {key}.",
                "It must list the modules that cloud-init runs in that stage.",
                "Restore cloud.cfg as the package of cloud-init ships it, then: "
                "cc-kraken enable.",
            )
        lists[key] = modules
        for path in () if has_module(modules) else setting:
            for how in {"merge_how", "merge_type"} & set(files[path]):
                raise _overruled(f"{path} sets {key} and {how}", "Take that out")
    return lists


def _sources(paths: Paths, own: bool = False) -> Files:
    """The files of cloud-init's system configuration in the order in which
    cloud-init lets them overrule each other; ours only if ``own``."""
    base = os.path.join(paths.etc, "cloud")
    directory = os.path.join(base, "cloud.cfg.d")
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    found = [os.path.join(base, "cloud.cfg")]
    for name in names:
        path = os.path.join(directory, name)
        # cloud-init passes over others too.
        if name.endswith(".cfg") and os.path.isfile(path) and (own or name != DROP_IN):
            found.append(path)
    files = {path: _mapping(path) for path in found}
    if "conf_d" in files[found[0]]:
        raise failure(
            "cloud-config-directory",
            f"{found[0]} moves cloud.cfg.d elsewhere (conf_d).",
            "cloud.cfg.d must lie beside it.",
            f"Put [kraken, always] into the lists by hand: {' and '.join(PLACES)}.",
        )
    return files


def _mapping(path: str) -> Mapping[str, Any]:
    """What a file says.  Raises KrakenError where cloud-init itself would pass
    over it with a warning."""
    import yaml

    remedy = "Repair it, then: cc-kraken enable."
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if text.lstrip().lower().startswith("## template:"):
            _refuse_lists(path, text)
            return {}  # what a jinja template says is not known before a boot
        content = yaml.safe_load(text)
        if isinstance(content, (Mapping, type(None))):
            return content or {}
        why = "not a mapping of keys to values"
    except KrakenError:
        raise
    except FileNotFoundError:
        raise failure(
            "cloud-init-missing",
            f"There is no {path}.",
            "cloud-init must be installed.",
            "Install cloud-init (22.2 or later), then: cc-kraken enable.",
        ) from None
    except OSError as error:
        why = error.strerror or str(error)
        if isinstance(error, PermissionError) and os.geteuid():
            remedy = "Run the command with sudo: root can, and cloud-init runs as root."
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    except Exception as error:  # not YAMLError alone
        line, problem = loading.yaml_problem(error)
        why = f"line {line}: {problem}" if line else problem
    raise failure(
        "cloud-config-unreadable",
        f"{path} cannot be read: {why.rstrip('.')}.",
        "cloud-init must be able to read it.",
        f"Nothing was changed. {remedy}",
    )


def _refuse_lists(path: str, template: str) -> None:
    for key in PLACES:
        if key in template:
            raise failure(
                "cloud-config-template",
                f"{path} sets {key} by a template, so the list is known at boot only.",
                "It must be readable now.",
                "Set the list in a plain file, or put [kraken, always] into it"
                " by hand.",
            )


def _overruled(found: str, remedy: str) -> KrakenError:
    return failure(
        "cloud-config-overruled",
        f"{found}.",
        f"{DROP_IN} must have the last word.",
        f"{remedy}, or put [kraken, always] into the list there by hand.",
    )


# ------------------------------------------------------------------- writing


def _write_lists(paths: Paths) -> list[str]:
    """Bring the generated file up to date; says what it did."""
    import yaml

    path = _drop_in(paths)
    before = _read_own(path)
    files = _sources(paths)
    lists = _lists(files)
    wanted = {
        key: with_entry(modules, PLACES[key])
        for key, modules in lists.items()
        if not has_module(modules)
    }
    if not wanted:
        said = ["cloud-init's own lists hold the module already."]
        return [*said, f"Removed {path}."] if remove(path) else said
    for later in files:
        keys = [key for key in wanted if key in files[later]]
        if keys and os.path.dirname(later) == os.path.dirname(path) and later > path:
            found = f"{later} sets {' and '.join(keys)}, and comes after {DROP_IN}"
            raise _overruled(found, "Rename that file")
    body = yaml.safe_dump(wanted, default_flow_style=None, width=76)
    data = f"{HEADER}{_digest(lists)}{body}".encode()
    if not write_atomic(path, data, mode=0o644):
        return [f"The module is in cloud-init's lists already ({path})."]
    said = [f"{'Wrote' if before is None else 'Brought up to date:'} {path}."]
    said += [f"{key}: [kraken, always] {_place(wanted[key])}." for key in wanted]
    # What an administrator does not expect of a list like RHEL 8's.
    if "cc_mounts" not in map(module_name, lists[NETWORK_LIST]):
        said.append(
            "This cloud-init has mounts in a later stage. So its own mounts come after"
            " the volumes of this node."
        )
    return said


def _digest(lists: Lists) -> str:
    """The line that identifies the lists."""
    text = json.dumps(lists, sort_keys=True, separators=(",", ":"), default=str)
    return f"{DIGEST}{hashlib.sha256(text.encode()).hexdigest()}\n"


def _place(modules: Sequence[object]) -> str:
    names = [module_name(item) for item in modules]
    at = names.index(MODULE)
    return f"after {names[at - 1][3:]}" if at else "at the beginning"


def _write_schema(choice: Choice, paths: Paths) -> list[str]:
    """Bring cloud-init's schema to what was chosen; says what it did."""
    schema = _schema(paths)
    if schema.by_itself if choice.schema is None else choice.schema:
        return schema.register()
    said = schema.unregister()
    if choice.schema is None:
        said.append(
            "cloud-init's schema does not know the key kraken. From 23.4 on, a kraken"
            " section in user-data makes the boot degraded."
            " Run: cc-kraken enable --schema"
        )
    return said


def _schema(paths: Paths) -> Diversion:
    """cloud-init's schema in the system of ``paths``."""
    root = os.path.dirname(os.path.abspath(paths.etc))
    return Diversion(root, schema_of_this_python() if root == "/" else SCHEMA)


def _drop_in(paths: Paths) -> str:
    return os.path.join(paths.etc, "cloud", "cloud.cfg.d", DROP_IN)


def _read_own(path: str) -> Optional[str]:
    """The generated file, None if there is none.  Raises KrakenError if
    somebody else's file has that name."""
    text = read_text(path)
    if text is None or text.startswith(HEADER):
        return text
    raise failure(
        "cloud-config-foreign",
        f"{path} was not written by cc-kraken (its first lines differ).",
        "Only cc-kraken may write a file of this name.",
        "Move it out of the way, then: cc-kraken enable.",
    )


def _choice_path(paths: Paths) -> str:
    return os.path.join(paths.etc, "cc-kraken", "enable.json")


def chosen(paths: Paths) -> Choice:
    """What was chosen here; everything if nobody chose yet."""
    path = _choice_path(paths)
    text = read_text(path)
    if text is None:
        return Choice()
    try:
        return Choice(**json.loads(text))
    except (ValueError, TypeError):
        raise failure(
            "choice-unreadable",
            f"{path} is not what cc-kraken wrote.",
            'It must be {"modules": true or false, "schema": true, false or null}.',
            "Remove it, then: cc-kraken enable (or disable).",
        ) from None


def main(argv: Sequence[str]) -> int:
    """``python3 -m cc_kraken.boot.enable refresh|withdraw``: what the maintainer
    scripts of a package call, neither of which changes the choice."""
    actions = {"refresh": refresh, "withdraw": withdraw}
    if len(argv) != 1 or argv[0] not in actions:
        print(f"usage: python3 -m cc_kraken.boot.enable {'|'.join(actions)}")
        return 2
    return run_for_script(actions[argv[0]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
