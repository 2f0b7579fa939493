"""The key ``kraken`` in cloud-init's own schema.

cloud-init has no hook for a foreign key: since 23.4 user-data with one ends
in a degraded boot.  A file with our key, made from cloud-init's, takes the place
of its schema; cloud-init's own lies beside it as ``….distrib``.  On Debian and
Ubuntu that is a diversion (dpkg-divert(1)).  rpm has none: there an upgrade of
cloud-init puts its own file back, our trigger follows, and ``rpm -V`` tells.
There is no moment without a whole file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from dataclasses import dataclass
from typing import Any, Optional

from cc_kraken.machine import command, files, schema_files
from cc_kraken.model import failure

PACKAGE = "cloud-init-kraken"
SCHEMA = (
    "usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
)
KEY = "kraken"
DEFINITION = "cc_kraken"


def schema_of_this_python() -> str:
    """Where cloud-init's schema is below ``/``: as Debian has it, elsewhere in the
    cloud-init that this Python imports."""
    if _has_dpkg():
        return SCHEMA
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec("cloudinit")
        if found is not None and found.origin:
            package = os.path.dirname(found.origin).lstrip("/")
            return os.path.join(package, "config", "schemas", os.path.basename(SCHEMA))
    return SCHEMA


@dataclass(frozen=True)
class Diversion:
    """cloud-init's ``schema`` in the file system at ``root`` (dpkg's included)."""

    root: str = "/"
    schema: str = SCHEMA

    @property
    def path(self) -> str:
        """Where cloud-init reads its schema."""
        return os.path.join(self.root, self.schema)

    @property
    def original(self) -> str:
        """Where cloud-init's own file is while ours has its place."""
        return f"{self.path}.distrib"

    @property
    def by_itself(self) -> bool:
        """Whether the key is put in unasked: dpkg keeps the two files apart."""
        return _has_dpkg()

    @property
    def registered(self) -> bool:
        return is_ours(_read(self.path))

    def register(self) -> list[str]:
        """Put our key into cloud-init's schema; returns what was done.

        Where that is not possible (no such file, a schema of another shape) it is
        left alone, and the sentence says why: the key works all the same.  Raises
        KrakenError when a file cannot be written.
        """
        left_alone, found = "cloud-init's schema is left alone", _read(self.path)
        if found is None:
            return [f"{left_alone}: there is no {self.path}."]
        owner = self._owner()
        if owner not in ("", PACKAGE):
            return [f"{left_alone}: {owner} diverts {self.path}."]
        diverted = owner == PACKAGE
        source = _read(self.original) if diverted or is_ours(found) else found
        # Without it the file is diverted, and dpkg has put none there yet.
        wanted = with_key(found if source is None else source)
        if wanted is None:
            return [f"{left_alone}: its file is not of a known shape."]
        if found == wanted and (diverted or not _has_dpkg()):
            return ["cloud-init's schema knows the key kraken already."]
        if not is_ours(found) and not diverted:
            self._keep()
        if not diverted:
            self._divert("--add")
        files.write_atomic(self.path, wanted, mode=0o644)
        said = ["cloud-init's schema knows the key kraken now."]
        if not _has_dpkg():
            said.append(f"rpm -V shows {self.path} as changed.")
        return said

    def unregister(self) -> list[str]:
        """Give the place back to cloud-init's own file; returns what was
        done.  Raises KrakenError when that fails."""
        if not any(map(os.path.exists, (self.path, self.original))):
            return []
        diverted, found = self._owner() == PACKAGE, _read(self.path)
        if not diverted and not is_ours(found):
            # The copy of a run that was cut off, or of an older cloud-init.
            if found == _read(self.original) or not _has_dpkg():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.original)
            return []
        if diverted:
            self._divert("--remove")
        if os.path.exists(self.original):
            os.rename(self.original, self.path)
        elif is_ours(_read(self.path)):
            os.unlink(self.path)
        files.sync_directory(os.path.dirname(self.path))
        return ["cloud-init's schema is its own again."]

    def _keep(self) -> None:
        """cloud-init's file gets its second name; owner and times stay as they
        are, which the package manager knows."""
        made = f"{self.original}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)
        os.link(self.path, made)
        os.rename(made, self.original)
        files.sync_directory(os.path.dirname(self.path))

    def _owner(self) -> str:
        """The package that diverts the file ("" for none)."""
        return self._dpkg_divert("--listpackage").strip()

    def _divert(self, action: str) -> None:
        words = f"--quiet --no-rename --package {PACKAGE}".split()
        self._dpkg_divert(*words, "--divert", f"/{self.schema}.distrib", action)

    def _dpkg_divert(self, *words: str) -> str:
        """What it printed of our file; "" where there is no dpkg."""
        if not _has_dpkg():
            return ""
        at = [] if self.root == "/" else [f"--root={self.root}"]
        done = command.run(["dpkg-divert", *at, *words, f"/{self.schema}"])
        if done.code != 0:
            raise failure(
                "diversion-failed",
                "dpkg-divert cannot change the diversion of cloud-init's schema: "
                f"{done.err.strip().rstrip('.')}.",
                f"It must divert /{self.schema}.",
                "Repair dpkg, or leave the schema alone: cc-kraken enable --no-schema.",
            )
        return done.out


def with_key(schema: bytes) -> Optional[bytes]:
    """cloud-init's schema with our key added.  None if it has the key already, or its
    shape is unknown.

    Before 23.4 the top level permits any key; since then it names them all
    and permits no other.
    """
    full = _parsed(schema)
    definitions = full.get("$defs")
    if not isinstance(definitions, dict) or not isinstance(full.get("allOf"), list):
        return None
    if DEFINITION in definitions:
        return None
    section = schema_files.load(schema_files.SECTION)
    # Only a $ref would have to be changed below another root: it has none.
    definitions[DEFINITION] = {key: section[key] for key in section if key != "$schema"}
    full["allOf"].append({"$ref": f"#/$defs/{DEFINITION}"})
    if isinstance(full.get("properties"), dict):
        full["properties"][KEY] = {}
    names = definitions.get("all_modules")
    if isinstance(names, dict) and isinstance(names.get("enum"), list):
        names["enum"] += [KEY, DEFINITION]
    return (json.dumps(full, indent=2) + "\n").encode()


def is_ours(schema: Optional[bytes]) -> bool:
    """Whether a schema of cloud-init's has our key in it."""
    definitions = _parsed(schema or b"").get("$defs")
    return isinstance(definitions, dict) and DEFINITION in definitions


def _parsed(schema: bytes) -> dict[str, Any]:
    """A schema; nothing where it is no JSON, or no object."""
    try:
        full = json.loads(schema)
    except ValueError:
        return {}
    return full if isinstance(full, dict) else {}


def _has_dpkg() -> bool:
    return command.available("dpkg-divert")


def _read(path: str) -> Optional[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
