#!/usr/bin/env python3
"""Watch the demo's pipeline: show progress, kill workers on the way, and time the transfer.

The kills are spread over the bytes, not over the time, so that a fast machine sees as many as a slow one.
exit codes: 0 all bytes were received and taken, 1 the pipeline ended before that
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

POLL_S = 0.02
MIB = 1024 * 1024


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("dump", "segment", "result"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("pipeline", "bytes", "kills", "workers"):
        parser.add_argument(f"--{name}", required=True, type=int)
    parser.add_argument("--started", required=True, type=float, help="seconds since 1970, before the first byte")
    return parser.parse_args()


def dump(options, what):
    """One shm-dump document, None when it could not be had."""
    done = subprocess.run([options.dump, what, options.segment, "--json"], capture_output=True, check=False)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return None


def parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return int(stat.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def kill_worker(options, index):
    """SIGKILL one worker of our own pipeline. False when it is not there at the moment."""
    table = dump(options, "processes")
    for process in table["processes"] if table else []:
        if process["role"] == f"worker-{index}" and parent_of(process["pid"]) == options.pipeline:
            os.kill(process["pid"], signal.SIGKILL)
            return True
    return False


class Progress:
    """One line that is rewritten on a terminal, one line a second elsewhere."""

    def __init__(self, total):
        self.total = total
        self.terminal = sys.stderr.isatty()
        self.next = 0.0

    def show(self, elapsed, received, queued, kills, last=False):
        if elapsed < self.next and not last:
            return
        self.next = elapsed + (0.1 if self.terminal else 1.0)
        line = (f"{received * 100 // self.total:3d} %  {received // MIB} of {self.total // MIB} MiB  "
                f"{received / MIB / max(elapsed, 0.001):.0f} MiB/s  {queued} queued  {kills} workers killed")
        end = "\n" if last or not self.terminal else ""
        sys.stderr.write(("\r\033[K" if self.terminal else "") + line + end)
        sys.stderr.flush()


def main():
    options = arguments()
    progress = Progress(options.bytes)
    kills = received = redelivered = 0
    finished_s = None  # when everything had been taken
    done = False
    while not done and parent_of(options.pipeline) is not None:
        table = dump(options, "queues")
        queues = table["queues"] if table else []
        received = sum(queue["bytes_in"] for queue in queues)
        queued = sum(queue["depth"] for queue in queues)
        redelivered = sum(queue["redelivered"] for queue in queues)
        elapsed = time.time() - options.started
        if kills < options.kills and received * (options.kills + 1) >= options.bytes * (kills + 1):
            kills += kill_worker(options, kills % options.workers)
        if finished_s is None and received >= options.bytes and queued == 0:
            finished_s = elapsed
        done = finished_s is not None and kills == options.kills
        progress.show(elapsed, received, queued, kills, last=done)
        if not done:
            time.sleep(POLL_S)
    with open(options.result, "w", encoding="utf-8") as result:
        json.dump({"seconds": finished_s or 0, "bytes": received, "kills": kills, "redelivered": redelivered}, result)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
