# For fixtures made of cases (fixtures/cases.h): starts them, has them look at themselves.

setup_cases() {
  setup_dirs
  place=$tmp/place
  round=0
  mkdir -p "$place"
}

logged() { grep -q "^$1\$" "$place/log"; }

# Fixture and its cases, as the container web.
start_cases() {
  local program=$1
  shift
  run_detached web "$fixtures/$program" "$place" "$@"
  eventually logged ready || show_and_fail
}

show_and_fail() {
  cat "$place/log" "$tmp/out"
  return 1
}

# All cases look at themselves once more; none of them finds anything wrong.
look() {
  round=$((round + 1))
  printf '%010d\n' "$round" >"$place/check.new"
  mv "$place/check.new" "$place/check"
  eventually logged "ok $round" || show_and_fail
  if grep wrong "$place/log"; then return 1; fi
}

checkpoint() { # options...
  rm -rf "$tmp/image"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" "$@" web
}

restore() {
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
}

# Every way there is, a look after each: left running from a copy and while it stands, gone and
# back with and without zero pages, and through pipelines typed by hand, from a copy on write and,
# if it is small, from a copy that was made while it stood.
through() { # fixture case...
  start_cases "$@"
  look
  checkpoint --leave-running --snapshot fork
  look
  checkpoint --leave-running --snapshot stop --compression none
  look
  checkpoint --compression lz4 --exclude-committed-zero-pages
  restore
  look
  checkpoint
  restore
  look
  for how in fork auto; do
    ckpt-load --root "$reg" --snapshot "$how" web | ckpt-scan-zero | ckpt-compress >"$tmp/stream"
    ckpt-run --root "$reg" --delete web --force
    close_others ckpt-rebuild --root "$reg" <"$tmp/stream"
    look
  done
}

# A checkpoint is refused, with words that name the process, the object and the reason, and
# the tree goes on as it was.
refused_now() { # pattern
  look
  run ckpt-checkpoint --root "$reg" --image-path "$tmp/image" web
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ $1 ]]
  [ ! -e "$tmp/image/checkpoint.img" ]
  look
}

refused() { # pattern fixture case...
  start_cases "${@:2}"
  refused_now "$1"
}
