# --leave-running with copies on write: one instant, and nothing that the target could notice.
load helpers

setup() {
  setup_dirs
  group=
}
teardown() {
  end_all
  if [ "$group" ]; then rmdir "$group" 2>/dev/null || true; fi
}

start() { # MiB
  run_detached web "$fixtures/ordered" "$1" "$tmp/count"
  eventually test -s "$tmp/count"
  target=$(pid_of web)
}

fingerprint() {
  ls -l "/proc/$target/fd" | awk '{ print $9, $11 }'
  ls "/proc/$target/task"
  cat "/proc/$target/task/$target/children"
  cat "/proc/$target/maps"
}
same_fingerprint() { fingerprint | cmp -s - "$tmp/before"; }

@test "each image of a program that dirties all its memory is one instant" {
  start 64
  fingerprint >"$tmp/before"
  for i in 1 2 3 4 5; do
    ckpt-checkpoint --root "$reg" --image-path "$tmp/image$i" --leave-running --snapshot=fork \
      --compression=lz4 web
    counts_on "$tmp/count"
    same_fingerprint || fingerprint | diff "$tmp/before" -
  done
  ckpt-run --root "$reg" --delete web --force
  for i in 1 2 3 4 5; do
    close_others ckpt-restore --root "$reg" --image-path "$tmp/image$i" --detach </dev/null
    counts_on "$tmp/count"
    ckpt-run --root "$reg" --delete web --force
  done
}

@test "a pause is for the copy on write only, whatever the writer does" {
  start 64
  printf '#!/bin/sh\nread -r line <"%s"\nexec ckpt-write-direct "$@"\n' "$tmp/go" >"$tmp/late"
  chmod +x "$tmp/late"
  mkfifo "$tmp/go"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running \
    --compression none --stage "ckpt-write-direct=$tmp/late" web 3>&- &
  checkpoint=$!
  # Nobody takes the stream, and the target counts on.
  eventually has_snapshot
  counts_on "$tmp/count"
  counts_on "$tmp/count"
  echo go >"$tmp/go"
  wait "$checkpoint"
  no_snapshot
  counts_on "$tmp/count"
}
has_snapshot() { [ -n "$(cat "/proc/$target/task/$target/children")" ]; }
no_snapshot() { ! has_snapshot; }

@test "a small tree has no copies on write, and is of one instant all the same" {
  run_detached web sh -c '"$1/ordered" 2 "$2/first" & "$1/ordered" 2 "$2/second" & wait' sh \
    "$fixtures" "$tmp"
  eventually test -s "$tmp/first"
  eventually test -s "$tmp/second"
  shell=$(pid_of web)
  read -r first second <<<"$(cat "/proc/$shell/task/$shell/children")"
  mkfifo "$tmp/go"
  ckpt-load --root "$reg" web >"$tmp/go" 3>&- &
  exec 4<"$tmp/go"
  head -c 4096 <&4 >"$tmp/stream" # it has begun, and goes on when we take the rest
  for target in "$first" "$second"; do no_snapshot; done
  [ "$(cat "/proc/$shell/task/$shell/children")" = "$first $second " ]
  counts_on "$tmp/first"
  counts_on "$tmp/second"
  kill -KILL "$second" # it is in the image all the same
  eventually no test -e "/proc/$second"
  cat <&4 >>"$tmp/stream"
  exec 4<&-
  wait "$!"
  ckpt-run --root "$reg" --delete web --force
  close_others ckpt-rebuild --root "$reg" <"$tmp/stream"
  counts_on "$tmp/first"
  counts_on "$tmp/second"
}

@test "what parent and children share they share afterwards, however their memory was read" {
  run_detached web "$fixtures/family" 1 12 "$tmp/log"
  eventually grep -q ready "$tmp/log"
  target=$(pid_of web)
  for how in auto stop fork; do
    before=$(pss_sum "$target")
    ckpt-load --root "$reg" --snapshot "$how" web >"$tmp/$how"
    [ "$(pss_sum "$target")" -lt $((before + 768)) ]
    [ "$(stat -c %s "$tmp/$how")" -lt $((6 << 20)) ]
  done
  for how in auto stop fork; do
    ckpt-run --root "$reg" --delete web --force
    close_others ckpt-rebuild --root "$reg" <"$tmp/$how"
    [ "$(pss_sum "$(pid_of web)")" -lt $((before + 2048)) ]
  done
}

@test "more than we hold is marked as not to be forked: it stands still, and we stay small" {
  run_detached web python3 -c '
import mmap, sys, time
large = mmap.mmap(-1, 300 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
large.madvise(mmap.MADV_DONTFORK)
for at in range(0, len(large), 4096):
    large[at:at + 8] = b"%08d" % (at >> 12)
with open(sys.argv[1], "w") as out:
    for n in range(10**9):
        out.seek(0)
        assert large[-4096:-4088] == b"%08d" % ((len(large) >> 12) - 1)
        out.write("%09d\n" % n)
        out.flush()
        time.sleep(0.01)' "$tmp/log"
  eventually test -s "$tmp/log"
  peak "$tmp/peak" ckpt-load --root "$reg" web >"$tmp/stream" 2>"$tmp/err"
  grep -q 'stands still while it is copied: more memory than we hold' "$tmp/err"
  [ "$(cat "$tmp/peak")" -lt $((72 << 10)) ]
  counts_on "$tmp/log"
  ckpt-run --root "$reg" --delete web --force
  close_others ckpt-rebuild --root "$reg" <"$tmp/stream"
  counts_on "$tmp/log"
}

@test "the copy of a real-time program goes before nobody" {
  run_detached web "$fixtures/mix" 16 0 50 small 0 "$tmp/beat"
  eventually test -s "$tmp/beat"
  target=$(pid_of web)
  chrt --fifo --pid 1 "$target"
  mkfifo "$tmp/go"
  ckpt-load --root "$reg" web >"$tmp/go" 3>&- &
  exec 4<"$tmp/go"
  eventually has_snapshot
  copy=$(cat "/proc/$target/task/$target/children")
  eventually is_batch "$copy"
  chrt --pid "$target" | grep -q 'SCHED_FIFO$'
  cat <&4 >"$tmp/stream"
  exec 4<&-
  wait "$!"
}
is_batch() { chrt --pid "${1% }" | grep -q 'SCHED_BATCH$'; }

@test "SIGKILL of ckpt-load while it copies leaves no child behind" {
  start 64
  fingerprint >"$tmp/before"
  mkfifo "$tmp/go"
  ckpt-load --root "$reg" web >"$tmp/go" 3>&- &
  load=$!
  exec 4<"$tmp/go"
  eventually has_snapshot
  counts_on "$tmp/count"
  kill -KILL "$load"
  eventually same_fingerprint || fingerprint | diff "$tmp/before" -
  counts_on "$tmp/count"
  exec 4<&-
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running web
}

@test "a cancel while it copies leaves no child behind" {
  start 64
  fingerprint >"$tmp/before"
  mkfifo "$tmp/go"
  printf '#!/bin/sh\nread -r line <"%s"\n' "$tmp/go" >"$tmp/late"
  chmod +x "$tmp/late"
  for signal in TERM INT; do
    ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running \
      --compression none --stage "ckpt-write-direct=$tmp/late" web 3>&- &
    checkpoint=$!
    eventually has_snapshot
    kill "-$signal" "$checkpoint"
    status=0
    wait "$checkpoint" || status=$?
    [ "$status" -eq 1 ]
    eventually same_fingerprint || fingerprint | diff "$tmp/before" -
    counts_on "$tmp/count"
    [ ! -e "$tmp/image" ]
  done
}

@test "--snapshot=stop stands still; other words are refused" {
  start 16
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running --snapshot=stop web
  counts_on "$tmp/count"
  run ckpt-checkpoint --root "$reg" --image-path "$tmp/image2" --leave-running --snapshot=often web
  [ "$status" -ne 0 ]
  [[ $output == *often* ]]
  counts_on "$tmp/count"
}

@test "memory that is not to be forked is in the image" {
  run_detached web python3 -c '
import mmap, sys, time
fork, wipe, plain = (mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(3))
fork[0:4] = b"fork"; wipe[0:4] = b"wipe"; plain[0:5] = b"plain"
fork.madvise(mmap.MADV_DONTFORK); wipe.madvise(18)
with open(sys.argv[1], "w") as out:
    for n in range(10**9):
        out.seek(0)
        out.write("%09d\n%s %s %s\n%09d\n" % (n, fork[0:4], wipe[0:4], plain[0:5], n))
        out.flush()
        time.sleep(0.01)' "$tmp/log"
  eventually test -s "$tmp/log"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running --snapshot=fork web
  ckpt-run --root "$reg" --delete web --force
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
  counts_on "$tmp/log"
  grep -q "b'fork' b'wipe' b'plain'" "$tmp/log"
}

# A group with a limit, of whichever version the machine has; skips where there is none.
make_group() { # controller, its limit in v1, in v2, value
  local limit=$2
  group=/sys/fs/cgroup/$1/ckpt-test-$$
  if ! mkdir "$group" 2>/dev/null; then
    group=/sys/fs/cgroup/ckpt-test-$$
    limit=$3
    mkdir "$group" 2>/dev/null || { group= && skip "no control group can be made here"; }
  fi
  echo "$4" >"$group/$limit" || skip "no limit can be set here"
}

@test "a hard writer at its memory limit is never killed: the tree stands still instead" {
  make_group memory memory.limit_in_bytes memory.max $((80 << 20))
  start 64
  echo "$target" >"$group/cgroup.procs"
  # What it has now is charged elsewhere: a copy of itself makes it the group's.
  ckpt-run --root "$reg" --delete web --force
  (echo "$BASHPID" >"$group/cgroup.procs" && start 64)
  target=$(pid_of web)
  for i in 1 2 3; do
    run ckpt-checkpoint --root "$reg" --image-path "$tmp/image$i" --leave-running web
    [ "$status" -eq 0 ]
    [[ $output == *"stands still while it is copied"*"may need "*" MiB; there is room for "* ]]
    counts_on "$tmp/count"
    [ "$(pid_of web)" = "$target" ]
  done
}

@test "a group that has no room for more processes: the tree stands still instead" {
  make_group pids pids.max pids.max 2
  start 24
  echo "$target" >"$group/cgroup.procs"
  run ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running web
  [ "$status" -eq 0 ]
  [[ $output == *"a copy on write needs 3 processes; there is room for 1" ]]
  counts_on "$tmp/count"
  [ "$(cat "$group/pids.events")" = "max 0" ]
}

@test "a snapshot's pages that the program may not read itself are in the image" {
  run_detached web python3 -c '
import ctypes, mmap, sys, time
PIECE, PIECES = 1 << 20, 24
libc = ctypes.CDLL(None, use_errno=True)
memory = mmap.mmap(-1, PIECE * PIECES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
def protect(i, prot):
    assert libc.mprotect(ctypes.c_void_p(start + i * PIECE), ctypes.c_size_t(PIECE), prot) == 0
def piece(i):
    return bytes([i + 1]) * 4096 + b"page %09d" % i + bytes(PIECE // 2) + bytes([i + 2]) * 8192
for i in range(PIECES):
    memory[i * PIECE:i * PIECE + len(piece(i))] = piece(i)
with open(sys.argv[1], "w") as out:
    for n in range(10**9):
        for i in range(PIECES):
            protect(i, (0, 2, 3)[i % 3])
        time.sleep(0.05)
        for i in range(PIECES):
            protect(i, 3)
            assert memory[i * PIECE:i * PIECE + len(piece(i))] == piece(i)
        out.seek(0)
        out.write("%09d\n" % n)
        out.flush()' "$tmp/log"
  eventually test -s "$tmp/log"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running --snapshot=fork web
  counts_on "$tmp/log"
  ckpt-run --root "$reg" --delete web --force
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
  counts_on "$tmp/log"
}

@test "a slow disk makes the checkpoint slow, not the pause long" {
  start 64
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running --snapshot=fork \
    --compression none --stage "ckpt-write-direct=$fixtures_src/slow-sink.py" --stats=json web \
    >"$tmp/stats"
  # 64 MiB at 50 MB/s are more than a second; however busy the machine, it is not that it stood for.
  jq -e '.seconds > 1.2 and (.stages[] | select(.stage == "ckpt-load").pause_seconds) < .seconds / 2' \
    "$tmp/stats"
  counts_on "$tmp/count"
  ckpt-inspect --verify "$tmp/image"
}
