#!/usr/bin/env python3
"""Print the demo's numbers. Exit code 1 when one of them is not what it must be."""

import argparse
import json
import re
import sys

MIB = 1024 * 1024


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("watched", "check", "log"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("files", "equal", "kills"):
        parser.add_argument(f"--{name}", required=True, type=int)
    return parser.parse_args()


def read_json(path):
    try:
        with open(path, encoding="utf-8") as source:
            return json.load(source)
    except (OSError, ValueError):
        return {}


def restarts_in(path):
    """What the pipeline's last line says; -1 when it did not get that far."""
    with open(path, encoding="utf-8", errors="replace") as log:
        found = re.findall(r" (\d+) restarts$", log.read(), re.MULTILINE)
    return int(found[-1]) if found else -1


def main():
    options = arguments()
    watched = read_json(options.watched)
    check = read_json(options.check)
    counts = check.get("counts", {})
    seconds = max(watched.get("seconds", 0), 0.001)
    mib = watched.get("bytes", 0) / MIB
    kills = watched.get("kills", 0)
    restarts = restarts_in(options.log)
    leaked = counts.get("blocks_live", -1)
    rows = [
        ("throughput", f"{mib:.0f} MiB in {seconds:.1f} s: {mib / seconds:.0f} MiB/s", True),
        ("workers killed", f"{kills}, started again {restarts} times", kills == options.kills == restarts),
        ("redelivered", f"{watched.get('redelivered', '?')} messages", "redelivered" in watched),
        ("sha256", f"{options.equal} of {options.files} files are equal", options.equal == options.files),
        ("blocks in use", f"{leaked} ({leaked} leaked)", leaked == 0),
        ("shm-dump check", "sound" if check.get("sound") else "NOT SOUND", check.get("sound") is True),
    ]
    for name, text, good in rows:
        print(f"  {name:<15} {text}{'' if good else '   <- wrong'}")
    return 0 if all(good for _, _, good in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
