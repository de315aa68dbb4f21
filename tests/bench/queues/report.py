#!/usr/bin/env python3
"""What queues_bench measured: a table with ratios, JSON as tools/dev bench has it, Markdown, a plot.

usage: report.py RESULTS [--json FILE] [--markdown FILE] [--plot FILE]
       report.py --has-place FILE       exit code 1 and a sentence, unless FILE has the lines for the Markdown
"""
import argparse
import json
import sys

import markdown
import plot
from figures import Measured, name_of, size_of, TRANSPORTS_OF_OURS

FIGURES = (("p50_ns", "one way, p50", "ns"), ("p99_ns", "one way, p99", "ns"), ("p999_ns", "one way, p99.9", "ns"),
           ("messages_per_s", "streaming", "1/s"), ("gib_per_s", "streaming", "GiB/s"))


def print_table(measured):
    print(f"queues: {measured.machine}")
    print(f"  {'payload':<16} {'transport':<24} {'p50 us':>9} {'p99 us':>9} {'p99.9 us':>9} {'p99.9/p50':>9} {'ours/this':>9}"
          f" {'messages/s':>11} {'GiB/s':>7} {'ours/this':>9}")
    group = None
    for pair in measured.pairs:
        if group != (pair["bytes"], pair["touch"]):
            group = (pair["bytes"], pair["touch"])
            print()
        ours = measured.ours_beside(pair)
        print(f"  {payload_of(pair):<16} {name_of(pair):<24}"
              f" {micro(pair['p50_ns']):>9} {micro(pair['p99_ns']):>9} {micro(pair['p999_ns']):>9}"
              f" {text(measured.tail(pair)):>9} {text(measured.ratio(ours, pair, 'p50_ns')):>9}"
              f" {text(pair['messages_per_s'], 0):>11} {text(pair['gib_per_s']):>7}"
              f" {text(measured.ratio(ours, pair, 'messages_per_s')):>9}")
    print("\n  work queue / message_queue, messages/s")
    for pair in measured.pairs:
        ours = measured.ours_beside(pair, "sluice work queue")
        if pair["transport"] == "message_queue" and ours:
            print(f"  {payload_of(pair):<16} {pair['waits']:<24} {text(measured.ratio(ours, pair, 'messages_per_s')):>9}")
    if measured.fans:
        print(f"\n  {'publish, 64 B, p50 ns, by subscribers':<41}" + "".join(f" {count:>9}" for count in measured.fan_sizes()))
        for transport in measured.fan_transports():
            print(f"  {transport:<41}" + "".join(
                f" {text(measured.fans.get((transport, count)), 0):>9}" for count in measured.fan_sizes()))
    print()
    for line in measured.absent:
        print(f"  absent: {line}")
    for line in measured.notes:
        print(f"  {line}")


def payload_of(pair):
    return size_of(pair["bytes"]) + (", all bytes" if pair["touch"] == "all" else "")


def micro(nanoseconds):
    return "-" if nanoseconds is None else text(nanoseconds / 1000, 3 if nanoseconds < 10_000 else 1)


def text(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def json_rows(measured):
    def row(metric, unit, ours, peer, value):
        return {"bench": "queues", "metric": metric, "unit": unit, "ours": ours, "peer": peer, "peer_value": value or 0,
                "ratio": ours / value if value else 0, "machine": measured.machine}

    rows = []
    for pair in measured.pairs:
        what = f"{size_of(pair['bytes'])}, {'all bytes' if pair['touch'] == 'all' else 'first line'}, {pair['waits']}"
        if pair["transport"] in TRANSPORTS_OF_OURS:
            if measured.tail(pair) is not None:
                rows.append(row(f"{pair['transport']}, {what}, one way, p99.9 / p50", "ratio", measured.tail(pair), "", 0))
            continue
        for ours in measured.all_of_ours_beside(pair):
            for key, label, unit in FIGURES:
                if ours[key] is not None and pair[key] is not None:
                    rows.append(row(f"{ours['transport']}, {what}, {label}", unit, ours[key], pair["transport"], pair[key]))
    for count in measured.fan_sizes():
        for transport in measured.fan_transports():
            for ours in TRANSPORTS_OF_OURS:
                if transport not in TRANSPORTS_OF_OURS and (ours, count) in measured.fans:
                    rows.append(row(f"{ours}, publish to {count}, p50", "ns", measured.fans[ours, count], transport,
                                    measured.fans.get((transport, count))))
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("results", nargs="?")
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    parser.add_argument("--plot")
    parser.add_argument("--has-place")
    asked = parser.parse_args()
    if asked.has_place:
        markdown.place_in(asked.has_place)
        return
    measured = Measured(asked.results)
    print_table(measured)
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as out:
            json.dump(json_rows(measured), out, indent=2)
            out.write("\n")
    if asked.markdown:
        markdown.write(measured, asked.markdown)
    if asked.plot:
        plot.write(measured, asked.plot)


try:
    main()
except OSError as error:
    sys.exit(f"queues_bench: {error.filename or 'stdout'}: {error.strerror}")
