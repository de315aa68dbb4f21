# What cannot be done is refused in one line, and leaves nothing behind.
# shellcheck shell=sh disable=SC2154

nothing_left() {
  [ -z "$(sluice ublk list)" ] || flunk "left behind: $(sluice ublk list)"
  for node in /dev/ublk[bc]*; do [ ! -e "$node" ] || flunk "left behind: $node"; done
}

case_bad_numbers() {
  cpus="$(nproc)"
  refused 2 "size is 0 bytes" sluice ublk add --target null
  refused 2 "size is 0 bytes" sluice ublk add --target null --size 0
  refused 2 "size is 1000 bytes" sluice ublk add --target null --size 1000
  refused 2 "depth is 0, expected 1 to 4096" sluice ublk add --target null --size 1MiB --depth 0
  refused 2 "depth is 4097, expected 1 to 4096" sluice ublk add --target null --size 1MiB --depth 4097
  refused 2 "queues is 0, expected 1 to $cpus" sluice ublk add --target null --size 1MiB --queues 0
  refused 2 "queues is $((cpus + 1)), expected 1 to $cpus" \
    sluice ublk add --target null --size 1MiB --queues $((cpus + 1))
  refused 2 "largest request is 512" sluice ublk add --target null --size 1MiB --max-io 512
  refused 2 "multiple of 4096" sluice ublk add --target null --size 1MiB --max-io 5000
  refused 2 "expected 4096 to 33554432" sluice ublk add --target null --size 1MiB --max-io 64MiB
  refused 2 "the id is 1048576" sluice ublk add --target null --size 1MiB --id 1048576
  nothing_left
}

case_bad_targets() {
  refused 2 "expected null, store or file" sluice ublk add --target loop --size 1MiB
  refused 2 "needs --path" sluice ublk add --target file
  refused 3 "No such file" sluice ublk add --target file --path "$scratch/missing"
  refused 2 "neither a file nor a block device" sluice ublk add --target file --path "$scratch"
  disk 1000
  refused 2 "1000 bytes to be served" sluice ublk add --target file --path disk.img
  disk 0
  refused 2 "0 bytes to be served" sluice ublk add --target file --path disk.img
  disk 1M
  refused 2 "has 1048576 bytes, 2097152 are" sluice ublk add --target file --path disk.img --size 2MiB
  echo "read error EWHAT" >rules
  refused 2 "rules:1: 'EWHAT' is no error" sluice ublk add --target null --size 1MiB --faults rules
  refused 7 "in use by another server or a file system" sluice ublk add --target file --path "$(disk_of_mount)"
  nothing_left
}
disk_of_mount() { sed -n "s|^\(/dev/[^ ]*\) .* ext4 .*|\1|p" /proc/mounts | head -n 1; }

case_no_such_device() {
  for verb in info stop delete; do refused 3 "ublk device 77: there is none" sluice ublk "$verb" 77; done
  refused 3 "ublk device 77: there is none" sluice ublk recover 77 --target null --size 1MiB
}

case_missing_feature() {
  if sluice ublk features | grep -q recovery-fail-io; then
    start add --target null --size 1MiB --recovery fail-io
    stop
  else
    refused 2 "does not have: recovery-fail-io (Linux 6.13)" \
      sluice ublk add --target null --size 1MiB --recovery fail-io
  fi
  nothing_left
}

# Where the kernel has it, the data is checked; where it does not, nothing else is taken instead.
case_zero_copy() {
  if sluice ublk features | grep -q '^zero-copy$'; then
    disk 64M
    start add --target file --path disk.img --queues 2 --data zero-copy
    grep -q '^ready:.*, zero-copy$' "$scratch/ready"
    verify_io "$device" 32 2
    stop
    grep -q '^calls: [1-9][0-9]* io_uring_enter, 0 copies' "$scratch/ready"
  else
    for target in "null --size 1MiB" "file --path disk.img"; do
      disk 1M
      # shellcheck disable=SC2086  # words are wanted
      refused 2 "this kernel's ublk driver does not have: zero-copy (Linux 6.15)" \
        sluice ublk add --data zero-copy --target $target
    done
  fi
  nothing_left
}

case_id_in_use() {
  start add --target null --size 1MiB --id 5
  [ "$device" = /dev/ublkb5 ]
  refused 10 "ublk device 5: the id is in use" sluice ublk add --target null --size 1MiB --id 5
  state_is live
  stop
}

case_second_server() {
  disk 16M
  start add --target file --path disk.img
  refused 7 "its server, pid $server, is still there" sluice ublk recover "$id" --target file --path disk.img
  refused 7 "in use by another server" sluice ublk add --target file --path disk.img
  state_is live
  dd if="$device" of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null
  stop
}

# /bin/setpriv, because busybox has one that can do less.
# Root without the two capabilities that lift or raise the limit.
case_memlock_limit() {
  disk 16M
  limited="/bin/setpriv --bounding-set=-ipc_lock,-sys_resource --inh-caps=-ipc_lock,-sys_resource"
  (
    # shellcheck disable=SC3045  # busybox has it
    ulimit -l 64
    # shellcheck disable=SC2086
    refused 8 "32768 KiB of I/O memory are to be locked, RLIMIT_MEMLOCK is 64 KiB (at most 64 KiB)" \
      $limited sluice ublk add --target file --path disk.img --lock-memory
  )
  nothing_left
  start add --target file --path disk.img --lock-memory
  locked="$(sed -n 's/^VmLck:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$server/status")"
  [ "$locked" -ge 32768 ] || flunk "$locked kB are locked"
  stop
}

case_not_permitted() {
  refused 6 "not permitted" /bin/setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin \
    sluice ublk add --target null --size 1MiB
  nothing_left
}
