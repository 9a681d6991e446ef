# What is more than a path, or has none any more: named pipes, deleted files.
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

@test "files that were deleted or replaced, opened and mapped" {
  through paths deleted
  [ "$(cat "$place/replaced")" = "the new one" ]
  [ "$(find "$place" -name '.ckpt*' | wc -l)" -eq 0 ]
}

@test "refused: a deleted file that a process outside has open, too" {
  touch "$place/common"
  sleep 1000 <"$place/common" >/dev/null 2>&1 3>&- &
  holder=$!
  refused "fd [0-9]+ .*pid $holder outside the tree has it open" paths shared-file
}

@test "refused: a deleted file whose directory is gone" {
  refused 'fd [0-9]+ .*deleted together with its directory' paths no-directory
}

@test "refused: a program whose file was deleted" {
  cp "$fixtures/paths" "$tmp/program"
  run_detached web "$tmp/program" "$place" shared-file-not
  eventually logged ready
  rm "$tmp/program"
  refused_now '.*it is the program, and was deleted or replaced'
}

@test "a library that was replaced while it is mapped" {
  local library
  library=$(ldd "$(command -v bash)" | awk '/libtinfo/ { print $3 }')
  mkdir "$tmp/lib"
  cp "$library" "$tmp/lib/"
  run_detached web env LD_LIBRARY_PATH="$tmp/lib" bash -c \
    'n=0; while :; do n=$((n + 1)); echo $n; read -t 0.01 </dev/zero -N 0; sleep 0.01; done'
  eventually test -s "$tmp/out"
  cp "$library" "$tmp/lib/new"
  mv "$tmp/lib/new" "$tmp/lib/$(basename "$library")"
  grep -q 'libtinfo.*(deleted)' "/proc/$(pid_of web)/maps"
  for i in 1 2; do
    checkpoint --leave-running
    counts_on "$tmp/out"
    checkpoint
    restore
    counts_on "$tmp/out"
  done
}
