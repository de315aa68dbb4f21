# What a server says of itself: times, system calls, what is in flight.
# shellcheck shell=sh disable=SC2154

# said WHAT: the number before that word in what the server said at its end
said() { sed -n "s/^[a-z]*:\(.* \)*\([0-9][0-9]*\) $1.*/\2/p" "$scratch/ready"; }

# serve_fio QUEUES FIO-ARGUMENT…: a null target, a load, and its end
serve_fio() {
  queues="$1"
  shift
  start add --target null --size 64MiB --queues "$queues" --depth 64
  fio --name=load --filename="$device" --ioengine=io_uring --direct=1 --bs=4k --size=64M --output-format=terse \
    "$@" >"$scratch/fio.out" 2>&1 || flunk "fio: $(cat "$scratch/fio.out")"
  stop
  times='p50 [0-9].*, p99 [0-9].*, p99.9 [0-9].*, max [0-9]'
  grep -q "^latency: reads $times.*; writes $times.*; others none\$" "$scratch/ready"
  grep -q '^calls: [1-9][0-9]* io_uring_enter, [1-9][0-9]* copies, [0-9.]* for each request$' "$scratch/ready"
}

case_served_times() {
  serve_fio 2 --rw=randrw --iodepth=8 --io_size=4M
}

# Somebody looks at a device that hangs: what it waits for and since when, and the server goes on.
case_status_of_a_stuck_device() {
  disk 16M
  echo "write stall after 8" >rules
  start add --target file --path disk.img --faults rules
  kill -USR1 "$server"
  eventually 5 grep -q '^status: nothing in flight, last turn [0-9]* [mu]s ago; served: ' server.err
  dd if=/dev/zero of="$device" bs=4k count=32 oflag=direct 2>/dev/null &
  writer=$!
  sleep 2
  kill -USR1 "$server"
  eventually 5 grep -q '^status: 1 in flight, the oldest for [1-9][.0-9]* s (queue 0, tag [0-9]*), ' server.err
  grep -q '^status: 1 in flight.*; served: .* 8 writes .*; latency: .*; writes p50 .*; calls: ' server.err
  [ "$(wc -l <server.err)" = 2 ] || flunk "$(cat server.err)"
  dd if="$device" of=/dev/null bs=4k count=8 iflag=direct 2>/dev/null
  stop
  if wait "$writer"; then flunk "the stalled write succeeded"; fi
}

# Everything of a round goes to the kernel in one call: at depth 32 at most one call for five requests.
case_calls_are_batched() {
  for mode in randread randwrite; do
    start add --target null --size 64MiB --depth 64
    fio --name=load --filename="$device" --ioengine=io_uring --direct=1 --rw="$mode" --bs=4k --size=64M \
      --io_size=64M --iodepth=32 --iodepth_batch_submit=32 --iodepth_batch_complete_min=1 \
      --iodepth_batch_complete_max=32 --output-format=terse >fio.out 2>&1 || flunk "fio: $(cat fio.out)"
    stop
    requests=$(($(said reads) + $(said writes)))
    [ "$requests" -ge 10000 ] || flunk "$requests requests"
    echo "$mode: $(said io_uring_enter) calls for $requests requests"
    [ $(($(said io_uring_enter) * 5)) -le "$requests" ] || flunk "$(said io_uring_enter) calls for $requests requests"
  done
}
