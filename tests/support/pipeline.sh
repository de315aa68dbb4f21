# What tests of `sluice run` share: starting a pipeline, sending to it, ending it, and looking at what is left. Sourced.

bin="${SLUICE_BIN_DIR:?the directory with the programs}"
command -v socat >/dev/null || { echo "socat is not there: skipped"; exit 77; }

scratch="$(mktemp -d "${TMPDIR:-/tmp}/sluice-pipeline.XXXXXX")"
shm="$(mktemp -d /dev/shm/sluice-pipeline.XXXXXX)"
failures=0
scenario=""
run_pid=""
clients=()
mounts=()

cleanup() {
  local pid mount
  [[ -z "$run_pid" ]] || kill -KILL "$run_pid" 2>/dev/null
  for pid in "${clients[@]}"; do kill "$pid" 2>/dev/null; done
  sleep 0.3
  for mount in "${mounts[@]}"; do umount -l "$mount" 2>/dev/null; done
  rm -rf "$scratch" "$shm"
}
trap cleanup EXIT

# ---- helpers --------------------------------------------------------------------------------------------

failed() {
  echo "FAILED: $scenario: $1"
  [[ ! -s "$dir/err" ]] || sed 's/^/    stderr: /' "$dir/err" | tail -n 20
  failures=$((failures + 1))
}

expect() {  # expect WHAT FOUND EXPECTED
  [[ "$2" == "$3" ]] || failed "$1: found '$2', expected '$3'"
}

until_true() {  # until_true SECONDS COMMAND…: whether it came true in time
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    (( SECONDS < deadline )) || return 1
    sleep 0.05
  done
}

begin() {  # begin SCENARIO: directory, segment and sink of its own
  scenario="$1"
  dir="$scratch/$1"
  segment="$shm/$1"
  sink="$dir/sink"
  mkdir "$dir"
  clients=()
  echo "---- $1"
}

# A zombie has ended too: whether somebody reaps orphans is the machine's affair.
ended() { ! grep -qsE '^State:[[:space:]]+[^ZX[:space:]]' "/proc/$1/status"; }
ready() { grep -q '^ready: ' "$dir/out"; }
ready_or_ended() { ready || ended "$run_pid"; }

run() {  # run ARGUMENT…: start the pipeline, return when it accepts
  : >"$dir/out"
  : >"$dir/err"
  "$bin/sluice" run --segment "$segment" --tcp "${tcp:-127.0.0.1:0}" "$@" >"$dir/out" 2>"$dir/err" &
  run_pid=$!
  until_true 20 ready_or_ended
  ready || { failed "not ready"; return 1; }
  port="$(sed -n 's/^ready: .*:\([0-9]*\), .*/\1/p' "$dir/out")"
}

finish() {  # finish EXIT-CODE [SIGNAL]: signal the pipeline, wait, compare its exit code
  [[ "${2:-TERM}" == none ]] || kill -"${2:-TERM}" "$run_pid"
  until_true 60 ended "$run_pid" || failed "still running 60 s after its signal"
  wait "$run_pid"
  expect "exit code" "$?" "$1"
  run_pid=""
}

pid_of() {  # pid_of ROLE: of the process with that role
  "$bin/shm-dump" processes "$segment" --json |
    python3 -c 'import json, sys
print(*[p["pid"] for p in json.load(sys.stdin)["processes"] if p["role"] == sys.argv[1]])' "$1"
}

kill_role() {  # kill_role ROLE: SIGKILL, once it is there
  local pid=""
  until_true 10 has_pid "$1" || { failed "no process $1 to kill"; return; }
  pid="$(pid_of "$1")"
  kill -KILL "${pid%% *}"
}
has_pid() { [[ -n "$(pid_of "$1")" ]]; }

make_input() {  # make_input NAME BYTES
  head -c "$2" /dev/urandom >"$dir/$1.in"
}

send() {  # send NAME: the whole file, as fast as it goes
  socat -u "FILE:$dir/$1.in" "TCP:127.0.0.1:$port" 2>>"$dir/clients" &
  clients+=("$!")
}

send_slowly() {  # send_slowly NAME PARTS: the file in parts, 50 ms apart
  local bytes part
  bytes="$(stat -c %s "$dir/$1.in")"
  {
    for (( part = 0; part < $2; ++part )); do
      tail -c "+$((part * (bytes / $2) + 1))" "$dir/$1.in" | head -c "$(( part + 1 < $2 ? bytes / $2 : bytes ))"
      sleep 0.05
    done
  } 2>/dev/null | socat -u - "TCP:127.0.0.1:$port" 2>>"$dir/clients" &
  clients+=("$!")
}

join_clients() {
  local pid
  for pid in "${clients[@]}"; do wait "$pid" 2>/dev/null; done
  clients=()
}

hashes() { sha256sum "$@" 2>/dev/null | cut -d' ' -f1 | sort; }

expect_same_files() {  # every input arrived as a file, and nothing else did
  expect "files" "$(hashes "$sink"/*.bin)" "$(hashes "$dir"/*.in)"
}
expect_no_leftovers() { expect "open or aborted flows" "$(find "$sink" -name '*.part' -o -name '*.aborted' | wc -l)" 0; }

expect_sound() {  # nobody uses the segment, it is sound, and no block is in use
  local found
  found="$("$bin/shm-dump" check "$segment" --json | python3 -c 'import json, sys
check = json.load(sys.stdin)
print(check["sound"], check["live"], check["counts"]["blocks_live"], check["counts"]["references"])')"
  expect "sound, live, blocks, references" "$found" "True False 0 0"
}

expect_error() {  # expect_error EXIT-CODE PATTERN ARGUMENT…: `sluice run` fails with one line
  local code=0 wanted="$1" pattern="$2"
  shift 2
  timeout 30 "$bin/sluice" run "$@" >"$dir/out" 2>"$dir/err" || code=$?
  [[ "$code" =~ ^($wanted)$ ]] || failed "exit code of: run $*: found $code, expected $wanted"
  expect "lines on stderr of: run $*" "$(wc -l <"$dir/err")" 1
  grep -qE -- "$pattern" "$dir/err" || failed "run $*: no line like '$pattern'"
}

restarts() { sed -n 's/.* \([0-9]*\) restarts$/\1/p' "$dir/err" | tail -n 1; }

run_scenarios() {  # run_scenarios ALL… -- [NAME…]: all of them, or those that are named
  local all=() name
  while [[ "$1" != -- ]]; do all+=("$1"); shift; done
  shift
  (( $# > 0 )) || set -- "${all[@]}"
  for name in "$@"; do
    begin "$name"
    "$name"
    [[ -z "$run_pid" ]] || { kill -KILL "$run_pid" 2>/dev/null; wait "$run_pid" 2>/dev/null; run_pid=""; }
  done
  echo "$failures failures"
  (( failures == 0 ))
}
