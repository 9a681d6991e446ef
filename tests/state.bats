# A little of everything that a process can have, through a checkpoint and back.
load helpers

setup() {
  setup_dirs
  mkdir "$tmp/place"
  run_detached web python3 "$fixtures_src/state.py" "$tmp/place"
  eventually test -s "$tmp/place/ready" || cat "$tmp/out"
}
teardown() { end_all; }

done_looking() { grep -q '^done$' "$tmp/place/result" 2>/dev/null; }

look() {
  touch "$tmp/place/check"
  eventually done_looking
  cat "$tmp/place/result"
  no grep wrong "$tmp/place/result"
}

@test "everything is there without a checkpoint" {
  look
}

@test "everything is there after --leave-running" {
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --leave-running web
  look
}

@test "everything is there after checkpoint, gone, restore" {
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" web
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
  look
}

@test "everything is there after ten times" {
  for i in 1 2 3 4 5 6 7 8 9 10; do
    ckpt-checkpoint --root "$reg" --image-path "$tmp/image$i" web
    close_others ckpt-restore --root "$reg" --image-path "$tmp/image$i" --detach </dev/null
  done
  look
}

timers_ready() { grep -q '^ready$' "$tmp/timers"; }
timers_done() { grep -q '^done$' "$tmp/timers"; }

@test "POSIX timers, alternate stacks, robust locks and joins after five times" {
  run_detached clock "$fixtures/timers" "$tmp/timers"
  eventually timers_ready
  for i in 1 2 3 4 5; do
    ckpt-checkpoint --root "$reg" --image-path "$tmp/image$i" clock
    close_others ckpt-restore --root "$reg" --image-path "$tmp/image$i" --detach </dev/null
  done
  kill -USR1 "$(pid_of clock)"
  eventually timers_done
  cat "$tmp/timers"
  no grep wrong "$tmp/timers"
}
