# Devices whose content lives in a segment: exact through every death, told to a stream, mirrored.
# shellcheck shell=sh disable=SC2154

segment() {  # segment SIZE [DIRECTORY]
  segment="${2:-$scratch}/segment"
  sluice segment create "$segment" --size "$1"
}
store() {  # store VERB-AND-ARGUMENTS…: a server of device "disk" in $segment
  start "$@" --target store --segment "$segment" --name disk
}
sound() { shm-dump check "$segment" || flunk "the segment is not sound"; }

# mirror: a worker in the background that replays $1 into mirror.img; $mirror is its pid
mirror() {
  sluice worker --segment "$segment" --from changes --mirror mirror.img >"$scratch/mirror.out" 2>&1 &
  mirror=$!
  echo "$mirror" >>"$scratch/pids"
}
# mirrored: once the server has stopped, the mirror ends by itself, with the device's content
mirrored() {
  wait "$mirror" || flunk "the mirror ended with $?: $(cat "$scratch/mirror.out")"
  cat "$scratch/mirror.out"
  store add --publish changes
  cmp "$device" mirror.img || flunk "the mirror is not the device"
  stop
}

case_store_verify() {
  segment 256MiB
  for data in user-copy copy; do
    for queues in 1 2; do
      for depth in 1 64; do
        store add --size 64MiB --queues "$queues" --depth 64 --data "$data"
        verify_io "$device" "$depth" "$queues"
        stop
        served reads
        served writes
      done
    done
  done
  sound
}

case_store_ext4() {
  segment 640MiB
  store add --size 256MiB --queues 2
  mkfs.ext4 -q -F "$device"
  mkdir -p "$scratch/mounted"
  mount "$device" "$scratch/mounted"
  dd if=/dev/urandom of="$scratch/mounted/a" bs=1M count=24 2>/dev/null
  cp "$scratch/mounted/a" "$scratch/mounted/b"
  expected="$(md5sum <"$scratch/mounted/a")"
  umount "$scratch/mounted"
  stop
  served flushes
  sound
  store add
  e2fsck -f -n "$device"
  mount "$device" "$scratch/mounted"
  [ "$(md5sum <"$scratch/mounted/b")" = "$expected" ]
  umount "$scratch/mounted"
  stop
}

case_store_discard() {
  segment 128MiB
  refused 2 "with --thin" sluice ublk add --target store --segment "$segment" --name disk --size 6GiB
  store add --size 6GiB --thin
  for gigabyte in 0 2 5; do
    dd if=/dev/urandom of="$device" bs=1M count=4 seek=$((gigabyte << 10)) oflag=direct 2>/dev/null
  done
  blkdiscard -o $((5 << 30)) -l $((2 << 20)) "$device"
  [ "$(dd if="$device" bs=1M skip=5120 count=2 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" = 0 ]
  [ "$(dd if="$device" bs=1M skip=5122 count=2 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" -gt 1000000 ]
  ublk_probe punch "$device" 0 $((5 << 30))
  [ "$(dd if="$device" bs=1M count=4 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" = 0 ]
  ublk_probe zero "$device" $((1 << 30)) $((5 << 30))
  blkdiscard "$device"
  stop
  served discards
  served write-zeroes
  sound
  [ "$(shm-dump check "$segment" --json | tr ',' '\n' | sed -n 's/.*"blocks_live": *\([0-9]*\).*/\1/p')" = 0 ]
}

case_store_flush_and_fua() {
  segment 64MiB
  store add --size 16MiB
  dd if=/dev/zero of="$device" bs=4k count=8 oflag=direct conv=fsync 2>/dev/null
  ublk_probe fua "$device" 16
  stop
  served flushes
  grep -q "^served:.* 16 durable writes" "$scratch/ready"
}

# A full segment is ENOSPC to the writer; what was written before stays, and a discard makes room.
case_store_full() {
  segment 24MiB
  store add --size 64MiB --thin
  dd if=/dev/urandom of="$scratch/data" bs=1M count=8 2>/dev/null
  dd if="$scratch/data" of="$device" bs=1M oflag=direct 2>/dev/null
  if dd if=/dev/urandom of="$device" bs=1M seek=8 oflag=direct 2>"$scratch/dd.err"; then flunk "no error"; fi
  grep -qi "no space left" "$scratch/dd.err" || flunk "$(cat "$scratch/dd.err")"
  dd if="$device" bs=1M count=8 iflag=direct 2>/dev/null | cmp - "$scratch/data"
  blkdiscard -o $((8 << 20)) -l $((56 << 20)) "$device"
  dd if="$scratch/data" of="$device" bs=1M seek=32 oflag=direct 2>/dev/null
  dd if="$device" bs=1M skip=32 count=8 iflag=direct 2>/dev/null | cmp - "$scratch/data"
  stop
  sound
}

case_store_refusals() {
  segment 64MiB
  refused 2 "the size is 0 bytes" sluice ublk add --target store --segment "$segment" --name disk
  refused 2 "multiple of 65536" sluice ublk add --target store --segment "$segment" --name disk --size 100KiB
  refused 3 "no-such-segment" sluice ublk add --target store --segment no-such-segment --name disk --size 1MiB
  refused 2 "needs --segment and --name" sluice ublk add --target store --size 1MiB
  store add --size 16MiB
  refused 7 "served by process $server" sluice ublk add --target store --segment "$segment" --name disk
  stop
  refused 2 "it has 16777216 bytes, 33554432 are to be served" \
    sluice ublk add --target store --segment "$segment" --name disk --size 32MiB
  sound
}

# A verifying load through kills of the server, idle, under load, with all tags in flight, and of the mirror: no error to
# the load, and the mirror is the device.
case_store_killed_under_load() {
  segment 384MiB
  echo "any delay 80ms" >rules
  store add --size 64MiB --queues 2 --recovery reissue --publish changes --faults rules
  mirror
  fio --name=verify --filename="$device" --ioengine=io_uring --direct=1 --rw=randwrite --bsrange=4k-64k --size=64M \
    --io_size=24M --verify=crc32c --verify_fatal=1 --iodepth=32 --output-format=terse >"$scratch/fio.out" 2>&1 &
  load=$!
  echo "$load" >>"$scratch/pids"
  for kill in 1 2 3 4; do
    eventually 20 busy
    sleep 0.4
    crash
    if gone "$load"; then flunk "the load was over before kill $kill"; fi
    if [ "$kill" = 2 ]; then
      kill -KILL "$mirror"
      wait "$mirror" 2>/dev/null || true
    fi
    store recover "$id" --publish changes --faults rules
    if [ "$kill" = 2 ]; then mirror; fi
  done
  wait "$load" || flunk "fio: $(cat "$scratch/fio.out")"
  stop
  mirrored
  sound
}
busy() { [ "$(awk '{print $9}' "/sys/block/${device#/dev/}/stat")" != 0 ]; }

case_store_all_tags_in_flight() {
  segment 128MiB
  echo "write delay 60s" >rules
  store add --size 16MiB --depth 32 --recovery reissue --faults rules
  echo 3000 >"/sys/block/${device#/dev/}/queue/io_timeout"  # with all tags at a dead server this is what tells of it
  fio --name=burst --filename="$device" --ioengine=io_uring --direct=1 --rw=write --bs=4k --size=512k --iodepth=64 \
    --verify=crc32c --verify_fatal=1 --output-format=terse >"$scratch/fio.out" 2>&1 &
  load=$!
  echo "$load" >>"$scratch/pids"
  eventually 20 all_tags || flunk "$(awk '{print $9}' "/sys/block/${device#/dev/}/stat") in flight"
  crash
  store recover "$id"
  wait "$load" || flunk "fio: $(cat "$scratch/fio.out")"
  stop
  sound
}
all_tags() { [ "$(awk '{print $9}' "/sys/block/${device#/dev/}/stat")" -ge 32 ]; }

# Without reissue the load is told of errors; what the device has of those writes, the mirror has too. Stopped under load.
case_store_told_of_what_failed() {
  segment 256MiB
  echo "any delay 2ms" >rules
  store add --size 32MiB --queues 2 --recovery wait --publish changes --faults rules
  mirror
  for kill in 1 2 3 stop; do
    fio --name=load --filename="$device" --ioengine=io_uring --direct=1 --rw=randrw --rwmixread=10 --bsrange=4k-64k \
      --size=32M --time_based --runtime=20 --iodepth=32 --continue_on_error=all --output-format=terse \
      >"$scratch/load.out" 2>&1 &
    load=$!
    echo "$load" >>"$scratch/pids"
    eventually 20 busy
    sleep 0.4
    if [ "$kill" = stop ]; then
      stop
    else
      crash
      store recover "$id" --publish changes --faults rules
    fi
    kill -KILL "$load" 2>/dev/null || true
    wait "$load" 2>/dev/null || true
  done
  mirrored
  sound
}

# A recovery that is killed at any moment can be begun again; what waits for the device waits on.
case_store_killed_in_recovery() {
  segment 128MiB
  for queues in 1 2; do
    store add --size 16MiB --queues "$queues" --depth 16
    fio --name=verify --filename="$device" --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --io_size=16M \
      --size=16M --verify=crc32c --verify_fatal=1 --iodepth=8 --output-format=terse >"$scratch/fio.out" 2>&1 &
    load=$!
    echo "$load" >>"$scratch/pids"
    eventually 20 busy
    crash
    for wait in 0.02 0.05 0.08 0.1 0.12 0.14 0.16 0.18 0.2 0.22 0.24 0.26 0.28 0.3 0.35 0.4 0.5; do
      sluice ublk recover "$id" --target store --segment "$segment" --name disk >"$scratch/recover.out" 2>&1 &
      server=$!
      sleep "$wait"
      crash
    done
    store recover "$id"
    wait "$load" || flunk "fio: $(cat "$scratch/fio.out")"
    stop
  done
  sound
}

# The content outlives servers, killed and stopped; the device's number may be another each time.
case_store_persists() {
  segment 128MiB
  store add --size 32MiB --queues 2
  dd if=/dev/urandom of="$scratch/data" bs=1M count=32 2>/dev/null
  dd if="$scratch/data" of="$device" bs=64k oflag=direct 2>/dev/null
  crash
  sluice ublk delete "$id"
  store add
  cmp "$device" "$scratch/data"
  stop
  store add --id 7
  cmp "$device" "$scratch/data"
  stop
  sound
}

case_store_back_pressure() {
  segment 128MiB
  store add --size 16MiB --publish changes --publish-policy fail --queue-capacity 16
  dd if=/dev/zero of="$device" bs=4k count=16 oflag=direct 2>/dev/null
  if dd if=/dev/zero of="$device" bs=4k count=1 oflag=direct 2>/dev/null; then flunk "no error"; fi
  stop
  store add --publish changes
  dd if=/dev/urandom of="$device" bs=4k count=64 oflag=direct 2>/dev/null &
  writer=$!
  sleep 1
  if gone "$writer"; then flunk "the writer did not wait"; fi
  mirror
  wait "$writer"
  stop
  mirrored
}

# Two boots of one machine, its disk kept: content in a segment on ext4, left by a clean stop and by a killed server.
case_reboot_first_store() {
  segment 128MiB "$KERNEL_KEPT"
  store add --size 32MiB --publish changes
  dd if=/dev/urandom of="$KERNEL_KEPT/data" bs=1M count=8 2>/dev/null
  dd if="$KERNEL_KEPT/data" of="$device" bs=1M seek=4 oflag=direct conv=fsync 2>/dev/null
  stop
  sound
  mkdir "$KERNEL_KEPT/killed"
  segment 128MiB "$KERNEL_KEPT/killed"
  store add --size 32MiB
  dd if="$KERNEL_KEPT/data" of="$device" bs=1M seek=4 oflag=direct conv=fsync 2>/dev/null
  crash
  sluice ublk delete "$id"
}

case_reboot_second_store() {
  segment="$KERNEL_KEPT/segment"
  sound
  store add --publish changes
  dd if="$device" bs=1M skip=4 count=8 iflag=direct 2>/dev/null | cmp - "$KERNEL_KEPT/data"
  stop
  # What the stream still had goes into a mirror that begins only now.
  mirror
  mirrored
  segment="$KERNEL_KEPT/killed/segment"
  store add
  dd if="$device" bs=1M skip=4 count=8 iflag=direct 2>/dev/null | cmp - "$KERNEL_KEPT/data"
  stop
  sound
}

# What waits for a full stream does not keep `stop` and `delete` from ending; the stream is closed, so its mirror ends.
case_store_ended_while_full() {
  segment 128MiB
  for verb in stop delete; do
    store add --size 16MiB --publish changes --queue-capacity 16
    dd if=/dev/urandom of="$device" bs=4k count=64 oflag=direct 2>"$scratch/dd.err" &
    writer=$!
    sleep 1
    if gone "$writer"; then flunk "the writer did not wait"; fi
    timeout 25 sluice ublk "$verb" "$id"
    wait "$server" || flunk "the server ended with $?"
    if wait "$writer"; then flunk "the write that waited succeeded"; fi
    [ -z "$(sluice ublk list)" ]
    mirror
    mirrored
    mirror
    wait "$mirror" || flunk "$(cat "$scratch/mirror.out")"
    rm -f "$segment" "$segment.lock" mirror.img mirror.img.mirror
    segment 128MiB
  done
}

# A recovery that fails leaves the stream open: its device is still there, and its mirror waits.
case_store_failed_recovery() {
  segment 128MiB
  store add --size 16MiB --publish changes
  mirror
  dd if=/dev/urandom of="$device" bs=64k count=16 oflag=direct 2>/dev/null
  crash
  eventually 20 state_is quiesced
  refused 2 "its changes go to stream changes" sluice ublk recover "$id" --target store --segment "$segment" --name disk
  sleep 1
  if gone "$mirror"; then flunk "the mirror has ended: $(cat "$scratch/mirror.out")"; fi
  store recover "$id" --publish changes
  dd if=/dev/urandom of="$device" bs=64k count=16 seek=8 oflag=direct 2>/dev/null
  stop
  mirrored
}
