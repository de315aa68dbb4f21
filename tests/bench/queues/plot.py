"""One way by payload, a line for each transport, drawn by gnuplot."""
import subprocess
import sys

from figures import name_of, size_of

COLOURS = ["#d62728", "#ff9896", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#7f7f7f"]
PANELS = (("line", "the first cache line touched"), ("all", "all bytes written and read"))

HEAD = """set terminal svg size 1100,560 font "sans-serif,13" background "white"
set output
set multiplot layout 1,2
set logscale xy 2
set logscale y 10
set grid lc rgb "#dddddd"
set key left top reverse Left samplen 2 font ",11"
set xlabel "payload"
set format y "%g"
set xtics ({ticks})
set xrange [{first}:{last}]
set yrange [{low}:{high}]
"""


def quoted(text):
    return '"' + text.replace("_", "\\\\_") + '"'


def script(measured):
    sizes = measured.sizes()
    times = [pair["p50_ns"] / 1000 for pair in measured.pairs if pair["p50_ns"]]
    lines = [HEAD.format(ticks=", ".join(f'"{size_of(size)}" {size}' for size in sizes), first=sizes[0] / 2,
                         last=sizes[-1] * 2, low=min(times) / 2, high=max(times) * 30)]
    names = list(dict.fromkeys(transport for transport, _ in measured.kinds()))
    for touch, title in PANELS:
        curves, data = [], []
        for transport, waits in measured.kinds():
            found = [measured.find(transport, waits, size, touch) for size in sizes]
            found = [pair for pair in found if pair]
            if not found:
                continue
            colour = COLOURS[names.index(transport) % len(COLOURS)]
            dash = 2 if waits == "sleeps" else 1
            curves.append(f"'-' with linespoints lw 2 pt 7 ps 0.5 dt {dash} lc rgb '{colour}' title {quoted(name_of(found[0]))}")
            data += [f"{pair['bytes']} {pair['p50_ns'] / 1000}" for pair in found] + ["e"]
        lines.append(f'set title "one way, p50, us: {title}"')
        lines.append("plot " + ", ".join(curves))
        lines += data
    return "\n".join(lines + ["unset multiplot", ""])


def write(measured, path):
    drawn = subprocess.run(["gnuplot"], input=script(measured), capture_output=True, text=True, check=False)
    if drawn.returncode != 0 or not drawn.stdout:
        sys.exit(f"queues_bench: gnuplot: {drawn.stderr.strip()}")
    with open(path, "w", encoding="utf-8") as out:
        out.write(drawn.stdout)
