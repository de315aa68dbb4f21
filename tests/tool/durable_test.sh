#!/usr/bin/env bash
# Durable subscriptions from outside: a parked one that holds a publisher up is shown, is taken up again by the next
# process of its name, and can be ended by `sluice segment unsubscribe`.
set -euo pipefail

bin="${SLUICE_BIN_DIR:?the directory of the programs}"
work="$(mktemp -d /dev/shm/sluice-durable-XXXXXX)"
readonly bin work segment="$work/segment"
pids=()
failures=0

clean_up() {
  local pid
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
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
until_says() {  # until_says TEXT COMMAND…
  local tries=0 text="$1"
  shift
  until "$@" 2>/dev/null | grep -q -- "$text"; do
    tries=$((tries + 1))
    (( tries < 200 )) || { flunk "$* does not come to say '$text': $("$@" 2>&1)"; return; }
    sleep 0.05
  done
}
listen() {  # listen NAME: in the background
  "$bin/examples/broadcast" listen "$segment" "$1" >"$work/$1" 2>&1 &
  pids+=("$!")
}
publish() {
  "$bin/examples/broadcast" publish "$segment" "$1" >"$work/publish" 2>&1 &
  pids+=("$!")
}

expect 0 "$bin/sluice" segment create "$segment" --size 16MiB
listen audit
listener="${pids[-1]}"
until_says "audit" "$bin/shm-dump" queues "$segment" ticks
expect 7 "$bin/sluice" segment unsubscribe "$segment" ticks audit
says "a lane has it"
one_line

echo "== a parked one holds the publisher up, and is shown"
kill -KILL "$listener"
wait "$listener" 2>/dev/null || true
expect 0 "$bin/sluice" segment recover "$segment"
publish 5000
publisher="${pids[-1]}"
until_says "full: held by audit, parked" "$bin/shm-dump" queues "$segment"
expect 0 "$bin/shm-dump" queues "$segment"
says "1 of 32 subscribers, 1 parked, up to 1024 behind"
expect 0 "$bin/shm-dump" queues "$segment" ticks
says "full: held up by audit: parked"
says "^audit: parked *block *@0 *1024 *0 *0 *0 *parked"
expect 0 "$bin/shm-dump" queues "$segment" ticks --json
[[ "$(query '[[q["held_up_by"], q["full"]] + [[s[k] for k in ("name", "parked", "lane", "policy", "lag")] for s in q["subscribers"]] for q in d["queues"]]')" == \
  "[['audit: parked', True, ['audit', True, None, 'block', 1024]]]" ]] || flunk "queues --json: $(cat "$work/out")"
expect 0 "$bin/shm-dump" check "$segment"

echo "== the next one of its name reads everything"
listen audit
listener="${pids[-1]}"
wait "$publisher" || flunk "publish: $(cat "$work/publish")"
wait "$listener" || flunk "listen: $(cat "$work/audit")"
grep -q "^5000 ticks, 0 lost, 0 again" "$work/audit" || flunk "audit: $(cat "$work/audit")"

echo "== it is ended from outside, and the publisher goes on"
publish 3000
publisher="${pids[-1]}"
until_says "full: held by audit, parked" "$bin/shm-dump" queues "$segment"
expect 0 "$bin/sluice" segment unsubscribe "$segment" ticks audit --json
[[ "$(query '[d[k] for k in ("schema", "queue", "name")]')" == "['sluice.segment.unsubscribe/1', 'ticks', 'audit']" ]] ||
  flunk "unsubscribe --json: $(cat "$work/out")"
wait "$publisher" || flunk "publish: $(cat "$work/publish")"
expect 3 "$bin/sluice" segment unsubscribe "$segment" ticks audit
says "there is none of that name"
one_line
expect 3 "$bin/sluice" segment unsubscribe "$segment" nosuch audit
one_line
expect 3 "$bin/sluice" segment unsubscribe "$work/nosuch" ticks audit
expect 2 "$bin/sluice" segment unsubscribe "$segment" ticks "$(printf 'x%.0s' {1..32})"
one_line
expect 0 "$bin/shm-dump" check "$segment"

(( failures == 0 )) || exit 1
echo "durable: all done"
