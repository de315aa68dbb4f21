#!/usr/bin/env bash
# Block devices of ours beside the kernel's own, with the release build's programs: where the driver is there natively,
# else in the virtual machine of tests/kernel. docs/performance.md says what the figures mean.
set -euo pipefail

who=ublk_bench
here_bench="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=tests/kernel/machine.sh
. "$here_bench/../kernel/machine.sh"
mode=auto
rounds=3
ms=1000
data=auto
output=""
shows_results=no

usage() {
  cat <<'TEXT'
usage: ublk_bench.sh [--qemu | --native] [--rounds N] [--ms N] [--data PATH] [--json FILE]

  --qemu, --native  where; else natively if /dev/ublk-control is there and we are root, else QEMU.
                    Natively null_blk and loop are loaded if they are not, and 500 MiB of /dev/shm are used
  --rounds, --ms    how often everything is measured [3], and how long each time [1000]
  --data PATH       how the data of our devices travels, as `sluice ublk add` has it [auto]
  --json FILE       the medians, as tools/dev bench has them

exit codes: 0 done, 1 something failed, 2 usage, 3 a package is missing
TEXT
}

while (( $# > 0 )); do
  case "$1" in
    --qemu | --native) mode="${1#--}" ;;
    --rounds | --ms | --data | --json)
      (( $# > 1 )) || fail "$exit_usage" "$1 needs a value."
      case "$1" in
        --rounds) rounds="$2" ;;
        --ms) ms="$2" ;;
        --data) data="$2" ;;
        --json) output="$2" ;;
      esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) fail "$exit_usage" "there is no option '$1'." ;;
  esac
  shift
done
[[ "$rounds" =~ ^[1-9][0-9]*$ && "$ms" =~ ^[1-9][0-9]*$ ]] || fail "$exit_usage" "--rounds and --ms take numbers above 0."
[[ "$data" =~ ^(auto|user-copy|copy)$ ]] || fail "$exit_usage" "--data takes auto, user-copy or copy."
if [[ "$mode" == auto ]]; then
  mode=qemu
  if [[ -c /dev/ublk-control && "$EUID" == 0 ]]; then mode=native; fi
fi
need_programs
take_the_machine

progress() {  # progress LOG: rounds on stderr as they begin, where somebody looks
  [[ -t 2 ]] || return 0
  tail -n +1 -F "$1" --pid="$$" 2>/dev/null | sed -u -n 's/^ROUND/ublk_bench: round/p' >&2 &
}

run_qemu() {
  local code=0 name
  prepare_machine
  begin_initramfs
  for name in configfs null_blk loop; do
    put_module "$name" || rm -f "$initramfs/modules/$name.ko"  # the guest says what it has not
  done
  cp "$here_bench/ublk/guest.sh" "$initramfs/kernel/"
  printf '#!/bin/sh\nBENCH_ROUNDS=%s BENCH_MS=%s BENCH_DATA=%s exec sh /kernel/guest.sh\n' "$rounds" "$ms" "$data" >"$initramfs/kernel/bench.sh"
  end_initramfs bench.sh
  fresh_disk
  progress "$work/results-first.log"
  boot first || code=$?
  rm -f "$work/disk.img"
  (( code == 33 )) || fail 1 "the machine ended with $code, 33 is success; see build/kernel/console.log and results.log."
}

run_native() {
  progress "$work/results.log"
  BENCH_WORK="/dev/shm/sluice-bench-ublk-$$" BENCH_ROUNDS="$rounds" BENCH_MS="$ms" BENCH_DATA="$data" PATH="$bin:$PATH" \
    sh "$here_bench/ublk/guest.sh" >"$work/results.log" 2>&1
}

if [[ "$mode" == qemu ]]; then
  run_qemu
  place="QEMU TCG, Linux $(sed -n 's/^linux-image-\([0-9.]*\).*/\1/p' "$work/linux/version")"
else
  place="native"
  run_native
fi
BENCH_MS="$ms" python3 "$here_bench/ublk/report.py" "$work/results.log" "$place" "$output"
