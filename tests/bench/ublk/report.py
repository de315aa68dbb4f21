#!/usr/bin/env python3
"""Medians of what guest.sh measured: a table, ratios, and JSON as tools/dev bench has it.

usage: report.py RESULTS PLACE JSON-FILE   an empty JSON-FILE means only the tables
"""
import json
import os
import platform
import statistics
import sys

TICK_US = 10_000
PEERS = {"null": "null_blk", "file": "loop", "store": "loop"}
ORDER = ["null", "null_blk", "file", "store", "loop"]


def machine(place):
    model = "unknown CPU"
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    where = f"Linux {platform.release().split('-')[0]}" if place == "native" else place
    return f"{os.cpu_count()} x {model}, {where}"


def read(path):
    """Figures of each measurement by (target, mode, depth), and what was absent."""
    measured, absent, complete = {}, [], False
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if not words:
                continue
            if words[0] == "ABSENT":
                absent.append(f"{words[1]}: {' '.join(words[2:])}")
            elif words[0] == "END":
                complete = True
            elif words[0] == "ROW":
                if len(words) != 13:
                    sys.exit(f"ublk_bench: a measurement without figures: {line.strip()}")
                target, mode, depth = words[1], words[2], int(words[3])
                iops, p50, p99, server, busy, enters, copies, requests, queued = map(float, words[4:])
                measured.setdefault((target, mode, depth), []).append(
                    (iops, p50, p99, server, busy, enters, copies, requests, queued))
    if not complete:
        sys.exit(f"ublk_bench: {path} breaks off: the measurements did not come to their end")
    return measured, absent


def medians(rounds, seconds):
    """IOPS, p50, p99, server's and whole CPU time for each I/O, system calls for each I/O; requests at the device."""
    def each(figure):
        return statistics.median(figure(*one) for one in rounds)

    ours = rounds[0][7] > 0
    return {
        "IOPS": each(lambda iops, *_: iops),
        "p50 us": each(lambda iops, p50, *_: p50),
        "p99 us": each(lambda iops, p50, p99, *_: p99),
        "server CPU us": each(lambda i, a, b, server, busy, e, c, n, q: server * TICK_US / n) if ours else None,
        "all CPU us": each(lambda i, a, b, server, busy, *_: busy * TICK_US / (i * seconds)),
        "enters": each(lambda i, a, b, s, busy, enters, c, n, q: enters / n) if ours else None,
        "copies": each(lambda i, a, b, s, busy, e, copies, n, q: copies / n) if ours else None,
        "at device": each(lambda *figures: figures[-1] / 1000 / seconds),
    }


def text(value):
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def main():
    path, place, output = sys.argv[1:]
    seconds = float(os.environ.get("BENCH_MS", "1000")) / 1000
    measured, absent = read(path)
    where = machine(place)
    count = len(next(iter(measured.values())))
    print(f"ublk: {where}")
    columns = ["IOPS", "p50 us", "p99 us", "server CPU us", "all CPU us", "enters", "copies", "at device"]
    print("  " + f"{'target':<10} {'4 KiB':<10} {'depth':>5}" + "".join(f" {name:>14}" for name in columns))
    found = {}
    for mode in ("randread", "randwrite"):
        for depth in (1, 32):
            for target in ORDER:
                if (target, mode, depth) not in measured:
                    continue
                figures = medians(measured[target, mode, depth], seconds)
                found[target, mode, depth] = figures
                print("  " + f"{target:<10} {mode:<10} {depth:>5}" +
                      "".join(f" {text(figures[name]):>14}" for name in columns))
    rows = []
    units = {"IOPS": "1/s", "at device": "requests"}
    for (target, mode, depth), figures in found.items():
        peer = PEERS.get(target)
        if peer is None:
            continue
        for name in columns:
            if figures[name] is None:
                continue
            beside = None if name == "at device" else found.get((peer, mode, depth), {}).get(name)
            rows.append({"bench": "ublk", "metric": f"{target} {mode} depth {depth}, {name.split(' us')[0]}",
                         "unit": "us" if name.endswith("us") else units.get(name, "1/IO"),
                         "ours": figures[name], "peer": peer if beside else "", "peer_value": beside or 0,
                         "ratio": figures[name] / beside if beside else 0, "machine": where})
    print("\n  " + f"{'ratio':<32}" + "".join(f" {name:>12}" for name in ("IOPS", "p50", "p99", "all CPU")))
    for (target, mode, depth) in found:
        ratios = [row["ratio"] for row in rows
                  if row["metric"].startswith(f"{target} {mode} depth {depth},") and row["ratio"]]
        if target in PEERS and ratios:
            print("  " + f"{f'{target} / {PEERS[target]}, {mode}, depth {depth}':<32}" +
                  "".join(f" {ratio:>12.2f}" for ratio in ratios))
    for line in absent:
        print(f"  absent: {line}")
    print(f"  samples: medians of {count} interleaved rounds of {seconds:g} s; CPU time and system calls for each I/O;"
          " enters: io_uring_enter; at device: requests that the driver had, on average")
    if output:
        with open(output, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=2)
            out.write("\n")


main()
