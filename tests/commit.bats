# Whatever fails: the target runs on unharmed, nothing is left behind, and the next try succeeds.
load helpers

setup() {
  setup_dirs
  mkdir "$tmp/images"
  run_detached web "$fixtures/big" 24 "$tmp/count"
  eventually test -s "$tmp/count"
  target=$(pid_of web)
  fingerprint >"$tmp/before"
}

teardown() {
  end_all
  if mountpoint -q "$tmp/full"; then umount "$tmp/full"; fi
}

# What a checkpoint must leave as it found it. The kernel's own numbers, and who is there.
fingerprint() {
  ls -l "/proc/$target/fd" | awk '{ print $9, $11 }'
  ls "/proc/$target/task"
  cat "/proc/$target/task/$target/children"
  sed 's/ \[stack\]//' "/proc/$target/maps"
  grep -E '^(State|TracerPid|SigBlk|SigIgn|SigCgt|Threads)' "/proc/$target/status" | grep -v State
}

nothing_left() {
  [ "$(ls -A "$tmp/images")" = "" ]
}

unharmed() {
  counts_on "$tmp/count"
  # A killed tracer's tracee heals when it runs; then all is as it was.
  eventually same_fingerprint || fingerprint | diff "$tmp/before" -
  [ "$(pid_of web)" = "$target" ]
}
same_fingerprint() { fingerprint | cmp -s - "$tmp/before"; }

retry_succeeds() {
  ckpt-checkpoint --root "$reg" --image-path "$tmp/images/new" --leave-running web
  ckpt-inspect --verify "$tmp/images/new"
  unharmed
  ckpt-checkpoint --root "$reg" --image-path "$tmp/images/last" web
  close_others ckpt-restore --root "$reg" --image-path "$tmp/images/last" --detach </dev/null
  counts_on "$tmp/count"
}

# A stage of ours that stands still: says so, and waits to be told to go on.
make_standing_stage() { # name
  mkfifo "$tmp/go"
  cat >"$tmp/standing" <<STAGE
#!/bin/sh
touch "$tmp/stands"
read -r line <"$tmp/go"
exec "$bin/$1" "\$@"
STAGE
  chmod +x "$tmp/standing"
}

start_standing() { # name flags...
  local name=$1
  shift
  make_standing_stage "$name"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/images/new" --stage "$name=$tmp/standing" "$@" web \
    2>"$tmp/errors" 3>&- &
  orchestrator=$!
  eventually test -e "$tmp/stands"
  eventually is_stopped
}
is_stopped() { grep -q '^TracerPid:.[1-9]' "/proc/$target/status"; }

stage_pid() { # name: the orchestrator's child that runs it
  local pid
  for pid in $(cat "/proc/$orchestrator/task/$orchestrator/children"); do
    if [ "$(cat "/proc/$pid/comm")" = "${1:0:15}" ]; then echo "$pid"; fi
  done
}

fails() { # with a text in its error
  local status=0
  wait "$orchestrator" || status=$?
  cat "$tmp/errors"
  [ "$status" -eq 1 ]
  grep -q "checkpoint failed: .*$1" "$tmp/errors"
  [ "$(wc -l <"$tmp/errors")" -eq 1 ]
}

@test "SIGKILL of ckpt-load while it copies" {
  start_standing ckpt-compress
  kill -KILL "$(stage_pid ckpt-load)"
  fails "ckpt-load: killed by signal 9"
  unharmed
  nothing_left
  retry_succeeds
}

@test "SIGKILL of a filter" {
  start_standing ckpt-write-direct
  kill -KILL "$(stage_pid ckpt-compress)"
  fails "ckpt-compress: killed by signal 9"
  unharmed
  nothing_left
  retry_succeeds
}

@test "SIGKILL of the writer" {
  start_standing ckpt-compress
  kill -KILL "$(stage_pid ckpt-write-direct)"
  fails "ckpt-write-direct: killed by signal 9"
  unharmed
  nothing_left
  retry_succeeds
}

@test "SIGKILL of the orchestrator" {
  start_standing ckpt-compress
  kill -KILL "$orchestrator"
  wait "$orchestrator" || true
  unharmed
  # The writer sees the stream end early and takes its files away.
  eventually no_image
  retry_succeeds
}
no_image() { [ ! -e "$tmp/images/new" ] || [ "$(ls -A "$tmp/images/new")" = "" ]; }

@test "SIGINT, SIGTERM and a deadline cancel" {
  for signal in INT TERM; do
    start_standing ckpt-compress
    kill "-$signal" "$orchestrator"
    fails "canceled"
    unharmed
    nothing_left
    rm -f "$tmp/go" "$tmp/stands"
  done
  start_standing ckpt-compress --deadline 1
  fails "deadline"
  unharmed
  nothing_left
  retry_succeeds
}

@test "a stage of the user's that fails, also after it has taken all" {
  printf '#!/bin/sh\ncat >/dev/null\nexit 3\n' >"$tmp/bad"
  chmod +x "$tmp/bad"
  run ckpt-checkpoint --root "$reg" --image-path "$tmp/images/new" \
    --stage "ckpt-write-direct=$tmp/bad" web
  [ "$status" -eq 1 ]
  [[ $output == *"checkpoint failed: ckpt-write-direct: exit status 3" ]]
  unharmed
  nothing_left
  retry_succeeds
}

@test "a full disk" {
  mkdir "$tmp/full"
  mount -t tmpfs -o size=8m tmpfs "$tmp/full"
  for mode in --leave-running --direct; do
    run ckpt-checkpoint --root "$reg" --image-path "$tmp/full/new" $mode web
    [ "$status" -eq 1 ]
    [[ $output == *"checkpoint failed: ckpt-write-direct: "*"No space left on device"* ]]
    unharmed
    [ "$(ls -A "$tmp/full")" = "" ]
  done
  retry_succeeds
}

@test "no permission to write" {
  mkdir "$tmp/full"
  mount -t tmpfs -o ro tmpfs "$tmp/full"
  run ckpt-checkpoint --root "$reg" --image-path "$tmp/full/new" web
  [ "$status" -eq 1 ]
  [[ $output == *"making directories at path provided: "*"Read-only file system"* ]]
  run ckpt-checkpoint --root "$reg" --image-path "$tmp/full" web
  [ "$status" -eq 1 ]
  [[ $output == *"checkpoint failed: ckpt-write-direct: "*"Read-only file system"* ]]
  unharmed
  retry_succeeds
}

@test "an image that is there already stays as it is" {
  ckpt-checkpoint --root "$reg" --image-path "$tmp/images/one" --leave-running web
  (cd "$tmp/images/one" && md5sum ./*) >"$tmp/sums"
  run ckpt-checkpoint --root "$reg" --image-path "$tmp/images/one" web
  [ "$status" -eq 1 ]
  [[ $output == *"holds a checkpoint already"* ]]
  unharmed
  (cd "$tmp/images/one" && md5sum --quiet -c "$tmp/sums")
}

@test "data is synced, then named, then the name is synced; then commit, then kill" {
  # A leak checker cannot work under strace.
  ASAN_OPTIONS=detect_leaks=0 strace -f -qq -y -e trace=fsync,fdatasync,rename,renameat,renameat2,kill,write -o "$tmp/trace" \
    ckpt-checkpoint --root "$reg" --image-path "$tmp/images/new" web
  gone "$target"
  # Which step each line is; other lines (the data itself) are none.
  sed -nE -e 's/.*f(data)?sync\([0-9]+<[^>]*\.(tmp|img)>.*/data synced/p' \
    -e 's/.*f(data)?sync\([0-9]+<[^>]*images\/new>.*/directory synced/p' \
    -e 's/.*rename.*checkpoint\.img".* = 0/named/p' \
    -e 's/.* write\([0-9]+<pipe:[^>]*>, "\\0", 1\) *= 1/committed/p' \
    -e "s/.* kill\\($target, SIGKILL\\) *= 0/killed/p" "$tmp/trace" | uniq >"$tmp/steps"
  diff "$tmp/steps" - <<'STEPS'
data synced
named
directory synced
committed
killed
STEPS
}
