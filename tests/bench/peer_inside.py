"""Runs on the instance: another program that brings volumes up, once.

    python3 peer_inside.py SECONDS OUTPUT PROGRAM [ARGUMENT …]

What it says goes into the file OUTPUT; past SECONDS it is killed.  Prints JSON:
its seconds, the CPU seconds of it and its children, and how it ended.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time


def run(limit, output, command):
    late = []

    def kill():
        late.append(True)
        os.killpg(process.pid, signal.SIGKILL)

    begun = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return 0.0, f"cannot be started: {error.strerror}"
    timer = threading.Timer(limit, kill)
    timer.daemon = True
    timer.start()
    code = process.wait()
    seconds = time.monotonic() - begun
    timer.cancel()
    if late:
        return seconds, f"killed after {limit:.0f} s"
    return seconds, f"signal {-code}" if code < 0 else f"exit status {code}"


with open(sys.argv[2], "wb") as file:
    seconds, ended = run(float(sys.argv[1]), file, sys.argv[3:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
print(json.dumps({"seconds": seconds, "cpu": cpu, "ended": ended}))
