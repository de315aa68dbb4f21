# Data arrives as it was written: both data paths, depths, queues; file systems; discard, flush.
# shellcheck shell=sh disable=SC2154

case_null_load() {
  for queues in 1 2; do
    for depth in 1 64; do
      start add --target null --size 64MiB --queues "$queues" --depth 64
      fio --name=load --filename="$device" --ioengine=io_uring --direct=1 --rw=randrw --bs=4k --iodepth="$depth" \
        --numjobs="$queues" --io_size=8M --size=64M --output-format=terse >"$scratch/fio.out" 2>&1 ||
        flunk "fio: $(cat "$scratch/fio.out")"
      stop
    done
  done
}

case_file_verify() {
  disk 64M
  for data in user-copy copy; do
    for queues in 1 2; do
      for depth in 1 64; do
        start add --target file --path disk.img --queues "$queues" --depth 64 --data "$data"
        verify_io "$device" "$depth" "$queues"
        stop
        served reads
        served writes
      done
    done
  done
}

case_extreme_depths() {
  disk 64M
  for shape in "1 4KiB" "4096 4KiB" "2 32MiB"; do
    start add --target file --path disk.img --depth "${shape% *}" --max-io "${shape#* }"
    verify_io "$device" 32 1
    stop
  done
}

# Requests of every size from end to end, compared with the file behind the device.
case_file_is_the_device() {
  disk 16M
  for data in user-copy copy; do
    start add --target file --path disk.img --data "$data"
    dd if=/dev/urandom of="$scratch/content" bs=1M count=16 2>/dev/null
    dd if="$scratch/content" of="$device" bs=1M oflag=direct 2>/dev/null
    cmp disk.img "$scratch/content"
    dd if="$device" bs=512k iflag=direct 2>/dev/null | cmp - "$scratch/content"
    stop
  done
}

case_block_device_target() {
  disk 64M
  start add --target file --path disk.img
  below="$server" below_device="$device"
  start add --target file --path "$below_device"
  refused 7 "in use" sluice ublk add --target file --path "$below_device"
  verify_io "$device" 16 1
  stop
  device="$below_device"
  stop "$below"
}

case_ext4() {
  disk 256M
  for data in user-copy copy; do
    start add --target file --path disk.img --queues 2 --data "$data"
    mkfs.ext4 -q -F "$device"
    mkdir -p "$scratch/mounted"
    mount "$device" "$scratch/mounted"
    dd if=/dev/urandom of="$scratch/mounted/a" bs=1M count=40 2>/dev/null
    cp "$scratch/mounted/a" "$scratch/mounted/b"
    mkdir "$scratch/mounted/many"
    for i in $(seq 200); do echo "$i" >"$scratch/mounted/many/$i"; done
    sync
    expected="$(md5sum <"$scratch/mounted/a")"
    umount "$scratch/mounted"
    stop
    served flushes
    start add --target file --path disk.img --data "$data"
    e2fsck -f -n "$device"
    mount "$device" "$scratch/mounted"
    [ "$(md5sum <"$scratch/mounted/b")" = "$expected" ]
    [ "$(cat "$scratch/mounted/many/137")" = 137 ]
    umount "$scratch/mounted"
    stop
  done
}

blocks_of() { stat -c %b "$1"; }

case_discard() {
  disk 64M
  dd if=/dev/urandom of=disk.img bs=1M count=64 conv=notrunc 2>/dev/null
  sync
  before="$(blocks_of disk.img)"
  start add --target file --path disk.img
  blkdiscard -o $((16 << 20)) -l $((16 << 20)) "$device"
  [ "$(dd if="$device" bs=1M skip=16 count=16 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" = 0 ]
  after="$(blocks_of disk.img)"
  [ $((before - after)) -ge $((15 << 11)) ] || flunk "$before blocks before, $after after"
  blkdiscard "$device"
  [ "$(blocks_of disk.img)" -lt 1024 ]
  stop
  served discards
}

# Zeroes written by fallocate on the block device: ZERO_RANGE asks to keep the blocks, PUNCH_HOLE does not.
case_write_zeroes() {
  disk 64M
  dd if=/dev/urandom of=disk.img bs=1M count=64 conv=notrunc 2>/dev/null
  dd if=disk.img of="$scratch/kept" bs=1M count=8 2>/dev/null
  sync
  start add --target file --path disk.img
  fallocate_device zero "$device" $((8 << 20)) $((8 << 20))
  fallocate_device punch "$device" $((32 << 20)) $((8 << 20))
  [ "$(dd if="$device" bs=1M skip=8 count=8 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" = 0 ]
  [ "$(dd if="$device" bs=1M skip=32 count=8 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" = 0 ]
  dd if="$device" bs=1M count=8 iflag=direct 2>/dev/null | cmp - "$scratch/kept"
  stop
  served write-zeroes
}
fallocate_device() { ublk_probe "$@"; }

# fsync is a FLUSH, a write with O_DSYNC has FUA, and both are told their errors.
case_flush_and_fua() {
  disk 16M
  start add --target file --path disk.img
  dd if=/dev/zero of="$device" bs=4k count=8 oflag=direct conv=fsync 2>/dev/null
  ublk_probe fua "$device" 16
  stop
  served flushes
  served "durable writes"
  grep -q "^served:.* 16 durable writes" "$scratch/ready"
  echo "flush error EIO" >rules
  start add --target file --path disk.img --faults rules
  dd if=/dev/zero of="$device" bs=4k count=8 oflag=direct 2>/dev/null
  if dd if=/dev/zero of="$device" bs=4k count=8 oflag=direct conv=fsync 2>/dev/null; then flunk "no error"; fi
  stop
}

case_errors_are_returned() {
  disk 16M
  echo "read error EIO after 20" >rules
  start add --target file --path disk.img --faults rules --data user-copy
  if dd if="$device" of=/dev/null bs=64k count=64 iflag=direct 2>"$scratch/dd.err"; then flunk "no error"; fi
  grep -qi "input/output error\|I/O error" "$scratch/dd.err"
  stop
  echo "write error ENOSPC" >rules
  start add --target file --path disk.img --faults rules --data copy
  if dd if=/dev/zero of="$device" bs=64k count=4 oflag=direct 2>"$scratch/dd.err"; then flunk "no error"; fi
  grep -qi "no space left" "$scratch/dd.err"
  stop
}
