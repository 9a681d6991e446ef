# What is more than a path, or has none any more: named pipes, deleted files,
# inotify.
load helpers
load cases

setup() { setup_cases; }
teardown() {
  end_all
  if [ -n "${holder:-}" ]; then kill "$holder" || true; fi
  if mountpoint -q "$tmp/merged"; then umount "$tmp/merged"; fi
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

@test "inotify: watches with their numbers" {
  through paths inotify
}

@test "refused: events of inotify that wait" {
  refused 'fd [0-9]+ .*bytes of events wait in it; retry' paths unread
}

@test "refused: a watch on what has no name any more" {
  refused 'fd [0-9]+ .*has no name that can be found' paths nameless
}

@test "refused at a restore: what was watched is gone" {
  start_cases paths inotify
  checkpoint
  rm "$place/watched/once"
  run restore
  [ "$status" -eq 1 ]
  [[ $output =~ once,\ which\ is\ watched ]]
}

# A file system as containers have, which does not open what is watched by its handle.
overlay() {
  mkdir "$tmp/lower" "$tmp/upper" "$tmp/work" "$tmp/merged"
  mount -t overlay overlay \
    -o "lowerdir=$tmp/lower,upperdir=$tmp/upper,workdir=$tmp/work" "$tmp/merged"
}

follow() { # file
  echo first >"$1"
  run_detached web tail -f "$1"
  eventually grep -q first "$tmp/out"
  for i in 1 2 3; do
    checkpoint --leave-running
    echo "more $i" >>"$1"
    eventually grep -q "more $i" "$tmp/out"
    checkpoint
    restore
    echo "after $i" >>"$1"
    eventually grep -q "after $i" "$tmp/out"
  done
}

@test "tail -f goes on" {
  follow "$tmp/followed"
}

@test "tail -f goes on, on an overlay" {
  overlay
  follow "$tmp/merged/followed"
}

@test "named pipes and deleted files on an overlay" {
  overlay
  place=$tmp/merged
  through paths fifo deleted
}

# A child below the tree's root process that has a root directory of its own.
lives_in_jail() { # pid jail
  [ "$(readlink "/proc/$1/root")" = "$2" ]
  [ "$(readlink "/proc/$1/cwd")" = "$2/work" ]
  [ "$(readlink "/proc/$1/fd/7")" = "$2/log" ]
  [[ $(readlink "/proc/$1/fd/8") == "$2/"*" (deleted)" ]]
  [ "$(cat "/proc/$1/fd/8")" = kept ]
}

@test "a process with a root directory of its own (chroot) below one without" {
  jail=$(readlink -f "$tmp")/jail
  mkdir -p "$jail/bin" "$jail/work"
  cp "$(command -v busybox)" "$jail/bin/busybox"
  cat >"$tmp/counter" <<'COUNT'
cd /work
echo kept >/gone
exec 7>/log 8<>/gone
/bin/busybox rm /gone
i=0
while :; do i=$((i + 1)); echo "$i" >&7; /bin/busybox usleep 10000; done
COUNT
  run_detached jailed sh -c "chroot '$jail' /bin/busybox sh -c '$(cat "$tmp/counter")' & wait"
  eventually test -s "$jail/log"
  child=$(pgrep -P "$(pid_of jailed)")
  lives_in_jail "$child" "$jail"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" jailed
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
  counts_on "$jail/log"
  child=$(pgrep -P "$(pid_of jailed)")
  lives_in_jail "$child" "$jail"
  [ "$(readlink "/proc/$(pid_of jailed)/root")" = / ]
  # Once more, with the root process in there, too.
  ckpt-run --root "$reg" --delete jailed --force
  run_detached whole chroot "$jail" /bin/busybox sh -c "$(cat "$tmp/counter")"
  eventually lives_in_jail "$(pid_of whole)" "$jail"
  rm -r "$tmp/image"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" whole
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
  counts_on "$jail/log"
  lives_in_jail "$(pid_of whole)" "$jail"
}

@test "a descriptor that becomes another one while it is looked at is no obstacle" {
  # The shell makes 1 the log for each line, and then what it was again.
  run_detached busy busybox sh -c "exec 7>'$tmp/log'; while :; do echo line >&7; done"
  eventually test -s "$tmp/log"
  for _ in $(seq 60); do ckpt-load --check --root "$reg" busy; done
}
