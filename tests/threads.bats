# Registers, and threads under load.
load helpers

setup() { setup_dirs; }
teardown() { end_all; }

cycle() { # id: checkpoint, gone, restore
  rm -rf "$tmp/image"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --compression lz4 "$1"
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
}

rounds() { grep -c '^ok' "$tmp/log"; }
more_rounds() { [ "$(rounds)" -gt "$1" ]; }

@test "all registers survive: general, x87, SSE, AVX, and AVX-512 where the processor has it" {
  run_detached web "$fixtures/registers" "$tmp/log"
  for i in 1 2 3 4 5 6 7 8; do
    eventually more_rounds "$(($(rounds) + i % 3))"
    cycle web
    ckpt-checkpoint --root "$reg" --image-path "$tmp/image$i" --leave-running web
  done
  eventually more_rounds "$(rounds)"
  ! grep round "$tmp/log"
  head -n 1 "$tmp/log"
}

busy_count() { cut -d' ' -f"$1" "$tmp/log"; }
busy_gets_on() { # after counts A B C
  local a b c
  read -r ok a b c <"$tmp/log" && [ "$ok" = ok ] && ((10#$a > 10#$1 && 10#$b > 10#$2 && 10#$c > 10#$3))
}

@test "a hundred cycles of a multi-threaded tree under load lose nothing" {
  run_detached web "$fixtures/busy" "$tmp/log"
  eventually busy_gets_on 0 0 0
  for i in $(seq 100); do
    cycle web
    read -r _ a b c <"$tmp/log"
    eventually busy_gets_on "$a" "$b" "$c"
  done
  [[ $(cat "$tmp/log") == ok* ]]
}
