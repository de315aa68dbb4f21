#!/bin/sh
# usage: leftovers.sh SCRATCH   ends and deletes what a case has left, and fails if there was anything
set -u
scratch="$1"
found=0
for mounted in $(sed -n "s|^/dev/ublk[^ ]* \([^ ]*\) .*|\1|p" /proc/mounts); do
  echo "left behind: mounted $mounted"
  umount -l "$mounted"
  found=1
done
for pid in $(cat "$scratch/pids" 2>/dev/null); do
  if kill -KILL "$pid" 2>/dev/null; then
    echo "left behind: process $pid"
    found=1
  fi
done
for node in /sys/class/ublk-char/ublkc*; do
  [ -e "$node" ] || continue
  id="${node##*/ublkc}"
  echo "left behind: ublk device $id"
  timeout -s KILL 30 sluice ublk delete "$id"
  found=1
done
exit "$found"
