"""Files that people hand in as user-data, and what cloud-init makes of them.

Read by the tests of ``cc-kraken check``, and by those that ask the cloud-init
of each release (tests/chroot).  Python 3.9, and nothing but its library.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart

RIGHT, WRONG, NONE, REFUSED = "right", "wrong", "none", "refused"
"""What ``cc-kraken check`` says: the section is right, it has a mistake, there
is none, or the file as a whole does not do what its author thinks."""


@dataclass(frozen=True)
class File:
    """``taken``: a ``kraken`` key arrives in cloud-init's configuration.
    ``words``: what the command says of it, among other things."""

    name: str
    data: bytes
    taken: bool
    verdict: str
    words: tuple[str, ...] = ()


BODY = """\
kraken:
  prefix: kafka
  volumes:
    data:
      mount_path: /data
"""
MISSPELT = BODY.replace("mount_path", "mount_pth")
GOOD = "#cloud-config\n" + BODY
BAD = "#cloud-config\n" + MISSPELT
SCRIPT = "#!/bin/sh\necho kraken: nothing\n"
JINJA = "## template: jinja\n"
IGNORED = ("cloud-init ignores",)
FOUND = ("mount_pth", "Did you mean mount_path?")


def part(kind: str, text: str, encoding: str = "7bit", name: str = "") -> str:
    """One part of a MIME file, its headers and all."""
    body = text
    if encoding == "base64":
        body = base64.b64encode(text.encode()).decode() + "\n"
    lines = [f"Content-Type: {kind}", f"Content-Transfer-Encoding: {encoding}"]
    if name:
        lines.append(f'Content-Disposition: attachment; filename="{name}"')
    return "\n".join(lines) + "\n\n" + body


def mime(*parts: str, head: str = "", version: str = "MIME-Version: 1.0\n") -> bytes:
    top = f'{head}Content-Type: multipart/mixed; boundary="=="\n{version}\n'
    return (top + "".join(f"--==\n{one}\n" for one in parts) + "--==--\n").encode()


def gzipped(kind: str, content: bytes) -> bytes:
    """A MIME file with one part that is compressed."""
    message = MIMEMultipart()
    maintype, subtype = kind.split("/")
    inner = MIMENonMultipart(maintype, subtype)
    inner.set_payload(base64.encodebytes(content).decode())
    inner["Content-Transfer-Encoding"] = "base64"
    message.attach(inner)
    return message.as_bytes()


def archive(*entries: str) -> bytes:
    return ("#cloud-config-archive\n" + "".join(entries)).encode()


def entry(text: str, **keys: str) -> str:
    lines = [f"  {key}: {value}" for key, value in keys.items()]
    content = "".join(f"    {line}\n" for line in text.splitlines())
    head = "".join(f"{line}\n" for line in lines).replace("  ", "- ", 1)
    return f"{head}  content: |\n{content}" if lines else f"- content: |\n{content}"


def indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def written(path: str, text: str, *more: str) -> bytes:
    content = "".join(f"      {line}\n" for line in text.splitlines())
    head = f"#cloud-config\nwrite_files:\n  - path: {path}\n"
    return (head + "".join(f"    {x}\n" for x in more)).encode() + (
        f"    content: |\n{content}".encode()
    )


KRAKEN_D = "/var/lib/cloud/instance/kraken.d/node.yaml"
PACKED = base64.b64encode(gzip.compress(MISSPELT.encode(), mtime=0)).decode()

FILES = (
    # ---- the first line decides
    File("plain", GOOD.encode(), True, RIGHT),
    File("a misspelt key", BAD.encode(), True, WRONG, FOUND),
    File("line ends of Windows", GOOD.replace("\n", "\r\n").encode(), True, RIGHT),
    File("blank lines first", b"\n\n" + GOOD.encode(), True, RIGHT),
    File("every line indented", indented(GOOD).encode(), True, RIGHT),
    File("indented, misspelt", indented(BAD).encode(), True, WRONG, FOUND),
    File("capitals", GOOD.replace("cloud", "Cloud").encode(), True, RIGHT),
    File("a longer word", BAD.replace("fig", "figuration").encode(), True, WRONG),
    File("three dashes", b"---\n" + GOOD.encode(), False, REFUSED, IGNORED),
    File("a comment first", b"# ours\n" + GOOD.encode(), False, REFUSED, IGNORED),
    File("a space", b"# cloud-config\n" + BODY.encode(), False, REFUSED, IGNORED),
    File("no header", BODY.encode(), False, REFUSED, ("#cloud-config", "conf.d")),
    File("no header, bare", b"kraken:\n", False, REFUSED, IGNORED),
    File("a byte order mark", b"\xef\xbb\xbf" + GOOD.encode(), False, REFUSED, IGNORED),
    File("another encoding", GOOD.encode("utf-16"), False, REFUSED, IGNORED),
    File("nothing", b"", False, NONE),
    File("no section", b"#cloud-config\npackages: []\n", False, NONE),
    File("a script", SCRIPT.encode(), False, REFUSED, ("cloud-config",)),
    File("a boothook", b"#cloud-boothook\nkraken: {}\n", False, REFUSED),
    File("an include", b"#include\nhttp://127.0.0.1:1/x\n", False, NONE, ("fetch",)),
    # ---- what is in it
    File("a list", b"#cloud-config\n- kraken: {}\n", False, WRONG, ("mapping",)),
    File("broken YAML", b"#cloud-config\nkraken:\n  a: [\n", False, WRONG, ("YAML",)),
    File("the key twice", GOOD.encode() + BODY.encode(), True, WRONG, ("twice",)),
    File(
        "a key below it twice",
        GOOD.encode() + b"    data: {}\n",
        True,
        WRONG,
        ("kraken.volumes.data", "twice"),
    ),
    File("latin-1", GOOD.encode() + b"# \xe9\n", False, WRONG, ("YAML",)),
    # ---- gzip
    File("gzip", gzip.compress(GOOD.encode(), mtime=0), True, RIGHT),
    File("gzip, misspelt", gzip.compress(BAD.encode(), mtime=0), True, WRONG, FOUND),
    File("gzip, damaged", b"\x1f\x8bjunk", False, REFUSED, ("gzip",)),
    File(
        "gzip, twice",
        gzip.compress(gzip.compress(GOOD.encode(), mtime=0), mtime=0),
        False,
        REFUSED,
        IGNORED,
    ),
    File(
        "gzip of MIME",
        gzip.compress(mime(part("text/cloud-config", BAD)), mtime=0),
        True,
        WRONG,
        FOUND,
    ),
    # ---- jinja
    File("jinja", (JINJA + GOOD).encode(), True, RIGHT),
    File("jinja, misspelt", (JINJA + BAD).encode(), True, WRONG, FOUND),
    File("jinja, capitals", (JINJA.upper() + GOOD).encode(), True, RIGHT),
    File("jinja, a blank line after it", (JINJA + "\n" + GOOD).encode(), True, RIGHT),
    File(
        "jinja, a statement before the header",
        (JINJA + "{% set a = 1 %}\n" + BAD).encode(),
        True,
        WRONG,
        FOUND,
    ),
    File(
        "jinja, one of two",
        (JINJA + "#cloud-config\n{% if 1 %}\n" + BODY + "{% else %}\n" + BODY).encode()
        + b"{% endif %}\n",
        True,
        RIGHT,
    ),
    File(
        "jinja, without the space",
        ("##template: jinja\n" + GOOD).encode(),
        False,
        REFUSED,
        IGNORED,
    ),
    File(
        "jinja, without the second",
        ("## template:jinja\n" + GOOD).encode(),
        False,
        REFUSED,
        IGNORED,
    ),
    File(
        "jinja, a blank line before it",
        ("\n" + JINJA + GOOD).encode(),
        False,
        REFUSED,
        IGNORED,
    ),
    File(
        "jinja, another engine",
        ("## template: jinja2\n" + GOOD).encode(),
        False,
        REFUSED,
        IGNORED,
    ),
    File("jinja, no header", (JINJA + BODY).encode(), False, REFUSED, IGNORED),
    # ---- MIME
    File("MIME", mime(part("text/cloud-config", GOOD)), True, RIGHT),
    File("MIME, misspelt", mime(part("text/cloud-config", BAD)), True, WRONG, FOUND),
    File(
        "MIME, the part has no header",
        mime(part("text/cloud-config", MISSPELT)),
        True,
        WRONG,
        FOUND,
    ),
    File("MIME, text/plain", mime(part("text/plain", BAD)), True, WRONG, FOUND),
    File("MIME, a script", mime(part("text/x-shellscript", SCRIPT)), False, NONE),
    File(
        "MIME, called a script",
        mime(part("text/x-shellscript", BAD)),
        True,
        WRONG,
        FOUND,
    ),
    File(
        "MIME, base64",
        mime(part("text/cloud-config", BAD, "base64")),
        True,
        WRONG,
        FOUND,
    ),
    File(
        "MIME, gzip",
        gzipped("application/gzip", gzip.compress(BAD.encode(), mtime=0)),
        True,
        WRONG,
        FOUND,
    ),
    File(
        "MIME, gzip, no header",
        gzipped("application/x-gzip", gzip.compress(BODY.encode(), mtime=0)),
        False,
        WRONG,
        IGNORED,
    ),
    File(
        "MIME, gzip, damaged",
        gzipped("application/gzip", b"junk"),
        False,
        REFUSED,
        ("cloud-init",),
    ),
    File("MIME, YAML's type", mime(part("text/yaml", GOOD)), False, WRONG, IGNORED),
    File(
        "MIME, bytes",
        mime(part("application/octet-stream", GOOD)),
        False,
        WRONG,
        IGNORED,
    ),
    File(
        "MIME, plain text without a header",
        mime(part("text/plain", BODY), part("text/x-shellscript", SCRIPT)),
        False,
        WRONG,
        IGNORED,
    ),
    File(
        "MIME in MIME",
        mime(mime(part("text/cloud-config", BAD)).decode().replace("==", "--x")),
        True,
        WRONG,
        FOUND,
    ),
    File(
        "MIME, not multi-part",
        b"MIME-Version: 1.0\nContent-Type: text/cloud-config\n\n" + BAD.encode(),
        True,
        WRONG,
        FOUND,
    ),
    File(
        "MIME, the version in small letters",
        mime(part("text/cloud-config", BAD), version="mime-version: 1.0\n"),
        True,
        WRONG,
        FOUND,
    ),
    File(
        "MIME, no version",
        mime(part("text/cloud-config", GOOD), version=""),
        False,
        REFUSED,
        ("MIME-Version",),
    ),
    File(
        "MIME, the version too late",
        mime(part("text/cloud-config", GOOD), head=f"X-Long: {'x' * 4096}\n"),
        False,
        REFUSED,
        IGNORED,
    ),
    File(
        "MIME, a blank line first",
        b"\n" + mime(part("text/cloud-config", GOOD)),
        False,
        REFUSED,
        ("blank line",),
    ),
    File(
        "MIME, only mentioned",
        b"#cloud-config\n# mime-version: none\n" + MISSPELT.encode(),
        True,
        WRONG,
        FOUND,
    ),
    File(
        "MIME, not UTF-8",
        mime(part("text/cloud-config", GOOD)) + b"\xff\n",
        False,
        REFUSED,
        ("UTF-8",),
    ),
    File(
        "MIME, jinja",
        mime(part("text/jinja2", JINJA + BAD)),
        True,
        WRONG,
        FOUND,
    ),
    File(
        "two sections",
        mime(part("text/cloud-config", GOOD), part("text/cloud-config", GOOD)),
        True,
        WRONG,
        ("replaces",),
    ),
    File(
        "two sections that are merged",
        mime(
            part("text/cloud-config", GOOD),
            part("text/cloud-config", GOOD + "merge_how: dict(recurse_dict)+list()\n"),
        ),
        True,
        RIGHT,
    ),
    # ---- archives and patches
    File("an archive", archive(entry(GOOD)), True, RIGHT),
    File("an archive, misspelt", archive(entry(BAD)), True, WRONG, FOUND),
    File("an archive, no header", archive(entry(MISSPELT)), True, WRONG, FOUND),
    File(
        "an archive with types",
        archive(entry(SCRIPT, type="text/x-shellscript"), entry(BAD, filename="b.cfg")),
        True,
        WRONG,
        (*FOUND, "b.cfg"),
    ),
    File(
        "an archive, text/plain",
        archive(entry(BAD, type="text/plain")),
        False,
        WRONG,
        IGNORED,
    ),
    File(
        "an archive of a string",
        archive(f"- {MISSPELT!r}\n".replace("'", '"')),
        True,
        WRONG,
        FOUND,
    ),
    File("an archive, broken", archive("- a: [\n"), False, REFUSED, IGNORED),
    File("an archive, a mapping", archive("kraken: {}\n"), False, REFUSED),
    File(
        "a patch",
        b'#cloud-config-jsonp\n[{"op": "add", "path": "/kraken", "value": {}}]\n',
        True,
        NONE,
        ("patch",),
    ),
    # ---- files of ours in write_files
    File("kraken.d", written(KRAKEN_D, BODY), False, RIGHT),
    File("kraken.d, misspelt", written(KRAKEN_D, MISSPELT), False, WRONG, FOUND),
    File(
        "conf.d, misspelt",
        written("/etc/cc-kraken/conf.d/a.yaml", MISSPELT),
        False,
        WRONG,
        FOUND,
    ),
    File(
        "kraken.d, by the instance's name",
        written(KRAKEN_D.replace("instance/", "instances/i-1/"), MISSPELT),
        False,
        WRONG,
        FOUND,
    ),
    File(
        "kraken.d, another key",
        written(KRAKEN_D, "packages: []\n" + BODY),
        False,
        WRONG,
        ("packages",),
    ),
    File(
        "kraken.d, another ending",
        written(KRAKEN_D.replace(".yaml", ".yml"), BODY),
        False,
        WRONG,
        (".yaml",),
    ),
    File(
        "kraken.d, deferred",
        written(KRAKEN_D, BODY, "defer: true"),
        False,
        WRONG,
        ("defer",),
    ),
    File(
        "kraken.d, in a template",
        JINJA.encode() + written(KRAKEN_D, BODY.replace("kafka", "{{ v1.region }}")),
        False,
        RIGHT,
    ),
    File(
        "kraken.d, encoded",
        f"#cloud-config\nwrite_files:\n- path: {KRAKEN_D}\n  encoding: gz+b64\n"
        f"  content: {PACKED}\n".encode(),
        False,
        WRONG,
        FOUND,
    ),
    File(
        "kraken.d, encoded badly",
        f"#cloud-config\nwrite_files:\n- path: {KRAKEN_D}\n  encoding: gz+b64\n"
        "  content: nonsense\n".encode(),
        False,
        WRONG,
        ("gz+b64",),
    ),
    File("somebody else's file", written("/etc/x.yaml", MISSPELT), False, NONE),
)
