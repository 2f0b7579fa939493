"""The EC2 query protocol: parameters in, XML out, filters and pages.

Shapes: botocore's service model ec2/2016-11-15.  Rules of filters:
"List and filter your resources" in the EC2 user guide.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from re import Pattern
from typing import (
    Any,
    Callable,
    Optional,
    TypeVar,
)
from xml.sax.saxutils import escape

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
T = TypeVar("T")


class Ec2Error(Exception):
    """An error as EC2 answers it: code, text and HTTP status."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.status = status


# --------------------------------------------------------------- parameters


def nest(flat: Mapping[str, str]) -> dict[str, Any]:
    """``{"Filter.1.Name": "x"}`` to ``{"Filter": [{"Name": "x"}]}``."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        node = tree
        *parents, leaf = name.split(".")
        for part in parents:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise Ec2Error("InvalidParameter", f"The parameter {name} is invalid")
            node = child
        node[leaf] = value
    return {name: _lists(value) for name, value in tree.items()}


def _lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(key.isdigit() for key in node):
        return [_lists(node[key]) for key in sorted(node, key=int)]
    return {key: _lists(value) for key, value in node.items()}


def boolean(value: Optional[str], default: bool = False) -> bool:
    """A boolean parameter; EC2 takes true and false in any case."""
    if value is None:
        return default
    if value.lower() not in ("true", "false"):
        raise Ec2Error(
            "InvalidParameterValue", f"Value ({value}) is invalid. Expected a boolean."
        )
    return value.lower() == "true"


def integer(name: str, value: Optional[str]) -> Optional[int]:
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise Ec2Error(
            "InvalidParameterValue",
            f"Value ( {value} ) for parameter {name} is invalid. "
            "Parameter must be an integer.",
        ) from None


# ---------------------------------------------------------------------- XML


def _request_id() -> str:
    bits = f"{random.getrandbits(128):032x}"
    return "-".join((bits[:8], bits[8:12], bits[12:16], bits[16:20], bits[20:]))


def moment(seconds: float) -> str:
    """A time as EC2 writes it."""
    when = datetime.fromtimestamp(seconds, timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def xml(name: str, value: Any) -> str:
    """One element; lists become ``item``s, None is left out."""
    if value is None:
        return ""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, Mapping):
        text = "".join(xml(key, member) for key, member in value.items())
    elif isinstance(value, (list, tuple)):
        text = "".join(xml("item", member) for member in value)
    else:
        text = escape(str(value))
    return f"<{name}>{text}</{name}>"


def success(action: str, members: Mapping[str, Any]) -> bytes:
    body = xml("requestId", _request_id()) + "".join(
        xml(name, value) for name, value in members.items()
    )
    root = f"{action}Response"
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{NAMESPACE}">'
    return f"{text}{body}</{root}>".encode()


def failure(error: Ec2Error) -> bytes:
    inner = xml("Errors", {"Error": {"Code": error.code, "Message": error.text}})
    body = inner + xml("RequestID", _request_id())
    text = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{text}<Response>{body}</Response>".encode()


# ------------------------------------------------------------------ filters


def wildcard(pattern: str) -> Pattern[str]:
    r"""``*`` is any text, ``?`` one character, a backslash makes the next
    character literal; everything else, brackets too, is itself."""
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            parts.append(re.escape(next(characters, "\\")))
        elif character == "*":
            parts.append(".*")
        elif character == "?":
            parts.append(".")
        else:
            parts.append(re.escape(character))
    return re.compile("".join(parts), re.DOTALL)


Fields = Mapping[str, Callable[[T], Iterable[str]]]


def select(
    items: Iterable[T],
    filters: Sequence[Mapping[str, Any]],
    fields: Fields[T],
    tags: Optional[Callable[[T], Mapping[str, str]]],
) -> list[T]:
    """Filters are AND-ed, the values of one are OR-ed, cases matter.

    ``tags`` serves ``tag:KEY`` and ``tag-key`` (None: neither is known).
    """
    tests = [_test(one, fields, tags) for one in filters]
    if sum(len(one.get("Value", [])) for one in filters) > 200:
        raise Ec2Error(
            "FilterLimitExceeded",
            "The maximum number of filter values specified on a single call is 200",
        )
    return [item for item in items if all(test(item) for test in tests)]


def _test(
    one: Mapping[str, Any],
    fields: Fields[T],
    tags: Optional[Callable[[T], Mapping[str, str]]],
) -> Callable[[T], bool]:
    name = str(one.get("Name", ""))
    patterns = [wildcard(value) for value in one.get("Value", [])]
    if any(len(value) > 255 for value in one.get("Value", [])):
        raise Ec2Error(
            "InvalidParameterValue",
            "Filter value exceeds the maximum length of 255 characters",
        )
    values: Callable[[T], Iterable[str]]
    if name in fields:
        values = fields[name]
    elif tags is not None and name == "tag-key":
        by_item = tags

        def values(item: T) -> Iterable[str]:
            return by_item(item).keys()

    elif tags is not None and name.startswith("tag:"):
        by_item, key = tags, name[len("tag:") :]

        def values(item: T) -> Iterable[str]:
            found = by_item(item)
            return [found[key]] if key in found else []

    else:
        raise Ec2Error("InvalidParameterValue", f"The filter '{name}' is invalid")
    return lambda item: any(
        pattern.fullmatch(value) for value in values(item) for pattern in patterns
    )


# -------------------------------------------------------------------- pages


def scatter(key: str) -> str:
    """A sort key that shows no order, as EC2 promises none."""
    return hashlib.sha1(key.encode()).hexdigest()


def page(
    items: Sequence[T],
    key: Callable[[T], str],
    request: Mapping[str, Any],
    size: Optional[int],
) -> tuple[list[T], Optional[str]]:
    """The page that ``request`` asks for, and the token of the next one.

    A token is good for the very same request only.  It names the last item
    seen, so that items which come and go do not shift the pages.
    """
    ordered = sorted(items, key=lambda item: scatter(key(item)))
    digest = _digest(request)
    token = request.get("NextToken")
    if token:
        last = _open(token, digest)
        ordered = [item for item in ordered if scatter(key(item)) > last]
    if size is None or len(ordered) <= size:
        return ordered, None
    last = scatter(key(ordered[size - 1]))
    raw = json.dumps([digest, last]).encode()
    return ordered[:size], base64.urlsafe_b64encode(raw).decode()


def _digest(request: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in request.items() if name != "NextToken"}
    return hashlib.sha1(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _open(token: str, digest: str) -> str:
    try:
        found, last = json.loads(base64.urlsafe_b64decode(token.encode()))
        if found == digest:
            return str(last)
    except (ValueError, TypeError):
        pass  # answered below, like a token of another request
    raise Ec2Error(
        "InvalidPaginationToken",
        "The specified pagination token is not valid or is expired.",
    )
