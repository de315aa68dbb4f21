#!/usr/bin/env bash
# tools/dev: wrong use and missing packages end with the documented exit code and one sentence.
set -euo pipefail

dev="$SLUICE_SOURCE_DIR/tools/dev"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
failures=0

expect() {  # expect EXIT-CODE PATTERN COMMAND…: the code, and a last line on stderr that matches
  local wanted="$1" pattern="$2" code=0 last
  shift 2
  "$@" >"$scratch/out" 2>"$scratch/err" || code=$?
  last="$(tail -n 1 "$scratch/err")"
  if [[ "$code" != "$wanted" || ! "$last" =~ $pattern ]]; then
    echo "FAILED: $*: exit code $code, expected $wanted; stderr ends '$last', expected '$pattern'"
    failures=$((failures + 1))
  fi
}

# Programs that stand in for the package system of a machine on which nothing is installed.
stub() {  # stub NAME BODY
  printf '#!/bin/sh\n%s\n' "$2" >"$scratch/bin/$1"
  chmod +x "$scratch/bin/$1"
}
mkdir "$scratch/bin"
stub dpkg-query 'exit 1'
stub apt-get 'exit 0'
# shellcheck disable=SC2016  # the stub's own $2
stub apt-cache 'printf "%s:\n  Installed: (none)\n  Candidate: (none)\n" "$2"'

expect 2 "exit codes" "$dev"
expect 0 "^$" "$dev" help
expect 2 "unknown verb 'frobnicate'" "$dev" frobnicate
expect 2 "no preset 'fast', the presets are: dev" "$dev" build fast
expect 2 "no preset 'fast', the presets are: dev" "$dev" test --preset fast
expect 2 "--label needs a name" "$dev" test --label
expect 2 "no benchmark 'nonsense', the benchmarks are: .*alloc.* ublk" "$dev" bench nonsense
expect 2 "there is no option '--fast'" "$SLUICE_SOURCE_DIR/tests/bench/ublk_bench.sh" --fast
expect 2 "take numbers above 0" "$SLUICE_SOURCE_DIR/tests/bench/ublk_bench.sh" --rounds none
expect 2 "there is no option '--fast'" "$SLUICE_SOURCE_DIR/tests/bench/queues_bench.sh" --fast
expect 2 "takes a number above 0" "$SLUICE_SOURCE_DIR/tests/bench/queues_bench.sh" --rounds none
expect 2 "is for one benchmark" "$dev" bench queues alloc -- --quick
expect 2 "bench does not know '--fast'" "$dev" bench --fast
expect 2 "no such directory" "$dev" bench --json "$scratch/none/results.json"
expect 2 "format takes nothing or --check" "$dev" format --fast
expect 2 "setup takes no argument" "$dev" setup now

if (( EUID == 0 )); then
  expect 3 "sources do not have: .*socat" env PATH="$scratch/bin:$PATH" "$dev" setup
  stub apt-get 'exit 100'
  expect 3 "apt-get update failed, .*socat" env PATH="$scratch/bin:$PATH" "$dev" setup
else
  expect 3 "to be installed as root: .*socat" env PATH="$scratch/bin:$PATH" "$dev" setup
fi

(( failures == 0 ))
