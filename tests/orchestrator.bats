# The flags of ckpt-checkpoint and ckpt-restore, as those who know runsc would type them.
bats_require_minimum_version 1.5.0
load helpers

setup() {
  setup_dirs
  run_detached web "$fixtures/counter" "$tmp/count"
  eventually test -s "$tmp/count"
}
teardown() { end_all; }

checkpoint() { ckpt-checkpoint --root "$reg" "$@"; }
restore() { close_others ckpt-restore --root "$reg" "$@" </dev/null; }

@test "exactly one container id, or a pid" {
  for wrong in "" "web web" "--pid 1 web"; do
    # shellcheck disable=SC2086
    run checkpoint --image-path "$tmp/image" $wrong
    [ "$status" -eq 2 ]
  done
  run checkpoint web
  [ "$status" -eq 1 ]
  [ "$output" = "ckpt-checkpoint: image-path flag must be provided" ]
  run checkpoint nobody
  [[ $output == "ckpt-checkpoint: loading container: "* ]]
  run checkpoint --image-path "$tmp/image" --compression zip web
  [ "$status" -eq 2 ]
  [[ $output == *'invalid checkpoint compression type "zip"'* ]]
  [ ! -e "$tmp/image" ]
}

@test "an id is looked up first; the beginning of one will do if it is the only one" {
  run checkpoint --image-path "$tmp/image" nobody
  [ "$status" -eq 1 ]
  [[ $output == "ckpt-checkpoint: loading container: "* ]]
  run_detached web2 "$fixtures/counter" "$tmp/count2"
  run checkpoint --image-path "$tmp/image" we
  [ "$status" -eq 1 ]
  [[ $output == "ckpt-checkpoint: loading container: "* ]]
  checkpoint --image-path "$tmp/image" --leave-running web # an id that is whole is no prefix
  ckpt-run --root "$reg" --delete web2 --force
  checkpoint --image-path "$tmp/other" --leave-running w
  [ ! -e "$tmp/count2.none" ]
}

@test "runsc's way to write flags, --work-path ignored, directories made with 0755" {
  umask 022
  checkpoint -image-path "$tmp/a/b/c" -leave-running=true -compression=none -direct=false \
    --work-path /nowhere --exclude-committed-zero-pages=false web
  for dir in a a/b a/b/c; do [ "$(stat -c %a "$tmp/$dir")" = 755 ]; done
  [ "$(stat -c %a "$tmp/a/b/c/checkpoint.img")" = 600 ]
  counts_on "$tmp/count"
}

@test "--print-pipeline can be pasted, whatever the names" {
  image="$tmp/it's a \$place"
  mkdir "$image"
  checkpoint --image-path "$image" --print-pipeline --exclude-committed-zero-pages web >"$tmp/line"
  cat "$tmp/line"
  [ "$(tr -cd '|' <"$tmp/line" | wc -c)" -eq 3 ]
  bash -e -o pipefail "$tmp/line"
  ckpt-inspect --verify "$image"
  counts_on "$tmp/count"
  ckpt-run --root "$reg" --delete web --force
  restore --image-path "$image" --print-pipeline >"$tmp/line"
  close_others bash -e -o pipefail "$tmp/line" </dev/null
  counts_on "$tmp/count"
}

@test "the flags decide which stages run" {
  [[ $(checkpoint --image-path x --print-pipeline --compression none web) != *ckpt-compress* ]]
  [[ $(checkpoint --image-path x --print-pipeline web) == *"ckpt-compress --algorithm flate-best-speed"* ]]
  [[ $(checkpoint --image-path x --print-pipeline web) != *ckpt-scan-zero* ]]
  [[ $(checkpoint --image-path x --print-pipeline --direct web) == *"--direct"* ]]
  [[ $(restore --image-path x --print-pipeline) != *ckpt-decompress* ]]
  [[ $(restore --image-path x --print-pipeline --stage ckpt-decompress=cat) == *"| cat |"* ]]
}

@test "--stage swaps in a program; another name is refused" {
  printf '#!/bin/sh\ntee "%s" | ckpt-compress "$@"\n' "$tmp/tapped" >"$tmp/tap"
  chmod +x "$tmp/tap"
  checkpoint --image-path "$tmp/image" --leave-running --stage "ckpt-compress=$tmp/tap" web
  ckpt-inspect --verify - <"$tmp/tapped"
  ckpt-inspect --verify "$tmp/image"
  run checkpoint --image-path "$tmp/other" --stage "ckpt-frobnicate=/bin/cat" web
  [ "$status" -ne 0 ]
  run checkpoint --image-path "$tmp/other" --stage "ckpt-compress=/no/such/program" web
  [ "$status" -eq 1 ]
  [[ $output == *"/no/such/program"* ]]
  counts_on "$tmp/count"
}

@test "--stats, as a line and as JSON" {
  run checkpoint --image-path "$tmp/image" --leave-running --stats web
  [[ $output =~ ^"pause "[0-9.]+" ms, memory "[0-9.]+" MiB, image "[0-9.]+" MiB (ratio " ]]
  [[ $output == *"ckpt-load "*"ckpt-compress "*"ckpt-write-direct "* ]]
  checkpoint --image-path "$tmp/image2" --stats=json web >"$tmp/json"
  jq -e '.seconds > 0 and (.stages | length) == 3' "$tmp/json"
  restore --image-path "$tmp/image2" --detach --stats=json >"$tmp/json"
  jq -e '.seconds > 0 and (.stages | length) == 2' "$tmp/json"
}

@test "all is quiet when all is well" {
  run checkpoint --image-path "$tmp/image" web
  [ "$status" -eq 0 ] && [ -z "$output" ]
  run restore --image-path "$tmp/image" --detach
  [ "$status" -eq 0 ] && [ -z "$output" ]
}

@test "a restore in the foreground exits as the root does" {
  run_detached short sh -c 'while [ ! -e "$0" ]; do sleep 0.01; done; exit 7' "$tmp/end"
  checkpoint --image-path "$tmp/image" short
  touch "$tmp/end"
  run restore --image-path "$tmp/image"
  [ "$status" -eq 7 ]
  # Its id is free again.
  rm "$tmp/end"
  run restore --image-path "$tmp/image" --detach
  [ "$status" -eq 0 ]
  kill -KILL "$(pid_of short)"
}

@test "one image, three times, under three ids" {
  checkpoint --image-path "$tmp/image" web
  for id in one two three; do
    restore --image-path "$tmp/image" --detach --pid-file "$tmp/pid" "$id"
    [ "$(cat "$tmp/pid")" = "$(pid_of "$id")" ]
  done
  run restore --image-path "$tmp/image" --detach two
  [ "$status" -eq 1 ]
  [[ $output == *"ckpt-restore: restore failed: "*two* ]]
  [ "$(ckpt-run --root "$reg" --list | grep -c running)" -eq 3 ]
  counts_on "$tmp/count"
}

@test "--check lists all that stands against it at once, and touches nothing" {
  run_detached odd python3 -c '
import socket, os, time
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
process = os.pidfd_open(os.getpid())
open("'"$tmp"'/odd-ready", "w")
time.sleep(1000)'
  eventually test -e "$tmp/odd-ready"
  run checkpoint --check odd
  [ "$status" -eq 1 ]
  [ "${#lines[@]}" -eq 3 ]
  [[ $output == *"fd 3 (socket:"*"fd 4 (socket:"*"fd 5 (pidfd)"* ]]
  checkpoint --check --json odd >"$tmp/json" || true
  jq -e 'length == 3 and all(.[]; .pid > 0 and .object != "" and .reason != "")' "$tmp/json"
  run checkpoint --image-path "$tmp/image" odd
  [ "$status" -eq 1 ]
  [[ $output == *"fd 3 (socket:"*"fd 4 (socket:"*"fd 5 (pidfd)"* ]]
  [ ! -e "$tmp/image" ]
  run checkpoint --check web
  [ "$status" -eq 0 ] && [ -z "$output" ]
}

@test "a file that has changed its size or is gone is refused before anything is made" {
  echo hello >"$tmp/file"
  run_detached reader sh -c 'exec 5<"$0"; echo >"$1"; while :; do sleep 0.1; done' "$tmp/file" "$tmp/go"
  eventually test -e "$tmp/go"
  checkpoint --image-path "$tmp/image" reader
  echo more >>"$tmp/file"
  run restore --image-path "$tmp/image" --detach
  [ "$status" -eq 1 ]
  echo "$output"
  [[ $output == *"$tmp/file: "*bytes* ]]
  rm "$tmp/file"
  run restore --image-path "$tmp/image" --detach
  [ "$status" -eq 1 ]
  [[ $output == *"$tmp/file"* ]]
  echo hello >"$tmp/file"
  restore --image-path "$tmp/image" --detach
}

@test "no shell runs, and a stage has no descriptor that it does not need" {
  cat >"$tmp/look" <<LOOK
#!/usr/bin/python3
import os, sys
open("$tmp/fds", "w").write("\\n".join(
    fd + " " + os.readlink("/proc/self/fd/" + fd) for fd in ("0 1 2 3 4 5 6 7 8 9 10").split()
    if os.path.exists("/proc/self/fd/" + fd) and not os.readlink("/proc/self/fd/" + fd).startswith("/proc")))
os.execvp("ckpt-write-direct", ["ckpt-write-direct"] + sys.argv[1:])
LOOK
  chmod +x "$tmp/look"
  close_others ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running \
    --stage "ckpt-write-direct=$tmp/look" web </dev/null
  cat "$tmp/fds"
  [ "$(grep -vc "$tmp/fds" "$tmp/fds")" -le 3 ]
  # A leak checker cannot work under strace.
  ASAN_OPTIONS=detect_leaks=0 strace -f -qq -e trace=execve -o "$tmp/trace" \
    ckpt-checkpoint --root "$reg" --image-path "$tmp/image2" --leave-running web
  [ "$(grep -c 'execve("' "$tmp/trace")" -eq 4 ]
  no grep -E 'execve\("[^"]*/(ba|da)?sh"' "$tmp/trace"
}

@test "a restore that is killed leaves no process and no id behind" {
  ckpt-load --root "$reg" web >"$tmp/stream"
  ckpt-run --root "$reg" --delete web --force
  mkfifo "$tmp/pipe"
  close_others ckpt-rebuild --root "$reg" <"$tmp/pipe" &
  rebuild=$!
  exec 4>"$tmp/pipe"
  head -c -100 "$tmp/stream" >&4
  has_child() { [ -n "$(cat "/proc/$rebuild/task/$rebuild/children")" ]; }
  eventually has_child
  child=$(cat "/proc/$rebuild/task/$rebuild/children")
  # The id is taken while it is being restored.
  run ckpt-rebuild --root "$reg" <"$tmp/stream"
  [ "$status" -eq 1 ]
  [[ $output == *"container web exists already"* ]]
  kill -KILL "$rebuild"
  wait "$rebuild" || true
  exec 4>&-
  no_child() { ! grep -q '^State:.[RSDTt]' "/proc/${child// /}/status" 2>/dev/null; }
  eventually no_child
  close_others ckpt-rebuild --root "$reg" <"$tmp/stream"
  counts_on "$tmp/count"
}

# Its exec waits for the lease to be given up: a stage on a file system that does not answer.
@test "a stage that cannot be started in time: the deadline passes, the target runs on" {
  cp "$bin/ckpt-write-direct" "$tmp/stuck"
  python3 -c 'import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_WRONLY)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
os.open(sys.argv[2], os.O_CREAT)
time.sleep(20)' "$tmp/stuck" "$tmp/leased" &
  holder=$!
  eventually test -e "$tmp/leased"
  start=$SECONDS
  run checkpoint --image-path "$tmp/image" --deadline 1 --stage ckpt-write-direct="$tmp/stuck" web
  passed=$((SECONDS - start))
  counts_on "$tmp/count"
  kill "$holder"
  [ "$status" -eq 1 ]
  [[ $output == *"deadline of 1 s passed"* ]]
  [ "$passed" -lt 15 ]
}
