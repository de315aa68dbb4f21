#!/usr/bin/env bash
# `sluice run` with stages: what arrives behind queues of each kind, also when workers are killed or stopped, and which
# graphs are refused. Arguments, if any, are the names of the scenarios to run.
set -uo pipefail

# shellcheck source=tests/support/pipeline.sh
source "${BASH_SOURCE[0]%/*}/../support/pipeline.sh"

# ---- helpers --------------------------------------------------------------------------------------------

config() { cat >"$dir/pipeline.toml"; }  # from standard input
queue() { printf '[[queue]]\nname = "%s"\nkind = "%s"\n' "$1" "$2"; printf '%s\n' "${@:3}"; }
stage() { printf '[[stage]]\nname = "%s"\nfrom = "%s"\n' "$1" "$2"; printf '%s\n' "${@:3}"; }
note() { mkdir -p "$dir/notes"; printf 'run = ["%s", "note", "%s"]\n' "$bin/tests/stage_probe" "$dir/notes"; }
upper="run = [\"$bin/examples/stage\"]"

expect_noted() {  # expect_noted UPPER: every byte of every input was noted, once or marked as shown again
  local found
  found="$(python3 - "$dir" "$1" <<'PYTHON'
import glob, sys
directory, upper = sys.argv[1], sys.argv[2] == "upper"
inputs = {}
for path in glob.glob(directory + "/*.in"):
    content = open(path, "rb").read()
    inputs[len(content)] = content.upper() if upper else content
def total(content):
    value = 0
    for byte in content:
        value = (value * 31 + byte) & 0xffffffffffffffff
    return value
parts, ends, unmarked, wrong = {}, {}, {}, []
for path in glob.glob(directory + "/notes/*"):
    for line in open(path):
        kind, flow, position, length, deliveries, value = map(int, line.split())
        if kind == 3:
            ends[flow] = position
        if kind != 1:
            continue
        parts.setdefault(flow, {})[position] = (length, value)
        if deliveries == 0:
            unmarked[flow, position] = unmarked.get((flow, position), 0) + 1
for place, times in unmarked.items():
    if times > 1:
        wrong.append(f"flow {place[0]} at {place[1]} came {times} times unmarked")
for flow, end in sorted(ends.items()):
    content = inputs.get(end)
    if content is None:
        wrong.append(f"flow {flow} ended after {end} bytes, which no input has")
        continue
    at = 0
    while at in parts.get(flow, {}):
        length, value = parts[flow][at]
        if value != total(content[at:at + length]):
            wrong.append(f"flow {flow} at {at}: other bytes")
        at += length
    if at != end:
        wrong.append(f"flow {flow}: nothing at {at} of {end}")
print(len(ends), "of", len(inputs), *wrong[:3])
PYTHON
)"
  expect "flows" "$found" "$(find "$dir" -name '*.in' | wc -l) of $(find "$dir" -name '*.in' | wc -l)"
}

make_text() {  # make_text NAME BYTES
  head -c "$2" /dev/urandom | base64 -w 0 | head -c "$2" >"$dir/$1.in"
}

# ---- scenarios ------------------------------------------------------------------------------------------

streams_all_the_way() {  # order is kept, so flows become files behind two stages
  local i
  for i in 1 2 3 4 5 6; do make_input "$i" $((3000000 + i)); done
  { echo 'into = "raw"'
    queue raw stream; queue next stream
    stage pass raw 'into = "next"' 'workers = 2'
    stage store next "sink = \"$sink\"" 'workers = 2'; } | config
  run --config "$dir/pipeline.toml" || return
  expect "ready line" "$(cat "$dir/out")" \
    "ready: listening on 127.0.0.1:$port, pass (2), store (2), segment $segment"
  for i in 1 2 3 4 5 6; do send_slowly "$i" 30; done
  for i in pass-0 store-1 pass-1 store-0 pass-0; do sleep 0.3; kill_role "$i"; done
  join_clients
  finish 0
  expect "restarts" "$(restarts)" 5
  expect_same_files
  expect_no_leftovers
  expect_sound
}

work_and_a_program() {  # a program of the user's changes blocks where they lie, whoever is killed
  local i
  for i in 1 2 3 4 5 6; do make_text "$i" $((2000000 + i)); done
  { echo 'into = "raw"'; echo 'buffer-size = "4KiB"'
    queue raw work; queue next work
    stage upper raw 'into = "next"' 'workers = 3' "$upper"
    stage note next 'workers = 2' "$(note)"; } | config
  run --config "$dir/pipeline.toml" || return
  for i in 1 2 3 4 5 6; do send_slowly "$i" 30; done
  for i in upper-0 note-1 upper-1 note-0 upper-2 upper-0; do sleep 0.25; kill_role "$i"; done
  join_clients
  finish 0
  expect "restarts" "$(restarts)" 6
  expect_noted upper
  expect_sound
}

broadcast_to_all() {  # each of two stages gets everything, and goes on where its dead worker was
  local i
  for i in 1 2 3 4; do make_input "$i" $((3000000 + i)); done
  { echo 'into = "all"'
    queue all broadcast 'capacity = 256'
    stage store all "sink = \"$sink\""
    stage note all "$(note)"; } | config
  run --config "$dir/pipeline.toml" || return
  for i in 1 2 3 4; do send_slowly "$i" 40; done
  for i in store-0 note-0 store-0 note-0; do sleep 0.3; kill_role "$i"; done
  join_clients
  finish 0
  expect_same_files
  expect_no_leftovers
  expect_noted as-it-is
}

fewer_subscribers() {  # nobody waits for workers that are no more
  { echo 'into = "all"'
    queue all broadcast 'capacity = 16'
    stage note all "$(note)" 'workers = 3'; } | config
  run --config "$dir/pipeline.toml" || return
  finish 0
  sed -i 's/workers = 3/workers = 1/' "$dir/pipeline.toml"
  make_input 1 3000000
  run --config "$dir/pipeline.toml" || return
  send 1
  join_clients
  finish 0
  expect "subscriptions that ended" "$(grep -c 'the subscription note-[12] of another run is over' "$dir/err")" 2
  expect_noted as-it-is
}

all_killed() {  # everything at once; the next run goes on with what is in the queues
  local pids i
  for i in 1 2 3 4; do make_text "$i" $((1000000 + i)); done
  { echo 'into = "raw"'
    queue raw stream; queue next work; queue all broadcast
    stage pass raw 'into = "next"' 'workers = 2'
    stage upper next 'into = "all"' "$upper"
    stage note all "$(note)"; } | config
  run --config "$dir/pipeline.toml" || return
  pids="$(pid_of pass-0) $(pid_of pass-1) $(pid_of upper-0) $(pid_of note-0)"
  # shellcheck disable=SC2086
  kill -STOP ${pids#* }
  for i in 1 2 3 4; do send "$i"; done
  join_clients
  until_true 10 nothing_received_moves
  # shellcheck disable=SC2086
  kill -KILL "$run_pid" $pids "$(pid_of ingress)"
  wait "$run_pid" 2>/dev/null
  run --config "$dir/pipeline.toml" || return
  finish 0
  expect_noted upper
}
nothing_received_moves() {
  local before after
  before="$("$bin/shm-dump" queues "$segment" --json)"
  sleep 0.3
  after="$("$bin/shm-dump" queues "$segment" --json)"
  [[ "$before" == "$after" ]]
}

supervisor_killed() {  # its children finish what is there, stage by stage
  local pids pid
  make_text 1 4000000
  { echo 'into = "raw"'
    queue raw work; queue next work
    stage upper raw 'into = "next"' 'workers = 2' "$upper"
    stage note next "$(note)"; } | config
  run --config "$dir/pipeline.toml" || return
  send_slowly 1 20
  sleep 0.3
  pids="$(pid_of ingress) $(pid_of upper-0) $(pid_of upper-1) $(pid_of note-0)"
  kill -KILL "$run_pid"
  wait "$run_pid" 2>/dev/null
  run_pid=""
  join_clients
  for pid in $pids; do until_true 20 ended "$pid" || failed "process $pid is still there"; done
  expect_noted upper
}

dead_letters() {  # what a stage cannot take ends in a queue of its own
  { echo 'into = "raw"'
    queue raw work 'deliveries-max = 3' 'dead-letter = "raw.dead"'
    queue raw.dead work; queue next work
    stage upper raw 'into = "next"' "$upper"
    stage tally next 'count = true'; } | config
  printf 'bad news' >"$dir/1.in"
  printf 'good news' >"$dir/2.in"
  run --config "$dir/pipeline.toml" || return
  send 1
  send 2
  join_clients
  finish 0
  expect "depth of dead letters" "$("$bin/shm-dump" queues "$segment" --json | python3 -c 'import json, sys
print(*[q["depth"] for q in json.load(sys.stdin)["queues"] if q["name"] == "raw.dead"])')" 1
  grep -q '2 flows closed, 0 aborted; 9 B in' "$dir/err" || failed "the good message did not arrive alone"
}

round_and_round() {  # a cycle that may drop is drained when nothing goes round any more
  { echo 'into = "jobs"'
    queue jobs work 'deliveries-max = 2' 'dead-letter = "dead"' 'policy = "drop-oldest"'
    queue dead work
    queue next work
    stage upper jobs 'into = "next"' "$upper"
    stage retry dead 'into = "jobs"'
    stage tally next 'count = true'; } | config
  make_text 1 100000
  run --config "$dir/pipeline.toml" || return
  send 1
  join_clients
  finish 0
  expect_sound
}

history_is_given_up() {  # what a stage's broadcast keeps for late subscribers comes back when blocks are short
  local i
  { echo 'into = "raw"'; echo 'buffers = 64'
    queue raw work; queue all broadcast
    stage pass raw 'into = "all"'
    stage tally all 'count = true'; } | config
  make_input 1 60000000
  run --config "$dir/pipeline.toml" --size 16MiB || return
  send 1
  join_clients
  finish 0
  grep -q 'tally-0: 1 flows closed, 0 aborted; 57.2 MiB' "$dir/err" || failed "not all bytes arrived"
  { queue all broadcast
    printf '[[stage]]\nname = "make"\ninto = "all"\nrun = ["%s", "make", "3000", "32768"]\n' "$bin/tests/stage_probe"
    stage tally all 'count = true'; } | config
  "$bin/sluice" run --segment "$segment" --config "$dir/pipeline.toml" >"$dir/out" 2>"$dir/err" &
  run_pid=$!
  finish 0 none
  grep -q 'in 3000 messages, 0 redelivered, 0 restarts' "$dir/err" || failed "the program did not make all its messages"
}

smallest_queues() {
  local kind
  for kind in stream work broadcast; do
    { echo 'into = "raw"'; queue raw "$kind" 'capacity = 2'; stage tally raw 'count = true'; } | config
    make_input "$kind" 3000000
    segment="$shm/smallest.$kind"
    run --config "$dir/pipeline.toml" || return
    send "$kind"
    join_clients
    finish 0
    grep -q 'tally-0: 1 flows closed, 0 aborted; 2.86 MiB' "$dir/err" || failed "$kind: not all bytes arrived"
  done
}

dead_letters_dropped() {  # a queue of dead letters that is full and does not wait holds nobody up
  local policy i
  for policy in fail drop-oldest; do
    segment="$shm/dead.$policy"
    { echo 'into = "raw"'
      queue raw work 'capacity = 4' 'deliveries-max = 2' 'dead-letter = "dead"'
      queue dead work 'capacity = 2' "policy = \"$policy\""
      queue next work
      stage upper raw 'into = "next"' "$upper"
      stage tally next 'count = true'; } | config
    run --config "$dir/pipeline.toml" || return
    for i in 1 2 3 4 5 6 7 8; do printf 'bad %s' "$i" | socat -u - "TCP:127.0.0.1:$port"; done
    printf 'good' | socat -u - "TCP:127.0.0.1:$port"
    finish 0
    grep -q '9 flows closed, 0 aborted; 4 B in' "$dir/err" || failed "$policy: the good message did not arrive"
  done
}

orphans_take_what_came_back() {  # also the lease of one that died with the supervisor
  local pids pid
  { echo 'into = "raw"'; echo 'buffer-size = "4KiB"'
    queue raw work
    stage note raw 'workers = 2' "$(note)"; } | config
  make_text 1 400000
  run --config "$dir/pipeline.toml" || return
  pids="$(pid_of note-0) $(pid_of note-1)"
  # shellcheck disable=SC2086
  kill -STOP $pids
  send 1
  join_clients
  sleep 0.3
  kill -KILL "$run_pid" "$(pid_of ingress)"
  wait "$run_pid" 2>/dev/null
  run_pid=""
  # shellcheck disable=SC2086
  kill -CONT $pids
  kill -KILL "${pids#* }"
  for pid in $pids; do until_true 20 ended "$pid" || failed "process $pid is still there"; done
  expect "messages left" "$("$bin/shm-dump" queues "$segment" --json | python3 -c 'import json, sys
print(*[q["work"]["waiting"] + q["work"]["leased"] for q in json.load(sys.stdin)["queues"]])')" 0
}

other_numbers() {  # flows that are on their way keep to their streams
  { echo 'into = "raw"'
    queue raw stream; queue next stream
    stage pass raw 'into = "next"' 'workers = 2'
    stage store next "sink = \"$sink\"" 'workers = 2'; } | config
  make_input 1 3000000
  run --config "$dir/pipeline.toml" || return
  kill -STOP "$(pid_of store-0)" "$(pid_of store-1)"
  send 1
  until_true 10 nothing_received_moves
  kill -KILL "$run_pid" "$(pid_of ingress)" "$(pid_of pass-0)" "$(pid_of pass-1)" "$(pid_of store-0)" "$(pid_of store-1)"
  wait "$run_pid" 2>/dev/null
  join_clients
  sed 's/workers = 2/workers = 3/' "$dir/pipeline.toml" >"$dir/three.toml"
  expect_error 7 'found messages in next.[01] of a run with 2 streams, expected as many workers' \
    --segment "$segment" --tcp 127.0.0.1:0 --config "$dir/three.toml"
  run --config "$dir/pipeline.toml" || return
  finish 0
  run --config "$dir/three.toml" || return
  finish 0
  expect "whole files and parts" "$(find "$sink" -name '*.part' | wc -l)" 0
}

made_here() {  # stages that make messages; the pipeline ends when they have made all
  { queue jobs work 'capacity = 64'
    printf '[[stage]]\nname = "make"\nworkers = 2\ninto = "jobs"\nrun = ["%s", "make", "5000", "100"]\n' \
      "$bin/tests/stage_probe"
    stage tally jobs 'count = true' 'workers = 2'; } | config
  "$bin/sluice" run --segment "$segment" --config "$dir/pipeline.toml" >"$dir/out" 2>"$dir/err" &
  run_pid=$!
  finish 0 none
  grep -q 'drained: 977 KiB in 10000 messages' "$dir/err" || failed "not all messages arrived"
  expect_sound
}

stopped_for_long() {  # 30 s without a worker: senders wait, the segment stays in its size, and then all arrives
  local kind kinds=(stream work broadcast) directory="$dir" pids=() sizes=() size
  for kind in "${kinds[@]}"; do
    dir="$directory/$kind"
    segment="$shm/$kind"
    mkdir "$dir"
    { echo 'into = "raw"'; queue raw "$kind" 'capacity = 64'; stage note raw "$(note)"; } | config
    run --config "$dir/pipeline.toml" --size 16MiB --buffers 256 || return
    pids+=("$run_pid")
    make_input 1 40000000
    kill -STOP "$(pid_of note-0)"
    send 1
  done
  sleep 15
  for kind in "${kinds[@]}"; do sizes+=("$(stat -c %b "$shm/$kind")"); done
  sleep 15
  for kind in "${kinds[@]}"; do
    size="$(stat -c %b "$shm/$kind")"
    expect "blocks of the $kind's segment after 30 s" "$size" "${sizes[0]}"
    sizes=("${sizes[@]:1}")
    # The payload, and what is beside it: tables for the most processes, lanes and cells.
    (( size * 512 < 80 << 20 )) || failed "the $kind's segment has $((size / 2)) KiB"
  done
  for kind in "${kinds[@]}"; do
    dir="$directory/$kind"
    segment="$shm/$kind"
    kill -CONT "$(pid_of note-0)"
  done
  join_clients
  for kind in "${kinds[@]}"; do
    dir="$directory/$kind"
    segment="$shm/$kind"
    run_pid="${pids[0]}"
    pids=("${pids[@]:1}")
    finish 0
    expect_noted as-it-is
  done
}

bad_graphs() {  # each is one line with the place, and exit code 2
  refused() { expect_error 2 "$1" --segment "$segment" --tcp 127.0.0.1:0 --config "$dir/pipeline.toml"; }
  { echo 'into = "raw"'; queue raw work; stage a raw 'into = "rwa"'; } | config
  refused 'pipeline.toml:[0-9]+: stage a: into: found .rwa., which is no queue, expected one of raw'
  { echo 'into = "raw"'; queue raw stream; stage a raw 'count = true'; stage b raw 'count = true'; } | config
  refused 'queue raw: stage a and stage b take from it, but a stream has one consumer'
  { echo 'into = "raw"'; queue raw work; stage a raw 'into = "raw"'; } | config
  refused 'queue raw: messages can go round in a cycle'
  { echo 'into = "raw"'; queue raw work 'capacity = 0'; stage a raw 'count = true'; } | config
  refused 'capacity: found 0, expected 2 to 1048576'
  [[ ! -e "$segment" ]] || failed "a refused graph left a segment"
  { echo 'into = "raw"'; queue raw work 'capacity = 64'; stage a raw 'count = true'; } | config
  run --config "$dir/pipeline.toml" || return
  finish 0
  sed -i 's/capacity = 64/capacity = 128/' "$dir/pipeline.toml"
  refused 'queue raw: found capacity 64, expected 128'
  sed -i 's/kind = "work"/kind = "stream"/' "$dir/pipeline.toml"
  run --config "$dir/pipeline.toml" || return  # streams are named raw.0, raw.1
  finish 0
  { echo 'into = "raw"'; queue raw broadcast; stage a raw 'count = true'; } | config
  refused 'queue raw: found a work queue, expected a broadcast'
  { echo 'into = "q"'; queue q work; stage a q 'run = ["/no/such/program"]'; } | config
  { echo 'into = "q"'; queue q work; stage a q 'run = ["/bin/true"]'; } | config
  expect_error 1 'a-0 .* exited with code 0 before it was ready' --segment "$segment" --tcp 127.0.0.1:0 --config "$dir/pipeline.toml"
  { echo 'into = "q"'; queue q broadcast; stage a q 'lagging = "lose-oldest"' "sink = \"$sink\""; } | config
  refused 'some may be dropped before queue q or at it'
  { echo 'into = "q"'; queue q work; stage a q 'run = ["/no/such/program"]'; } | config
  expect_error 3 'pipeline.toml:[0-9]+: stage a: run: /no/such/program: No such file' --segment "$segment" --tcp 127.0.0.1:0 --config "$dir/pipeline.toml"
}

run_scenarios streams_all_the_way work_and_a_program broadcast_to_all fewer_subscribers all_killed supervisor_killed dead_letters \
  round_and_round history_is_given_up smallest_queues dead_letters_dropped orphans_take_what_came_back \
  other_numbers made_here stopped_for_long bad_graphs -- "$@"
