"""The ``kraken:`` section: merged from its sources, checked, made a value.

Sources, weakest first: the files of images and administrators
(``/etc/cc-kraken/conf.d/*.yaml``), what cloud-init merged, the files that
``write_files`` made in this boot (``kraken.d/*.yaml`` of the instance).  A
file holds the section as cloud-config does, under a top-level ``kraken:``.
Mappings are merged key by key, everything else is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional, Union, cast

from cc_kraken.config.validation import Mistake, describe, mistakes
from cc_kraken.config.values import odd_character
from cc_kraken.machine import files, schema_files
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Ec2Options, KrakenError, Section, Trouble, failure

KEY = "kraken"
CLOUD_CONFIG = "cloud-init's configuration (user-data or /etc/cloud)"
TELLS_LINES = (
    "For user-data, cc-kraken check /var/lib/cloud/instance/user-data.txt tells the "
    "lines."
)
"""cloud-init merges, and knows no lines."""
MOST_NAMED = 9  # mistakes


@dataclass(frozen=True)
class Source:
    """One place that says something: ``value`` is what stands under
    ``kraken:``, ``name`` is how an error calls the place."""

    name: str
    value: object


def load(cfg: Optional[Mapping[str, Any]], paths: Paths) -> Optional[Section]:
    """The section of this machine, or None when nobody asks for the module.

    ``cfg`` is cloud-init's merged configuration.  Without the key and without
    files nothing else is imported.  An ``enabled: false`` of the strongest
    source that mentions it is obeyed without a look at the weaker ones, so
    that a broken image can always be switched off.  Raises KrakenError, kind
    ``config-unreadable``, ``config-syntax``, ``config-unknown-key``,
    ``config-type`` or ``config-value``.
    """
    strongest = _files(os.path.join(paths.instance, "kraken.d"))
    weakest = _files(os.path.join(paths.etc, "cc-kraken", "conf.d"))
    asked = cfg is not None and KEY in cfg
    if not asked and not strongest and not weakest:
        return None
    sources: list[Source] = []
    for name in reversed(strongest):
        sources.extend(_read(name))
    if not _switched_off(sources) and cfg is not None and asked:
        sources.append(Source(CLOUD_CONFIG, cfg[KEY]))
    if not _switched_off(sources):
        for name in reversed(weakest):
            if not _switched_off(sources):
                sources.extend(_read(name))
    sources.reverse()
    return build(sources, _found_right(paths))


def build(sources: Sequence[Source], right: str = "") -> Optional[Section]:
    """The section that ``sources``, weakest first, make together; None when
    there is none.  Raises KrakenError like :func:`load`.

    ``right``: the :attr:`Section.sources` that were checked before; they are
    not checked again, so that a reboot needs no jsonschema.
    """
    if not sources:
        return None
    if _switched_off(tuple(reversed(sources))):
        return _off(sources)
    merged: dict[str, Any] = {}
    seen = _fingerprint(sources)
    for source in sources:
        if not seen or seen != right:
            _refuse(source, check(source.value))
        merged = _merge(merged, _without_nothing(source.value))
    return replace(_section(merged), sources=seen)


def check(value: object) -> list[Mistake]:
    """All mistakes in what stands under ``kraken:``; empty when it is right.

    Every part of a merged section is right or wrong by itself, because the
    schema demands no key.
    """
    section = schema_files.load(schema_files.SECTION)["properties"][KEY]
    found = mistakes(value, section, KEY)
    return found or _odd_characters(value, KEY)


def wrong(value: object) -> list[tuple[str, Trouble]]:
    """What is right by the schema and fails all the same, with its key: values that
    are unfit, sets that contradict themselves or one another."""
    from cc_kraken.config import wish

    return wish.wrong(_section(_without_nothing(value)))


def trouble(name: str, found: Sequence[Mistake]) -> Trouble:
    """The mistakes of one source, in sentences."""
    first, others = found[0], found[1:]
    remedies = [_remedy(first)] + ["Also wrong:"][: len(others)]
    for one in others[: MOST_NAMED - 1]:
        wish = "" if one.kind == "unknown-key" else f"; expected {one.expected}"
        remedies.append(f"{one.path} is {one.found}{wish}. {_remedy(one)}")
    if len(found) > MOST_NAMED:
        remedies.append(f"And {len(found) - MOST_NAMED} more.")
    if name == CLOUD_CONFIG:
        remedies.append(TELLS_LINES)
    return Trouble(
        f"config-{first.kind}",
        f"{first.path} is {first.found} in {name}",
        first.expected,
        " ".join(remedies),
    )


def parse(text: str, name: str) -> list[Source]:
    """The sources in the text of one file: none when it says nothing.

    ``name`` is the file, for errors; KrakenError ``config-syntax`` (with the
    line), ``config-type`` or ``config-unknown-key``.
    """
    document = _yaml(text, name)
    if document is None:
        return []
    if not isinstance(document, dict):
        raise failure(
            "config-type",
            f"{name} holds {describe(document)}",
            f"a mapping with the key {KEY}",
            f"Put the section under a top-level {KEY}: in that file.",
        )
    foreign = [key for key in document if key != KEY]
    if foreign:
        key = foreign[0]
        raise failure(
            "config-unknown-key",
            f"{name} has the top-level key {key!r}",
            f"{KEY} alone",
            f"Put the section under a top-level {KEY}: in that file.",
        )
    return [Source(name, document[KEY])] if KEY in document else []


def of_cloud_config(name: str) -> object:
    """What stands under ``kraken:`` in a file with a whole cloud-config.  Raises
    KrakenError."""
    try:
        with open(name, encoding="utf-8") as file:
            document = _yaml(file.read(), name)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(name, error) from error
    if isinstance(document, dict) and KEY in document:
        value: object = document[KEY]
        return value
    raise failure(
        "config-type",
        f"{name} has no section {KEY}",
        "a cloud-config with a section kraken",
        "Name the file that has it.",
    )


# -------------------------------------------------------------------- files


def _files(directory: str) -> tuple[str, ...]:
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise _unreadable(directory, error) from error
    found = sorted(name for name in names if name.endswith(".yaml"))
    return tuple(os.path.join(directory, name) for name in found)


def _read(name: str) -> list[Source]:
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(name, error) from error
    return parse(text, name)


def _unreadable(name: str, error: Exception) -> KrakenError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return failure(
        "config-unreadable",
        f"{name} cannot be read ({reason}).",
        "It must be a readable YAML file in UTF-8.",
        "Repair or remove it.",
    )


def _yaml(text: str, name: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except Exception as error:
        # Not only YAMLError: PyYAML lets ValueError, KeyError and others out
        # of its constructors.
        line, problem = yaml_problem(error)
        raise failure(
            "config-syntax",
            f"{name}{f' line {line}' if line else ''} is not valid YAML ({problem}).",
            f"It must be a mapping with the key {KEY}.",
            "Correct the file.",
        ) from error


def yaml_problem(error: Exception) -> tuple[int, str]:
    """The line (from 1; 0 where none is known), and what PyYAML says of it."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or repr(error)
    return mark.line + 1 if mark else 0, " ".join(str(problem).split())


# ------------------------------------------------------------------ merging


def _switched_off(strongest_first: Sequence[Source]) -> bool:
    for source in strongest_first:
        if isinstance(source.value, dict) and "enabled" in source.value:
            return source.value["enabled"] is False
    return False


def _off(sources: Sequence[Source]) -> Section:
    """Obeyed whatever else is wrong: a mistake may be why nobody switches it on."""
    only = {"enabled": False}
    said = [one for one in sources if "enabled" in _without_nothing(one.value)]
    mistakes = []
    for source in (one for one in sources if one.value != only):
        try:
            _refuse(source, check(source.value))
        except KrakenError as error:  # also without jsonschema
            mistakes.append(str(error))
    return Section(
        enabled=False,
        digest=_digest(only),
        off_by=said[-1].name,
        mistakes=" ".join(mistakes),
    )


def _without_nothing(value: object) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _merge(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(weak)
    for key, value in strong.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(below, value)
        elif isinstance(below, dict) and value is None:
            # A bare "volumes:" says nothing; it takes nothing away.
            continue
        else:
            merged[key] = value
    return merged


# ----------------------------------------------------------------- checking


def _fingerprint(sources: Sequence[Source]) -> str:
    """SHA-256 (hex) of the sources and of the schema that judges them; "" for values
    that Python does not print.

    Not the JSON of the whole: it does not tell 7 from "7" as a key, nor show what
    a stronger source hides.
    """
    schema = os.stat(schema_files.path(schema_files.SECTION))
    said = [source.value for source in sources]
    try:
        text = repr([schema.st_size, schema.st_mtime_ns, said])
    except (RecursionError, ValueError):
        return ""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _found_right(paths: Paths) -> str:
    """The fingerprint of what the last good run was told; "" if there is none.

    It permits nothing but to skip the schema: what was right once is so here, too.
    """
    try:
        return files.read_text(paths.checked) or ""
    except KrakenError:
        return ""


def _refuse(source: Source, found: Sequence[Mistake]) -> None:
    if found:
        raise KrakenError(trouble(source.name, found))


def _odd_characters(value: object, path: str) -> list[Mistake]:
    """Control and direction characters in any string, keys included."""
    if isinstance(value, str):
        odd = odd_character(value)
        if odd:
            allowed = "a string without control characters"
            return [Mistake("value", path, f"a string with {odd}", allowed)]
        return []
    if isinstance(value, dict):
        return [
            mistake
            for key, item in value.items()
            for mistake in _odd_characters(key, f"{path}.{key!r}")
            or _odd_characters(item, f"{path}.{key}")
        ]
    if isinstance(value, list):
        return [
            mistake
            for index, item in enumerate(value)
            for mistake in _odd_characters(item, f"{path}[{index}]")
        ]
    return []


def _remedy(mistake: Mistake) -> str:
    if mistake.nearest:
        return f"Did you mean {mistake.nearest}?"
    if mistake.kind == "unknown-key":
        return "Remove it or correct its name."
    if mistake.path.endswith(".mode") and mistake.found.startswith("the number"):
        return (
            'Write the octal digits in quotes, as in "0750": without them '
            "YAML makes another number of it."
        )
    plain = re.match(r"(true or false|a whole number|one of \d)", mistake.expected)
    if plain and re.match(r"the string '(true|false|\d+)'$", mistake.found, re.I):
        return "Write it without quotes."
    if mistake.found.startswith("the number") and "a string" in mistake.expected:
        return "Write it in quotes."
    return "Correct the value."


# ---------------------------------------------------------------- the value


def _section(merged: Mapping[str, Any]) -> Section:
    ec2 = merged.get("ec2") or {}
    volumes = merged.get("volumes") or {}
    plain = Section()
    prefix = merged.get("prefix")
    node_id = merged.get("node_id")
    return Section(
        enabled=merged.get("enabled", plain.enabled),
        tag_namespace=merged.get("tag_namespace", plain.tag_namespace),
        prefix=None if prefix is None else prefix.strip(),
        node_id=None if node_id is None else str(node_id).strip(),
        node_ids=_node_ids(merged.get("node_ids", plain.node_ids)),
        claim_order=merged.get("claim_order", plain.claim_order),
        dry_run=merged.get("dry_run", plain.dry_run),
        boot_wait=merged.get("boot_wait", plain.boot_wait),
        wait=merged.get("wait", plain.wait),
        final_wait=merged.get("final_wait", plain.final_wait),
        blank_proof=merged.get("blank_proof", plain.blank_proof),
        metrics=merged.get("metrics", plain.metrics),
        ec2=Ec2Options(
            region=ec2.get("region"),
            endpoint_url=ec2.get("endpoint_url"),
            ca_bundle=ec2.get("ca_bundle"),
            https_proxy=ec2.get("https_proxy"),
            use_dualstack=ec2.get("use_dualstack"),
            use_fips=ec2.get("use_fips"),
        ),
        defaults=dict(merged.get("defaults") or {}),
        volumes={name: dict(item or {}) for name, item in volumes.items()},
        digest=_digest(merged),
    )


def _node_ids(said: object) -> Union[str, Mapping[str, str]]:
    if isinstance(said, Mapping):
        return {zone: str(one) for zone, one in said.items()}
    return str(said)


def _digest(merged: Mapping[str, Any]) -> str:
    text = json.dumps(merged, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
