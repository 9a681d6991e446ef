# Real programs through every mode: checkpoint, gone, restore; and with --leave-running.
load helpers

setup() { setup_dirs; }
teardown() { end_all; }

modes() {
  local compression zero direct
  for compression in none flate-best-speed lz4; do
    for zero in false true; do
      for direct in false true; do
        echo "--compression=$compression --exclude-committed-zero-pages=$zero --direct=$direct"
      done
    done
  done
}

checkpoint() { # flags... : into a new $tmp/image
  rm -rf "$tmp/image"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" "$@" web
}

# The last argument is a command that says whether the program has gone on unharmed.
cycle_all_modes() { # command...
  local pid mode
  while read -r mode; do
    echo "# $mode"
    # shellcheck disable=SC2086
    checkpoint --leave-running $mode
    "$@"
    pid=$(pid_of web)
    # shellcheck disable=SC2086
    checkpoint $mode
    gone "$pid"
    close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
    "$@"
  done < <(modes)
}

@test "a shell loop in every mode" {
  cat >"$tmp/loop" <<'LOOP'
n=0
while :; do
  n=$((n + 1))
  echo $n
  sleep 0.01
done
LOOP
  run_detached web sh "$tmp/loop"
  eventually test -s "$tmp/out"
  cycle_all_modes counts_on "$tmp/out"
  # No number is missing, none came twice.
  ckpt-run --root "$reg" --delete web --force
  diff "$tmp/out" <(seq "$(wc -l <"$tmp/out")")
}

@test "producer | consumer with data in the pipe in every mode" {
  run_detached web sh -c "sh '$fixtures_src/produce.sh' | sh '$fixtures_src/consume.sh'"
  eventually test -s "$tmp/out"
  cycle_all_modes counts_on "$tmp/out"
  no grep broken "$tmp/out"
}

threads_go_on() {
  local before after n
  before=$(tail -n 1 "$tmp/log")
  threads_progressed() {
    after=$(tail -n 1 "$tmp/log")
    for n in $(seq 3 10); do
      [ "$(cut -d' ' -f"$n" <<<"$after")" -gt "$(cut -d' ' -f"$n" <<<"$before")" ] || return 1
    done
  }
  eventually threads_progressed
}

@test "python3 with 8 threads, locks, a big dict and a file at an offset in every mode" {
  run_detached web python3 "$fixtures_src/threads.py" "$tmp/log"
  eventually test -s "$tmp/log"
  cycle_all_modes threads_go_on
  # One checksum and one offset all the time; counts never go back.
  [ "$(cut -d' ' -f1,2 "$tmp/log" | sort -u | wc -l)" -eq 1 ]
  cut -d' ' -f3 "$tmp/log" | sort -nc
}

redis() { redis-cli -p "$port" "$@" 2>/dev/null; }
redis_answers() { [ "$(redis ping)" = PONG ]; }

redis_is_whole() {
  eventually redis_answers
  [ "$(redis debug digest)" = "$digest" ]
  [ "$(redis set last "$RANDOM")" = OK ]
  [ "$(redis del last)" = 1 ]
}

@test "redis-server with 200,000 keys in every mode: same digest, clients come back and write" {
  port=$((20000 + RANDOM % 10000))
  run_detached web redis-server --port "$port" --bind 127.0.0.1 --save "" --appendonly no \
    --enable-debug-command yes --dir "$tmp"
  eventually redis_answers
  redis debug populate 200000 key 64
  digest=$(redis debug digest)
  [ "$(redis dbsize)" = 200000 ]
  cycle_all_modes redis_is_whole
}

@test "refused: processes that share what only threads should" {
  # clone(2) with CLONE_FILES, CLONE_FS: a child with its parent's table, among others with their own.
  for flag in "0x400 descriptor.table" "0x200 working.directory"; do
    run_detached web python3 -c '
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None)
for flags in (0, 0, int(sys.argv[1], 16), 0):
    if libc.syscall(56, flags | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        time.sleep(1000)
open(sys.argv[2], "w").write("ready")
time.sleep(1000)' "${flag% *}" "$tmp/ready"
    eventually test -s "$tmp/ready"
    run ckpt-checkpoint --root "$reg" --image-path "$tmp/image" web
    echo "$output"
    [ "$status" -eq 1 ]
    [[ $output =~ pid\ [0-9]+:\ shares\ its\ ${flag#* }\ with\ pid\ [0-9]+:\ cannot\ be ]]
    rm "$tmp/ready"
    ckpt-run --root "$reg" --delete web --force
  done
}

@test "an array of Python's multiprocessing and its lock" {
  shares() { [ "$(wc -l <"$tmp/shared")" -gt "$1" ]; }
  run_detached web python3 "$fixtures_src/sharing.py" "$tmp/shared"
  eventually shares 5
  for i in 1 2 3; do
    checkpoint
    close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
    eventually shares "$(($(wc -l <"$tmp/shared") + 5))"
  done
}
