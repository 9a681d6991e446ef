# Registers, and threads under load, through many checkpoints.
load helpers
load cases

setup() { setup_cases; }
teardown() { end_all; }

rounds() { grep -c '^ok' "$tmp/log"; }
more_rounds() { [ "$(rounds)" -gt "$1" ]; }
processor_has() { grep -qw "$1" /proc/cpuinfo; }

@test "all registers survive: general, x87, SSE, AVX, and AVX-512 where the processor has it" {
  run_detached web "$fixtures/registers" "$tmp/log"
  eventually test -s "$tmp/log"
  for i in 1 2 3 4 5 6 7 8; do
    eventually more_rounds "$(($(rounds) + i % 3))"
    checkpoint --compression lz4
    restore
    checkpoint --leave-running --snapshot fork
    checkpoint --leave-running --snapshot stop
  done
  eventually more_rounds "$(rounds)"
  if grep round "$tmp/log"; then false; fi
  if processor_has avx512bw; then grep -qx avx512 "$tmp/log"; fi
}

@test "what fs and gs point to, in each thread" {
  through bases
}

busy_gets_on() { # after counts A B C
  local ok a b c
  read -r ok a b c <"$tmp/log" && [ "$ok" = ok ] &&
    ((10#$a > 10#$1 && 10#$b > 10#$2 && 10#$c > 10#$3))
}

@test "a hundred cycles of a multi-threaded tree under load lose nothing" {
  local ok a b c
  run_detached web nice -n 15 "$fixtures/busy" "$tmp/log" # we get our turns, too
  eventually busy_gets_on 0 0 0
  for i in $(seq 100); do
    checkpoint --compression lz4
    restore
    read -r ok a b c <"$tmp/log"
    eventually busy_gets_on "$a" "$b" "$c"
  done
  [[ $(cat "$tmp/log") == ok* ]]
}
