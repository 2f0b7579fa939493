"""The module as cloud-init calls it, and the runs that it starts.

Network stage: bring up what can be had in ``boot_wait``, then start
``cc-kraken.service``, which carries on without keeping anybody from logging
in.  Final stage: join that service.  By hand (``cloud-init single``): one
whole run.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional

from cc_kraken.boot import cloud_init
from cc_kraken.boot.configured import is_ec2
from cc_kraken.config import loading
from cc_kraken.machine import command, files
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Identity, KrakenError, Node, Section, Trouble, of_set
from cc_kraken.state import layout, node_env, report
from cc_kraken.state.report import (
    DONE,
    FAILED,
    OFF,
    PENDING,
    RUNNING,
    STANDBY,
    UP,
    Report,
)

if TYPE_CHECKING:
    from cc_kraken.boot.launch import Enter

LOG = logging.getLogger(__name__)

UNIT = "cc-kraken.service"
LOOK_EVERY = 0.5
ALIVE_EVERY = 5.0
HANG_GRACE = 300.0
"""Seconds that the network stage gives its run beyond ``boot_wait``: for the
longest mkfs and most checks, but not for a disk that never answers."""
NEWS_WAIT = 60.0
"""Seconds that the final stage waits for EC2 where the network stage found all in
place: the background only asks for what is new."""
MOUNT_GRACE = 10.0
"""Seconds that systemd has at a reboot to mount what fstab names."""


class Failed(RuntimeError):
    """What cloud-init shows of a boot that failed: it prints the ``repr``."""

    __repr__ = RuntimeError.__str__


def run_stage(name: object, cfg: Any, cloud: Any) -> None:
    """What cloud-init's call of the module does, with what cloud-init hands over.

    Raises RuntimeError, and nothing else, when a required set is not up.
    """
    umask = os.umask(0o022)  # what is written here is for everybody to read
    try:
        _handle(str(name), cfg, cloud)
    except (RuntimeError, KrakenError) as error:
        raise Failed(report.with_more(str(error))) from None
    except BaseException as error:  # SystemExit too: cloud-init lets it through
        raise Failed(f"cc_kraken failed: {error!r}") from error
    finally:
        os.umask(umask)


def _handle(name: str, cfg: Mapping[str, Any], cloud: Any) -> None:
    paths = Paths()
    if not is_ec2(cloud.datasource):
        return
    stage = cloud_init.stage(cloud)
    if stage == "final":
        _final(cfg, paths, cloud.datasource)
        return
    try:
        section = loading.load(cfg, paths)
    except KrakenError as error:
        _refused(paths, stage, error.trouble, report.read(paths))
        if stage == "network" and cloud_init.final_entry(cfg):
            LOG.info("%s", error)  # the final stage fails with it
            return
        raise
    if section is None:
        return
    if not section.enabled:
        _switched_off(paths, stage, section)
        return
    identity = cloud_init.identity(cloud.datasource)
    enter = cloud_init.Events(cloud, name).enter
    if stage == "network":
        _network(section, identity, paths, enter, cfg)
        return
    from cc_kraken.boot import launch

    status = launch.carry_out(section, identity, paths, stage, enter, math.inf)
    text = failures(status, pending=True)
    if text:
        raise RuntimeError(text)


def _switched_off(paths: Paths, stage: str, section: Section) -> None:
    run_report = Report(paths, stage)
    run_report.notes("", (f"Switched off by enabled: false in {section.off_by}.",))
    if section.mistakes:
        run_report.warn(f"Switched off, and wrong: {section.mistakes}")
    run_report.finish(OFF)


def _refused(
    paths: Paths,
    stage: str,
    trouble: Trouble,
    earlier: Optional[Mapping[str, Any]] = None,
    section: Optional[Section] = None,
) -> None:
    metrics = None if section is None else _metrics(section)
    run_report = Report(paths, stage, earlier=earlier, metrics=metrics)
    run_report.fail(trouble)
    run_report.finish(FAILED)


def carry_out(
    section: Section,
    identity: Identity,
    paths: Paths,
    enter: Enter,
    stage: str,
    *,
    seconds: float,
    dry_run: bool = False,
    clock: Optional[Clock] = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """One run under the machine's lock; returns its status.

    ``enter`` hears of each phase.  ``seconds``: how long it may wait; what is
    pending then has failed, but in the network stage: the background carries on.
    ``clock`` can stop the run; ``notes`` are warnings to report.
    Saves the layout after a complete run.
    """
    # Here, so that a reboot with everything in place imports none of it.
    from cc_kraken.act.run import Run
    from cc_kraken.act.waiting import Limits
    from cc_kraken.cloud.ec2 import Ec2

    clock = clock or Clock()
    final = stage != "network"
    with _locked(section, paths, stage, seconds):
        until = seconds if final else float(section.wait)
        run_report = _new_report(section, paths, stage, dry_run, until)
        limits = Limits(seconds, final, background=stage == "background")
        run = Run(
            section,
            identity,
            paths,
            run_report,
            limits,
            enter,
            Ec2(identity, section, clock.sleep),
            ask_tags=stage != "network",
            dry_run=dry_run,
            clock=clock,
        )
        for text in notes:
            run_report.warn(text)
        try:
            if stage == "network" and not dry_run:
                _forget_other(paths, identity)
            if not dry_run:
                _read_fstab(paths, run_report.warn)
            state = run.go()
        except BaseException:
            run_report.finish(FAILED)
            raise
        if not dry_run and state != STANDBY and not run_report.status["errors"]:
            _save_layout(section, identity, paths, run_report)
        return run_report.status


def _new_report(
    section: Section, paths: Paths, stage: str, dry_run: bool, until: float
) -> Report:
    # What a person asks for is no run of this boot.
    kept, earlier = stage != "plan", report.read(paths)
    new = Report(
        paths,
        stage,
        dry_run=dry_run,
        earlier=earlier,
        kept=kept,
        until=until,
        metrics=_metrics(section),
    )
    if kept and earlier and not section.metrics:
        with contextlib.suppress(KrakenError):  # of a run that was to write them
            files.remove(paths.metrics)
    new.write()
    return new


@contextlib.contextmanager
def _locked(
    section: Section, paths: Paths, stage: str, seconds: float
) -> Iterator[None]:
    """One run at a time; a plan does without the lock where another run waits."""
    from cc_kraken.state import lock  # not at every reboot

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.held(paths, seconds))
        except KrakenError as error:
            status = report.read(paths)
            if stage == "background":
                # Nobody carries on after it: who waits for a set must know.
                _refused(paths, stage, error.trouble, status, section)
            waits = status and (status["waiting_for"] or status["state"] == STANDBY)
            if stage != "plan" or section.blank_proof == "full" or not waits:
                raise
            # It only reads, each disk under its own lock, and not for long.
            LOG.info("%s", error.trouble.found)
        yield


def _metrics(section: Section) -> Optional[Callable[[Mapping[str, Any]], str]]:
    if not section.metrics:
        return None
    from cc_kraken.state import metrics  # not where nobody asks

    return metrics.text


def _save_layout(
    section: Section, identity: Identity, paths: Paths, run_report: Report
) -> None:
    try:
        layout.save(paths, section, identity, run_report.status)
    except KrakenError as error:  # it costs a boot time, and brings no set down
        run_report.warn(f"The next boot asks EC2 for what it could know: {error}")
        run_report.write()


def _forget_other(paths: Paths, identity: Identity) -> None:
    from cc_kraken.boot import clean  # not at every reboot

    try:
        for sentence in clean.forget_other(paths, identity.instance_id):
            LOG.info("%s", sentence)
    except (KrakenError, OSError) as error:  # it costs a boot time, no more
        LOG.warning("%s", error)


def _read_fstab(paths: Paths, warn: Callable[[str], None]) -> None:
    """What a run before could not make systemd read: no reason to leave volumes
    unmounted."""
    from cc_kraken.machine import systemd  # not at every reboot

    try:
        systemd.read_fstab(paths)
    except KrakenError as error:
        warn(str(error))


def failures(status: Mapping[str, Any], *, pending: bool) -> Optional[str]:
    """What a person must know of a status, as one text; None: all is well.

    ``pending``: a required set that is still awaited counts too.
    """
    pending = pending and not status["dry_run"]  # a plan brings nothing up
    texts = [entry["message"] for entry in status["errors"]]
    for name, entry in status["sets"].items():
        if not entry["required"]:
            continue
        if entry["error"]:
            texts.append(f"{name}: {entry['error']['message']}")
        elif pending and entry["state"] not in UP:
            texts.append(f"{name} is not up yet: {entry['reason']}")
    if not texts and pending and status["state"] in (PENDING, RUNNING):
        if not status["sets"] or not _all_settled(status):
            texts.append(f"not finished yet: {status['waiting_for']}")
    if not texts and status["state"] == FAILED:
        texts.append("the run failed")
    if texts and pending and status["waiting_since"]:
        texts.append(f"({report.awaited(status)})")
    text = " ".join(texts)
    return report.with_more(text) if text else None


def _all_settled(status: Mapping[str, Any]) -> bool:
    return all(entry["state"] in (*UP, "failed") for entry in status["sets"].values())


# ------------------------------------------------------------- network stage


def _network(
    section: Section,
    identity: Identity,
    paths: Paths,
    enter: Enter,
    cfg: Mapping[str, Any],
) -> None:
    try:
        kept = None if section.dry_run else _kept(paths, section, identity)
        if kept is not None:
            status = _report_kept(paths, section, identity, kept)
        else:
            status = _bring_up(section, identity, paths, enter)
    finally:  # also after a run that could not be carried through
        started = not section.dry_run and _start_background()
    text = failures(status, pending=not (started or section.dry_run))
    if text and not (started and cloud_init.final_entry(cfg)):
        raise RuntimeError(text)


def _bring_up(
    section: Section, identity: Identity, paths: Paths, enter: Enter
) -> dict[str, Any]:
    """The run of the network stage, as a program of its own; its status, or
    as far as it has come when it hangs or was killed."""
    from cc_kraken.boot import launch  # not at every reboot

    seconds = section.boot_wait + HANG_GRACE
    try:
        return launch.carry_out(section, identity, paths, "network", enter, seconds)
    except KrakenError as error:
        status = report.read(paths)
        if status is None:
            raise
        LOG.error("%s", error)
        return status


def _kept(
    paths: Paths, section: Section, identity: Identity
) -> Optional[dict[str, Any]]:
    """The saved layout, if the machine shows just that.

    systemd mounts what fstab names at the same time: what is there but not
    mounted yet is given a moment.
    """
    saved = layout.load(paths)
    if saved is None or not layout.matches(saved, section, identity):
        return None
    if layout.enlarged(paths, saved):
        LOG.info("A volume has another size than before")
        return None
    end = time.monotonic() + MOUNT_GRACE
    while True:
        if layout.mounted(paths, saved):
            return saved
        late = time.monotonic() >= end
        if late or not layout.present(paths, saved) or layout.moved(paths, saved):
            return None
        time.sleep(0.2)


def _report_kept(
    paths: Paths, section: Section, identity: Identity, saved: Mapping[str, Any]
) -> dict[str, Any]:
    run_report = Report(paths, "network", metrics=_metrics(section))
    node = saved["node"]
    run_report.identify(identity, Node(node["prefix"], node["node_id"]))
    run_report.claim(saved.get("claim"))
    for name, entry in saved["sets"].items():
        sizes = {volume: entry["sizes"].get(volume) for volume in entry["volumes"]}
        run_report.set(name, required=entry["required"]).update(
            state="mounted",
            mount_path=entry["mount_path"],
            filesystem=entry["filesystem"],
            array=entry["array"],
            volumes=[
                {"id": volume, "device": None, "size": size, "state": "in-use"}
                for volume, size in sizes.items()
            ],
        )
        text = "%s is mounted at %s (as before)"
        LOG.info(text, name, entry["mount_path"], extra=of_set(name))
    for name, text in layout.copies(paths, saved):
        run_report.warn(f"{name}: {text}", name)
    files.make_directories(paths.run)
    node_env.keep(paths, run_report)
    run_report.count(Counter(), Counter(), sum(command.STARTED.values()))
    run_report.finish(DONE)
    return run_report.status


def _start_background() -> bool:
    """Start the unit that carries on; False where there is no systemd."""
    if not command.has_systemd():
        return False
    try:
        started = command.run(["systemctl", "start", "--no-block", UNIT])
        command.check(started, f"starting {UNIT}")
    except KrakenError as error:
        LOG.warning("%s", error)
        return False
    return True


# --------------------------------------------------------------- final stage


def _final(cfg: Mapping[str, Any], paths: Paths, datasource: object) -> None:
    """Join the background unit; no API call, nothing brought up."""
    status = report.read(paths)
    if status is None:
        # The network stage was silent: no configuration, or not listed there.
        section = loading.load(cfg, paths)
        if section is not None and section.enabled:
            cloud_init.identity(datasource)  # or it has failed with this
            raise RuntimeError(_too_late(cfg))
        return
    if status["state"] in (OFF, STANDBY) or status["dry_run"]:
        return
    try:
        section = loading.load(cfg, paths)
        seconds = section.final_wait if section is not None else 0
    except KrakenError:
        seconds = 0  # refused in the network stage already
    status = join(paths, seconds)
    text = failures(status, pending=True)
    if text:
        raise RuntimeError(text)
    for name, entry in status["sets"].items():
        LOG.info("%s is %s", name, entry["state"])


def _too_late(cfg: Mapping[str, Any]) -> str:
    """Why the network stage was silent though there is a section."""
    early = (cfg.get("cloud_init_modules"), cfg.get("cloud_config_modules"))
    if any(map(cloud_init.has_module, early)):
        return (
            "The kraken section came after the module's turn in the network stage. "
            "Put it into user-data or into the image, or have write_files make the "
            "file. For now, run cc-kraken apply."
        )
    return (
        "cc_kraken is listed in the final stage only: it brings the volumes up in "
        "the network stage. Run cc-kraken enable, then cc-kraken apply."
    )


def join(paths: Paths, seconds: float) -> dict[str, Any]:
    """Wait until the background unit knows how every set stands, for
    ``seconds`` at most; returns the last status."""
    begun = time.monotonic()

    def settled(status: Mapping[str, Any]) -> bool:
        # Without systemd no unit looks again.
        alone = status["state"] == DONE and not command.has_systemd()
        silent = not _asked(status) and time.monotonic() >= begun + NEWS_WAIT
        return alone or finished(status) or (silent and _all_in_place(status))

    end = begun + seconds
    status = watch(paths, settled, seconds)
    assert status is not None
    if not settled(status) and time.monotonic() < end:
        ended_early = Trouble(
            "background-ended",
            f"{UNIT} is not running and has left no result.",
            "Its result must be in /run/cc-kraken/status.json.",
            f"See journalctl -u {UNIT}, then: cc-kraken apply.",
        )
        status["errors"].append(report.error(ended_early))
    return status


def watch(
    paths: Paths, done: Callable[[Mapping[str, Any]], bool], seconds: float
) -> Optional[dict[str, Any]]:
    """The status of this boot as soon as it is ``done``, when nobody is at work any
    more, or after ``seconds``; None where no run has left one."""
    end = time.monotonic() + seconds
    next_alive = time.monotonic() + ALIVE_EVERY
    while True:
        status = report.read(paths)
        moment = time.monotonic()
        if status is None or done(status) or moment >= end:
            return status
        if moment >= next_alive:
            next_alive = moment + ALIVE_EVERY
            if not at_work(paths) and not background_alive():
                return report.read(paths)
        time.sleep(LOOK_EVERY)


def finished(status: Mapping[str, Any]) -> bool:
    """Whether this is how every set stands: the background unit has looked
    (or is not coming), and waits for none of them any more."""
    if status["stage"] == "network":
        return False
    if status["state"] != RUNNING:
        return True
    return _asked(status) and bool(status["sets"]) and _all_settled(status)


def _asked(status: Mapping[str, Any]) -> bool:
    """Whether the background has asked EC2 for the volumes."""
    return status["stage"] != "network" and "DescribeVolumes" in status["calls"]


def _all_in_place(status: Mapping[str, Any]) -> bool:
    """Whether the network stage of this boot brought up all that it knew."""
    runs = [status, *status["earlier"]]
    return any(one["stage"] == "network" and one["state"] == DONE for one in runs)


def background_alive() -> bool:
    """Whether the unit runs or is about to."""
    if not command.has_systemd():
        return False
    shown = command.run(["systemctl", "show", UNIT, "-p", "ActiveState", "-p", "Job"])
    values = dict(line.split("=", 1) for line in shown.out.splitlines() if "=" in line)
    changing = ("activating", "reloading", "deactivating")
    return values.get("ActiveState") in changing or values.get("Job", "0") != "0"


def at_work(paths: Paths) -> bool:
    """Whether a run is under way, whoever started it (its lock is held)."""
    try:
        handle = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def load_by_hand(paths: Paths) -> tuple[Optional[Section], Any]:
    """Configuration and datasource as ``cloud-init single`` would see them."""
    cfg, datasource = cloud_init.load()
    return loading.load(cfg, paths), datasource
