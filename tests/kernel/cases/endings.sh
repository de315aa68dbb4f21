# Servers that are stopped, killed, recovered, or never come back.
# shellcheck shell=sh disable=SC2154

load() {  # load SECONDS: random writes in the background, $load is their pid
  fio --name=load --filename="$device" --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=32 \
    --time_based --runtime="$1" --output-format=terse >"$scratch/load.out" 2>&1 &
  load=$!
  echo "$load" >>"$scratch/pids"
  eventually 20 busy || flunk "the load does not begin: $(cat "$scratch/load.out")"
}
busy() { [ "$(awk '{print $9}' "/sys/block/${device#/dev/}/stat")" != 0 ]; }

case_stop_under_load() {
  disk 64M
  start add --target file --path disk.img --queues 2
  load 20
  stop
  if wait "$load"; then flunk "the load did not notice"; fi
}

case_delete_under_load() {
  disk 64M
  start add --target file --path disk.img --queues 2
  load 20
  sluice ublk delete "$id" | grep -q "^deleted ublk device $id\$"
  wait "$load" || true
  wait "$server" || flunk "the server ended with $?: $(cat "$scratch/server.err")"
  [ ! -e "$device" ]
}

case_stop_from_outside() {
  start add --target null --size 16MiB --queues 2
  sluice ublk stop "$id"
  wait "$server" || flunk "the server ended with $?: $(cat "$scratch/server.err")"
  [ -z "$(sluice ublk list)" ]
}

case_stop_with_stalled_requests() {
  disk 16M
  echo "write stall" >rules
  start add --target file --path disk.img --faults rules
  dd if=/dev/zero of="$device" bs=4k count=1 oflag=direct 2>/dev/null &
  writer=$!
  eventually 10 busy
  stop
  if wait "$writer"; then flunk "the stalled write succeeded"; fi
}

case_killed_without_recovery() {
  start add --target null --size 16MiB --recovery none
  crash
  eventually 10 test ! -e "$device"
  eventually 10 state_is dead
  refused 2 "added without recovery" sluice ublk recover "$id" --target null --size 16MiB
  sluice ublk delete "$id"
  [ -z "$(sluice ublk list)" ]
}

case_killed_idle_and_recovered() {
  disk 16M
  start add --target file --path disk.img --queues 2
  dd if=/dev/urandom of="$scratch/data" bs=64k count=32 2>/dev/null
  dd if="$scratch/data" of="$device" bs=64k oflag=direct 2>/dev/null
  crash
  eventually 20 state_is quiesced
  sluice ublk list | grep -q '(gone)'
  cp disk.img other.img
  refused 2 "it was not added with file other.img" sluice ublk recover "$id" --target file --path other.img
  refused 2 "it was not added with null" sluice ublk recover "$id" --target null --size 16MiB
  refused 2 "it has 32768 sectors" sluice ublk recover "$id" --target file --path disk.img --size 8MiB
  eventually 1 state_is quiesced
  dd if="$device" bs=64k count=32 iflag=direct 2>/dev/null | cmp - "$scratch/data" &
  reader=$!
  start recover "$id" --target file --path disk.img
  state_is live
  wait "$reader"
  # And once more: a recovered device is like any other.
  crash
  start recover "$id" --target file --path disk.img
  dd if="$device" bs=64k count=32 iflag=direct 2>/dev/null | cmp - "$scratch/data"
  stop
}

# A verifying load goes on through three kills: what was in flight is executed again, nothing is lost.
case_killed_under_load_reissue() {
  disk 64M
  # The delay makes sure that every kill finds requests with the server.
  echo "any delay 3ms" >rules
  for data in user-copy copy; do
    start add --target file --path disk.img --queues 2 --recovery reissue --faults rules --data "$data"
    fio --name=verify --filename="$device" --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --size=64M \
      --io_size=12M --verify=crc32c --verify_fatal=1 --iodepth=32 --output-format=terse >"$scratch/fio.out" 2>&1 &
    load=$!
    echo "$load" >>"$scratch/pids"
    for kill in 1 2 3; do
      eventually 20 busy
      sleep 0.5
      crash
      if gone "$load"; then flunk "the load was over before kill $kill"; fi
      start recover "$id" --target file --path disk.img --faults rules
    done
    wait "$load" || flunk "fio: $(cat "$scratch/fio.out")"
    stop
  done
}

# Without reissue the requests that the server had fail, those behind them wait.
case_killed_under_load_wait() {
  disk 64M
  echo "write stall after 8" >rules
  start add --target file --path disk.img --recovery wait --faults rules
  dd if=/dev/zero of="$device" bs=4k count=8 oflag=direct 2>/dev/null
  dd if=/dev/zero of="$device" bs=4k count=1 oflag=direct 2>/dev/null &
  writer=$!
  eventually 20 busy
  crash
  if wait "$writer"; then flunk "the stalled write succeeded"; fi
  eventually 20 state_is quiesced
  dd if=/dev/zero of="$device" bs=4k count=1 seek=5 oflag=direct 2>/dev/null &
  writer=$!
  sleep 0.5
  if gone "$writer"; then flunk "the write did not wait"; fi
  start recover "$id" --target file --path disk.img
  wait "$writer"
  verify_io "$device" 16 1
  stop
}

case_killed_for_good() {
  disk 16M
  echo "write stall" >rules
  start add --target file --path disk.img --recovery reissue --faults rules
  dd if=/dev/zero of="$device" bs=4k count=1 oflag=direct 2>/dev/null &
  writer=$!
  eventually 20 busy
  crash
  eventually 20 state_is quiesced
  sluice ublk delete "$id"
  if wait "$writer"; then flunk "the stalled write succeeded"; fi
  [ -z "$(sluice ublk list)" ]
  [ ! -e "$device" ]
}

# A server that dies between its first command and the start leaves a device that can be found and deleted. Later, while
# the kernel reads the partition table, nothing helps: docs/ublk.md.
case_dead_before_the_start() {
  ublk_probe abandon 4
  id=4
  state_is dead
  sluice ublk list | grep -q '^ *4  *dead  *none'
  refused 10 "the id is in use" sluice ublk add --target null --size 1MiB --id 4
  refused 2 "it was added without recovery" sluice ublk recover 4 --target null --size 1MiB
  sluice ublk delete 4
  [ -z "$(sluice ublk list)" ]
}

# Servers that died in the middle of a recovery: before it fetched from any queue, and after one of two.
case_killed_while_recovering() {
  disk 16M
  for fetched in 0 1 2; do
    for data in user-copy copy; do
      start add --target file --path disk.img --queues 2 --data "$data"
      dd if=/dev/urandom of="$scratch/data" bs=64k count=32 2>/dev/null
      dd if="$scratch/data" of="$device" bs=64k oflag=direct 2>/dev/null
      crash
      eventually 20 state_is quiesced
      for cut in 1 2; do
        if [ "$cut" = 1 ] || [ "$fetched" = 2 ]; then ublk_probe cut "$id" "$fetched"; fi
      done
      dd if="$device" bs=64k count=32 iflag=direct 2>/dev/null | cmp - "$scratch/data" &
      reader=$!
      start recover "$id" --target file --path disk.img
      wait "$reader"
      state_is live
      verify_io "$device" 16 1
      stop
    done
  done
}

# `add --take-over` serves what is left of exactly this target, and adds what is not there.
case_take_over() {
  disk 64M
  start add --take-over --target file --path disk.img --queues 2
  taken="$id"
  crash
  truncate -s 64M "$scratch/other.img"
  start add --take-over --target file --path other.img
  [ "$id" != "$taken" ] || flunk "another file's device was taken"
  stop
  refused 2 "it has 131072 sectors" sluice ublk add --take-over --target file --path disk.img --size 8MiB
  start add --take-over --target file --path disk.img
  [ "$id" = "$taken" ] || flunk "device $id, $taken was left"
  refused 7 "in use by another server" sluice ublk add --take-over --target file --path disk.img
  verify_io "$device" 16 2
  stop
  # One that never started, or cannot be recovered, makes room.
  start add --target file --path disk.img --recovery none --id 7
  crash
  start add --take-over --target file --path disk.img --id 7
  [ "$id" = 7 ]
  stop
}

# Null devices are taken over by size; two servers that come at once get one each.
case_take_over_two_at_once() {
  start add --target null --size 8MiB
  first="$id"
  crash
  start add --target null --size 8MiB
  [ "$id" != "$first" ]
  second="$id"
  crash
  start add --take-over --target null --size 4MiB
  case "$id" in "$first" | "$second") flunk "a device of another size was taken" ;; esac
  stop
  for which in a b; do
    sluice ublk add --take-over --target null --size 8MiB >"$scratch/ready.$which" 2>&1 &
    echo "$!" >>"$scratch/pids"
    eval "server_$which=$!"
  done
  for which in a b; do
    eventually 60 grep -q '^ready' "$scratch/ready.$which" || flunk "$(cat "$scratch/ready.$which")"
  done
  [ "$(sed -n 's/^ready: \([^,]*\),.*/\1/p' "$scratch"/ready.[ab] | sort -u | wc -l)" = 2 ]
  [ "$(sluice ublk list --json | grep -o '"id":' | wc -l)" = 2 ] || flunk "$(sluice ublk list)"
  # shellcheck disable=SC2154
  kill -TERM "$server_a" "$server_b"
  wait "$server_a"
  wait "$server_b"
}

# A server that still lives may be about to die: that is waited for, unless both have one parent.
case_take_over_from_the_dying() {
  disk 16M
  start add --target file --path disk.img
  taken="$id" dying="$server"
  (sleep 0.7 && kill -KILL "$dying") &
  start add --take-over --target file --path disk.img
  [ "$id" = "$taken" ] || flunk "device $id, $taken was left"
  stop
  start add --target null --size 2MiB
  taken="$id" dying="$server"
  (sleep 0.7 && kill -KILL "$dying") &
  rm -f "$scratch/ready"
  sh -c 'sluice ublk add --take-over --target null --size 2MiB & echo "$!" >pid && wait' >"$scratch/ready" &
  eventually 60 grep -q '^ready' "$scratch/ready" || flunk "no server: $(cat "$scratch/ready")"
  cat pid >>"$scratch/pids"
  grep -q "^ready: /dev/ublkb$taken," "$scratch/ready" || flunk "$(cat "$scratch/ready"), $taken was left"
  start add --take-over --target null --size 2MiB
  [ "$id" != "$taken" ] || flunk "a device was taken from a server that lives"
  stop
  kill -TERM "$(cat pid)"
  eventually 20 test ! -e "/dev/ublkb$taken"
  eventually 20 gone "$(cat pid)"  # it prints what it served
}

case_ext4_through_a_kill() {
  disk 256M
  start add --target file --path disk.img --queues 2
  mkfs.ext4 -q -F "$device"
  mkdir "$scratch/mounted"
  mount "$device" "$scratch/mounted"
  dd if=/dev/urandom of="$scratch/data" bs=1M count=32 2>/dev/null
  (cp "$scratch/data" "$scratch/mounted/a" && sync) &
  writer=$!
  sleep 0.3
  crash
  start recover "$id" --target file --path disk.img
  wait "$writer"
  umount "$scratch/mounted"
  e2fsck -f -n "$device"
  mount "$device" "$scratch/mounted"
  cmp "$scratch/mounted/a" "$scratch/data"
  umount "$scratch/mounted"
  stop
}
