"""Files written so that a power cut leaves the old content or the new.

Paths are plain strings, contents are bytes; text is UTF-8 in which foreign
bytes survive (``surrogateescape``).  Sources: rename(2), fsync(2), xattr(7).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from typing import Any, Optional

from cc_kraken.machine import sysfs
from cc_kraken.model import KrakenError, failure

# Attributes that a copy may not be able to carry over; losing one of them
# must not keep the file from being written.
_XATTR_TOLERATED = (
    errno.ENOTSUP,
    errno.EPERM,
    errno.EACCES,
    errno.ENODATA,
    errno.EINVAL,
)


def write_atomic(path: str, data: bytes, mode: Optional[int] = None) -> bool:
    """Make ``path`` hold exactly ``data``; True when anything was changed.

    A symbolic link stays and its target is replaced.  Mode, owner and
    extended attributes (SELinux context, ACL) of an existing file are kept;
    ``mode`` sets the permission bits, a new file without it gets 0644.
    Raises :class:`KrakenError` ``cannot-write``, and then the old content is
    in place and no temporary file is left.
    """
    try:
        return _replace(os.path.realpath(path), data, mode)
    except (OSError, ValueError) as error:
        raise cannot("write", path, error) from error


def read_text(path: str) -> Optional[str]:
    """The content of a file, line ends as they are; None without the file.

    Raises :class:`KrakenError` ``cannot-read``.
    """
    try:
        return decode(sysfs.read(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise cannot("read", path, error) from error


def read_json(path: str) -> Any:
    """What a file of ours says; None without the file, or where it is no JSON.

    Raises :class:`KrakenError` ``cannot-read``.
    """
    try:
        return json.loads(read_text(path) or "null")
    except ValueError:
        return None


def write_json(path: str, content: object) -> bool:
    """Like :func:`write_atomic`; makes its directory, too."""
    make_directories(os.path.dirname(path))
    data = json.dumps(content, indent=2, sort_keys=True) + "\n"
    return write_atomic(path, data.encode(), 0o644)


def remove(path: str) -> bool:
    """Remove a file (a link: the link) for good; True when it was there.

    Raises :class:`KrakenError` ``cannot-write``.
    """
    try:
        os.unlink(path)
        sync_directory(os.path.dirname(path) or ".")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise cannot("write", path, error) from error
    return True


def make_directories(path: str) -> None:
    """Make a directory of ours and its parents, as far as they are missing.

    Raises :class:`KrakenError` ``cannot-write``.
    """
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except (OSError, ValueError) as error:
        raise cannot("write", path, error) from error


def decode(data: bytes) -> str:
    """Text of ``data`` from which :func:`encode` makes the same bytes."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes of ``text`` (see :func:`decode`)."""
    return text.encode("utf-8", "surrogateescape")


def unusable(kind: str, path: str, error: OSError, expected: str) -> KrakenError:
    """The error for a path that leads to something else than ``expected``."""
    return failure(
        kind=kind,
        found=f"{path!r} cannot be used: {error.strerror or error}.",
        expected=f"It must be {expected}.",
        remedy="Correct this or choose another path, then: cc-kraken apply.",
    )


def _replace(path: str, data: bytes, mode: Optional[int]) -> bool:
    old: Optional[os.stat_result] = None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(path)
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    directory, base = os.path.split(path)
    prefix = f".{base}.kraken-"
    _remove_leftovers(directory, prefix)
    if old is not None and sysfs.read(path) == data:
        if mode is None or stat.S_IMODE(old.st_mode) == mode:
            return False
        os.chmod(path, mode)
        return True
    descriptor, temporary = tempfile.mkstemp("", f"{prefix}{os.getpid()}-", directory)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            _keep_attributes(path, old, descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory)
    return True


def _keep_attributes(
    path: str,
    old: Optional[os.stat_result],
    descriptor: int,
    mode: Optional[int],
) -> None:
    if old is None:
        os.fchmod(descriptor, 0o644 if mode is None else mode)
        return
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    # Not shutil.copystat: it ends with an error where SELinux refuses a label.
    for name in os.listxattr(path):
        try:
            os.setxattr(descriptor, name, os.getxattr(path, name))
        except OSError as error:
            if error.errno not in _XATTR_TOLERATED:
                raise
    # After the ACL, which carries permission bits of its own.
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode) if mode is None else mode)


def _remove_leftovers(directory: str, prefix: str) -> None:
    """Remove what a run left behind that was killed while it wrote."""
    for name in sysfs.names(directory):
        pid = name[len(prefix) :].partition("-")[0]
        gone = pid.isdigit() and not os.path.exists(f"/proc/{pid}")
        if name.startswith(prefix) and gone:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, name))


def sync_directory(path: str) -> None:
    descriptor = os.open(path or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_REMEDIES = {
    errno.ENOSPC: "Make room on that filesystem, then: cc-kraken apply.",
    errno.EDQUOT: "Raise the quota or remove files, then: cc-kraken apply.",
    errno.EROFS: "Make that filesystem writable, then: cc-kraken apply.",
    errno.EACCES: "Run the command with sudo.",
    errno.EPERM: "Check that it is not immutable (lsattr). Run the command with sudo.",
    errno.ENOENT: "Make its directory, then: cc-kraken apply.",
    errno.EBUSY: "A bind mount over that file keeps it as it is: unmount that.",
}


def cannot(verb: str, path: str, error: Exception) -> KrakenError:
    """``cannot-read`` or ``cannot-write``, with what helps against this error."""
    number = getattr(error, "errno", None) or 0
    return failure(
        kind=f"cannot-{verb}",
        found=f"{path!r} cannot be {'written' if verb == 'write' else 'read'}: "
        f"{getattr(error, 'strerror', '') or error}.",
        expected=f"It must be {'writable' if verb == 'write' else 'readable'}.",
        remedy=_REMEDIES.get(number, "Correct this, then: cc-kraken apply."),
    )
