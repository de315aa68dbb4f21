#!/usr/bin/env bash
# shm-dump and `sluice segment` end to end: a live pipeline, a killed one, a copy, damaged files, bad input.
# Every refusal is one line on stderr, nothing on stdout, and the documented exit code; nothing ever crashes.
set -euo pipefail

bin="${SLUICE_BIN_DIR:?the directory of the programs}"
work="$(mktemp -d)"
chmod 755 "$work"
readonly bin work
readonly commands=(info processes lanes queues blocks check)
pipeline=""
failures=0

stop_pipeline() {
  [[ -z "$pipeline" ]] || kill -KILL -- "-$pipeline" 2>/dev/null || true
  pipeline=""
}
clean_up() {
  stop_pipeline
  mountpoint -q "$work/small" 2>/dev/null && umount "$work/small"
  rm -rf "$work"
}
trap clean_up EXIT

flunk() {
  echo "FAILED: $*" >&2
  failures=$((failures + 1))
}

# expect CODE COMMAND…: runs it, leaves stdout in $work/out and stderr in $work/err
expect() {
  local wanted="$1" code=0
  shift
  timeout 60 "$@" >"$work/out" 2>"$work/err" || code=$?
  [[ "$code" == "$wanted" ]] || flunk "$*: exit code $code, expected $wanted: $(cat "$work/err")"
}

# refused CODE COMMAND…: as expect, and exactly one line on stderr, none on stdout
refused() {
  local program
  program="$(basename "$2")"
  expect "$@"
  shift
  [[ "$(wc -l <"$work/err")" == 1 ]] || flunk "$*: $(wc -l <"$work/err") lines on stderr: $(cat "$work/err")"
  grep -q "^$program: " "$work/err" || flunk "$*: stderr does not begin with '$program: ': $(cat "$work/err")"
  [[ ! -s "$work/out" ]] || flunk "$*: printed a result although it failed"
}

says() { grep -q -- "$1" "$work/out" "$work/err" || flunk "nothing says '$1': $(cat "$work/out" "$work/err")"; }

# All commands, as text and as JSON. dump_all CHECK-CODE SEGMENT
dump_all() {
  local command code
  for command in "${commands[@]}"; do
    code=0
    [[ "$command" != check ]] || code="$1"
    expect "$code" "$bin/shm-dump" "$command" "$2"
    [[ -s "$work/out" && ! -s "$work/err" ]] || flunk "shm-dump $command $2: no text, or errors"
    expect "$code" "$bin/shm-dump" "$command" "$2" --json
    mv "$work/out" "$work/out.$command"
  done
  documents_are_sound "$2" || flunk "shm-dump $2 --json is not as documented"
}

# What $work/out.COMMAND hold, as far as they hold anything, are documents about SEGMENT.
documents_are_sound() {
  python3 - "$work" "$1" "${commands[@]}" <<'PYTHON'
import json, sys
for command in sys.argv[3:]:
    with open(f"{sys.argv[1]}/out.{command}", encoding="utf-8") as file:
        text = file.read()
    if not text:
        continue
    document = json.loads(text)
    assert list(document)[0] == "schema" and document["schema"] == f"sluice.shm-dump.{command}/1", document["schema"]
    assert document["segment"] == sys.argv[2], document["segment"]
PYTHON
}

# query EXPRESSION: of the JSON document in $work/out, as `d`
query() { python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$work/out" "$1"; }

# patch FILE EXPRESSION: `f` is the file's bytes, `at(kind)` the offset of a region, `put(offset, value, bytes)`
patch() {
  python3 - "$1" "$2" <<'PYTHON'
import struct, sys
path, code = sys.argv[1:]
with open(path, "r+b") as file:
    def get(offset, length=8):
        file.seek(offset)
        return int.from_bytes(file.read(length), "little")
    def put(offset, value, length=8):
        file.seek(offset)
        file.write((value % (1 << 8 * length)).to_bytes(length, "little"))
    def at(kind):
        return get(384 + 24 * kind + 8)
    exec(code)
PYTHON
}
readonly units=11 truth=13 lanes=6 processes=5 queues=9 control=3

segment="$work/segment"
echo "== create"
expect 0 "$bin/sluice" segment create "$segment" --size 64MiB --initial 1MiB --lanes 16 --processes 8 --queues 8 --mode 0644
says "created $segment"
[[ -f "$segment.lock" ]] || flunk "there is no lock file"
[[ "$(stat -c %a "$segment")" == 644 ]] || flunk "mode $(stat -c %a "$segment"), expected 644"
refused 10 "$bin/sluice" segment create "$segment" --size 64MiB
refused 3 "$bin/sluice" segment create "$work/no/such/directory" --size 64MiB
refused 2 "$bin/sluice" segment create "$work/other"
refused 2 "$bin/sluice" segment create "$work/other" --size 64XB
refused 2 "$bin/sluice" segment create "$work/other" --size 64MiB --lanes 1
refused 2 "$bin/sluice" segment create "$work/other" --size 64MiB --mode 9
[[ ! -e "$work/other" && ! -e "$work/other.lock" ]] || flunk "a refused creation left a file"
dump_all 0 "$segment"
expect 0 "$bin/sluice" segment recover "$segment" --json
[[ "$(query 'd["schema"], d["processes"]')" == "('sluice.segment.recover/1', 0)" ]] || flunk "recover of a sound segment"
if [[ "$EUID" == 0 ]]; then
  mkdir "$work/small"
  if mount -t tmpfs -o size=64k tmpfs "$work/small" 2>/dev/null; then
    refused 8 "$bin/sluice" segment create "$work/small/segment" --size 64MiB
    [[ -z "$(ls "$work/small")" ]] || flunk "a creation without room left $(ls "$work/small")"
  fi
fi

echo "== live"
live="$work/live"
mkdir "$work/sink"
setsid "$bin/sluice" run --segment "$live" --size 64MiB --tcp 127.0.0.1:0 --workers 2 --sink "$work/sink" \
  >"$work/run.out" 2>"$work/run.err" &
pipeline=$!
for _ in $(seq 100); do
  grep -q . "$work/run.out" && break
  sleep 0.1
done
port="$(grep -o '127\.0\.0\.1:[0-9]*' "$work/run.out" | head -n 1 | cut -d: -f2)"
[[ -n "$port" ]] || { flunk "the pipeline did not start: $(cat "$work/run.err")"; exit 1; }
exec 3<>"/dev/tcp/127.0.0.1/$port"
head -c 1000000 /dev/zero >&3
dump_all 0 "$live"
expect 0 "$bin/shm-dump" processes "$live" --json
[[ "$(query 'sorted(p["evidence"] for p in d["processes"])')" == "['alive', 'alive', 'alive', 'alive']" ]] ||
  flunk "four processes live, but: $(cat "$work/out")"
expect 0 "$bin/shm-dump" lanes "$live" --json
[[ "$(query 'all(l["pid"] and l["process_evidence"] == "alive" for l in d["lanes"])')" == True ]] || flunk "a lane has no owner"
expect 0 "$bin/shm-dump" queues "$live" --json
[[ "$(query '[bool(q["producer"] and q["consumer"] and not q["broken"]) for q in d["queues"]]')" == "[True, True]" ]] ||
  flunk "two queues with both ends, but: $(cat "$work/out")"
expect 0 "$bin/shm-dump" queues "$live"
[[ "$(wc -L <"$work/out")" -le 120 ]] || flunk "queues: a line of $(wc -L <"$work/out") columns"
# What was sent is what went in, once it has arrived.
for _ in $(seq 100); do
  expect 0 "$bin/shm-dump" queues "$live" --json
  [[ "$(query 'sum(q["counters"]["bytes_in"] for q in d["queues"])')" != 1000000 ]] || break
  sleep 0.1
done
[[ "$(query '[sum(q["counters"]["bytes_in"] for q in d["queues"]), all(q["counters"]["messages_in"] == q["tail"] for q in d["queues"])]')" == \
  "[1000000, True]" ]] || flunk "a million bytes were sent, but: $(cat "$work/out")"
queue="$(query 'd["queues"][0]["name"]')"
expect 0 "$bin/shm-dump" queues "$live" "$queue"
says "^queue  *0: $queue"
says "^sizing "
expect 0 "$bin/shm-dump" queues "$live" "$queue" --json
[[ "$(query '[q["name"] for q in d["queues"]], sorted(d["queues"][0]["sizing"])')" == "(['$queue'], ['advice', 'capacity'])" ]] ||
  flunk "one queue: $(cat "$work/out")"
refused 3 "$bin/shm-dump" queues "$live" nosuch
says "no queue is called 'nosuch', expected one of $queue, "
expect 0 "$bin/shm-dump" check "$live" --json
[[ "$(query 'd["sound"], d["live"], d["violations"]')" == "(True, True, [])" ]] || flunk "check: $(cat "$work/out")"
expect 0 "$bin/shm-dump" blocks "$live" --json
handle="$(query 'd["blocks"][0]["handle"]')"
expect 0 "$bin/shm-dump" holders "$live" "$handle"
says "pid $pipeline\|ingress"
expect 0 "$bin/shm-dump" holders "$live" "$handle" --json
[[ "$(query 'd["schema"], d["handle"], d["standing"], d["agreement"], d["references"][0]["process_evidence"]')" == \
  "('sluice.shm-dump.holders/1', '$handle', 'live', 'exact', 'alive')" ]] || flunk "holders: $(cat "$work/out")"
refused 7 "$bin/sluice" segment remove "$live"
says "pid $pipeline"
[[ -e "$live" ]] || flunk "a segment in use was removed"

echo "== watched"
expect 0 "$bin/shm-dump" queues "$live" --watch 0.1 --count 3
[[ "$(grep -c "^$live  " "$work/out")" == 3 && "$(grep -c "^$queue " "$work/out")" == 3 ]] || flunk "three rounds: $(cat "$work/out")"
! grep -q $'\x1b' "$work/out" || flunk "a file was redrawn"
[[ "$(wc -L <"$work/out")" -le 120 ]] || flunk "--watch: a line of $(wc -L <"$work/out") columns"
expect 0 "$bin/shm-dump" queues "$live" "$queue" --watch 100ms --count 2 --json
python3 - "$work/out" "$queue" <<'PYTHON' || flunk "--watch --json: $(cat "$work/out")"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
assert [line["round"] for line in lines] == [1, 2], lines
for line in lines:
    assert list(line)[0] == "schema" and line["schema"] == "sluice.shm-dump.queues-watch/1", line
    assert [q["name"] for q in line["queues"]] == [sys.argv[2]] and 0.1 <= line["seconds"] < 30, line
PYTHON
# What is sent meanwhile is seen, in one round or another.
"$bin/shm-dump" queues "$live" --watch 0.2 --count 15 --json >"$work/watched" &
watcher=$!
for _ in $(seq 100); do
  [[ ! -s "$work/watched" ]] || break
  sleep 0.1
done
head -c 500000 /dev/zero >&3
wait "$watcher" || flunk "--watch --count 15: exit code $?"
python3 - "$work/watched" <<'PYTHON' || flunk "half a million bytes went in, but: $(cat "$work/watched")"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
assert round(sum(q["bytes_in_per_s"] * line["seconds"] for line in lines for q in line["queues"])) == 500000
PYTHON
for signal in INT TERM; do
  # A job in the background ignores SIGINT: env gives it back. Once it has printed it is no copy of this shell any more.
  rm -f "$work/watched"
  env --default-signal=INT "$bin/shm-dump" queues "$live" --watch 0.1 >"$work/watched" &
  watcher=$!
  for _ in $(seq 100); do
    [[ ! -s "$work/watched" ]] || break
    sleep 0.1
  done
  kill "-$signal" "$watcher"
  code=0
  wait "$watcher" || code=$?
  [[ "$code" == 0 ]] || flunk "--watch, ended by SIG$signal: exit code $code"
done
python3 - "$bin/shm-dump" "$live" >"$work/out" <<'PYTHON' || flunk "--watch on a terminal does not redraw: $(cat "$work/out")"
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.environ["TERM"] = "xterm"
    os.execv(sys.argv[1], [sys.argv[1], "queues", sys.argv[2], "--watch", "0.1", "--count", "2"])
seen = b""
while True:
    try:
        chunk = os.read(terminal, 4096)
    except OSError:  # the other end is closed
        break
    if not chunk:
        break
    seen += chunk
print(seen)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert seen.startswith(b"\x1b[H\x1b[2J") and seen.count(b"\x1b[2J") == 2
PYTHON
for interval in 0 -1 never 25h; do refused 2 "$bin/shm-dump" queues "$live" "--watch=$interval"; done
refused 2 "$bin/shm-dump" queues "$live" --count 2
refused 2 "$bin/shm-dump" queues "$live" --watch --count 0
refused 3 "$bin/shm-dump" queues "$live" nosuch --watch

echo "== copied while live"
cp --sparse=always "$live" "$work/copy"
expect 0 "$bin/shm-dump" info "$work/copy" --json
[[ "$(query 'd["copy"], d["processes"]["alive"], d["processes"]["dead"]')" == "(True, 0, 4)" ]] ||
  flunk "a copy: $(cat "$work/out")"
for command in processes lanes queues blocks; do expect 0 "$bin/shm-dump" "$command" "$work/copy"; done

echo "== dead"
stop_pipeline
exec 3>&-
for _ in $(seq 50); do
  expect 0 "$bin/shm-dump" info "$live" --json
  [[ "$(query 'd["processes"]["alive"]')" != 0 ]] || break
  sleep 0.1
done
expect 0 "$bin/shm-dump" processes "$live" --json
[[ "$(query '{p["evidence"] for p in d["processes"]}')" == "{'dead'}" ]] || flunk "all were killed, but: $(cat "$work/out")"
dump_all 0 "$live"
expect 0 "$bin/shm-dump" blocks "$live" --unheld --json
[[ "$(query 'd["matching"]')" == 0 ]] || flunk "blocks that nobody holds: $(cat "$work/out")"
expect 0 "$bin/shm-dump" blocks "$live" --json
mapfile -t handles < <(query '"\n".join(b["handle"] for b in d["blocks"][:5])')
for handle in "${handles[@]}"; do
  expect 0 "$bin/shm-dump" holders "$live" "$handle" --json
  [[ "$(query 'd["agreement"], d["counted"] == d["block_now"]["count"] > 0, {r.get("process_evidence", "dead") for r in d["references"]}')" == \
    "('exact', True, {'dead'})" ]] || flunk "holders of $handle: $(cat "$work/out")"
done
cp --sparse=always "$live" "$work/dead"
cp --sparse=always "$live" "$work/damaged"
expect 0 "$bin/sluice" segment recover "$live" --json
[[ "$(query 'd["processes"] > 0 and d["lanes"] > 0 and not d["disagreements"]')" == True ]] || flunk "recover: $(cat "$work/out")"
expect 0 "$bin/sluice" segment recover "$live" --json
[[ "$(query 'd["processes"] + d["lanes"] + d["references"]')" == 0 ]] || flunk "a second recover: $(cat "$work/out")"
dump_all 0 "$live"
expect 0 "$bin/sluice" segment remove "$live"
[[ ! -e "$live" && ! -e "$live.lock" ]] || flunk "remove left a file"
# A copy becomes a segment of its own when it is opened for writing.
expect 0 "$bin/shm-dump" holders "$work/dead" "${handles[0]}"
expect 0 "$bin/sluice" segment recover "$work/dead"
dump_all 0 "$work/dead"
# What the dead held is over, and its handles say so.
expect 3 "$bin/shm-dump" holders "$work/dead" "${handles[0]}" --json
[[ "$(query 'd["standing"], d["references"]')" == "('over', [])" ]] || flunk "holders after recovery: $(cat "$work/out")"
expect 3 "$bin/shm-dump" holders "$work/dead" 999999:0
says "unit 999999 does not exist"

echo "== violations"
expect 0 "$bin/shm-dump" blocks "$work/damaged" --json
read -r unit slot <<<"$(query '"{} {}".format(d["blocks"][0]["unit"], d["blocks"][0]["slot"])')"
# A live block whose count is 0: 16-byte truth words, band 0.
patch "$work/damaged" "o = at($truth) + ($unit * 64 + $slot) * 16; put(o, get(o) & ~(0xffff << 8))"
expect 5 "$bin/shm-dump" check "$work/damaged" --json
[[ "$(query 'd["sound"], d["violation_count"] > 0, len(d["violations"]) > 0')" == "(False, True, True)" ]] ||
  flunk "check of a damaged file: $(cat "$work/out")"
expect 5 "$bin/shm-dump" check "$work/damaged"
says "$unit:$slot"
expect 5 "$bin/shm-dump" holders "$work/damaged" "$unit:$slot"
says "count 0, but 1 found: a violation"

echo "== bad bytes"
# Values that lead astray where an index, a count or a state is expected. Dumping ends in time, with a result or
# with one line; never by a signal (124 is the time-out, from 128 on a signal).
damaged_run() {
  local command code
  for command in "${commands[@]}"; do
    code=0
    timeout 60 "$bin/shm-dump" "$command" "$work/bytes" --json >"$work/out.$command" 2>"$work/err" || code=$?
    case "$code" in
      0 | 4 | 5) ;;
      *) flunk "shm-dump $command after '$1': exit code $code: $(cat "$work/err")" ;;
    esac
  done
  documents_are_sound "$work/bytes" || flunk "after '$1': not a document"
  for command in "$queue" "$queue --watch 0.01 --count 2"; do
    code=0
    # shellcheck disable=SC2086  # words
    timeout 60 "$bin/shm-dump" queues "$work/bytes" $command >"$work/out" 2>"$work/err" || code=$?
    [[ "$code" =~ ^[0345]$ ]] || flunk "shm-dump queues $command after '$1': exit code $code: $(cat "$work/err")"
  done
  code=0
  timeout 60 "$bin/shm-dump" holders "$work/bytes" "$unit:$slot" >"$work/out" 2>"$work/err" || code=$?
  [[ "$code" =~ ^[0345]$ ]] || flunk "shm-dump holders after '$1': exit code $code: $(cat "$work/err")"
}
for damage in \
  "put(at($control), 1 << 63)" \
  "put(at($control), 16)" \
  "[put(at($units) + 64 * i, 0xffffffffffffffff) for i in range(32)]" \
  "[put(at($units) + 64 * i, 4 | 1 << 10) or put(at($units) + 64 * i + 8, 0xffffffff) for i in range(32)]" \
  "[put(at($units) + 64 * i, 3 | 63 << 4 | 1 << 10) for i in range(32)]" \
  "[put(at($units) + 64 * i, 3 | 0xfff << 10) for i in range(32)]" \
  "[put(at($units) + 64 * i + 16, 0xffffffff, 4) for i in range(32)]" \
  "[put(at($truth) + 16 * i, -1) for i in range(4096)]" \
  "[put(at($lanes) + 512 * i + 16, -1) for i in range(1, 16)]" \
  "[put(at($lanes) + 512 * i, -1) for i in range(1, 16)]" \
  "[put(at($lanes) + 512 * i + 8 * j, 0x0101010101010101) for i in range(1, 16) for j in range(64)]" \
  "[put(at($processes) + 256 * i + 8 * j, -1) for i in range(8) for j in range(32)]" \
  "[put(at($queues) + 1024 * i + 8 * j, -1) for i in range(8) for j in range(128)]" \
  "[put(at($queues) + 384, 1 << 63), put(at($queues) + 256, (1 << 63) - 1)]" \
  "put(at($queues) + 8, 2, 4)" \
  "[put(at($queues) + 1024 * i + 8, 2, 4) or put(at($queues) + 1024 * i + 256, -1) for i in range(8)]" \
  "put(at($queues) + 8, 2, 4), put(at($queues) + 604, 0xffffffff), put(at($queues) + 592, -1)" \
  "put(at($queues) + 12, 0, 4)" \
  "put(at($queues) + 12, 1 << 20, 4)" \
  "put(at($queues) + 20, 0xfffffff0, 4)" \
  "put(at($queues) + 24, 0xffffffff, 4)" \
  "put(at($queues) + 256, get(at($queues) + 384) + get(at($queues) + 12, 4))"; do
  cp --sparse=always "$work/damaged" "$work/bytes"
  patch "$work/bytes" "$damage"
  damaged_run "$damage"
done
# Names with control sequences do not reach a terminal.
cp --sparse=always "$work/damaged" "$work/bytes"
patch "$work/bytes" "put(at($queues) + 32, 0x0a4a325b1b, 5)"
expect 0 "$bin/shm-dump" queues "$work/bytes"
! grep -q $'\x1b' "$work/out" || flunk "an escape sequence of the file was printed"

# A ring that two queues name is the first one's: else a file of many such rows would be listed without end.
cp --sparse=always "$work/damaged" "$work/bytes"
patch "$work/bytes" "[put(at($queues) + 1024 * 7 + 8 * j, get(at($queues) + 8 * j)) for j in range(128)]"
expect 0 "$bin/shm-dump" queues "$work/bytes" --json
[[ "$(query 'd["queues"][-1]["broken"]')" == "its units are those of queue 0" ]] ||
  flunk "two queues with one ring: $(cat "$work/out")"

echo "== bad input"
refuse_all() {  # refuse_all CODE PATH
  local command
  for command in "${commands[@]}"; do refused "$1" "$bin/shm-dump" "$command" "$2"; done
  refused "$1" "$bin/shm-dump" info "$2" --json
  refused "$1" "$bin/shm-dump" holders "$2" 0x400
}
size="$(stat -c %s "$segment")"
for length in 0 1 8 100 967; do
  cp --sparse=always "$segment" "$work/short"
  truncate -s "$length" "$work/short"
  refuse_all 4 "$work/short"
done
for length in 968 4095 4096 8192 65536 1048576 $((size / 2)) $((size - 65536)) $((size - 1)); do
  cp --sparse=always "$segment" "$work/short"
  truncate -s "$length" "$work/short"
  refuse_all 5 "$work/short"
done
head -c 100000 /dev/urandom >"$work/foreign"
refuse_all 4 "$work/foreign"
refused 4 "$bin/sluice" segment remove "$work/foreign"
refused 4 "$bin/sluice" segment remove "$work/foreign" --force
refused 4 "$bin/sluice" segment recover "$work/foreign"
[[ -e "$work/foreign" && ! -e "$work/foreign.lock" ]] || flunk "a foreign file was touched"
cp "$segment" "$work/newer"
patch "$work/newer" "put(16, 2, 2)"
refuse_all 4 "$work/newer"
says "layout 2"
cp "$segment" "$work/swapped"
patch "$work/swapped" "put(0, int.from_bytes(get(0).to_bytes(8, 'big'), 'little'))"
refuse_all 4 "$work/swapped"
says "byte order"
cp "$segment" "$work/flipped"
patch "$work/flipped" "put(100, get(100, 1) ^ 4, 1)"
refuse_all 5 "$work/flipped"
refused 5 "$bin/sluice" segment remove "$work/flipped"
expect 0 "$bin/sluice" segment remove "$work/flipped" --force
[[ ! -e "$work/flipped" ]] || flunk "--force did not remove a damaged segment"
refuse_all 4 "$work"
mkfifo "$work/fifo"
refuse_all 4 "$work/fifo"
refuse_all 3 "$work/missing"
refused 3 "$bin/sluice" segment remove "$work/missing"
refused 3 "$bin/sluice" segment recover "$work/missing"
refused 2 "$bin/shm-dump"
refused 2 "$bin/shm-dump" info
refused 2 "$bin/shm-dump" undo "$segment"
refused 2 "$bin/shm-dump" blocks "$segment" --limit many
refused 2 "$bin/shm-dump" holders "$segment"
for handle in 12 0x 0x0 0xg 0x12345678901234567 3: 3:5:0 lane; do
  refused 2 "$bin/shm-dump" holders "$segment" "$handle"
  says "HANDLE: '$handle' is"
done
code=0
"$bin/shm-dump" info "$segment" >/dev/full 2>"$work/err" || code=$?
[[ "$code" == 1 ]] || flunk "a result that could not be written: exit code $code, expected 1"
expect 0 "$bin/shm-dump" --help
says "Exit codes:"
expect 0 "$bin/shm-dump" check --help
says "Exit codes:"

echo "== permissions"
as_other=()
other="$work"
if [[ "$EUID" == 0 ]]; then
  as_other=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  other="$work/programs"
  mkdir -m 755 "$other"
  cp "$bin/shm-dump" "$bin/sluice" "$other"
fi
run_as_other() {  # run_as_other VERB CODE PROGRAM…, with one line on stderr that begins with the program's name
  local code="$1" program="$2"
  shift 2
  expect "$code" "${as_other[@]}" "$other/$program" "$@"
}
if [[ "$EUID" == 0 ]] && ! "${as_other[@]}" "$other/shm-dump" --help >/dev/null 2>&1; then
  echo "left out: nobody may not run programs in $other"
elif [[ "$EUID" == 0 ]]; then
  # Readable, but its lock file is not: the evidence is weaker, and everything works.
  for command in "${commands[@]}"; do run_as_other 0 shm-dump "$command" "$segment"; done
  chmod 600 "$segment"
  for command in "${commands[@]}"; do
    run_as_other 6 shm-dump "$command" "$segment"
    [[ "$(grep -c '^shm-dump: .*Permission denied$' "$work/err")" == 1 && "$(wc -l <"$work/err")" == 1 ]] ||
      flunk "no permission: $(cat "$work/err")"
  done
  run_as_other 6 sluice segment remove "$segment"
  run_as_other 6 sluice segment recover "$segment"
  run_as_other 6 sluice segment create "$work/other" --size 1MiB
  [[ -e "$segment" && ! -e "$work/other.lock" ]] || flunk "a refusal changed something"
else
  chmod 000 "$segment"
  for command in "${commands[@]}"; do refused 6 "$bin/shm-dump" "$command" "$segment"; done
  chmod 600 "$segment"
fi

echo "$failures failed"
((failures == 0))
