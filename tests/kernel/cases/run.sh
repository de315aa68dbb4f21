# `sluice run` with block devices: what becomes of them when their server, or the supervisor, is killed.
# shellcheck shell=sh disable=SC2154

# pipeline LINE…: the configuration; $disk_table and $null_table are tables for it.
pipeline() {
  printf '%s\n' "segment = \"$scratch/segment\"" "$@" >"$scratch/run.toml"
}
null_table='[[ublk]]
name = "nothing"
target = "null"
size = "16MiB"'
disk_table='[[ublk]]
name = "disk"
target = "file"
path = "disk.img"'

# supervise: `sluice run` in the background, once it is ready; $supervisor, $device (of the disk) and $id are its.
supervise() {
  rm -f "$scratch/run.out"
  sluice run --config "$scratch/run.toml" >"$scratch/run.out" 2>>"$scratch/run.err" &
  supervisor=$!
  echo "$supervisor" >>"$scratch/pids"
  eventually 60 run_ready_or_gone || flunk "sluice run says nothing: $(cat "$scratch/run.err")"
  grep -q '^ready: ' "$scratch/run.out" || flunk "sluice run ended: $(cat "$scratch/run.err")"
  device="$(sed -n 's/^ready: .*\(\/dev\/ublkb[0-9]*\) (disk).*/\1/p' "$scratch/run.out")"
  id="${device#/dev/ublkb}"
}
run_ready_or_gone() { grep -q '^ready: ' "$scratch/run.out" || gone "$supervisor"; }

# drained: SIGTERM, code 0, no device
drained() {
  kill -TERM "$supervisor"
  wait "$supervisor" || flunk "sluice run ended with $?: $(cat "$scratch/run.err")"
  cat "$scratch/run.err"
  [ -z "$(sluice ublk list)" ] || flunk "left behind: $(sluice ublk list)"
  for node in /dev/ublkb*; do [ ! -e "$node" ] || flunk "left behind: $node"; done
}

# server_of ID: the pid that serves the device, once it is live again
server_of() { sluice ublk info "$1" --json | sed -n 's/.*"server_pid":\([0-9]*\).*/\1/p'; }

# verifying MEGABYTES: random writes in the background, read back and compared; $load is their pid
verifying() {
  fio --name=verify --filename="$device" --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --size=64M \
    --io_size="$1M" --verify=crc32c --verify_fatal=1 --iodepth=32 --randseed=11 --output-format=terse \
    >"$scratch/fio.out" 2>&1 &
  load=$!
  echo "$load" >>"$scratch/pids"
  eventually 20 busy_device || flunk "the load does not begin: $(cat "$scratch/fio.out")"
}
busy_device() { [ "$(awk '{print $9}' "/sys/block/${device#/dev/}/stat")" != 0 ]; }
unharmed() { wait "$load" || flunk "fio: $(head -n 5 "$scratch/fio.out")"; }

# is_served: the disk has a server that is there
is_served() { state_is live && kill -0 "$(server_of "$id")"; }

# Both devices, by name, in the ready line and the status line; SIGTERM takes them away.
case_run_devices() {
  disk 64M
  pipeline "$null_table" "$disk_table" 'queues = 2'
  supervise
  grep -q "^ready: /dev/ublkb[0-9]* (nothing), /dev/ublkb[0-9]* (disk), segment $scratch/segment\$" "$scratch/run.out"
  verify_io "$device" 16 2
  kill -USR1 "$supervisor"
  eventually 5 grep -q "status: phase=serving .*restarts=0 ublk.nothing=[0-9]* ublk.disk=[0-9]*" "$scratch/run.err"
  drained
  grep -q "^$device served: [1-9]" "$scratch/run.err"
  if grep -q 'waiting for the driver' "$scratch/run.err"; then flunk "it was not that slow"; fi
}

# The server is killed under a verifying load, again and again, also while it recovers: no error, nothing is lost.
case_run_server_killed() {
  disk 64M
  echo "any delay 3ms" >rules
  pipeline "$null_table" "$disk_table" 'queues = 2' 'faults = "rules"'
  supervise
  verifying 12
  taken="$id"
  for kill in 1 2 3; do
    eventually 20 busy_device
    sleep 0.5
    kill -KILL "$(server_of "$id")"
    eventually 30 is_served || flunk "no server after kill $kill: $(cat "$scratch/run.err")"
  done
  if gone "$load"; then flunk "the load was over before the last kill"; fi
  unharmed
  [ "$id" = "$taken" ]
  [ "$(sluice ublk list --json | grep -o '"id":' | wc -l)" = 2 ] || flunk "$(sluice ublk list)"
  drained
  [ "$(grep -c 'ublk.disk (pid [0-9]*) was killed by SIGKILL; starting it again' "$scratch/run.err")" = 3 ]
}

# Each new server is killed some moments after it appears: before, in and after its recovery.
case_run_killed_while_recovering() {
  disk 64M
  pipeline "$disk_table" 'queues = 2'
  supervise
  verifying 24
  kill -KILL "$(server_of "$id")"
  for moment in 0 0.005 0.01 0.02 0.03 0.05 0.08 0.13 0.21; do
    eventually 20 has_child || flunk "no server: $(cat "$scratch/run.err")"
    sleep "$moment"
    kill -KILL "$(children_of "$supervisor")" 2>/dev/null || true
  done
  eventually 60 is_served || flunk "no server at last: $(cat "$scratch/run.err")"
  unharmed
  drained
  [ "$(grep -c 'starting it again' "$scratch/run.err")" -ge 8 ] || flunk "$(cat "$scratch/run.err")"
}
children_of() { cat /proc/"$1"/task/"$1"/children; }
has_child() { [ -n "$(children_of "$supervisor")" ]; }

# The supervisor is killed, its servers with it, their devices stay; the next one serves the same ones.
case_run_supervisor_killed() {
  disk 64M
  pipeline "$null_table" "$disk_table" 'queues = 2'
  supervise
  verifying 12
  taken="$id"
  for kill in 1 2; do
    servers="$(children_of "$supervisor")"
    kill -KILL "$supervisor"
    wait "$supervisor" 2>/dev/null || true
    if [ "$kill" = 1 ]; then
      for server in $servers; do eventually 10 gone "$server" || flunk "$server is still there"; done
      eventually 20 state_is quiesced
      sleep 0.5
    fi  # the second time at once: the old servers are dying
    supervise
    [ "$id" = "$taken" ] || flunk "device $id, before it was $taken"
    [ "$(sluice ublk list --json | grep -o '"id":' | wc -l)" = 2 ] || flunk "$(sluice ublk list)"
  done
  if gone "$load"; then flunk "the load was over before the last kill"; fi
  unharmed
  drained
}

# Without reissue what the server had fails, what comes later waits for the next one.
case_run_recovery_wait() {
  disk 64M
  echo "write stall after 8" >rules
  pipeline "$disk_table" 'recovery = "wait"' 'faults = "rules"'
  supervise
  dd if=/dev/zero of="$device" bs=4k count=8 oflag=direct 2>/dev/null
  dd if=/dev/zero of="$device" bs=4k count=1 oflag=direct 2>/dev/null &
  writer=$!
  eventually 20 busy_device
  rm rules
  echo "flush delay 1ms" >rules
  taken="$id"
  kill -KILL "$(server_of "$id")"
  if wait "$writer"; then flunk "the stalled write succeeded"; fi
  dd if=/dev/zero of="$device" bs=4k count=1 seek=5 oflag=direct 2>/dev/null
  eventually 30 is_served
  verify_io "$device" 16 1
  [ "$id" = "$taken" ]
  drained
}

# A file system on the disk goes on through both kinds of deaths.
case_run_ext4() {
  disk 256M
  pipeline "$disk_table" 'queues = 2'
  supervise
  mkfs.ext4 -q -F "$device"
  mkdir "$scratch/mounted"
  mount "$device" "$scratch/mounted"
  dd if=/dev/urandom of="$scratch/data" bs=1M count=32 2>/dev/null
  (cp "$scratch/data" "$scratch/mounted/a" && sync) &
  writer=$!
  sleep 0.2
  kill -KILL "$(server_of "$id")"
  sleep 0.3
  kill -KILL "$supervisor"
  wait "$supervisor" 2>/dev/null || true
  supervise
  wait "$writer"
  umount "$scratch/mounted"
  e2fsck -f -n "$device"
  mount "$device" "$scratch/mounted"
  cmp "$scratch/mounted/a" "$scratch/data"
  umount "$scratch/mounted"
  drained
}

# A server that is killed in the drain comes back and stops its device; a device that cannot be added ends all.
case_run_ends() {
  disk 16M
  pipeline "$disk_table"
  supervise
  kill -STOP "$(server_of "$id")"
  kill -TERM "$supervisor"
  eventually 5 grep -q 'draining' "$scratch/run.err"
  kill -KILL "$(server_of "$id")"
  wait "$supervisor" || flunk "sluice run ended with $?: $(cat "$scratch/run.err")"
  [ -z "$(sluice ublk list)" ] || flunk "left behind: $(sluice ublk list)"
  pipeline "$null_table" '[[ublk]]' 'name = "bad"' 'target = "file"' 'path = "missing.img"'
  code=0
  sluice run --config "$scratch/run.toml" >"$scratch/run.out" 2>"$scratch/run.err" || code=$?
  [ "$code" = 3 ] || flunk "exit code $code: $(cat "$scratch/run.err")"
  grep -q "missing.img: No such file" "$scratch/run.err"
  [ ! -s "$scratch/run.out" ]
  pipeline "$disk_table" 'depth = 5000'
  refused 2 "depth is 5000, expected 1 to 4096" sluice run --config "$scratch/run.toml"
  [ -z "$(sluice ublk list)" ] || flunk "left behind: $(sluice ublk list)"
}

# A store in the pipeline's segment, and a mirror of it: after deaths of the server, the mirror and the supervisor under a
# verifying load, the mirror is the device.
case_run_store_mirrored() {
  pipeline 'size = "512MiB"' '[[ublk]]' 'name = "disk"' 'target = "store"' 'size = "64MiB"' 'queues = 2' \
    'publish = "changes"' 'mirror = "mirror.img"'
  supervise
  verifying 24
  taken="$id"
  kill -KILL "$(server_of "$id")"
  sleep 0.5
  eventually 30 is_served
  kill -USR1 "$supervisor"
  eventually 5 grep -q 'mirror.disk=[0-9]' "$scratch/run.err"
  kill -KILL "$(sed -n 's/.* mirror.disk=\([0-9]*\).*/\1/p' "$scratch/run.err" | tail -n 1)"
  sleep 0.5
  kill -KILL "$supervisor"
  wait "$supervisor" 2>/dev/null || true
  supervise
  [ "$id" = "$taken" ]
  unharmed
  dd if="$device" of="$scratch/content" bs=1M iflag=direct 2>/dev/null
  drained
  cmp "$scratch/content" mirror.img || flunk "the mirror is not the device"
  shm-dump check "$scratch/segment" || flunk "the segment is not sound"
}
