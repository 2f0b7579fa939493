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

import contextlib
import hashlib
import importlib
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from cc_kraken.boot.clean import told
from cc_kraken.boot.cloud_init import MODULE, module_name
from cc_kraken.boot.diversion import SCHEMA, Diversion, schema_of_this_python
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, Trouble

ENTRY = ["kraken", "always"]


@dataclass(frozen=True)
class Place:
    """Where the entry goes in a list: after the first name of ``after`` that is
    there, else before the first module that ``before`` has, else at the end; but
    always behind ``behind``."""

    after: Tuple[str, ...]
    before: Tuple[str, ...]
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

Lists = Dict[str, List[object]]


@dataclass(frozen=True)
class Choice:
    """What the administrator wants of us in cloud-init."""

    modules: bool = True
    schema: Optional[bool] = None
    """None: nobody said. The schema is changed then where dpkg diverts the file."""


# ------------------------------------------------------------------ commands


def enable(schema: Optional[bool] = None, paths: Optional[Paths] = None) -> List[str]:
    """Put the module into cloud-init's lists, and remember that.

    ``schema``: whether the key goes into cloud-init's schema; None leaves it with
    what was asked for, else with what the distribution permits.  Returns sentences
    that say what was done; a second call changes nothing.  Raises KrakenError when
    the configuration of cloud-init cannot be read or the result would not take
    effect; then nothing was changed.
    """
    paths = paths or Paths()
    if schema is None and chosen(paths).schema:
        schema = True
    choice = Choice(modules=True, schema=schema)
    said = _write_lists(paths)
    remember(choice, paths)
    return said + _write_schema(choice, paths)


def disable(paths: Optional[Paths] = None) -> List[str]:
    """Take back what :func:`enable` did, and remember that it is not wanted,
    so that no upgrade brings it back."""
    paths = paths or Paths()
    configuration = os.path.join(paths.etc, "cloud", "cloud.cfg")
    if not os.path.exists(configuration) and not os.path.exists(drop_in(paths)):
        return [f"There is no cloud-init here ({configuration}): nothing to do."]
    choice = chosen(paths)
    remember(Choice(modules=False, schema=choice.schema), paths)
    return withdraw(paths)


def refresh(paths: Optional[Paths] = None) -> List[str]:
    """Do again what is enabled (after cloud-init or its configuration
    changed); nothing after ``disable``."""
    paths = paths or Paths()
    choice = chosen(paths)
    if not choice.modules:
        return ["cc-kraken was disabled here, and stays so (cc-kraken enable)."]
    return _write_lists(paths) + _write_schema(choice, paths)


def withdraw(paths: Optional[Paths] = None) -> List[str]:
    """Take back what :func:`enable` did, and leave the choice remembered as
    it is (removal of the package)."""
    from cc_kraken.act import udev_rules
    from cc_kraken.machine.files import remove

    paths = paths or Paths()
    path = drop_in(paths)
    said = diversion(paths).unregister()
    if udev_rules.remove(paths):
        # Nobody is left to keep up with volumes that are exchanged.
        said.append(f"Removed {udev_rules.location(paths)}.")
    if _read_own(path) is None:
        return ["The module is not in cloud-init's lists through us.", *said]
    remove(path)
    return [f"Removed {path}: cloud-init's own lists of modules hold again.", *said]


def stale(paths: Optional[Paths] = None) -> Optional[str]:
    """A sentence when the generated lists are older than what they were made
    from, or None (also when there are none).  Raises KrakenError when the
    configuration of cloud-init cannot be read."""
    paths = paths or Paths()
    text = _read_own(drop_in(paths))
    if text is None:
        return None
    if f"{DIGEST}{digest(effective_lists(paths))}\n" in text:
        return None
    return (
        f"{drop_in(paths)} was made from other lists of modules than"
        " cloud-init has now. Run: cc-kraken enable"
    )


def faults(paths: Optional[Paths] = None) -> List[str]:
    """Why cloud-init will not run the module at the next boot; empty: it will."""
    from cc_kraken.machine.files import read_text

    paths = paths or Paths()
    found = [text for name in NEEDED for text in _not_importable(name)]
    try:
        own = read_text(drop_in(paths))
        lists = effective_lists(paths, own=own.encode() if own else None)
        found += [
            f"The module is not in {key}. Run: cc-kraken enable"
            for key, modules in lists.items()
            if MODULE not in map(module_name, modules)
        ]
        old = stale(paths)
        found += [old] if old else []
        if chosen(paths).schema and not diversion(paths).registered:
            found.append(
                "cloud-init's schema does not know the key kraken, though --schema was"
                " asked for. Run: cc-kraken enable"
            )
    except KrakenError as error:
        found.append(str(error))
    return found


NEEDED = ("cloudinit", "boto3", "jsonschema", "yaml")


def _not_importable(name: str) -> List[str]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if name == "boto3":
            from cc_kraken.cloud.session import boto3_missing

            return [str(boto3_missing(error))]
        return [f"{sys.executable} cannot import {name}: {error}"]
    return []


# ------------------------------------------------------------- the decision


def with_entry(modules: Sequence[object], place: Place) -> List[object]:
    """``modules`` with our entry in its place, every other kept in order.

    An entry of ours that is there (an administrator's) is left as it is.
    """
    names = [module_name(item) for item in modules]
    if MODULE in names:
        return list(modules)
    # The last of a name counts: a list may have a module twice.
    behind = {name: at for at, name in enumerate(names, start=1)}
    first = [names.index(name) for name in place.before if name in names]
    at = next(
        (behind[name] for name in place.after if name in behind),
        min(first, default=len(names)),
    )
    at = max(at, behind.get(place.behind, 0))
    return [*modules[:at], list(ENTRY), *modules[at:]]


def wanted_lists(lists: Lists) -> Lists:
    """The lists that have to change, as they should be."""
    wanted = {key: with_entry(lists[key], place) for key, place in PLACES.items()}
    return {key: value for key, value in wanted.items() if value != lists[key]}


def digest(lists: Lists) -> str:
    """Identifies the lists (sha256, hex)."""
    text = json.dumps(lists, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def generated(lists: Lists, wanted: Lists) -> bytes:
    """The file that makes ``wanted`` effective, made from ``lists``."""
    import yaml

    body = yaml.safe_dump(wanted, default_flow_style=None, width=76)
    return f"{HEADER}{DIGEST}{digest(lists)}\n{body}".encode()


# ---------------------------------------------- cloud-init's configuration


def drop_in(paths: Paths) -> str:
    """The path of the generated file."""
    return os.path.join(paths.etc, "cloud", "cloud.cfg.d", DROP_IN)


def effective_lists(paths: Paths, own: Optional[bytes] = None) -> Lists:
    """cloud-init's two lists as it merges its files, without our generated
    file, or with ``own`` in its place.  Raises KrakenError."""
    files = _sources(paths)
    if own is not None:
        files[os.path.join("cloud.cfg.d", DROP_IN)] = own
    with tempfile.TemporaryDirectory(prefix="cc-kraken-") as copy:
        os.mkdir(os.path.join(copy, "cloud.cfg.d"))
        for name, data in files.items():
            with open(os.path.join(copy, name), "xb") as file:
                file.write(data)
        merged = _merged(os.path.join(copy, "cloud.cfg"), files)
    lists: Lists = {}
    for key in PLACES:
        value = merged.get(key)
        if not isinstance(value, list):
            raise _trouble(
                "cloud-config-lists",
                f"cloud-init's configuration in {paths.etc}/cloud has no list {key}"
                if value is None
                else f"{key} in {paths.etc}/cloud is not a list",
                "the list of modules that cloud-init runs in that stage",
                "Restore cloud.cfg as the package of cloud-init ships it.",
            )
        lists[key] = value
    return lists


def _sources(paths: Paths) -> Dict[str, bytes]:
    """The files that make up cloud-init's system configuration, ours left
    out, each known to be right YAML; by path below ``/etc/cloud``."""
    base = os.path.join(paths.etc, "cloud")
    names = ["cloud.cfg"]
    with contextlib.suppress(FileNotFoundError):
        names += sorted(
            os.path.join("cloud.cfg.d", name)
            for name in os.listdir(os.path.join(base, "cloud.cfg.d"))
            if name.endswith(".cfg") and name != DROP_IN
        )
    files = {}
    for name in names:
        path = os.path.join(base, name)
        if name != "cloud.cfg" and not os.path.isfile(path):
            continue  # cloud-init passes over those too
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise _trouble(
                "cloud-init-missing",
                f"there is no {path}",
                "cloud-init installed",
                "Install cloud-init (22.2 or newer), then run: cc-kraken enable",
            ) from None
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from None
        if _is_template(path, data):
            continue
        _check(path, data)
        files[name] = data
    return files


def _is_template(path: str, data: bytes) -> bool:
    """Whether it is a jinja template, which has no content before a boot.

    Raises KrakenError if it sets one of the lists: they are not known then.
    """
    if not data.lstrip().lower().startswith(b"## template:"):
        return False
    for key in PLACES:
        if key.encode() in data:
            raise _trouble(
                "cloud-config-template",
                f"{path} sets {key} by a template, so the list is known at boot only",
                "lists of modules that can be read now",
                "Set the list in a plain file, or put [kraken, always] into it"
                " by hand.",
            )
    return True


def _check(path: str, data: bytes) -> None:
    """Raise KrakenError unless the file is a YAML mapping, or empty:
    cloud-init itself would pass over it with a warning."""
    import yaml

    try:
        content = yaml.safe_load(data.decode())
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"byte {error.start} is not UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        what = getattr(error, "problem", None) or "not YAML"
        raise _unreadable(path, f"{where}{what}") from None
    if content is None:
        return
    if not isinstance(content, Mapping):
        raise _unreadable(path, "not a mapping of keys to values")
    if "conf_d" in content and os.path.basename(path) == "cloud.cfg":
        raise _trouble(
            "cloud-config-directory",
            f"{path} moves cloud.cfg.d elsewhere (conf_d)",
            "cloud.cfg.d beside it",
            "Put [kraken, always] into the lists by hand.",
        )


def _merged(path: str, files: Mapping[str, bytes]) -> Mapping[str, object]:
    """``cloud.cfg`` at ``path`` and its ``.d`` directory, merged.  Raises KrakenError
    where that takes cloud-init's own reader and there is none."""
    import yaml

    merged: Dict[str, object] = {}
    with contextlib.suppress(ImportError):
        from cloudinit import util

        merged = util.read_conf_with_confd(path)
        return merged
    # An image's file system from outside: the top level as cloud-init merges it
    # when no file says otherwise.
    for name in sorted(files, key=lambda name: (name != "cloud.cfg", name)):
        content = yaml.safe_load(files[name]) or {}
        if "merge_how" in content or "merge_type" in content:
            raise _trouble(
                "cloud-config-merge",
                f"{name} sets merge_how, and cloud-init is not importable here",
                "cloud-init's own reader",
                f"Run this with the Python of cloud-init, not {sys.executable}.",
            )
        merged.update(content)
    return merged


# ------------------------------------------------------------------- writing


def _write_lists(paths: Paths) -> List[str]:
    """Bring the generated file up to date; says what it did."""
    from cc_kraken.machine.files import remove, write_atomic

    path = drop_in(paths)
    before = _read_own(path)
    lists = effective_lists(paths)
    wanted = wanted_lists(lists)
    if not wanted:
        return [
            "cloud-init's own lists hold the module already.",
            *([f"Removed {path}."] if remove(path) else []),
        ]
    data = generated(lists, wanted)
    result = effective_lists(paths, own=data)
    if result != {**lists, **wanted}:
        raise _overruled(paths, result, wanted)
    if before is not None and before.encode() == data:
        return [f"The module is in cloud-init's lists already ({path})."]
    write_atomic(path, data, mode=0o644)
    return [
        f"{'Wrote' if before is None else 'Brought up to date:'} {path}.",
        *(f"{key}: [kraken, always] {_place(wanted[key])}." for key in wanted),
        *_later(lists[NETWORK_LIST]),
    ]


def diversion(paths: Paths) -> Diversion:
    """cloud-init's schema in the system of ``paths``."""
    root = os.path.dirname(os.path.abspath(paths.etc))
    return Diversion(root, schema_of_this_python() if root == "/" else SCHEMA)


def _write_schema(choice: Choice, paths: Paths) -> List[str]:
    """Bring cloud-init's schema to what was chosen; says what it did."""
    schema = diversion(paths)
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


def _later(modules: Sequence[object]) -> List[str]:
    """What an administrator does not expect of a list like RHEL 8's."""
    if "cc_mounts" in map(module_name, modules):
        return []
    return [
        "This cloud-init has mounts in a later stage. So its own mounts come after"
        " the volumes of this node."
    ]


def _place(modules: Sequence[object]) -> str:
    names = [module_name(item) for item in modules]
    at = names.index(MODULE)
    return f"after {names[at - 1][3:]}" if at else "at the beginning"


def _overruled(paths: Paths, result: Lists, wanted: Lists) -> KrakenError:
    """Why the generated file does not lead to the wanted lists."""
    keys = [key for key in wanted if result[key] != wanted[key]]
    later = [
        name for name in _sources(paths) if name > os.path.join("cloud.cfg.d", DROP_IN)
    ]
    found = f"{' and '.join(keys or result)} would not become what it should"
    if later:
        found += f": {', '.join(later)} in {paths.etc}/cloud comes after {DROP_IN}"
    else:
        found += f": a file in {paths.etc}/cloud merges lists (merge_how)"
    return _trouble(
        "cloud-config-overruled",
        found,
        f"{DROP_IN} to have the last word",
        "Rename that file, or put [kraken, always] into the list there by hand.",
    )


def _read_own(path: str) -> Optional[str]:
    """The generated file, None if there is none.  Raises KrakenError if
    somebody else's file has that name."""
    from cc_kraken.machine.files import read_text

    text = read_text(path)
    if text is None:
        return None
    if not text.startswith(HEADER):
        raise _trouble(
            "cloud-config-foreign",
            f"{path} was not written by cc-kraken (its first lines differ)",
            "a file of ours, or none",
            "Move it out of the way.",
        )
    return text


# ---------------------------------------------------------------- the choice


def _choice_path(paths: Paths) -> str:
    return os.path.join(paths.etc, "cc-kraken", "enable.json")


def chosen(paths: Optional[Paths] = None) -> Choice:
    """What was chosen here; everything if nobody chose yet."""
    from cc_kraken.machine.files import read_text

    path = _choice_path(paths or Paths())
    text = read_text(path)
    if text is None:
        return Choice()
    try:
        content = json.loads(text)
        schema = content["schema"]
        return Choice(
            bool(content["modules"]), None if schema is None else bool(schema)
        )
    except (ValueError, KeyError, TypeError):
        raise _trouble(
            "choice-unreadable",
            f"{path} is not what cc-kraken wrote",
            '{"modules": true or false, "schema": true, false or null}',
            "Remove it, and run: cc-kraken enable (or disable)",
        ) from None


def remember(choice: Choice, paths: Optional[Paths] = None) -> None:
    """Write down what was chosen, if it is not written yet."""
    from cc_kraken.machine.files import make_directories, write_atomic

    paths = paths or Paths()
    path = _choice_path(paths)
    if os.path.exists(path) and chosen(paths) == choice:
        return
    make_directories(os.path.dirname(path))
    text = json.dumps(asdict(choice), sort_keys=True) + "\n"
    write_atomic(path, text.encode(), mode=0o644)


# -------------------------------------------------------------------- helpers


def _trouble(kind: str, found: str, expected: str, remedy: str) -> KrakenError:
    return KrakenError(Trouble(kind, found, expected, remedy))


def _unreadable(path: str, why: str) -> KrakenError:
    return _trouble(
        "cloud-config-unreadable",
        f"{path}: {why}",
        "a readable file of cloud-init's configuration",
        "Nothing was changed. Repair it, then run: cc-kraken enable",
    )


# ------------------------------------------------- for the package's scripts


def main(argv: Sequence[str]) -> int:
    """``python3 -m cc_kraken.boot.enable refresh|withdraw``: what the maintainer
    scripts of a package call, neither of which changes the choice."""
    actions = {"refresh": refresh, "withdraw": withdraw}
    if len(argv) != 1 or argv[0] not in actions:
        print(f"usage: python3 -m cc_kraken.boot.enable {'|'.join(actions)}")
        return 2
    return told(actions[argv[0]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
