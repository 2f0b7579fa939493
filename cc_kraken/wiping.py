"""The order in which a content that was given up is wiped.  Pure.

The fixed places of a volume are wiped part by part, and the intent record says
before each part what the volume held from there on and behind it.  So a wipe
that was cut off can be finished, and only where nobody has written since: all
parts before the one in work read zero, and what is behind it is as it was.
"""

from __future__ import annotations

import bisect
import hashlib
from typing import Dict, Iterable, List, Mapping, Tuple

from cc_kraken import places
from cc_kraken.model import Extent

#: At most this many parts (the record has two digits for their number).
PARTS = 64
#: Hex digits of a fingerprint that a record has room for.
DIGITS = 32


def parts(size: int) -> Tuple[Tuple[Extent, ...], ...]:
    """The fixed places of a device of ``size`` bytes, in the order of the
    wipe: the end, then the beginning, then the rest.

    While the end is being wiped, the beginning is as it was; from then on
    there is nothing left that shows a signature.
    """
    pieces = [
        Extent(start, min(start + places.EDGE, place.end))
        for place in places.places(size)
        for start in range(place.start, place.end, places.EDGE)
    ]
    if len(pieces) < 4:
        return tuple((piece,) for piece in reversed(pieces))
    middle = pieces[1:-2]
    length = -(-len(middle) // (PARTS - 2))
    out = [tuple(pieces[-2:]), (pieces[0],)]
    out += [tuple(middle[at : at + length]) for at in range(0, len(middle), length)]
    return tuple(out)


def remainders(size: int, found: Mapping[int, str]) -> Tuple[str, ...]:
    """What is left from each part on, one more than there are parts.

    ``found``: digests of what is not zero, by the offset at which each was
    read, within one of the extents of ``parts(size)``.
    """
    order = parts(size)
    lines: List[List[str]] = [[] for _ in order]
    numbers = number_of(size, found)
    for at in sorted(found):
        lines[numbers[at]].append(f"{at} {found[at]}")
    left = hashlib.sha256(b"nothing").hexdigest()[:DIGITS]
    out = [left]
    for mine in reversed(lines):
        text = "\n".join([left, *mine])
        left = hashlib.sha256(text.encode("ascii")).hexdigest()[:DIGITS]
        out.append(left)
    return tuple(reversed(out))


def number_of(size: int, offsets: Iterable[int]) -> Dict[int, int]:
    """The number of the part in which each of these offsets lies."""
    pieces = sorted(
        (extent.start, number)
        for number, part in enumerate(parts(size))
        for extent in part
    )
    starts = [start for start, _ in pieces]
    return {at: pieces[bisect.bisect_right(starts, at) - 1][1] for at in offsets}
