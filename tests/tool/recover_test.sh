#!/usr/bin/env bash
# `sluice segment recover` on a segment in every state, and `sluice run` on what else can stand at its path: each
# refusal is one line that says what to do, and a file that is not a segment is left as it was.
set -euo pipefail

bin="${SLUICE_BIN_DIR:?the directory of the programs}"
work="$(mktemp -d)"
chmod 755 "$work"
readonly bin work
pipeline=""
failures=0

stop_pipeline() {
  [[ -z "$pipeline" ]] || kill -KILL -- "-$pipeline" 2>/dev/null || true
  [[ -z "$pipeline" ]] || wait "$pipeline" 2>/dev/null || true
  pipeline=""
}
clean_up() {
  stop_pipeline
  rm -rf "$work"
}
trap clean_up EXIT

flunk() {
  echo "FAILED: $*" >&2
  failures=$((failures + 1))
}
expect() {  # expect CODE COMMAND…: stdout in $work/out, stderr in $work/err
  local wanted="$1" code=0
  shift
  timeout 60 "$@" >"$work/out" 2>"$work/err" || code=$?
  [[ "$code" == "$wanted" ]] || flunk "$*: exit code $code, expected $wanted: $(cat "$work/err")"
}
says() { grep -q -- "$1" "$work/out" "$work/err" || flunk "nothing says '$1': $(cat "$work/out" "$work/err")"; }
one_line() { [[ "$(wc -l <"$work/err")" == 1 ]] || flunk "$(wc -l <"$work/err") lines on stderr: $(cat "$work/err")"; }
query() { python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$work/out" "$1"; }
sound() { expect 0 "$bin/shm-dump" check "$1"; }

start() {  # start SEGMENT [PREFIX…]: a pipeline that is ready
  local segment="$1"
  shift
  : >"$work/run.out"
  setsid "$@" "$bin/sluice" run --segment "$segment" --size 64MiB --tcp 127.0.0.1:0 --workers 2 --count \
    >"$work/run.out" 2>"$work/run.err" &
  pipeline=$!
  for _ in $(seq 200); do
    grep -q ready "$work/run.out" && return 0
    kill -0 "$pipeline" 2>/dev/null || break
    sleep 0.05
  done
  flunk "the pipeline on $segment did not start: $(cat "$work/run.err")"
  return 1
}
ends_well() {
  kill -TERM "$pipeline"
  wait "$pipeline" || flunk "the pipeline ended with $?: $(cat "$work/run.err")"
  pipeline=""
}

echo "== nothing to repair"
segment="$work/segment"
expect 0 "$bin/sluice" segment create "$segment" --size 64MiB
expect 0 "$bin/sluice" segment recover "$segment"
says "^dead processes  *0$"
says "^references dropped  *0$"
[[ ! -s "$work/err" ]] || flunk "a sound segment: $(cat "$work/err")"

echo "== everybody killed"
rm "$segment" "$segment.lock"
start "$segment"
port="$(grep -o '127\.0\.0\.1:[0-9]*' "$work/run.out" | cut -d: -f2)"
exec 3<>"/dev/tcp/127.0.0.1/$port"
head -c 3000000 /dev/zero >&3
stop_pipeline
exec 3>&-
for _ in $(seq 100); do  # until the last of them is gone
  "$bin/shm-dump" info "$segment" --json >"$work/out"
  [[ "$(query 'd["processes"]["alive"]')" != 0 ]] || break
  sleep 0.05
done
for name in copy older twice killed; do cp --sparse=always "$segment" "$work/$name"; done
cp --sparse=always "$segment" "$work/dirty"
expect 0 "$bin/sluice" segment recover "$segment" --json
repaired='d["processes"], d["lanes"], d["references"] > 0, d["roles"], d["disagreements"]'
[[ "$(query "$repaired")" == "(4, 4, True, 4, [])" ]] || flunk "four processes, four lanes: $(cat "$work/out")"
references="$(query 'd["references"]')"
expect 0 "$bin/sluice" segment recover "$segment" --json
[[ "$(query 'd["processes"] + d["lanes"] + d["operations"] + d["moves"] + d["references"] + d["roles"]')" == 0 ]] ||
  flunk "a second time: $(cat "$work/out")"
sound "$segment"

echo "== a copy, a file of an older boot"
expect 0 "$bin/sluice" segment recover "$work/copy" --json
[[ "$(query "$repaired")" == "(4, 4, True, 4, [])" && "$(query 'd["references"]')" == "$references" ]] ||
  flunk "a copy: $(cat "$work/out")"
sound "$work/copy"
# The same file, as the next boot finds it: boot ids of the identity (region 1, byte 32) and of the rows (region 5).
expect 0 "$bin/sluice" segment recover "$work/older"
start "$work/older"
stop_pipeline
sleep 0.3
python3 - "$work/older" <<'PYTHON'
import os, sys
boot = bytes.fromhex(open("/proc/sys/kernel/random/boot_id").read().strip().replace("-", ""))
with open(sys.argv[1], "r+b") as file:
    end, changed, at = os.fstat(file.fileno()).st_size, 0, 0
    while at < min(end, 1 << 22):
        file.seek(at)
        page = file.read(4096)
        if boot in page:
            changed += page.count(boot)
            file.seek(at)
            file.write(page.replace(boot, bytes(16)[:15] + b"\x01"))
        at += 4096
assert changed >= 5, changed
PYTHON
expect 0 "$bin/shm-dump" info "$work/older" --json
[[ "$(query 'd["this_boot"], d["copy"], d["processes"]["dead"]')" == "(False, False, 4)" ]] || flunk "older boot: $(cat "$work/out")"
expect 0 "$bin/sluice" segment recover "$work/older" --json
[[ "$(query 'd["processes"], d["lanes"], d["disagreements"]')" == "(4, 4, [])" ]] || flunk "older boot: $(cat "$work/out")"
sound "$work/older"

echo "== several at the same time"
pids=()
for i in 1 2 3 4; do
  "$bin/sluice" segment recover "$work/twice" --json >"$work/out.$i" 2>"$work/err.$i" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || flunk "one of several ended with $?: $(cat "$work"/err.?)"; done
[[ "$(cat "$work"/out.? | python3 -c 'import json, sys
d = [json.loads(line) for line in sys.stdin]
print(sum(x["processes"] for x in d), sum(x["lanes"] for x in d), sum(x["references"] for x in d))')" == "4 4 $references" ]] ||
  flunk "the work was not shared: $(cat "$work"/out.?)"
sound "$work/twice"

echo "== killed itself"
for i in $(seq 15); do
  cp --sparse=always "$work/killed" "$work/again"
  "$bin/sluice" segment recover "$work/again" >/dev/null 2>&1 &
  victim=$!
  sleep "0.0$((i % 10))"
  kill -KILL "$victim" 2>/dev/null || true
  wait "$victim" 2>/dev/null || true
  expect 0 "$bin/sluice" segment recover "$work/again"
  sound "$work/again"
  rm -f "$work/again" "$work/again.lock"
done

echo "== a disagreement"
if unshare --pid --fork --mount-proc true 2>/dev/null; then
  expect 0 "$bin/sluice" segment create "$work/foreign" --size 64MiB
  start "$work/foreign" unshare --pid --fork --mount-proc --kill-child
  stop_pipeline
  sleep 0.5
  expect 9 "$bin/sluice" segment recover "$work/foreign"
  says "^disagreement: row [0-9]* (pid [0-9]* of pid namespace [0-9]*)"
  says "recover in its own namespace"
  one_line
  expect 9 "$bin/sluice" segment recover "$work/foreign" --json
  [[ "$(query 'd["processes"], len(d["disagreements"])')" == "(0, 4)" ]] || flunk "disagreements: $(cat "$work/out")"
else
  echo "left out: pid namespaces are not permitted here"
fi

echo "== sluice run on what stands there"
run=("$bin/sluice" run --tcp 127.0.0.1:0 --count --segment)
refused() {  # refused CODE PATH WORDS: one line, and the file keeps its bytes
  local before=""
  [[ ! -f "$2" ]] || before="$(md5sum <"$2")"
  expect "$1" "${run[@]}" "$2"
  one_line
  says "$3"
  [[ -z "$before" || "$before" == "$(md5sum <"$2")" ]] || flunk "$2 was changed"
}
: >"$work/empty"
refused 4 "$work/empty" "0 bytes long.*it was left as it is: remove it if nobody needs it"
[[ ! -e "$work/empty.lock" ]] || flunk "a lock file was left beside an empty file"
head -c 500 "$segment" >"$work/half"
refused 4 "$work/half" "500 bytes long.*it was left as it is"
head -c 2000 "$segment" >"$work/half"
refused 5 "$work/half" "truncated.*it was left as it is"
head -c 100000 /dev/zero >"$work/zeros"
refused 4 "$work/zeros" "it was left as it is"

echo "== sluice run beside lock files"
: >"$work/stale.lock"  # of a segment that is gone
start "$work/stale" && ends_well
mkdir "$work/folder.lock"
refused 1 "$work/folder" "folder.lock"
ln -s "$work/nowhere" "$work/link.lock"
refused 1 "$work/link" "link.lock.*remove it"
mkfifo "$work/fifo.lock"
refused 4 "$work/fifo" "fifo.lock: not a regular file.*remove it"
cp --sparse=always "$work/dirty" "$work/lost"
expect 0 "$bin/sluice" segment recover "$work/lost"
rm "$work/lost.lock"
refused 9 "$work/lost" "lost.lock is gone.*cp --sparse=always"
: >"$work/lost.lock"
refused 9 "$work/lost" "lost.lock was replaced.*cp --sparse=always"
cp --sparse=always "$work/lost" "$work/found"  # as the line says
start "$work/found" && ends_well
if [[ "$EUID" == 0 ]]; then
  mkdir -m 755 "$work/programs"
  mkdir -m 777 "$work/open"
  cp "$bin/sluice" "$work/programs"
  as_other=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  if "${as_other[@]}" "$work/programs/sluice" --help >/dev/null 2>&1; then
    run=("${as_other[@]}" "$work/programs/sluice" run --tcp 127.0.0.1:0 --count --segment)
    : >"$work/open/stale.lock"
    chmod 600 "$work/open/stale.lock"
    refused 6 "$work/open/stale" "stale.lock: Permission denied.*if its segment is gone, remove it"
    expect 0 "$bin/sluice" segment create "$work/open/segment" --size 1MiB --mode 0666
    chmod 600 "$work/open/segment.lock"
    refused 6 "$work/open/segment" "segment.lock: Permission denied.*owner and mode"
  else
    echo "left out: nobody may not run programs in $work"
  fi
fi
# A lock file of another owner is no obstacle for root, in a directory where everybody may write either.
if [[ "$EUID" == 0 ]]; then
  mkdir -m 1777 "$work/sticky"
  : >"$work/sticky/segment.lock"
  chown 65534 "$work/sticky/segment.lock"
  start "$work/sticky/segment" && ends_well
fi

echo "== standard streams that are closed"
expect 0 "$bin/sluice" segment create "$work/closed" --size 1MiB
before="$(head -c 4096 "$work/closed" | md5sum)"
rm "$work/closed.lock"  # so that it has something to complain of
"$bin/sluice" segment recover "$work/closed" >/dev/null 2>&- && flunk "closed stderr: it recovered without a lock file"
[[ "$(head -c 4096 "$work/closed" | md5sum)" == "$before" ]] || flunk "closed stderr: the message went into the segment"
cp --sparse=always "$work/closed" "$work/closed2"
"$bin/sluice" segment recover "$work/closed2" <&- >&- && flunk "closed stdout: a result that nobody got is no success"
[[ ! -s "$work/closed2.lock" ]] || flunk "closed stdout: the result went into the lock file"
expect 0 "$bin/sluice" segment recover "$work/closed2"

echo "== a directory; a limit on the size of files"
expect 4 "$bin/sluice" segment recover "$work"
one_line
says "not a regular file but a directory"
expect 8 bash -c 'ulimit -f 100; exec "$0" segment create "$1" --size 1MiB' "$bin/sluice" "$work/limited"
one_line
[[ ! -e "$work/limited" && ! -e "$work/limited.lock" ]] || flunk "a limit on files: something was left"

echo "== a copy with holes, and no room for its pages"
mkdir "$work/full"
if mount -t tmpfs -o size=8M none "$work/full" 2>/dev/null; then
  expect 0 "$bin/sluice" segment create "$work/full/original" --size 2MiB --initial 1MiB --lanes 8 --processes 4 --queues 4
  cp --sparse=always "$work/full/original" "$work/full/copy"
  dd if=/dev/zero of="$work/full/fill" bs=4k 2>/dev/null || true
  expect 8 "$bin/sluice" segment recover "$work/full/copy"
  one_line
  says "a copy with holes, and no room"
  rm "$work/full/fill"
  expect 0 "$bin/sluice" segment recover "$work/full/copy"
  umount "$work/full"
else
  echo "left out: no tmpfs can be mounted here"
fi

echo "$failures failed"
((failures == 0))
