#!/bin/sh
# usage: suite.sh [PART-OF-A-NAME…]   all cases, or those whose names have one of the parts; in POSIX sh, for busybox
# env: KERNEL_SUITE, this directory; KERNEL_WORK, a directory on ext4 with room; KERNEL_SELF_TEST, yes or no;
#      KERNEL_BOOT, first, second, or only for a machine that is not restarted; KERNEL_KEPT, what the second boot finds
#
# Each case is a function case_NAME of a file in cases/, run in a shell of its own. It fails when a command that it does
# not look at fails, when it calls `flunk`, takes too long, or leaves a device or a process behind.
set -eu

case_timeout_s=240
export case_timeout_s

run_one() {  # run_one FILE NAME
  file="$1" name="$2" code=0
  started="$(date +%s)"
  echo "=== RUN $name"
  mkdir -p "$KERNEL_WORK/$name"
  timeout -s KILL "$case_timeout_s" sh "$KERNEL_SUITE/case.sh" "$file" "$name" >"$KERNEL_WORK/$name.log" 2>&1 || code=$?
  sh "$KERNEL_SUITE/leftovers.sh" "$KERNEL_WORK/$name" >>"$KERNEL_WORK/$name.log" 2>&1 || code=1
  seconds=$(($(date +%s) - started))
  if [ "$code" = 0 ]; then
    echo "--- PASS $name ($seconds s)"
  else
    tail -n 60 "$KERNEL_WORK/$name.log" | sed 's/^/    /'
    echo "--- FAIL $name (code $code, $seconds s)"
    failures=$((failures + 1))
  fi
  rm -rf "${KERNEL_WORK:?}/$name" "$KERNEL_WORK/$name.log"
}

chosen() {  # chosen NAME PART…
  name="$1"
  shift
  case "$KERNEL_BOOT $name" in
    "only reboot_"*) echo "not here: $name: this machine is not restarted" && return 1 ;;
    "second reboot_second_"* | "first reboot_first_"*) ;;
    "second "* | *" reboot_"*) return 1 ;;
  esac
  [ "$#" -gt 0 ] || return 0
  for part in "$@"; do
    case "$name" in *"$part"*) return 0 ;; esac
  done
  return 1
}

failures=0
for file in "$KERNEL_SUITE"/cases/*.sh; do
  if [ "${file##*/}" = planted.sh ] && [ "$KERNEL_SELF_TEST" != yes ]; then continue; fi
  for name in $(sed -n 's/^case_\([a-z0-9_]*\)().*/\1/p' "$file"); do
    if chosen "$name" "$@"; then run_one "$file" "$name"; fi
  done
done
echo "=== END $failures failed"
[ "$failures" = 0 ]
