"""The figures that queues_bench prints, and what each is compared with."""
import json
import sys

TRANSPORTS_OF_OURS = ["sluice stream", "sluice work queue", "sluice broadcast"]  # the first is what tables compare with
TRIPS_FOR = {"p99_ns": 100, "p999_ns": 1000}  # fewer say nothing about that percentile


def size_of(count):
    for unit, bytes_each in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= bytes_each:
            return f"{count // bytes_each} {unit}"
    return f"{count} B"


def name_of(pair):
    return pair["transport"] + (", sleeps" if pair["waits"] == "sleeps" else "")


class Measured:
    def __init__(self, path):
        self.machine, self.pairs, self.fans, self.notes, self.absent = "", [], {}, [], []
        complete = False
        with open(path, encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                kind = row["row"]
                if kind == "pair":
                    for key, trips in TRIPS_FOR.items():
                        if row["trips"] < trips:
                            row[key] = None
                    row.setdefault("messages_per_s", None)
                    rate = row["messages_per_s"]
                    touched = row["touch"] == "all" or row["bytes"] <= 64  # else some would count what nobody moves
                    row["gib_per_s"] = rate * row["bytes"] / (1 << 30) if rate and touched else None
                    self.pairs.append(row)
                elif kind == "fan":
                    self.fans[row["transport"], row["subscribers"]] = row["p50_ns"]
                elif kind == "absent":
                    self.absent.append(f"{row['what']}: {row['why']}")
                elif kind == "note":
                    self.notes.append(row["text"])
                elif kind == "machine":
                    self.machine = row["text"]
                elif kind == "end":
                    complete = True
        if not complete:
            sys.exit(f"queues_bench: {path} breaks off: the measurements did not come to their end")

    def find(self, transport, waits, size, touch):
        if size <= 64:
            touch = "line"  # the same
        for pair in self.pairs:
            if (pair["transport"], pair["waits"], pair["bytes"], pair["touch"]) == (transport, waits, size, touch):
                return pair
        return None

    def all_of_ours_beside(self, pair):
        """Ours that a transport is compared with: what waits in the same way."""
        if pair["transport"] in TRANSPORTS_OF_OURS:
            return []
        found = [self.find(ours, pair["waits"], pair["bytes"], pair["touch"]) for ours in TRANSPORTS_OF_OURS]
        return [ours for ours in found if ours is not None]

    def ours_beside(self, pair, name=TRANSPORTS_OF_OURS[0]):
        return next((ours for ours in self.all_of_ours_beside(pair) if ours["transport"] == name), None)

    def ratio(self, ours, pair, key):
        if ours is None or ours[key] is None or not pair[key]:
            return None
        return ours[key] / pair[key]

    def tail(self, pair):
        return None if pair["p999_ns"] is None or not pair["p50_ns"] else pair["p999_ns"] / pair["p50_ns"]

    def kinds(self):
        """Transports as (name, how it waits), those that spin first."""
        found = dict.fromkeys((pair["transport"], pair["waits"]) for pair in self.pairs)
        return sorted(found, key=lambda kind: kind[1] == "sleeps")

    def sizes(self):
        return sorted({pair["bytes"] for pair in self.pairs})

    def fan_sizes(self):
        return sorted({count for _, count in self.fans})

    def fan_transports(self):
        return list(dict.fromkeys(transport for transport, _ in self.fans))
