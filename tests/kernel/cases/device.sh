# One device from add to delete.
# shellcheck shell=sh disable=SC2154

case_features() {
  sluice ublk features | tee "$scratch/features"
  grep -q user-copy "$scratch/features"
  grep -q recovery-reissue "$scratch/features"
  sluice ublk features --json | grep -q '"schema":"sluice.ublk.features/1","known":true'
}

case_descriptor_maps() { ublk_probe descriptors; }

case_null_info() {
  start add --target null --size 64MiB --queues 2 --depth 128
  sluice ublk info "$id" | tee "$scratch/info"
  state_is live
  grep -q "^server  *pid $server\$" "$scratch/info"
  grep -q '^size  *64 MiB$' "$scratch/info"
  grep -q '^queues  *2 of depth 128$' "$scratch/info"
  grep -q '^data path  *user-copy$' "$scratch/info"
  sluice ublk list --json | grep -q '"schema":"sluice.ublk.list/1","devices":\[{"id":'
  [ "$(blockdev --getsize64 "$device")" = $((64 << 20)) ]
  stop
}

case_null_reads_zeroes() {
  for data in user-copy copy; do
    start add --target null --size 16MiB --data "$data"
    yes | tr -d '\n' | dd of="$device" bs=64k count=64 oflag=direct 2>/dev/null
    [ "$(dd if="$device" bs=64k count=64 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" = 0 ]
    stop
    served reads
    served writes
  done
}

# The driver keeps what it is given: asked from the block layer, not from the server.
case_parameters() {
  disk 64M
  start add --target file --path disk.img --queues 2 --depth 32 --max-io 256KiB
  limits="/sys/block/${device#/dev/}/queue"
  [ "$(cat "$limits/max_hw_sectors_kb")" = 256 ]
  [ "$(cat "$limits/write_cache")" = "write back" ]
  [ "$(cat "$limits/fua")" = 1 ]
  [ "$(cat "$limits/discard_granularity")" = 4096 ]
  [ "$(cat "$limits/discard_max_hw_bytes")" -gt $((1 << 30)) ]
  [ "$(cat "$limits/write_zeroes_max_bytes")" -gt $((1 << 30)) ]
  [ "$(find "/sys/block/${device#/dev/}/mq" -maxdepth 1 -type d -name '[0-9]*' | wc -l)" = 2 ]
  stop
  start add --target file --path disk.img --read-only
  [ "$(blockdev --getro "$device")" = 1 ]
  if dd if=/dev/zero of="$device" bs=4k count=1 oflag=direct 2>/dev/null; then flunk "written to"; fi
  stop
}

# A queue's thread runs on the CPUs whose requests come to it, and its memory does not wait for its own device.
case_placement() {
  start add --target null --size 16MiB --queues 2
  for queue in 0 1; do
    thread="$(grep -l "^ublk$id-q$queue\$" /proc/"$server"/task/*/comm)"
    cpus="$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "${thread%comm}status")"
    [ "$cpus" = "$(tr -d ' ' <"/sys/block/${device#/dev/}/mq/$queue/cpu_list")" ] || flunk "queue $queue on $cpus"
  done
  stop
}

# pages NODE: of the server, in that memory node
pages() { sed -n "s/.* N$1=\([0-9]*\).*/\1/p" "/proc/$server/numa_maps" | awk '{ sum += $1 } END { print sum + 0 }'; }

# The buffers of a queue come from the memory beside its CPUs: its thread is there before it touches them.
case_memory_placement() {
  last=$(($(nproc) - 1))
  if [ ! -d /sys/devices/system/node/node1 ] || [ -d "/sys/devices/system/cpu/cpu$last/node0" ]; then
    echo "one memory node, nothing to tell apart"
    return 0
  fi
  disk 64M
  for data in user-copy copy; do
    for turn in "0 0 1" "$last 1 0"; do
      # shellcheck disable=SC2086  # words are wanted
      set -- $turn
      start add --target file --path disk.img --queues "$(nproc)" --depth 64 --max-io 256KiB --data "$data"
      near="$(pages "$2")" far="$(pages "$3")"
      taskset -c "$1" fio --name=touch --filename="$device" --ioengine=io_uring --direct=1 --rw=randrw --bs=256k \
        --iodepth=32 --size=64M --cpus_allowed="$1" --output-format=terse >fio.out 2>&1 || flunk "fio: $(cat fio.out)"
      near=$(($(pages "$2") - near)) far=$(($(pages "$3") - far))
      echo "$data, CPU $1: $near pages in node $2, $far in node $3"
      [ "$near" -ge 1024 ] || flunk "only $near pages in node $2"
      [ $((far * 20)) -le "$near" ] || flunk "$far pages in node $3, $near in node $2"
      stop
    done
  done
}

case_partition_scan() {
  disk 64M
  printf 'o\nn\np\n1\n\n+16M\nn\np\n2\n\n\nw\n' | fdisk disk.img || true  # it cannot tell the kernel of a file
  start add --target file --path disk.img
  eventually 5 test -b "${device}p1"
  [ -b "${device}p2" ]
  dd if=/dev/urandom of="$scratch/data" bs=4k count=16 2>/dev/null
  dd if="$scratch/data" of="${device}p2" bs=4k oflag=direct 2>/dev/null
  start_sector="$(cat "/sys/block/${device#/dev/}/${device#/dev/}p2/start")"
  stop
  dd if=disk.img bs=512 skip="$start_sector" count=128 2>/dev/null | cmp - "$scratch/data"
}

case_fifty_devices() {
  free_before="$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
  cycle=0
  while [ "$cycle" -lt 50 ]; do
    start add --target null --size 8MiB --queues 2 --depth 64
    dd if="$device" of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null
    stop
    cycle=$((cycle + 1))
  done
  [ -z "$(sluice ublk list)" ]
  free_after="$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
  # A leaked queue of depth 64 would be some 50 pages each time.
  [ $((free_before - free_after)) -lt 16384 ] || flunk "$free_before kB were available, $free_after are"
}
