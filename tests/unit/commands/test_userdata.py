"""User-data in all its forms, checked before anybody boots it."""

from __future__ import annotations

import base64
import gzip
import re
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.cli import main
from cc_kraken.commands import userdata
from cc_kraken.model import KrakenError
from tests import userfiles

RIGHT = """\
#cloud-config
packages: [mdadm]
kraken:
  prefix: kafka
  volumes:
    data:
      mount_path: /data
"""
WRONG = RIGHT.replace("mount_path", "mount_pth")


def mime(*parts: tuple[str, str]) -> bytes:
    message = MIMEMultipart()
    for kind, text in parts:
        part = MIMEText(text, kind, "us-ascii")
        part.add_header("Content-Disposition", "attachment", filename=f"{kind}.txt")
        message.attach(part)
    return message.as_bytes()


def findings(data: bytes) -> list[str]:
    return [str(one) for one in userdata.check(data, "ud").findings]


def sections(data: bytes) -> int:
    return len(userdata.check(data, "ud").sections)


@pytest.mark.parametrize(
    "data",
    [
        RIGHT.encode(),
        gzip.compress(RIGHT.encode()),
        b"#cloud-config\nkraken:\n",
        mime(("cloud-config", RIGHT), ("x-shellscript", "#!/bin/sh\n")),
    ],
)
def test_what_is_right(data: bytes) -> None:
    assert (findings(data), sections(data)) == ([], 1)


def test_a_mistake_has_its_file_and_line() -> None:
    (found,) = findings(WRONG.encode())
    assert found.startswith(
        "ud:7: [config-unknown-key] kraken.volumes.data.mount_pth is an unknown key"
    )
    assert "Did you mean mount_path?" in found


@pytest.mark.parametrize(
    ("place", "written", "number"),
    [
        ("node_id: {}", "010", 8),
        ("node_id: {}", "007", 7),
        ("node_id: {}", "1_0", 10),
        ("node_id: {}", "1:30", 90),
        ("node_ids: {}", "010", 8),
        ("node_ids: {{us-east-1a: {}}}", "00", 0),
        ("boot_wait: {}", "0100", 64),
        ("volumes: {{data: {{create: {{size: {}}}}}}}", "0100", 64),
        ("volumes: {{data: {{owner: {}}}}}", "1:30", 90),
    ],
)
def test_a_number_that_yaml_reads_as_another_is_told(
    place: str, written: str, number: int
) -> None:
    (found,) = findings(f"#cloud-config\nkraken:\n  {place.format(written)}\n".encode())
    assert found.startswith("ud:3: [config-value] kraken.")
    assert f" is {written}, which YAML takes for the number {number}" in found


@pytest.mark.parametrize(
    "place",
    [
        "node_id: 10",
        "node_id: '010'",
        "boot_wait: 007",
        "volumes: {data: {create: {size: 1_000}}}",
        "volumes: {data: {owner: 0x10}}",
    ],
)
def test_a_number_that_is_what_it_looks_like(place: str) -> None:
    assert findings(f"#cloud-config\nkraken:\n  {place}\n".encode()) == []


def test_every_mistake_is_told() -> None:
    text = WRONG.replace("prefix: kafka", "boot_wait: soon")
    lines = sorted(int(one.split(":")[1]) for one in findings(text.encode()))
    assert lines == [4, 7]


def test_a_mistake_in_a_mime_part_has_the_line_of_the_whole_file() -> None:
    data = mime(("x-shellscript", "#!/bin/sh\n"), ("cloud-config", WRONG))
    (found,) = findings(data)
    line = int(found.split(":")[1])
    assert "mount_pth" in data.decode().splitlines()[line - 1]
    assert "cloud-config.txt" in found


def test_an_encoded_part_is_checked_too() -> None:
    data = mime(("cloud-config", "PLACE")).decode()
    body = base64.b64encode(WRONG.encode()).decode()
    data = data.replace(
        "Content-Transfer-Encoding: 7bit", "Content-Transfer-Encoding: base64"
    )
    (found,) = findings(data.replace("PLACE", body).encode())
    assert "mount_pth" in found


JINJA = """\
## template: jinja
#cloud-config
{% if v1.region == 'us-east-1' %}
kraken:
  prefix: {{ v1.region }}-kafka
  boot_wait: {{ ds.meta_data.wait }}
  volumes:
    data:
      mount_pth: /x
{% endif %}
"""


def test_what_a_template_fills_in_is_not_judged() -> None:
    (found,) = findings(JINJA.encode())
    assert found.startswith("ud:9: [config-unknown-key] kraken.volumes.data.mount_pth")
    assert findings(JINJA.replace("mount_pth", "mount_path").encode()) == []


def test_broken_yaml_is_a_finding_with_its_line() -> None:
    (found,) = findings(b"#cloud-config\nkraken:\n  a: [\n")
    assert found.startswith("ud:4: [config-syntax] not valid YAML")


@pytest.mark.parametrize("data", [b"#!/bin/sh\necho\n", b"\xff\xfe", b"\x1f\x8bjunk"])
def test_what_is_no_user_data_of_ours_is_said(data: bytes) -> None:
    with pytest.raises(KrakenError, match="cloud-config"):
        userdata.check(data, "ud")


@given(st.binary(max_size=300))
def test_any_bytes_end_in_findings_or_a_sentence(data: bytes) -> None:
    try:
        findings(data)
        findings(b"#cloud-config\n" + data)
    except KrakenError as error:
        assert error.trouble.remedy


@given(st.text(alphabet="kraken: {}[]\n-&*!|>%'\"#\t\\0", max_size=80))
def test_any_yaml_like_text(text: str) -> None:
    for head in ("#cloud-config\n", "## template: jinja\n#cloud-config\n"):
        findings((head + text).encode())


def test_the_command(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "user-data"
    path.write_text(WRONG)
    assert main(["check", str(path)]) == 1
    assert f"{path}:7: " in capsys.readouterr().err
    path.write_text(RIGHT)
    assert main(["check", str(path)]) == 0
    assert "is right" in capsys.readouterr().out
    path.write_text("#cloud-config\npackages: []\n")
    assert main(["check", str(path)]) == 0
    assert "no kraken section" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "absent")]) == 1


# ------------------------------------------- what cloud-init would make of it


@pytest.mark.parametrize("file", userfiles.FILES, ids=lambda file: str(file.name))
def test_what_cloud_init_takes_and_what_it_ignores(
    file: userfiles.File, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "user-data"
    path.write_bytes(file.data)
    code = main(["check", str(path)])
    told = capsys.readouterr()
    said = told.out + told.err
    for word in file.words:
        assert word in said
    assert "Traceback" not in said
    if file.verdict == userfiles.RIGHT:
        assert (code, told.err) == (0, "") and "the kraken section is right" in said
    elif file.verdict == userfiles.NONE:
        assert (code, told.err) == (0, "") and "no kraken section" in said
    else:
        assert code == 1 and "is right" not in said and "no kraken" not in said
        refused = told.err.startswith("cc-kraken: ")
        assert refused is (file.verdict == userfiles.REFUSED)
    lines = file.data.decode("utf-8", "replace").splitlines()
    for number in re.findall(r":(\d+): kraken[.\w]*\.mount_pth is", told.err):
        if any(line.strip().startswith("mount_pth") for line in lines):
            assert "mount_pth" in lines[int(number) - 1]


@pytest.mark.parametrize(
    ("name", "text", "code", "words"),
    [
        ("conf.d/a.yaml", userfiles.BODY, 0, "is right"),
        ("kraken.d/a.yaml", userfiles.MISSPELT, 1, "mount_pth"),
        ("kraken.d/a.yaml", "packages: []\n", 1, "packages"),
        ("conf.d/a.yml", userfiles.BODY, 1, "ignores"),
        ("defaults.cfg", userfiles.BODY + "packages: []\n", 0, "is right"),
        ("defaults.cfg", userfiles.JINJA + userfiles.BODY, 0, "is right"),
        ("defaults.cfg", userfiles.MISSPELT, 1, "mount_pth"),
        ("defaults.cfg", userfiles.BODY, 0, "a file for /etc/cloud/cloud.cfg.d"),
        ("user-data.cfg", "#cloud-config-archive\n- a: 1\n", 0, "no kraken section"),
        ("defaults.txt", userfiles.BODY, 1, "ignores"),
    ],
)
def test_files_that_need_no_header(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    code: int,
    words: str,
) -> None:
    """Files of ours, and those for /etc/cloud/cloud.cfg.d: by their names."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert main(["check", str(path)]) == code
    assert words in "".join(capsys.readouterr())


@pytest.mark.parametrize("text", ["&a [*a]", "&a {b: *a}", "[" * 5000])
def test_yaml_that_never_ends(text: str) -> None:
    (found,) = findings(f"#cloud-config\nkraken: {text}\n".encode())
    assert found.startswith("ud:")


# ------------------------------------------ what the schema alone lets through

FAILS: list[tuple[str, str, str]] = [
    ("volumes: {data: {mount_path: /etc}}", "config-value", "system's own"),
    ("volumes: {data: {owner: 'a b'}}", "config-value", "data.owner"),
    ("defaults: {owner: 'a b'}", "config-value", "kraken.defaults.owner"),
    ("tag_namespace: 'KRKN-IN:'", "config-value", "without the colon"),
    ("volumes: {data: {mkfs_options: [-F]}}", "mkfs-options", "'-F'"),
    ("volumes: {data: {fs_type: xfs, mkfs_options: [-f]}}", "mkfs-options", "xfs"),
    ("volumes: {data: {mount_options: noauto}}", "config-value", "noauto"),
    ("defaults: {mount_options: noauto}", "config-value", "noauto"),
    ("volumes: {data: {members: 2, raid_level: 5}}", "members-too-few", "3 members"),
    (
        "volumes: {data: {members: 2, fs_type: xfs, mount_path: /d}}",
        "raid-level-missing",
        "2 members",
    ),
    (
        "volumes: {a: {mount_path: /d}, b: {mount_path: /d}}",
        "mount-path-shared",
        "a and b",
    ),
    (
        "volumes: {data: {members: 2, volume_ids: [vol-0541e52659458f1c9]}}",
        "pin-count",
        "names 1",
    ),
    ("volumes: {data: {VolumeSize: 2}}", "config-unknown-key", "mean members?"),
    ("volumes: {data: {volume_size: 2}}", "config-unknown-key", "mean members?"),
]


@pytest.mark.parametrize(("body", "kind", "words"), FAILS)
def test_what_fails_at_boot_fails_here(body: str, kind: str, words: str) -> None:
    text = f"#cloud-config\nkraken:\n  wait: 9\n  {body}\n"
    (found,) = userdata.check(text.encode(), "f").findings
    assert found.line == 4
    assert found.text.startswith(f"[{kind}] ") and words in found.text


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "defaults: {mount_options: noatime}",
        "volumes: {data: {members: 3}}",
        "volumes: {data: {mkfs_options: [-m, reflink=0], mount_options: noatime}}",
        "volumes: {a: {mount_path: /d}, b: {mount_path: /d/b}, c: {}}",
    ],
)
def test_what_the_tags_may_complete_is_right(body: str) -> None:
    text = f"#cloud-config\nkraken:\n  {body}\n"
    assert userdata.check(text.encode(), "f").findings == []


@pytest.mark.parametrize("key", ["krakn", "Kraken", "krakens"])
def test_a_misspelt_top_level_key(key: str) -> None:
    text = f"#cloud-config\nusers: []\n{key}: {{}}\n"
    (found,) = userdata.check(text.encode(), "f").findings
    assert (found.line, f"{key} is an unknown key" in found.text) == (3, True)
