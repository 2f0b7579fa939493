"""``cc-kraken check`` beside the cloud-init of the release: the same files, and
what really arrives.  Run inside a chroot, as contract.py is; the table of files
(tests/userfiles.py) lies beside it.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Tuple

import pytest
import userfiles
import yaml
from cloudinit import handlers, helpers, user_data
from cloudinit.handlers.cloud_config import CloudConfigPartHandler
from cloudinit.handlers.jinja_template import JinjaTemplatePartHandler

from cc_kraken.boot import userdata, userparts
from cc_kraken.model import KrakenError

FILES = userfiles.FILES
REAL, RULE = userparts.CloudInit(), userparts.Rule()


def name_of(file: Any) -> str:
    return str(file.name)


def parts(reader: userparts.Rule, data: bytes) -> Any:
    """The parts, or that there is nothing to be had."""
    try:
        return reader.parts(data)
    except Exception:
        return "an error"


def told(reader: userparts.Rule, data: bytes) -> Tuple[Any, ...]:
    try:
        found = userdata.check(data, "user-data", reader)
    except KrakenError as error:
        return (str(error),)
    return ([str(one) for one in found.findings], found.notes, found.sections)


def test_cloud_init_is_asked_here() -> None:
    assert type(userparts.reader()) is userparts.CloudInit


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_the_rule_is_that_of_cloud_init(file: Any) -> None:
    assert parts(RULE, file.data) == parts(REAL, file.data)
    if "damaged" not in file.name:  # another sentence for the same error
        assert told(RULE, file.data) == told(REAL, file.data)


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
        assert parts(RULE, data) == parts(REAL, data), data


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


def merged(message: Any, directory: Path) -> Dict[str, Any]:
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


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_the_command_says_what_it_has_to_say(tmp_path: Path, debug: Any) -> None:
    """Importing cloud-init 22.4 takes away whatever logs."""
    path = tmp_path / "user-data"
    path.write_text("#cloud-config\nkraken: {volmes: {}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "cc_kraken", *debug, "check", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said = done.stderr.decode().splitlines()
    assert done.returncode == 1 and len(said) == 1, said
    assert said[0].startswith(
        f"{path}:2: [config-unknown-key] kraken.volmes is an unknown key"
    )


LOGS = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
before = logging.getLogger().handlers[:]
from cc_kraken.boot import userdata
userdata.check(b"#cloud-config\\nkraken: [\\n", "x")
assert logging.getLogger().handlers == before, logging.getLogger().handlers
assert logging.getLogger().level == logging.INFO
logging.info("still here")
assert "cloudinit.user_data" in sys.modules
"""


def test_logging_is_left_as_it_was() -> None:
    done = subprocess.run([sys.executable, "-c", LOGS], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode() == "INFO:root:still here\n"


def test_nothing_is_written_or_fetched(monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("side effect")

    monkeypatch.setattr(user_data, "read_file_or_url", refuse)
    monkeypatch.setattr(user_data.util, "write_file", refuse)
    for file in FILES:
        told(REAL, file.data)
