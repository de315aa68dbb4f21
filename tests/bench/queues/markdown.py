"""The figures as Markdown: a table for each question, transports down, payloads across."""
import os
import sys

from figures import name_of, size_of, TRANSPORTS_OF_OURS

BEGIN, END = "<!-- queues: begin -->", "<!-- queues: end -->"


def place_in(path):
    """What is before and after the tables in a file that has a place for them."""
    with open(path, encoding="utf-8") as source:
        text = source.read()
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        sys.exit(f"queues_bench: {path} is there and has no lines {BEGIN} and {END}")
    return text[:begin], text[end + len(END):]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def plain(value, digits=3):
    return f"{value:.0f}" if value >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def cell(value, ratio=None):
    if value is None:
        return ""
    return plain(value) if ratio is None else f"{plain(value)} ({plain(ratio, 2)})"


def by_payload(measured, touch, key, factor, ours=TRANSPORTS_OF_OURS[0], only=None):
    rows = []
    for transport, waits in measured.kinds():
        if only and transport not in only:
            continue
        found = [measured.find(transport, waits, size, touch) for size in measured.sizes()]
        if all(pair is None or pair[key] is None for pair in found):
            continue
        cells = ["" if pair is None else cell(pair[key] and pair[key] * factor,
                                              measured.ratio(measured.ours_beside(pair, ours), pair, key)) for pair in found]
        rows.append([name_of(next(pair for pair in found if pair))] + cells)
    return table([""] + [size_of(size) for size in measured.sizes()], rows)


def tails(measured):
    rows = []
    for transport, waits in measured.kinds():
        pair = measured.find(transport, waits, 64, "line")
        if pair is not None:
            rows.append([name_of(pair)] + [cell(pair[key]) for key in ("p50_ns", "p99_ns", "p999_ns")] +
                        [cell(measured.tail(pair))])
    return table(["64 B", "p50 ns", "p99 ns", "p99.9 ns", "p99.9 / p50"], rows)


def text_of(measured):
    parts = [
        f"{measured.machine}. In brackets: ours / this, of those that wait in the same way.",
        "One way, p50, us; sender and receiver touch the first cache line:",
        by_payload(measured, "line", "p50_ns", 1e-3),
        "One way, p50, us; the sender writes and the receiver reads all bytes:",
        by_payload(measured, "all", "p50_ns", 1e-3),
        "Streaming, thousand messages/s; the first cache line:",
        by_payload(measured, "line", "messages_per_s", 1e-3),
        "Streaming, GiB/s; all bytes:",
        by_payload(measured, "all", "gib_per_s", 1),
        "A process at each end of a work queue, thousand messages/s; all bytes; in brackets work queue / this:",
        by_payload(measured, "all", "messages_per_s", 1e-3, "sluice work queue", ("sluice work queue", "message_queue")),
        "One way, how far the slow ones are from the usual:",
        tails(measured),
    ]
    if measured.fans:
        parts += ["Publishing 64 B, p50, ns, by the number of subscribers:", table(
            [""] + [str(count) for count in measured.fan_sizes()],
            [[transport] + [cell(measured.fans.get((transport, count))) for count in measured.fan_sizes()]
             for transport in measured.fan_transports()])]
    parts.append("\n".join([f"- {line}." for line in measured.notes] + [f"- Absent: {line}." for line in measured.absent]))
    return "\n\n".join(parts)


def write(measured, path):
    before, after = place_in(path) if os.path.exists(path) and os.path.getsize(path) else ("", "\n")
    with open(path, "w", encoding="utf-8") as out:
        out.write(f"{before}{BEGIN}\n\n{text_of(measured)}\n\n{END}{after}")
