#!/usr/bin/env bash
# docs/examples: each does what its first lines say, also when a process of it is killed.
set -euo pipefail

bin="${SLUICE_BIN_DIR:?the directory of the programs}"
work="$(mktemp -d /dev/shm/sluice-examples-XXXXXX)"  # tmpfs, where segments are at home
readonly bin work
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
segment() {
  rm -f "$work/segment" "$work/segment.lock"
  "$bin/sluice" segment create "$work/segment" --size 16MiB >/dev/null
}
start() {  # start NAME PROGRAM ARGUMENT…: in the background; what it says goes to $work/NAME
  local name="$1"
  shift
  "$bin/examples/$1" "${@:2}" >"$work/$name" 2>"$work/$name.err" &
  pids+=("$!")
}
finish() {  # finish PID WHAT
  local code=0
  wait "$1" || code=$?
  [[ "$code" == 0 ]] || flunk "$2: exit code $code: $(cat "$work"/*.err)"
}
sound() { "$bin/shm-dump" check "$work/segment" >"$work/check" || flunk "$1: $(cat "$work/check")"; }
says() { grep -q -- "$2" "$work/$1" || flunk "$1 does not say '$2': $(cat "$work/$1")"; }
has_queue() {  # until somebody has made it
  local tries=0
  until "$bin/shm-dump" queues "$work/segment" 2>/dev/null | grep -q "$1"; do
    tries=$((tries + 1))
    (( tries < 200 )) || { flunk "no queue $1"; return; }
    sleep 0.05
  done
}

# Every line of a text arrives once, in order.
stream_example() {
  segment
  seq 1 20000 >"$work/lines.in"
  start lines.first stream read "$work/segment"
  local reader="${pids[-1]}"
  has_queue lines
  "$bin/examples/stream" write "$work/segment" <"$work/lines.in" &
  local writer="$!"
  pids+=("$writer")
  finish "$writer" "stream write"
  finish "$reader" "stream read"
  cmp -s "$work/lines.in" "$work/lines.first" || flunk "the lines that were read are not those that were written"
  sound stream
}

# Each job is done; those that a killed worker had are done by another.
work_queue_example() {
  segment
  start one work_queue work "$work/segment"
  local victim="${pids[-1]}"
  has_queue jobs
  start two work_queue work "$work/segment"
  local survivor="${pids[-1]}"
  "$bin/examples/work_queue" submit "$work/segment" 3000 &
  local submitter="$!"
  pids+=("$submitter")
  kill -KILL "$victim"
  wait "$victim" 2>/dev/null || true
  # Before the submitter is waited for: what the victim had keeps the ring from going round.
  "$bin/sluice" segment recover "$work/segment" >/dev/null 2>&1 || flunk "recover"
  finish "$submitter" "work_queue submit"
  finish "$survivor" "work_queue work"
  local job missing=0
  for job in 0 1 1499 2998 2999; do grep -qx "job $job.*" "$work/one" "$work/two" -h || missing=$((missing + 1)); done
  # What the victim printed last may not be in its file: it was in its buffer.
  (( $(cat "$work/two" | wc -l) > 0 )) || flunk "the survivor did nothing"
  (( missing <= 2 )) || flunk "$missing of 5 jobs were not done"
  sound work_queue
}

broadcast_example() {
  segment
  start early broadcast listen "$work/segment"
  local early="${pids[-1]}"
  has_queue ticks
  start second broadcast listen "$work/segment"
  local second="${pids[-1]}"
  sleep 0.3
  "$bin/examples/broadcast" publish "$work/segment" 5000 || flunk "broadcast publish"
  finish "$early" "broadcast listen"
  finish "$second" "broadcast listen"
  local name count lost
  for name in early second; do
    count="$(sed -n 's/^\([0-9]*\) ticks, \([0-9]*\) lost.*/\1/p' "$work/$name")"
    lost="$(sed -n 's/^\([0-9]*\) ticks, \([0-9]*\) lost.*/\2/p' "$work/$name")"
    (( count + lost == 5000 )) || flunk "$name: $(cat "$work/$name")"
  done
  sound broadcast
}

stages_example() {
  segment
  start counted stages count "$work/segment"
  local counter="${pids[-1]}"
  start upper stages upper "$work/segment"
  local upper="${pids[-1]}"
  has_queue upper
  "$bin/examples/stages" fill "$work/segment" 2000 || flunk "stages fill"
  finish "$upper" "stages upper"
  finish "$counter" "stages count"
  says counted "2000 messages, 52000 letters"
  sound stages
}

stream_example
work_queue_example
broadcast_example
stages_example
(( failures == 0 )) || exit 1
echo "examples: all done"
