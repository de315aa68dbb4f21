#!/bin/sh
# Block devices beside each other, in rounds: ours, and the kernel's null_blk and loop. In POSIX sh, for busybox; run by
# ublk_bench.sh, in the virtual machine or, as root, on a real one with a ublk driver.
# env: BENCH_WORK, a directory on tmpfs; BENCH_ROUNDS; BENCH_MS of each measurement;
#      BENCH_DATA, how the data of our devices travels: auto, user-copy or copy
#
# One line for each measurement:
#   ROW TARGET MODE DEPTH IOPS P50-US P99-US SERVER-TICKS BUSY-TICKS ENTERS COPIES REQUESTS QUEUED-MS
# and `ABSENT TARGET WHY` for what is not there. Ticks are 1/100 s; enters, copies and requests
# are of our own servers, else 0; QUEUED-MS is how long all requests together were with the driver.
set -u
work="${BENCH_WORK:-/tmp/bench}" rounds="${BENCH_ROUNDS:-3}" ms="${BENCH_MS:-1000}"
size_mib=64
targets=""
mkdir -p "$work"

# load MODULE ARGUMENT…: from the initramfs, else from this machine's modules; nothing if it is there already
load() {
  [ ! -d "/sys/module/$1" ] || return 0
  if [ -f "/modules/$1.ko" ]; then
    name="$1"
    shift
    insmod "/modules/$name.ko" "$@"
  else
    modprobe "$@" 2>/dev/null
  fi
}

absent() { echo "ABSENT $1 $2"; }

# serve NAME ARGUMENT…: a server of ours in the background, until its device is there
serve() {
  name="$1"
  shift
  sluice ublk add --depth 64 --data "${BENCH_DATA:-auto}" "$@" >"$work/$name.out" 2>"$work/$name.err" &
  echo "$!" >"$work/$name.pid"
  tries=0
  until grep -q '^ready' "$work/$name.out"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ] || ! kill -0 "$(cat "$work/$name.pid")" 2>/dev/null; then
      absent "$name" "$(tail -n 1 "$work/$name.err")"
      return 0
    fi
    sleep 0.1
  done
  sed -n 's/^ready: \([^,]*\),.*/\1/p' "$work/$name.out" >"$work/$name.device"
  targets="$targets $name"
}

start_all() {
  serve null --target null --size "${size_mib}MiB"
  truncate -s "${size_mib}M" "$work/file.img"
  serve file --target file --path "$work/file.img"
  if sluice ublk add --help | grep -q -- --segment; then
    sluice segment create "$work/segment" --size "$((3 * size_mib))MiB" >/dev/null &&
      serve store --target store --segment "$work/segment" --name disk --size "${size_mib}MiB"
  else
    absent store "not built"
  fi
  load configfs
  if load null_blk nr_devices=1 gb=1 submit_queues=1 hw_queue_depth=64 && [ -b /dev/nullb0 ]; then
    echo /dev/nullb0 >"$work/null_blk.device"
    targets="$targets null_blk"
  else
    absent null_blk "no such module, or it has no /dev/nullb0"
  fi
  if load loop && loop="$(losetup -f)"; then
    truncate -s "${size_mib}M" "$work/loop.img"
    losetup "$loop" "$work/loop.img" && echo "$loop" >"$work/loop.device" && targets="$targets loop"
  else
    absent loop "no such module"
  fi
  # Every block is there before it is measured.
  for target in $targets; do
    dd if=/dev/zero of="$(cat "$work/$target.device")" bs=1M count="$size_mib" conv=fsync 2>/dev/null
  done
}

stop_all() {
  [ ! -f "$work/loop.device" ] || losetup -d "$(cat "$work/loop.device")"
  for target in null file store; do
    [ -f "$work/$target.pid" ] || continue
    kill -TERM "$(cat "$work/$target.pid")" 2>/dev/null
    wait "$(cat "$work/$target.pid")"
  done
  rm -rf "${work:?}"
}

# What a server has used and done so far: "TICKS ENTERS COPIES REQUESTS"; zeroes for what is none of ours
server_state() {
  [ -f "$work/$1.pid" ] || { echo "0 0 0 0"; return; }
  pid="$(cat "$work/$1.pid")"
  lines="$(wc -l <"$work/$1.err")"
  kill -USR1 "$pid"
  while [ "$(wc -l <"$work/$1.err")" = "$lines" ]; do sleep 0.02; done
  ticks="$(sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }')"
  tail -n 1 "$work/$1.err" | sed -n 's/.*served: \([0-9]*\) reads.*), \([0-9]*\) writes.*calls: \([0-9]*\) io_uring_enter, \([0-9]*\) copies.*/\1 \2 \3 \4/p' |
    awk -v ticks="$ticks" '{ print ticks, $3, $4, $1 + $2 }'
}

# How long the requests of a device have been under way, all together, in ms: the 11th number of its stat.
queued_ms() { awk '{ print $11 }' "/sys/block/$(basename "$(cat "$work/$1.device")")/stat"; }

busy_ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }

# The fields of fio's terse format 3: of reads IOPS is the 8th and percentiles are 18 to 37, of writes 41 more.
fio_numbers() {
  awk -F ';' -v shift="$1" '{
    for (i = 18 + shift; i <= 37 + shift; ++i) {
      split($i, part, "=")
      if (part[1] == "50.000000%") p50 = part[2]
      if (part[1] == "99.000000%") p99 = part[2]
    }
    print $(8 + shift), p50, p99
  }'
}

measure() {  # measure TARGET MODE DEPTH
  shift_by=0
  [ "$2" = randread ] || shift_by=41
  before="$(server_state "$1")" busy="$(busy_ticks)" queued="$(queued_ms "$1")"
  numbers="$(fio --name=bench --filename="$(cat "$work/$1.device")" --ioengine=io_uring --direct=1 --rw="$2" --bs=4k \
    --iodepth="$3" --size="${size_mib}M" --norandommap --time_based --runtime="${ms}ms" --randseed=7 --output-format=terse \
    --terse-version=3 --thread --eta=never 2>"$work/fio.err" | tail -n 1 | fio_numbers "$shift_by")"
  busy=$(($(busy_ticks) - busy)) queued=$(($(queued_ms "$1") - queued)) after="$(server_state "$1")"
  # shellcheck disable=SC2086  # words are wanted
  set -- "$1" "$2" "$3" $before $after
  echo "ROW $1 $2 $3 $numbers $(($8 - $4)) $busy $(($9 - $5)) $((${10} - $6)) $((${11} - $7)) $queued"
}

start_all
round=1
while [ "$round" -le "$rounds" ]; do
  echo "ROUND $round of $rounds:$targets"
  for mode in randread randwrite; do
    for depth in 1 32; do
      for target in $targets; do measure "$target" "$mode" "$depth"; done
    done
  done
  round=$((round + 1))
done
stop_all
echo "END"
