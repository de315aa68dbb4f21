#!/usr/bin/env bash
# The demonstration: real files of this machine, over many connections at a time, through a pipeline whose
# workers are killed with SIGKILL on the way. Every file must come out as it went in, and nothing may leak.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
bin="${SLUICE_BIN_DIR:-$root/build/release/bin}"

usage() {
  cat <<'TEXT'
usage: tools/dev demo [OPTION…]

  --mib N           MiB to send at least (default 1024)
  --connections N   at a time, at least 2 (default 16)
  --workers N       worker processes (default 4)
  --kills N         times that a worker is killed (default 8)
  --timeout N       seconds that everything may take (default 300)

The files are the largest below /usr that have at most 64 MiB. The sink is a directory below TMPDIR (default
/tmp), which needs as much room; the segment is in /dev/shm. Both are removed at the end.
exit codes: 0 everything is equal and nothing leaked, 1 it is not, 2 usage, 3 something is missing here
TEXT
}

fail() {  # fail CODE SENTENCE
  echo "demo: $2" >&2
  exit "$1"
}

mib=1024 connections=16 workers=4 kills=8 timeout_s=300
while (( $# > 0 )); do
  case "$1" in
    --mib | --connections | --workers | --kills | --timeout)
      [[ "${2:-}" =~ ^[1-9][0-9]{0,5}$ ]] || fail 2 "$1 needs a whole number from 1, not '${2:-}'."
      case "$1" in
        --mib) mib="$2" ;;
        --connections) connections="$2" ;;
        --workers) workers="$2" ;;
        --kills) kills="$2" ;;
        --timeout) timeout_s="$2" ;;
      esac
      shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) fail 2 "there is no option '$1', --help lists them." ;;
  esac
done
(( connections >= 2 )) || fail 2 "--connections needs at least 2."

for program in "$bin/sluice" "$bin/shm-dump"; do
  [[ -x "$program" ]] || fail 3 "$program is not there: run tools/dev build first."
done
for program in socat python3; do
  command -v "$program" >/dev/null || fail 3 "$program is not there: run tools/dev setup as root."
done

# ---- what is cleaned up ---------------------------------------------------------------------------------

scratch="$(mktemp -d "${TMPDIR:-/tmp}/sluice-demo.XXXXXX")"
shm="$(mktemp -d /dev/shm/sluice-demo.XXXXXX)"
segment="$shm/segment"
sink="$scratch/sink"
pipeline="" watcher="" clock=""
declare -A clients=()

cleanup() {
  local pid
  for pid in "$clock" "$watcher" "${!clients[@]}"; do
    if [[ -n "$pid" ]]; then kill "$pid" 2>/dev/null || true; fi
  done
  if [[ -n "$pipeline" ]]; then
    # Twice: the first signal would drain. Then its children end by themselves.
    kill -TERM "$pipeline" 2>/dev/null || true
    kill -TERM "$pipeline" 2>/dev/null || true
    wait "$pipeline" 2>/dev/null || true
  fi
  rm -rf "$scratch" "$shm"
}
trap cleanup EXIT
trap 'fail 1 "stopped by a signal."' INT TERM HUP
trap 'fail 1 "not done within $timeout_s s, which --timeout can change."' USR1

main_pid=$BASHPID
( sleep "$timeout_s" & trap 'kill $! 2>/dev/null' EXIT; trap 'exit' TERM; wait $!; kill -USR1 "$main_pid" ) &
clock=$!

# ---- input ----------------------------------------------------------------------------------------------

# At most this large, so that there are several per connection: 64 MiB for a gigabyte.
file_kib_max=$(( mib * 4096 / connections < 65536 ? mib * 4096 / connections + 1024 : 65536 ))

choose_files() {  # the largest real files until there are enough bytes and files, one path per line
  find /usr -xdev -type f -readable -size +64k -size "-$((file_kib_max + 1))k" ! -name $'*\n*' -printf '%s %p\n' 2>/dev/null |
    sort -k1,1nr -k2 |
    awk -v bytes="$((mib * 1024 * 1024))" -v files="$connections" '
      sum >= bytes && count >= files { exit }
      { sum += $1; ++count; print substr($0, index($0, " ") + 1) }' || true
}

total_bytes() { stat -c %s -- "$@" | awk '{ sum += $1 } END { printf "%.0f\n", sum }'; }

mapfile -t files < <(choose_files)
(( ${#files[@]} > 0 )) || fail 3 "there is no file of 64 KiB to 64 MiB below /usr that can be read."
total="$(total_bytes "${files[@]}")"
# A machine with little below /usr: the same files again, behind headers that tell the copies apart.
originals=("${files[@]}")
for (( copy = 1; total < mib * 1024 * 1024 || ${#files[@]} < connections; ++copy )); do
  original="${originals[$(( (copy - 1) % ${#originals[@]} ))]}"
  mkdir -p "$scratch/copies"
  { echo "copy $copy of $original"; cat -- "$original"; } >"$scratch/copies/$copy"
  files+=("$scratch/copies/$copy")
  total=$(( total + $(stat -c %s "$scratch/copies/$copy") ))
done

available="$(df --output=avail -B1 "$scratch" | tail -n 1)"
(( available > total + total / 8 )) || fail 3 "$scratch has room for $((available >> 20)) MiB, the demo needs $((total >> 20)) MiB."
echo "demo: ${#files[@]} files of this machine, $((total >> 20)) MiB, $connections connections at a time, $workers workers"
sha256sum -- "${files[@]}" | sed 's/^\\//' | cut -c 1-64 | sort >"$scratch/sent"

# ---- the run --------------------------------------------------------------------------------------------

: >"$scratch/out"
"$bin/sluice" run --segment "$segment" --tcp 127.0.0.1:0 --workers "$workers" --sink "$sink" \
  >"$scratch/out" 2>"$scratch/err" &
pipeline=$!
while ! grep -q '^ready: ' "$scratch/out"; do
  kill -0 "$pipeline" 2>/dev/null || { cat "$scratch/err" >&2; fail 1 "the pipeline did not start."; }
  sleep 0.02
done
cat "$scratch/out"
port="$(sed -n 's/^ready: .*:\([0-9]*\), .*/\1/p' "$scratch/out")"

python3 "$root/tools/demo/watch.py" --dump "$bin/shm-dump" --segment "$segment" --pipeline "$pipeline" \
  --bytes "$total" --kills "$kills" --workers "$workers" --started "${EPOCHREALTIME/,/.}" --result "$scratch/watched" &
watcher=$!

failed_clients=0
reap_client() {  # wait for one client
  local pid code=0
  wait -n -p pid "${!clients[@]}" || code=$?
  unset "clients[$pid]"
  (( code == 0 )) || failed_clients=$((failed_clients + 1))
}
for file in "${files[@]}"; do
  while (( ${#clients[@]} >= connections )); do reap_client; done
  # socat reads from a descriptor: a path may contain what its address syntax gives a meaning to.
  socat -u -b 262144 STDIN "TCP:127.0.0.1:$port" <"$file" &
  clients[$!]=1
done
while (( ${#clients[@]} > 0 )); do reap_client; done

watched=0
wait "$watcher" || watched=$?
watcher=""
drained=0
kill -TERM "$pipeline" 2>/dev/null || true
wait "$pipeline" || drained=$?
pipeline=""

# ---- what came of it ------------------------------------------------------------------------------------

find "$sink" -name '*.bin' -print0 | xargs -0 -r sha256sum -- | cut -c 1-64 | sort >"$scratch/received"
equal="$(comm -12 "$scratch/sent" "$scratch/received" | wc -l)"
leftovers="$(find "$sink" -type f ! -name '*.bin' | wc -l)"
checked=0
"$bin/shm-dump" check "$segment" --json >"$scratch/check" || checked=$?

problems=()
(( failed_clients == 0 )) || problems+=("$failed_clients connections failed")
(( watched == 0 )) || problems+=("the watcher ended with $watched")
(( drained == 0 )) || problems+=("the pipeline exited with $drained")
cmp -s "$scratch/sent" "$scratch/received" || problems+=("only $equal of ${#files[@]} files are equal")
(( leftovers == 0 )) || problems+=("$leftovers flows did not end in order")
(( checked == 0 )) || problems+=("shm-dump check exited with $checked")
python3 "$root/tools/demo/summary.py" --watched "$scratch/watched" --check "$scratch/check" --log "$scratch/err" \
  --files "${#files[@]}" --equal "$equal" --kills "$kills" || problems+=("the numbers above are not all as they must be")

if (( ${#problems[@]} > 0 )); then
  grep -v '^sluice: recovered' "$scratch/err" | tail -n 20 | sed 's/^/  log: /' >&2
  printf 'demo: FAILED: %s\n' "${problems[@]}" >&2
  exit 1
fi
echo "demo: passed"
