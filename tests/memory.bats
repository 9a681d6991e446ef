# All kinds of memory through a checkpoint and back.
load helpers
load cases

setup() { setup_cases; }
teardown() { end_all; }

@test "private pages, touched and never touched" {
  through memory private
}

@test "memory that cannot be read or only written" {
  through memory none
}

@test "code that the program wrote" {
  through memory code
}

@test "what mremap moved, and the holes that it left" {
  through memory moved
}

@test "a mapping that grows downwards goes on growing" {
  through memory growsdown
}

@test "memory that was never touched does not grow by what was beside it" {
  start_cases memory neighbour
  checkpoint # the first: what was beside it once keeps the kernel from doing it again
  restore
  look
}

@test "the heap grows on from where it ended" {
  through memory brk
}

@test "the stack grows on" {
  through memory stack
}

@test "anonymous memory shared by parent and child stays shared" {
  through memory shared
}

@test "memory shared by two children alone, each with a page of its own in it" {
  through memory children-share
}

@test "pages changed after the fork, by the child alone" {
  through memory inherited
}

@test "files mapped private with written pages, shared, and for reading" {
  through memory files
}

@test "a memfd that only mappings hold, in two processes, and a sealed one" {
  through memory memfd
}

@test "what madvise said: DONTFORK, DONTDUMP, WIPEONFORK, (NO)HUGEPAGE, MERGEABLE, ..." {
  through memory advice
}

@test "a fork after the restore heeds DONTFORK and WIPEONFORK" {
  through memory forks
}

@test "locked pages, also those locked on fault" {
  through memory locked
}

@test "mappings of the future are locked" {
  through memory lock-future
}

@test "huge pages" {
  through memory huge
}

@test "memory that the kernel may drop" {
  through memory droppable
}

@test "keys of protection" {
  through memory key
}

@test "vdso, command line, environment, auxiliary vector, program" {
  through memory kernel
}

@test "a tebibyte of reserved memory costs nothing" {
  through memory reserved
  checkpoint --leave-running --compression none
  [ "$(du -sm "$tmp/image" | cut -f1)" -le 4 ]
}

@test "all of it in one process" {
  through memory private none code moved growsdown brk stack shared children-share inherited files \
    memfd advice locked reserved huge droppable key kernel
}

@test "a mapped file that was deleted" {
  through memory deleted
}

@test "refused: System V shared memory" {
  refused 'pid [0-9]+ mapping at 0x[0-9a-f]+ \(/SYSV.*\): .* System V shared memory of an ipc namespace that others use' memory sysv
}

@test "refused: secret memory" {
  start_cases memory secret
  if grep -q 'not in this kernel' "$place/log"; then skip "this kernel has no memfd_secret"; fi
  refused_now 'pid [0-9]+ .*\(/secretmem \(deleted\)\): cannot be checkpointed: '
}

@test "refused: guard regions, if the kernel has them" {
  start_cases memory guard
  if grep -q 'not in this kernel' "$place/log"; then skip "this kernel has no MADV_GUARD_INSTALL"; fi
  refused_now 'pid [0-9]+ mapping at 0x[0-9a-f]+ .*: guard regions \(MADV_GUARD_INSTALL\) are not'
}

@test "refused: sealed memory, if the kernel has it" {
  start_cases memory sealed
  if grep -q 'not in this kernel' "$place/log"; then skip "this kernel has no mseal"; fi
  refused_now 'pid [0-9]+ mapping at 0x[0-9a-f]+ .*: sealed memory is not supported'
}

family_ready() { grep -q ready "$tmp/log"; }
all_looked() { [ "$(grep -c . "$tmp/log")" -ge 10 ]; }

@test "256 MiB and 8 children that touched none of it: once in the image, shared again after" {
  run_detached web "$fixtures/family" 256 8 "$tmp/log"
  eventually family_ready
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" --compression none web
  [ "$(du -sm "$tmp/image" | cut -f1)" -lt 264 ]
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
  pid=$(pid_of web)
  [ "$(cat /proc/"$pid"/task/*/children | wc -w)" -eq 8 ]
  [ "$(pss_sum "$pid")" -lt $((270 * 1024)) ]
  kill -USR1 "$pid" $(cat /proc/"$pid"/task/*/children)
  eventually all_looked
  [ "$(grep -c '^ok$' "$tmp/log")" -eq 9 ]
}
