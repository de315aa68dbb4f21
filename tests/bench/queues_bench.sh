#!/usr/bin/env bash
# Queues of ours beside what one would take instead, in the same run: iceoryx, whose daemon is started for it, Boost's
# message_queue, Unix datagrams, pipes, and a bare cache line. docs/performance.md says what the figures mean.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
readonly root
readonly parts="$root/tests/bench/queues"
readonly program="${SLUICE_BIN_DIR:-$root/build/release/bin}/bench/queues_bench"
readonly exit_usage=2
readonly exit_missing=3
measuring=()
results=()
markdown=""

usage() {
  cat <<'TEXT'
usage: queues_bench.sh [--quick] [--rounds N] [--ms N] [--json FILE] [--markdown FILE] [--plot FILE]

  --quick          one short round: whether all of it works. The figures mean little
  --rounds, --ms   how often everything is measured [9], and how long each figure takes each time [100]
  --json FILE      the figures, as tools/dev bench has them
  --markdown FILE  the tables; between the lines <!-- queues: begin --> and <!-- queues: end --> if FILE has them
  --plot FILE      one way by payload, as SVG

exit codes: 0 done, 1 something failed, 2 usage, 3 a package is missing
TEXT
}

fail() {  # fail CODE SENTENCE
  echo "queues_bench: $2" >&2
  exit "$1"
}

while (( $# > 0 )); do
  case "$1" in
    --quick) measuring+=(--rounds 1 --ms 10) ;;
    --rounds | --ms | --json | --markdown | --plot)
      (( $# > 1 )) || fail "$exit_usage" "$1 needs a value."
      case "$1" in
        --rounds | --ms)
          [[ "$2" =~ ^[1-9][0-9]{0,5}$ ]] || fail "$exit_usage" "$1 takes a number above 0."
          measuring+=("$1" "$2") ;;
        *)
          [[ -d "$(dirname -- "$2")" ]] || fail "$exit_usage" "$2 cannot be written: no such directory."
          [[ "$1" != --markdown ]] || markdown="$2"
          [[ "$1" != --plot ]] || command -v gnuplot >/dev/null ||
            fail "$exit_missing" "gnuplot is not there: install the package gnuplot-nox."
          results+=("$1" "$2") ;;
      esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) fail "$exit_usage" "there is no option '$1'." ;;
  esac
  shift
done
[[ -x "$program" ]] || fail 1 "$program is not there: tools/dev build release makes it."
if [[ -s "$markdown" ]]; then
  python3 -B "$parts/report.py" --has-place "$markdown" || exit "$exit_usage"
fi

# ---- iceoryx's daemon -----------------------------------------------------------------------------------

roudi_pid=""
roudi_ready=no
program_pid=""
program_runs=no
scratch="$(mktemp -d)"

absent() {  # absent WHY: iceoryx is left out, and the report says so
  python3 -c 'import json, sys; print(json.dumps({"row": "absent", "what": "iceoryx", "why": sys.argv[1]}))' "$1" >>"$scratch/absent"
}

roudi_says() {  # its complaint, if it made one
  sed -e 's/\x1b\[[0-9;]*m//g' "$scratch/roudi.log" | grep -m 1 -E 'Fatal|Error|Assert' || tail -n 1 "$scratch/roudi.log"
}

start_roudi() {
  command -v iox-roudi >/dev/null || { absent "iox-roudi is not there: the package iceoryx has it"; return 0; }
  : >"$scratch/roudi.log"
  iox-roudi -c "$parts/roudi.toml" >>"$scratch/roudi.log" 2>&1 &
  roudi_pid=$!
  for _ in {1..100}; do
    kill -0 "$roudi_pid" 2>/dev/null || break
    if grep -q 'ready for clients' "$scratch/roudi.log"; then
      roudi_ready=yes
      measuring+=(--iceoryx)
      return 0
    fi
    sleep 0.1
  done
  absent "iox-roudi did not start: $(roudi_says)"
  stop_roudi
}

stop_roudi() {
  [[ -n "$roudi_pid" ]] || return 0
  local pid="$roudi_pid" code=0
  roudi_pid=""
  kill -TERM "$pid" 2>/dev/null || true
  for _ in {1..100}; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || code=$?
  if [[ "$roudi_ready" == yes ]] && (( code != 0 )); then  # it has not removed what is its own
    rm -f /dev/shm/iceoryx_mgmt "/dev/shm/$(id -gn)" /tmp/roudi /tmp/roudi.lock /tmp/iox-unique-roudi.lock
  fi
}

clean_up() {
  trap - EXIT INT TERM
  if [[ -n "$program_pid" ]]; then
    if [[ "$program_runs" == yes ]]; then
      kill "$program_pid" 2>/dev/null || true  # its children end with it
      wait "$program_pid" 2>/dev/null || true
    fi
    rm -f "/dev/shm/sluice-bench-queues-$program_pid" "/dev/shm/sluice-bench-queues-$program_pid"[-.]* \
      "/tmp/sluice-bench-queues-$program_pid-"*
  fi
  stop_roudi
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_roudi
"$program" "${measuring[@]}" >"$scratch/measured" &
program_pid=$!
program_runs=yes
code=0
wait "$program_pid" || code=$?
program_runs=no
(( code == 0 )) || fail 1 "the measuring program ended with $code."
if [[ -n "$roudi_pid" ]] && ! kill -0 "$roudi_pid" 2>/dev/null; then
  absent "its daemon ended by itself: $(roudi_says)"
fi
if [[ -e "$scratch/absent" ]]; then cat "$scratch/absent" >>"$scratch/measured"; fi
python3 -B "$parts/report.py" "$scratch/measured" "${results[@]}"
