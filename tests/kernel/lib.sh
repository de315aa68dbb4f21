# Shared by all cases; POSIX sh. Sourced by case.sh, which sets scratch, server, id and device.
# shellcheck shell=sh disable=SC2154

flunk() {
  echo "FAILED: $*"
  exit 1
}

# eventually SECONDS COMMAND…: until it succeeds
eventually() {
  { set +x; } 2>/dev/null  # it would drown everything else
  tries=$(($1 * 20)) found=1
  shift
  while [ "$tries" -gt 0 ] && [ "$found" != 0 ]; do
    if "$@" >/dev/null 2>&1; then
      found=0
    else
      sleep 0.05
      tries=$((tries - 1))
    fi
  done
  set -x
  return "$found"
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# start VERB ARGUMENT…: a server in the background, once it is ready; $server, $id and $device are its.
start() {
  rm -f "$scratch/ready"
  sluice ublk "$@" >"$scratch/ready" 2>"$scratch/server.err" &
  server=$!
  echo "$server" >>"$scratch/pids"
  if ! eventually 60 ready_or_gone; then flunk "the server says nothing: $(cat "$scratch/server.err")"; fi
  if ! grep -q '^ready' "$scratch/ready"; then flunk "the server ended: $(cat "$scratch/server.err")"; fi
  device="$(sed -n 's/^ready: \([^,]*\),.*/\1/p' "$scratch/ready")"
  id="${device#/dev/ublkb}"
  [ -b "$device" ] || flunk "$device is not there"
}
ready_or_gone() { grep -q '^ready' "$scratch/ready" || gone "$server"; }

# stop [PID]: SIGTERM, and a good end
stop() {
  pid="${1:-$server}"
  kill -TERM "$pid"
  wait "$pid" || flunk "the server ended with $?: $(cat "$scratch/server.err")"
  cat "$scratch/ready"
  [ ! -e "$device" ] || flunk "$device is still there"
}

# crash: SIGKILL, until it is gone
crash() {
  kill -KILL "$server"
  wait "$server" 2>/dev/null || true
}

# refused CODE PATTERN COMMAND…: that exit code, and one line on stderr that has the pattern
refused() {
  wanted="$1" pattern="$2" code=0
  shift 2
  timeout 60 "$@" >"$scratch/out" 2>"$scratch/err" || code=$?
  [ "$code" = "$wanted" ] || flunk "$*: exit code $code, expected $wanted: $(cat "$scratch/err")"
  [ "$(wc -l <"$scratch/err")" = 1 ] || flunk "$*: more than a line: $(cat "$scratch/err")"
  grep -q -- "$pattern" "$scratch/err" || flunk "$*: '$(cat "$scratch/err")' does not have '$pattern'"
}

# state_is STATE: of device $id
state_is() { sluice ublk info "$id" | grep -q "^state  *$1\$"; }

# disk BYTES: a file for a target, all zeroes, not sparse on purpose
disk() { truncate -s "$1" "$scratch/disk.img"; }

# verify_io DEVICE DEPTH JOBS: each job writes at random in a part of its own, reads back, compares
verify_io() {
  part=$(($(blockdev --getsize64 "$1") / $3))
  fio --name=verify --filename="$1" --ioengine=io_uring --direct=1 --rw=randrw --bsrange=4k-64k --size="$part" \
    --offset_increment="$part" --io_size=12M --verify=crc32c --verify_fatal=1 --iodepth="$2" --numjobs="$3" \
    --randseed=7 --output-format=terse >"$scratch/fio.out" 2>&1 ||
    flunk "fio: $(head -n 3 "$scratch/fio.out")"
}

# served FIELD…: fails unless the server, which has stopped, says that it served some of each
served() { grep -q "^served:.* [1-9][0-9]* $1" "$scratch/ready" || flunk "no $1: $(cat "$scratch/ready")"; }
