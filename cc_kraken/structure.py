"""Structural check of a value against a JSON schema (draft-04 keywords).

The few keywords that the schema of the section uses are interpreted here, so
that a mistake can be told in one sentence, and so that a boot needs neither
jsonschema nor its import.  The tests hold it against jsonschema.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Mapping, Tuple

Schema = Mapping[str, Any]

NOTES = frozenset({"$schema", "title", "description", "default"})


@dataclass(frozen=True)
class Mistake:
    """One place where a value departs from the schema.

    ``kind``: unknown-key, type, or value.  ``path`` is dotted; ``found`` and
    ``expected`` are noun phrases; ``nearest`` is the known key that an
    unknown one resembles most, or "".
    """

    kind: str
    path: str
    found: str
    expected: str
    nearest: str = ""


def describe(value: object) -> str:
    """What a value is, as a noun phrase: ``the number 42``."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the boolean {'true' if value else 'false'}"
    if isinstance(value, (int, float)):
        return f"the number {_text(value)}"
    if isinstance(value, str):
        return f"the string {_short(repr(value))}"
    if isinstance(value, Mapping):
        return f"a mapping with {_keys(value)}" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    return f"a {type(value).__name__} ({_short(_text(value))})"


def mistakes(value: object, schema: Schema, path: str = "") -> List[Mistake]:
    """All places where ``value`` departs from ``schema``, in its own order.

    Raises ValueError for a keyword that is not interpreted here, so that a
    schema can never demand more than is checked.
    """
    unknown = set(schema) - NOTES - set(_RULES) - _OBJECT - {"type"}
    if unknown:
        raise ValueError(f"keywords that are not interpreted: {sorted(unknown)}")
    if "type" in schema and not _is(value, schema["type"]):
        return [Mistake("type", path, describe(value), _allowed(schema))]
    found: List[Mistake] = []
    for keyword, rule in _RULES.items():
        if keyword in schema:
            found.extend(rule(value, schema, path))
    if _OBJECT & set(schema):
        found.extend(_object(value, schema, path))
    return found


# ----------------------------------------------------------------- keywords

_TYPES: Dict[str, Callable[[object], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: _number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}

_WORDS = {
    "null": "nothing",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "array": "a list",
    "object": "a mapping",
}


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _types(names: object) -> Tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)  # type: ignore[arg-type]


def _is(value: object, names: object) -> bool:
    return any(_TYPES[name](value) for name in _types(names))


def _enum(value: object, schema: Schema, path: str) -> Iterable[Mistake]:
    for allowed in schema["enum"]:
        if value == allowed and isinstance(value, bool) == isinstance(allowed, bool):
            return
    yield Mistake("value", path, describe(value), _allowed(schema))


def _pattern(value: object, schema: Schema, path: str) -> Iterable[Mistake]:
    if isinstance(value, str) and not re.search(schema["pattern"], value):
        yield Mistake("value", path, describe(value), _allowed(schema))


def _minimum(value: object, schema: Schema, path: str) -> Iterable[Mistake]:
    # "not >=" so that a NaN is refused as well.
    if _number(value) and not value >= schema["minimum"]:
        yield Mistake("value", path, describe(value), _allowed(schema))


def _maximum(value: object, schema: Schema, path: str) -> Iterable[Mistake]:
    if _number(value) and not value <= schema["maximum"]:
        yield Mistake("value", path, describe(value), _allowed(schema))


def _min_length(value: object, schema: Schema, path: str) -> Iterable[Mistake]:
    if isinstance(value, str) and len(value) < schema["minLength"]:
        allowed = f"at least {schema['minLength']} character(s)"
        yield Mistake("value", path, describe(value), allowed)


def _max_length(value: object, schema: Schema, path: str) -> Iterable[Mistake]:
    if isinstance(value, str) and len(value) > schema["maxLength"]:
        allowed = f"at most {schema['maxLength']} characters"
        found = f"a string of {len(value)} characters"
        yield Mistake("value", path, found, allowed)


def _max_items(value: object, schema: Schema, path: str) -> Iterable[Mistake]:
    if isinstance(value, list) and len(value) > schema["maxItems"]:
        allowed = f"a list of at most {schema['maxItems']}"
        yield Mistake("value", path, describe(value), allowed)


def _items(value: object, schema: Schema, path: str) -> Iterable[Mistake]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from mistakes(item, schema["items"], f"{path}[{index}]")


def _object(value: object, schema: Schema, path: str) -> Iterable[Mistake]:
    """``properties``, ``patternProperties`` and ``additionalProperties``."""
    if not isinstance(value, dict):
        return
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    additional = schema.get("additionalProperties", True)
    for key, item in value.items():
        below = f"{path}.{_key(key)}" if path else _key(key)
        if not isinstance(key, str):
            allowed = "a string as key (in quotes)"
            yield Mistake("type", below, f"{describe(key)} as key", allowed)
            continue
        schemas = [properties[key]] if key in properties else []
        schemas += [patterns[one] for one in patterns if re.search(one, key)]
        for one in schemas:
            yield from mistakes(item, one, below)
        if schemas or additional is True:
            continue
        if isinstance(additional, Mapping):
            yield from mistakes(item, additional, below)
        else:
            yield _unknown_key(key, below, tuple(properties), tuple(patterns))


_RULES: Dict[str, Callable[[object, Schema, str], Iterable[Mistake]]] = {
    "enum": _enum,
    "pattern": _pattern,
    "minimum": _minimum,
    "maximum": _maximum,
    "minLength": _min_length,
    "maxLength": _max_length,
    "maxItems": _max_items,
    "items": _items,
}
_OBJECT = frozenset({"properties", "patternProperties", "additionalProperties"})


# -------------------------------------------------------------------- words

_PLAIN = "letters, digits, dots, dashes and underscores"
#: What the patterns of the schema demand, after "a string" or "a name".
PATTERN_WORDS: Mapping[str, str] = {
    "^/": "that begins with / (an absolute path)",
    "^[^/]*$": "without a slash",
    "^https?://[^ ]+$": "that begins with http:// or https:// and has no space",
    "^[a-z][a-z0-9-]{2,62}$": "like us-east-1",
    "^0?[0-7]{3,4}$": "of three or four octal digits, like 0750",
    "^vol-[0-9a-f]{8,17}$": "that is a volume id, like vol-0541e52659458f1c9",
    "^[0-9a-f]{8,128}$": "that is a fingerprint, as the error about the volume "
    "prints it",
    "^(?!vol-[0-9a-f]+$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": f"of 1 to 64 {_PLAIN}, "
    "which begins with a letter or a digit and is no volume id",
    "^(?!aws:)[A-Za-z0-9][A-Za-z0-9 +=._:/@-]{0,99}$": "of 1 to 100 letters, digits, "
    "spaces and + = . _ : / @ -, which begins with a letter or a digit and not with "
    "aws:",
}


def _in_words(pattern: str) -> str:
    return PATTERN_WORDS.get(pattern, f"that matches {pattern}")


def _unknown_key(
    key: str, path: str, known: Tuple[str, ...], patterns: Tuple[str, ...]
) -> Mistake:
    allowed = [", ".join(known)] if known else []
    allowed += [f"a name {_in_words(one)}" for one in patterns]
    near = difflib.get_close_matches(_plain(key), known, n=1, cutoff=0.6)
    expected = " or ".join(allowed)
    found = "an unknown key" if known else f"the name {_key(key)}"
    return Mistake("unknown-key", path, found, expected, near[0] if near else "")


def _plain(key: str) -> str:
    """``MountPath`` and ``mount-path`` as ``mount_path``."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return snake.lower().replace("-", "_")


def _allowed(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    words = [_WORDS[name] for name in _types(schema.get("type", ()))]
    text = " or ".join(words)
    if "minimum" in schema and "maximum" in schema:
        text += f" from {schema['minimum']} to {schema['maximum']}"
    elif "minimum" in schema:
        text += f" from {schema['minimum']} up"
    if "pattern" in schema:
        text += f" {_in_words(schema['pattern'])}"
    return text or "another value"


def _key(key: object) -> str:
    text = _text(key)
    if re.fullmatch(r"[A-Za-z0-9_-]+", text):
        return text
    return _short(repr(text))


def _keys(value: Mapping[Any, Any]) -> str:
    names = [_key(key) for key in list(value)[:4]]
    more = ", …" if len(value) > 4 else ""
    return f"the key{'s' if len(value) > 1 else ''} {', '.join(names)}{more}"


def _text(value: object) -> str:
    try:
        return str(value)
    except ValueError:
        # Python refuses to print whole numbers of thousands of digits.
        return "of thousands of digits"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "…"
