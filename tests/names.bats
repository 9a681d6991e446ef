#!/usr/bin/env bats
# Names are bytes: newlines, backslashes, blanks, and what is not UTF-8 come back as they were.
load helpers

setup() { setup_dirs; }
teardown() { end_all; }

# What the kernel calls the thread, its file and its directory, byte for byte.
names_of() { # pid
  cat "/proc/$1/comm"
  readlink "/proc/$1/fd/3"
  readlink "/proc/$1/cwd"
}

@test "a thread, a file and a directory with names that are not text" {
  mkdir "$tmp/dir"
  run_detached web python3 "$fixtures_src/names.py" "$tmp/dir"
  eventually test -s "$tmp/dir/count"
  names_of "$(pid_of web)" >"$tmp/before"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" web
  ckpt-run --root "$reg" --delete web --force
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach web
  names_of "$(pid_of web)" | cmp - "$tmp/before"
  counts_on "$tmp/dir/count"
  ckpt-inspect --json "$tmp/image" | python3 -m json.tool >/dev/null
}
