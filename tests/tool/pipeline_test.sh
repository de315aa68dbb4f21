#!/usr/bin/env bash
# `sluice run` from end to end: real clients, SIGKILL to each kind of process, bad input, and what is left afterwards.
# Arguments, if any, are the names of the scenarios to run.
set -uo pipefail

# shellcheck source=tests/support/pipeline.sh
source "${BASH_SOURCE[0]%/*}/../support/pipeline.sh"

has_open_flow() { [[ -n "$(find "$sink" -name '*.part')" ]]; }

# ---- scenarios ------------------------------------------------------------------------------------------

plain() {
  local i
  for i in 1 2 3 4 5 6; do make_input "$i" $((i * 1000003)); done
  make_input empty 0
  run --workers 3 --sink "$sink" || return
  expect "ready line" "$(cat "$dir/out")" "ready: listening on 127.0.0.1:$port, 3 workers, segment $segment"
  for i in 1 2 3 4 5 6 empty; do send "$i"; done
  join_clients
  finish 0
  expect "lines on stdout" "$(wc -l <"$dir/out")" 1
  expect_same_files
  expect_no_leftovers
  expect_sound
}

count_only() {
  make_input 1 3000000
  run --workers 1 --count || return
  send 1
  join_clients
  finish 0 INT
  grep -q '1 flows closed' "$dir/err" || failed "the worker did not count one flow"
  expect_sound
}

config_file() {
  make_input 1 100000
  printf 'workers = 1\nsink = "%s"\ndrain = "1s"\nstatus = "100ms"\nbuffer-size = "4KiB"\n' "$sink" >"$dir/pipeline.toml"
  run --config "$dir/pipeline.toml" --workers 2 || return
  grep -q ', 2 workers,' "$dir/out" || failed "the flag did not override the file"
  send 1
  join_clients
  until_true 5 grep -q 'status: phase=serving' "$dir/err" || failed "no status line"
  finish 0
  expect_same_files
}

worker_killed() {
  local i
  for i in 1 2 3 4 5 6 7 8; do make_input "$i" 4000000; done
  run --workers 2 --sink "$sink" || return
  for i in 1 2 3 4 5 6 7 8; do send_slowly "$i" 40; done
  for i in 0 1 0 1 0 1; do
    sleep 0.3
    kill_role "worker-$i"
  done
  join_clients
  finish 0
  expect "restarts" "$(restarts)" 6
  expect_same_files
  expect_no_leftovers
  expect_sound
}

worker_killed_in_drain() {
  local i
  for i in 1 2 3 4; do make_input "$i" 4000000; done
  run --workers 2 --sink "$sink" || return
  for i in 1 2 3 4; do send_slowly "$i" 40; done
  sleep 0.3
  kill -TERM "$run_pid"
  sleep 0.3
  kill_role worker-0
  kill_role worker-1
  join_clients
  finish 0 none
  expect_same_files
  expect_no_leftovers
  expect_sound
}

ingress_killed() {
  local flow
  make_input cut 8000000
  make_input whole 3000000
  run --workers 2 --sink "$sink" || return
  send_slowly cut 60
  sleep 0.6
  kill_role ingress
  join_clients
  until_true 10 has_pid ingress || failed "no ingress after its death"
  clients=()
  until_true 10 socat -u FILE:/dev/null "TCP:127.0.0.1:$port" 2>/dev/null || failed "port $port is not listened on again"
  send whole
  join_clients
  until_true 10 test -e "$sink/2.bin" || failed "no file for the third connection"
  finish 0
  expect "file after the restart" "$(hashes "$sink/2.bin")" "$(hashes "$dir/whole.in")"
  flow="$(find "$sink" -name '*.aborted')"
  [[ -n "$flow" ]] || { failed "the flow that was cut off is not marked"; return; }
  cmp -s -n "$(stat -c %s "$flow")" "$flow" "$dir/cut.in" || failed "the flow that was cut off is not a prefix of its file"
  expect "open flows" "$(find "$sink" -name '*.part' | wc -l)" 0
  expect_sound
}

supervisor_killed() {
  local pids pid
  make_input 1 4000000
  make_input 2 4000000
  run --workers 2 --sink "$sink" || return
  send_slowly 1 20
  sleep 0.3
  pids="$(pid_of ingress) $(pid_of worker-0) $(pid_of worker-1)"
  kill -KILL "$run_pid"
  wait "$run_pid" 2>/dev/null
  # At once again: the new pipeline waits for the old one's processes, which finish what they have.
  run --workers 2 --sink "$sink" || return
  for pid in $pids; do ended "$pid" || failed "process $pid of the first run is still there"; done
  send 2
  join_clients
  finish 0
  expect_same_files
  expect_no_leftovers
  expect_sound
}

all_killed() {
  local role
  make_input 1 4000000
  run --workers 2 --sink "$sink" || return
  send_slowly 1 40
  sleep 0.5
  kill -KILL "$run_pid"
  wait "$run_pid" 2>/dev/null
  for role in ingress worker-0 worker-1; do kill -KILL "$(pid_of "$role")" 2>/dev/null; done
  join_clients
  rm -f "$dir/1.in"
  make_input 2 1000000
  run --workers 3 --sink "$sink" || return
  send 2
  join_clients
  finish 0
  expect_same_files
  expect "flows of the killed run" "$(find "$sink" -name '*.aborted' | wc -l)" 1
  expect "open flows" "$(find "$sink" -name '*.part' | wc -l)" 0
  expect_sound
}

fewer_workers() {
  local i
  run --workers 4 --sink "$sink" || return
  for i in 1 2 3 4; do make_input "$i" 500000; send "$i"; done
  join_clients
  finish 0
  run --workers 1 --sink "$sink" || return
  for i in 5 6; do make_input "$i" 500000; send "$i"; done
  join_clients
  finish 0
  expect_same_files
  expect_sound
}

silent_and_rude_clients() {
  make_input 1 200000
  run --workers 1 --sink "$sink" --drain 500ms || return
  exec 5<>"/dev/tcp/127.0.0.1/$port"  # says nothing, and stays
  socat -u FILE:/dev/null "TCP:127.0.0.1:$port"
  python3 - "$port" <<'PYTHON'
import socket, struct, sys, time
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.sendall(b"half")
time.sleep(0.2)
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends RST
client.close()
PYTHON
  send 1
  join_clients
  finish 0
  exec 5>&-
  expect "whole flows" "$(hashes "$sink"/*.bin | sort -u | wc -l)" 2
  expect "open flows" "$(find "$sink" -name '*.part' | wc -l)" 0
  expect "flows" "$(find "$sink" -type f | wc -l)" 4
  expect_sound
}

more_connections_than_allowed() {
  local count
  run --workers 2 --sink "$sink" --max-connections 40 || return
  # All are connected before the first one sends: most of them wait in the backlog.
  count="$(python3 - "$port" <<'PYTHON'
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
with open("/proc/sys/net/core/somaxconn") as somaxconn:
    count = min(3000, min(hard, 4096) - 50, int(somaxconn.read()) // 2)
clients = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) for _ in range(count)]
for number, client in enumerate(clients):
    client.sendall(b"%d " % number)
    client.shutdown(socket.SHUT_WR)
for client in clients:
    client.close()
print(count)
PYTHON
  )" || failed "a client failed"
  finish 0
  expect "flows" "$(cat "$sink"/*.bin | tr ' ' '\n' | sort -n | uniq | wc -l)" "$count"
  expect_no_leftovers
  expect_sound
}

forced() {
  run --workers 1 --sink "$sink" --drain 60s || return
  exec 5<>"/dev/tcp/127.0.0.1/$port"
  until_true 5 has_open_flow || failed "the connection is not a flow"
  kill -TERM "$run_pid"
  sleep 0.5
  finish 1
  exec 5>&-
  grep -q 'second signal' "$dir/err" || failed "no line about the second signal"
  expect "sound" "$("$bin/shm-dump" check "$segment" >/dev/null; echo $?)" 0
}

segment_removed() {
  make_input 1 200000
  run --workers 1 --sink "$sink" || return
  send 1
  join_clients
  rm "$segment"
  finish 3 none
  expect "lines about the file" "$(grep -c 'removed or replaced' "$dir/err")" 1
  expect_same_files
}

two_at_once() {
  run --workers 1 --sink "$sink" || return
  mv "$dir/out" "$dir/first.out"
  mv "$dir/err" "$dir/first.err"
  expect_error 7 'another pipeline writes there' --segment "$segment.other" --tcp 127.0.0.1:0 --sink "$sink"
  expect_error 7 'another supervisor' --segment "$segment" --tcp 127.0.0.1:0 --count
  expect_error 1 "127.0.0.1:$port.*in use" --segment "$segment.third" --tcp "127.0.0.1:$port" --count
  finish 0
}

bad_input() {
  local common=(--tcp 127.0.0.1:0 --count)
  expect_error 2 'segment: missing' --tcp 127.0.0.1:0 --count
  expect_error 2 'tcp: missing' --segment "$segment" --count
  expect_error 2 'sink: missing' --segment "$segment" --tcp 127.0.0.1:0
  expect_error 2 "tcp: found 'nonsense'" --segment "$segment" --tcp nonsense --count
  expect_error 2 'workers: found 0' --segment "$segment" "${common[@]}" --workers 0
  expect_error 2 'localhost' --segment "$segment" --tcp localhost:0 --count
  expect_error 1 '192.0.2.1' --segment "$segment" --tcp 192.0.2.1:0 --count
  expect_error 3 'No such file' --segment "$dir/none/segment" "${common[@]}"
  expect_error 3 'No such file' --config "$dir/none.toml" "${common[@]}"
  printf 'wokers = 3\n' >"$dir/typo.toml"
  expect_error 2 "typo.toml:1: unknown key 'wokers'" --config "$dir/typo.toml" "${common[@]}"
  mkdir "$dir/directory"
  expect_error '1|4' 'directory' --segment "$dir/directory" "${common[@]}"
  printf 'not a segment at all' >"$dir/foreign"
  expect_error 4 'foreign' --segment "$dir/foreign" "${common[@]}"
  head -c 100000 /dev/urandom >"$dir/noise"
  expect_error 4 'noise' --segment "$dir/noise" "${common[@]}"
  : >"$dir/empty"
  expect_error 4 'empty' --segment "$dir/empty" "${common[@]}"
  printf 'a file' >"$dir/file"
  expect_error 1 'Not a directory' --segment "$segment" --tcp 127.0.0.1:0 --sink "$dir/file/sink"
  [[ ! -e "$segment.bad" ]] || failed "a segment was left behind"
}

write_devices() {  # write_devices LINE…: a configuration with these lines below its [[ublk]]
  printf 'segment = "%s"\n[[ublk]]\n' "$segment" >"$dir/devices.toml"
  printf '%s\n' "$@" >>"$dir/devices.toml"
}

bad_devices() {
  write_devices 'name = "disk"' 'target = "loop"'
  expect_error 2 "devices.toml:4: target: found 'loop', expected one of null, file, store" --config "$dir/devices.toml"
  write_devices 'name = "disk"' 'target = "null"' 'quues = 2'
  expect_error 2 "devices.toml:5: unknown key 'quues' in \[\[ublk\]\], expected one of name, " --config "$dir/devices.toml"
  write_devices 'target = "null"'
  expect_error 2 'devices.toml:2: name: missing' --config "$dir/devices.toml"
  write_devices 'name = "disk"' 'target = "null"'
  expect_error 2 'workers: found without tcp' --config "$dir/devices.toml" --workers 2
  [[ ! -e "$segment" ]] || failed "a segment was left behind"
}

# What the server says is the one line, and its exit code the pipeline's; beside an ingress too, which drains.
devices_without_driver() {
  if [[ -e /dev/ublk-control ]]; then
    echo "the driver is there: left out"
    return
  fi
  write_devices 'name = "disk"' 'target = "null"' 'size = "1MiB"'
  expect_error 3 '/dev/ublk-control is missing' --config "$dir/devices.toml"
  expect "bytes on stdout" "$(wc -c <"$dir/out")" 0
  expect_error 3 '/dev/ublk-control is missing' --config "$dir/devices.toml" --tcp 127.0.0.1:0 --count
  write_devices 'name = "disk"' 'target = "file"' 'queues = 0'
  expect_error 2 'queues is 0, expected 1 to' --config "$dir/devices.toml"
  expect_sound
}

small_mount() {  # small_mount DIRECTORY SIZE: false where mounting is not permitted
  mkdir -p "$1"
  mount -t tmpfs -o "size=$2" none "$1" 2>/dev/null || return 1
  mounts+=("$1")
}

file_systems_full() {
  if ! small_mount "$dir/tiny" 64k; then
    echo "mounting is not permitted: left out"
    return
  fi
  expect_error 8 'No space left' --segment "$dir/tiny/segment" --tcp 127.0.0.1:0 --count
  expect "files left behind" "$(find "$dir/tiny" -type f | wc -l)" 0

  # A sink that fills up: nothing is acknowledged, nothing is lost, and it goes on when there is room.
  small_mount "$dir/sink" 2m
  make_input 1 6000000
  run --workers 1 --sink "$sink" || return
  send 1
  until_true 10 grep -q 'No space left' "$dir/err" || failed "no line about the full sink"
  mount -o remount,size=32m "$dir/sink"
  join_clients
  finish 0
  expect_same_files
  expect_no_leftovers
  expect_sound

  # A segment's file system that is too small for its maximum: back-pressure, no crash.
  small_mount "$dir/segments" 24m
  segment="$dir/segments/segment"
  rm -f "$dir"/*.in "$sink"/*
  make_input 2 12000000
  run --workers 1 --sink "$sink" || return
  send_slowly 2 10
  join_clients
  finish 0
  expect_same_files
  expect_sound
}

all=(plain count_only config_file worker_killed worker_killed_in_drain ingress_killed supervisor_killed all_killed
  fewer_workers silent_and_rude_clients more_connections_than_allowed forced segment_removed two_at_once bad_input bad_devices
  devices_without_driver file_systems_full)
run_scenarios "${all[@]}" -- "$@"
