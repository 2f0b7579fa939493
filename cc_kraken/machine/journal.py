"""Log records in journald, with fields of ours to search by.

    journalctl KRAKEN_SET=data
    journalctl KRAKEN_KIND=zone-other

The set comes with the record (``extra=of_set(name)``), the kinds of errors and
the volumes out of its text.  Not by python3-systemd: when journald hangs, that waits
without an end, and the volumes with it.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from typing import Optional

from cc_kraken.model import SET_FIELD, kinds_in

SOCKET = "/run/systemd/journal/socket"
# As syslog numbers them.
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_VOLUME = re.compile(r"\bvol-[0-9a-f]{8,17}\b")


def handler(otherwise: Optional[logging.Handler] = None) -> Optional[logging.Handler]:
    """What sends records to journald; None where there is none.

    ``otherwise``: gets the records that journald does not take.
    """
    return _Journal(otherwise) if os.path.exists(SOCKET) else None


def gets_standard_error() -> bool:
    """Whether standard error of this process is journald's (systemd.exec(5))."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def datagram(record: logging.LogRecord, text: str) -> bytes:
    """A record in journald's native protocol; a field may come several times."""
    numbers = (number for level, number in _PRIORITIES if record.levelno >= level)
    fields = [("MESSAGE", text), ("PRIORITY", str(next(numbers, 7)))]
    fields.append(("SYSLOG_IDENTIFIER", "cc-kraken"))
    name = getattr(record, SET_FIELD, None)
    if name:
        fields.append((SET_FIELD, name))
    fields += [("KRAKEN_KIND", kind) for kind in kinds_in(text)]
    fields += [("KRAKEN_VOLUME", one) for one in dict.fromkeys(_VOLUME.findall(text))]
    return b"".join(_field(key, value) for key, value in fields)


def _field(key: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return key.encode() + b"=" + data + b"\n"
    size = len(data).to_bytes(8, "little")
    return key.encode() + b"\n" + size + data + b"\n"


class _Journal(logging.Handler):
    def __init__(self, otherwise: Optional[logging.Handler]) -> None:
        super().__init__(logging.INFO)
        self._otherwise = otherwise
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = datagram(record, self.format(record))
            self._socket.sendto(data, socket.MSG_DONTWAIT, SOCKET)
        except OSError:  # it is full, gone, or the text is too long for it
            if self._otherwise is not None:
                self._otherwise.handle(record)

    def close(self) -> None:
        self._socket.close()
        super().close()
