"""Do the tests see it when a guard is broken?  ``python3 -m tests.mutations``.

Each mutation is applied to a copy of the tree, and the tests that should care
are run there until the first one fails; a table says which.  A mutation that
no test sees, or that does not fit the source any more, is a failure.  With
words as arguments: only the mutations whose title contains one of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("cc_kraken", "tests", "schema", "debian", "docs", "examples")
FILES = ("pyproject.toml", "setup.cfg", "README.md", "Makefile")

DECISION = "tests/unit/test_decision.py"
PROPERTIES = "tests/unit/test_properties.py"
WANTED = "tests/unit/test_wanted.py"
CONTENT = "tests/loop/test_content.py"
DESTROY = "tests/loop/test_destroy.py"
WITNESS = "tests/loop/test_witness.py"


@dataclass(frozen=True)
class Mutation:
    """``edits``: module, what is there (once), what is put there."""

    title: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


def change(title: str, module: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(title, ((module, old, new),), tests)


MUTATIONS = (
    change(
        "the serial is not read again before a write",
        "guard",
        "if found != device.volume_id or number != device.devno:",
        "if False:",
        DESTROY,
    ),
    Mutation(
        "mkfs comes before the intent record",
        (
            (
                "steps",
                'Write and flush the intent record on every volume of the set.\n\n'
                '    ``permitted``: volumes that ``overwrite`` has just wiped.\n'
                '    """\n\n    phase: ClassVar[str] = ASSEMBLE',
                'Late."""\n\n    phase: ClassVar[str] = MKFS',
            ),
            ("decision", "return [write, make, erase], made\n        if isinstance("
             "content, Known) and", "return [make, write, erase], made\n        if "
             "isinstance(content, Known) and"),
        ),
        (PROPERTIES,),
    ),
    change(
        "the record is erased before mkfs",
        "formatting",
        "return [make, erase], made",
        "return [erase, make], made",
        PROPERTIES,
    ),
    change(
        "a proof holds also after a write",
        "witness",
        "if seen is not None and now == seen.testimony else None",
        "if seen is not None else None",
        WITNESS,
    ),
    change(
        "a proof holds also where the kernel does not see every write",
        "witness",
        "if not TRUSTED.fullmatch(os.path.basename(directory)):",
        "if False:",
        WITNESS,
    ),
    change(
        "a write beside the record is taken for the record's",
        "witness",
        "!= seen.testimony:",
        "!= seen.testimony and False:",
        WITNESS,
    ),
    change(
        "what blkid and wipefs do not know counts as blank",
        "content",
        "        return self._proof()\n",
        "        return self._look(Blank())\n",
        CONTENT,
    ),
    change(
        "the last 16 MiB are not read",
        "places",
        "    yield size - EDGE, size\n",
        "",
        "tests/unit/test_places.py",
        CONTENT,
    ),
    change(
        "no samples are drawn",
        "content",
        "rest = places.samples(size, self.rng)",
        "rest = ()",
        CONTENT,
    ),
    change(
        "a read error counts as zeros",
        "content",
        "        return _Piece(start, in_the_way=error.offset, error=str(error))",
        "        return None",
        CONTENT,
    ),
    change(
        "a volume made of a snapshot may be formatted",
        "formatting",
        "            if volume.origin:\n",
        "            if False:\n",
        DECISION,
        PROPERTIES,
    ),
    change(
        "an incomplete set is brought up",
        "wanted",
        "        if there == wanted:\n",
        "        if there <= wanted:\n",
        WANTED,
    ),
    change(
        "members from snapshots are mixed with others",
        "wanted",
        "if copies and len(copies) < len(self._volumes):",
        "if False:",
        WANTED,
    ),
    change(
        "volumes are attached although a member is held",
        "attaching",
        "        if troubles:\n            troubles.sort",
        "        if troubles and not free:\n            troubles.sort",
        DECISION,
        PROPERTIES,
    ),
    change(
        "overwrite permits any content",
        "formatting",
        "and given == look.fingerprint",
        "and bool(given)",
        DECISION,
        PROPERTIES,
    ),
    change(
        "the wipe does not compare the fingerprint again",
        "destroy",
        "if look.fingerprint != fingerprint:",
        "if False:",
        DESTROY,
    ),
    change(
        "the record of another volume is a licence (snapshot)",
        "content",
        "if self.volume_id and decoded.volume_id != self.volume_id:",
        "if False:",
        CONTENT,
    ),
    change(
        "the record of another set is a licence",
        "formatting",
        "            if record.identity != self.identity:\n",
        "            if False:\n",
        DECISION,
        PROPERTIES,
    ),
    change(
        "a filesystem is mounted with its intent record",
        "decision",
        "        if present:\n            return self._filesystem_of_record",
        "        if not isinstance(content, Known) and present:\n"
        "            return self._filesystem_of_record",
        DECISION,
        PROPERTIES,
    ),
    change(
        "half made needs no record",
        "content",
        "if self.ours and self.strange is None and (self.record or self.licence):",
        "if self.ours and self.strange is None:",
        CONTENT,
        DESTROY,
    ),
    change(
        "what looks like a filesystem is whole",
        "fscheck",
        "    return command.run([*words, path], timeout=None).code == 0",
        "    return True",
        "tests/loop/test_fscheck.py",
    ),
    change(
        "devices in use are written to",
        "guard",
        "    if uses:\n        raise in_use(device",
        "    if False:\n        raise in_use(device",
        DESTROY,
    ),
    change(
        "blankness is not proved again before the record",
        "guard",
        "    if isinstance(look.content, Blank):\n        return\n    if permitted",
        "    if not isinstance(look.content, HalfMade):\n        return\n"
        "    if permitted",
        DESTROY,
    ),
    change(
        "a stale member is taken for fresh",
        "arraystate",
        "if block.events + EVENT_MARGIN < freshest.events or ",
        "if ",
        "tests/unit/test_decision.py",
        PROPERTIES,
    ),
    change(
        "members of different arrays are one array",
        "arraystate",
        "    if len(uuids) != 1:",
        "    if False:",
        DECISION,
        PROPERTIES,
    ),
    change(
        "an array starts without members, unasked",
        "assembling",
        "            state.redundant\n            and self.wanted.allow_degraded\n",
        "            state.redundant\n",
        DECISION,
        PROPERTIES,
    ),
    change(
        "the volume behind / is no exception",
        "attaching",
        "            if volume in self.world.system_volumes:\n",
        "            if False:\n",
        DECISION,
    ),
    change(
        "a mirror with an empty member is created anew",
        "assembling",
        "        if len(records) != len(looks):\n            return None\n",
        "",
        DECISION,
        PROPERTIES,
    ),
)  # fmt: skip


def copy(to: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__")
            )
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, to / name)


def mutate(tree: Path, mutation: Mutation) -> str:
    """Apply it; what does not fit, or ""."""
    for module, old, new in mutation.edits:
        path = tree / "cc_kraken" / f"{module}.py"
        text = path.read_text()
        if text.count(old) != 1:
            return f"{module}.py has it {text.count(old)} times: {old.strip()!r}"
        path.write_text(text.replace(old, new))
    return ""


def first_failure(tree: Path, tests: tuple[str, ...]) -> str:
    """The first test that fails there, "" for none."""
    for one in tests:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", one],
            cwd=tree,
            env={**os.environ, "CI": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            continue
        found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.M)
        if done.returncode != 1 or found is None:
            raise RuntimeError(f"pytest of {one}:\n{done.stdout}{done.stderr}")
        return found.group(1)
    return ""


def main(words: list[str]) -> int:
    chosen = [
        one
        for one in MUTATIONS
        if not words or any(word in one.title for word in words)
    ]
    missed = 0
    with tempfile.TemporaryDirectory(prefix="cc-mutations-") as home:
        sound = Path(home) / "sound"
        copy(sound)
        used = sorted({test for one in chosen for test in one.tests})
        failing = first_failure(sound, tuple(used))
        if failing:
            print(f"without any mutation {failing} fails", file=sys.stderr)
            return 2
        for number, mutation in enumerate(chosen, 1):
            tree = Path(home) / f"m{number}"
            copy(tree)
            caught = mutate(tree, mutation)
            if caught:
                missed += 1
                caught = f"DOES NOT FIT: {caught}"
            else:
                caught = first_failure(tree, mutation.tests)
                if not caught:
                    missed += 1
                    caught = f"NOT SEEN by {', '.join(mutation.tests)}"
            print(f"{number:2} {mutation.title:55} {caught}", flush=True)
            shutil.rmtree(tree)
    print(f"{len(chosen) - missed} of {len(chosen)} mutations are seen")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
