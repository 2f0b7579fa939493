"""What is wrong with a section, in words: jsonschema finds it, this tells it.

jsonschema (3.2 to 4.x) says "1 is not of type 'string'".  Whoever reads the error
of a boot needs more: which key, what was found, what is expected, and which key
was probably meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cc_kraken.model import failure

Schema = Mapping[str, Any]


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


def mistakes(value: object, schema: Schema, path: str = "") -> list[Mistake]:
    """All places where ``value`` departs from ``schema``: of each mapping its
    unknown keys first, then in the order of the schema.

    Raises KrakenError ``jsonschema-missing``.
    """
    try:
        errors = list(_validator(schema).iter_errors(value))
    except (RecursionError, ValueError):  # Python prints neither in a message
        expected = "numbers with fewer digits, and fewer levels"
        return [Mistake("value", path, "too large to be printed", expected)]
    found = [mistake for error in errors for mistake in _mistakes(error, path)]
    # What is said about the value is no help while its type is wrong.
    wrong = {mistake.path for mistake in found if mistake.kind == "type"}
    return [one for one in found if one.kind == "type" or one.path not in wrong]


def describe(value: object) -> str:
    """What a value is, as a noun phrase: ``the number 42``."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the boolean {'true' if value else 'false'}"
    if isinstance(value, (int, float)):
        return f"the number {_short(_text(value))}"
    if isinstance(value, str):
        size = f" of {len(value)} characters" if len(value) > 80 else ""
        return f"the string{size} {_short(repr(value))}"
    if isinstance(value, Mapping):
        return f"a mapping with {_keys(value)}" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    return f"a {type(value).__name__} ({_short(_text(value))})"


def _validator(schema: Schema) -> Any:
    try:
        import jsonschema
    except ImportError as error:
        raise failure(
            "jsonschema-missing",
            f"Python's jsonschema cannot be imported ({error}).",
            "The system's own Python must have jsonschema 3.2 or later.",
            "Install the package python3-jsonschema.",
        ) from None
    draft: Any = jsonschema.Draft4Validator
    validators: Any = jsonschema.validators
    # YAML has keys that are no strings, and jsonschema's patterns fail on them.
    checker = draft.TYPE_CHECKER.redefine(
        "object",
        lambda _, value: (
            isinstance(value, dict) and all(isinstance(key, str) for key in value)
        ),
    )
    return validators.extend(draft, type_checker=checker)(schema)


def _mistakes(error: Any, path: str) -> Iterator[Mistake]:
    """The mistakes in one of jsonschema's errors."""
    keyword, value, schema = error.validator, error.instance, error.schema
    for key in error.absolute_path:
        path += f"[{key}]" if isinstance(key, int) else _below(path, key)
    if keyword == "additionalProperties" or (
        keyword == "type" and isinstance(value, dict) and "object" in _types(schema)
    ):
        for key in value:
            if not _is_known(key, schema):
                yield _odd_key(key, path + _below(path, key), schema)
        return
    kind = "type" if keyword == "type" else "value"
    limit = _LIMITS.get(keyword, "").format(error.validator_value)
    yield Mistake(kind, path, describe(value), limit or _allowed(schema))


def _is_known(key: object, schema: Schema) -> bool:
    patterns = schema.get("patternProperties", ())
    return isinstance(key, str) and (
        key in schema.get("properties", ())
        or any(re.search(pattern, key) for pattern in patterns)
    )


def _odd_key(key: object, path: str, schema: Schema) -> Mistake:
    if not isinstance(key, str):
        allowed = "a string as key (in quotes)"
        return Mistake("type", path, f"{describe(key)} as key", allowed)
    known = tuple(schema.get("properties", ()))
    allowed = ", ".join(known)
    for pattern in schema.get("patternProperties", ()):
        allowed += f"{' or ' if allowed else ''}a name {_in_words(pattern)}"
    plain = _OLDER_NAMES.get(_plain(key), _plain(key))
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    found = "an unknown key" if known else f"the name {_key(key)}"
    return Mistake("unknown-key", path, found, allowed, near[0] if near else "")


# -------------------------------------------------------------------- words

_WORDS = {
    "null": "nothing",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "array": "a list",
    "object": "a mapping",
}

_LIMITS = {
    "minLength": "at least {} character(s)",
    "maxLength": "at most {} characters",
    "maxItems": "a list of at most {}",
}

_PLAIN = "letters, digits, dots, dashes and underscores"
#: What the patterns of the schema demand, after "a string" or "a name".
PATTERN_WORDS: Mapping[str, str] = {
    "^/": "that begins with / (an absolute path)",
    "^[^/]*$": "without a slash",
    "^https?://[^ ]+$": "that begins with http:// or https:// and has no space",
    "^[a-z][a-z0-9-]{2,62}$": "like us-east-1",
    "^[a-z][a-z0-9-]{3,62}[a-z]$": "that is a zone, like us-east-1a",
    "^[^*]*$": "of the ids of nodes, with commas, like 0,3",
    "^snap-[0-9a-f]{8,17}$": "that is a snapshot id, like snap-0541e52659458f1c9",
    "^[A-Za-z0-9][A-Za-z0-9:/_-]{0,2047}$": "that names a KMS key, like alias/data",
    "^(?![Aa][Ww][Ss]:)[A-Za-z0-9 +=._:/@-]{1,128}$": "of 1 to 128 letters, digits, "
    "spaces and + - = . _ : / @, which does not begin with aws:",
    "^0?[0-7]{3,4}$": "of three or four octal digits, like 0750",
    "^vol-[0-9a-f]{8,17}$": "that is a volume id, like vol-0541e52659458f1c9",
    "^[0-9a-f]{8,128}$": "that is a fingerprint, as the error about the volume "
    "prints it",
    "^(?!vol-[0-9a-f]+$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": f"of 1 to 64 {_PLAIN}, "
    "which begins with a letter or a digit and is no volume id",
    "^(?!aws:)[A-Za-z0-9]([A-Za-z0-9 +=._:/@-]{0,98}[A-Za-z0-9 +=._/@-])?$": "of 1 "
    "to 100 letters, digits, spaces and + = . _ : / @ -, which begins with a letter or "
    "a digit, not with aws:, and ends without the colon",
}


_OLDER_NAMES = {"volume_size": "members", "volumesize": "members"}


def _in_words(pattern: str) -> str:
    return PATTERN_WORDS.get(pattern, f"that matches {pattern}")


def _plain(key: str) -> str:
    """``MountPath`` and ``mount-path`` as ``mount_path``."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return snake.lower().replace("-", "_")


def _allowed(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    text = " or ".join(_WORDS[name] for name in _types(schema))
    if "minimum" in schema and "maximum" in schema:
        text += f" from {schema['minimum']} to {schema['maximum']}"
    elif "minimum" in schema:
        text += f" from {schema['minimum']} up"
    if "pattern" in schema:
        text += f" {_in_words(schema['pattern'])}"
    return text or "another value"


def _types(schema: Schema) -> tuple[str, ...]:
    names = schema.get("type", ())
    return (names,) if isinstance(names, str) else tuple(names)


def _below(path: str, key: object) -> str:
    return f".{_key(key)}" if path else _key(key)


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
