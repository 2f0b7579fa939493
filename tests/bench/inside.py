"""Runs on the instance: one call of the module, as cloud-init makes it.

    python3 inside.py FACTS

FACTS (JSON): ``cfg``, ``source`` (attributes of the datasource), ``timeline``
(a file for what the module logs, with its milliseconds).  cloud-init's own
modules are imported before the clock runs, because in a boot they are.
Prints JSON: seconds, CPU seconds of the process and of its children, KiB of
memory added at most and still there afterwards, and what went wrong.
"""

import gc
import json
import logging
import resource
import sys
import time
from types import SimpleNamespace

import cloudinit.cmd.main  # noqa: F401
import cloudinit.sources.DataSourceEc2  # noqa: F401

import cc_kraken


def cpu(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


with open(sys.argv[1]) as file:
    facts = json.load(file)
if facts["timeline"]:
    keeper = logging.FileHandler(facts["timeline"], "w")
    keeper.setFormatter(
        logging.Formatter("%(relativeCreated)7d %(threadName)-18s %(message)s")
    )
    ours = logging.getLogger("cc_kraken")
    ours.addHandler(keeper)
    ours.setLevel(logging.DEBUG)
sys.argv = ["cloud-init", "modules", "--mode=init"]
cloud = SimpleNamespace(datasource=SimpleNamespace(**facts["source"]), reporter=None)
before = set(sys.modules)
gc.collect()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
held = memory("VmRSS")
own, children = cpu(resource.RUSAGE_SELF), cpu(resource.RUSAGE_CHILDREN)
begun = time.monotonic()
error = ""
try:
    cc_kraken.handle("kraken", facts["cfg"], cloud, None, [])
except RuntimeError as raised:
    error = str(raised)
seconds = time.monotonic() - begun
own = cpu(resource.RUSAGE_SELF) - own
children = cpu(resource.RUSAGE_CHILDREN) - children
peak = memory("VmHWM") - held
gc.collect()
print(
    json.dumps(
        {
            "seconds": seconds,
            "own_cpu": own,
            "children_cpu": children,
            "peak": peak,
            "stays": memory("VmRSS") - held,
            "modules": len(set(sys.modules) - before),
            "error": error,
        }
    )
)
