# One device from add to delete, and what is refused.
# shellcheck shell=sh disable=SC2154

case_features() {
  sluice ublk features | tee "$scratch/features"
  grep -q user-copy "$scratch/features"
  grep -q recovery-reissue "$scratch/features"
  sluice ublk features --json | grep -q '"schema":"sluice.ublk.features/1","known":true'
}

case_null_info() {
  start add --target null --size 64MiB --queues 2 --depth 128
  sluice ublk info "$id" | tee "$scratch/info"
  state_is live
  grep -q "^server  *pid $server\$" "$scratch/info"
  grep -q '^size  *64 MiB$' "$scratch/info"
  grep -q '^queues  *2 of depth 128$' "$scratch/info"
  sluice ublk list --json | grep -q '"schema":"sluice.ublk.list/1","devices":\[{"id":'
  [ "$(blockdev --getsize64 "$device")" = $((64 << 20)) ]
  dd if="$device" bs=1M count=4 iflag=direct 2>/dev/null | tr -d '\0' | wc -c | grep -q '^0$'
  stop
}
