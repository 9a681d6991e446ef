# What is more than a path: named pipes.
load helpers
load cases

setup() { setup_cases; }
teardown() {
  end_all
  if [ -n "${holder:-}" ]; then kill "$holder" || true; fi
}

@test "named pipes with their contents, all ways to open them" {
  through paths fifo
}

@test "refused: a named pipe that was deleted" {
  refused 'fd [0-9]+ .*it was deleted or replaced' paths deleted-fifo
}

@test "refused: a named pipe that a process outside has open, too" {
  mkfifo "$place/shared"
  sleep 1000 <>"$place/shared" >/dev/null 2>&1 3>&- &
  holder=$!
  refused "fd [0-9]+ .*pid $holder outside the tree has the pipe open" paths shared-fifo
}

@test "refused at a restore: the named pipe is another file now" {
  start_cases paths fifo
  checkpoint
  rm "$place/both"
  touch "$place/both"
  run restore
  [ "$status" -eq 1 ]
  [[ $output =~ is\ no\ longer\ a\ named\ pipe ]]
}
