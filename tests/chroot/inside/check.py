"""``cc-kraken check`` beside the cloud-init of the release: the same files, and
what really arrives.  Run inside a chroot, as contract.py is; the table of files
(tests/userfiles.py) lies beside it.
"""

from __future__ import annotations

import random
from email.mime.base import MIMEBase
from pathlib import Path
from typing import Any, Callable

import pytest
import userfiles
import yaml
from cloudinit import handlers, helpers, templater, user_data, util
from cloudinit.handlers.cloud_config import CloudConfigPartHandler
from cloudinit.handlers.jinja_template import JinjaTemplatePartHandler

from cc_kraken.commands.userparts import INCLUDE, Part, is_template, parts, starts

FILES = userfiles.FILES
Reader = Callable[[bytes], list[Part]]


def name_of(file: Any) -> str:
    return str(file.name)


class Processor(user_data.UserDataProcessor):
    """cloud-init's own, which fetches nothing."""

    def __init__(self) -> None:
        pass

    def _do_include(self, content: str, append_msg: Any) -> None:
        part = MIMEBase(*INCLUDE.split("/"))
        part.set_payload("")
        self._attach_part(append_msg, part)


def real_parts(data: bytes) -> list[Part]:
    found = []
    for part in Processor().process(data).walk():
        if part.get_content_maintype() == "multipart":
            continue
        content = util.fully_decoded_payload(part)
        if isinstance(content, bytes):
            content = content.decode("utf-8", "surrogateescape")
        merges = bool(part.get("Merge-Type") or part.get("X-Merge-Type"))
        kind, name = part.get_content_type(), part.get_filename() or ""
        found.append(Part(kind, name, content or "", merges))
    return found


def is_real_template(text: str) -> bool:
    try:
        return bool(templater.detect_template(text)[0] == "jinja")
    except ValueError:  # another template language
        return False


def told(reader: Reader, data: bytes) -> Any:
    """The parts, or that there is nothing to be had."""
    try:
        return reader(data)
    except Exception:
        return "an error"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_the_rule_is_that_of_cloud_init(file: Any) -> None:
    assert told(parts, file.data) == told(real_parts, file.data)
    text = file.data.decode("utf-8", "replace")
    assert starts(text) == handlers.type_from_starts_with(text)
    assert is_template(text) is is_real_template(text)


@pytest.mark.parametrize("seed", range(20))
def test_the_rule_is_that_of_cloud_init_for_parts_put_together(seed: int) -> None:
    drawn = random.Random(seed)
    types = ("cloud-config", "plain", "x-shellscript", "jinja2", "yaml", "x-not")
    for _ in range(20):
        texts = [drawn.choice(FILES).data for _ in range(drawn.randrange(4))]
        some = [
            userfiles.part(
                "text/" + drawn.choice(types),
                text.decode("utf-8", "replace"),
                drawn.choice(("7bit", "base64")),
                drawn.choice(("", "a name.txt")),
            )
            for text in texts
        ]
        data = userfiles.mime(*some)
        assert told(parts, data) == told(real_parts, data), data


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_what_arrives(file: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Through cloud-init's own handlers, into its merged configuration."""
    monkeypatch.setattr(
        user_data.UserDataProcessor, "_do_include", lambda *_: None
    )  # nothing is fetched
    processor = user_data.UserDataProcessor(paths_in(tmp_path))
    try:
        message = processor.process(file.data)
    except Exception:
        assert not file.taken
        return
    assert ("kraken" in merged(message, tmp_path)) is file.taken


def paths_in(directory: Path) -> Any:
    class Source:
        def get_instance_id(self) -> str:
            return "i-1"

    run = directory / "run"
    run.mkdir(exist_ok=True)
    for name in ("instance-data.json", "instance-data-sensitive.json"):
        (run / name).write_text('{"v1": {}}')
    given = {"cloud_dir": str(directory), "run_dir": str(run)}
    return helpers.Paths(given, ds=Source())


def merged(message: Any, directory: Path) -> dict[str, Any]:
    paths = paths_in(directory)
    config = CloudConfigPartHandler(paths)
    known = helpers.ContentHandlers()
    for one in (config, JinjaTemplatePartHandler(paths, sub_handlers=[config])):
        known.register(one)
        handlers.call_begin(one, None, "always")
    told = {"handlers": known, "data": None, "frequency": "always", "excluded": []}
    handlers.walk(message, handlers.walker_callback, data=told)
    handlers.call_end(config, None, "always")
    written = Path(paths.get_ipath("cloud_config"))
    content = yaml.safe_load(written.read_text()) if written.exists() else None
    return content or {}
