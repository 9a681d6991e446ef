# An ordinary user's containers: made, saved and restored by that user, without any privilege.
load helpers
load cases

user=64999 # nobody's
stranger=64998

# Everything that the helpers call, as the user, in a place that the user can reach.
setup() {
  setup_dirs
  tmp=$(mktemp -d /tmp/ckpt-rootless.XXXXXX)
  reg=$tmp/run/ckpt
  place=$tmp/place
  round=0
  mkdir "$tmp/programs" "$tmp/as" "$tmp/run" "$tmp/home" "$place"
  cp "$bin"/ckpt-* "$fixtures"/* "$fixtures_src"/*.py "$tmp/programs"
  fixtures=$tmp/programs
  fixtures_src=$tmp/programs
  for program in "$bin"/ckpt-*; do
    wrap "$tmp/programs/${program##*/}" >"$tmp/as/${program##*/}"
  done
  wrap runc >"$tmp/as/runc"
  chmod -R a+rX "$tmp"
  chmod a+x "$tmp"/as/*
  touch "$tmp/out"
  chown -R "$user:$user" "$tmp"
  PATH=$tmp/as:$PATH
}
teardown() {
  end_all
  # shellcheck disable=SC2046
  kill $(jobs -p) 2>/dev/null || true
  for state in "$tmp"/run/runc/*/state.json "$tmp"/run/crun/*/status; do
    if [ -e "$state" ]; then kill -KILL "$(jq '.init_process_pid // .pid' "$state")" || true; fi
  done
  rm -rf "$tmp"
}

# What an ordinary user has around.
environment() {
  echo HOME="$tmp/home" XDG_RUNTIME_DIR="$tmp/run" PATH="$tmp/programs:/usr/sbin:/usr/bin:/sbin:/bin"
}

as() { # user command...
  local who=$1
  shift
  # shellcheck disable=SC2046
  setpriv --reuid="$who" --regid="$who" --clear-groups env $(environment) "$@"
}

wrap() { # program: a script that is the program, run by the user
  echo '#!/bin/sh'
  echo "exec setpriv --reuid=$user --regid=$user --clear-groups env $(environment) $1 \"\$@\""
}

inside() { awk '/^NSpid:/ { print $NF }' "/proc/$1/status"; }
three_cycles() {
  local i
  for i in 1 2 3; do
    local old
    old=$(pid_of web)
    checkpoint
    gone "$old"
    restore
    [ "$(inside "$(pid_of web)")" -eq 1 ]
  done
}

@test "a loop of the shell: gone, and back, three times" {
  run_detached web sh -c "i=0; while :; do i=\$((i + 1)); echo \$i >>$place/count; sleep 0.02; done"
  eventually test -s "$place/count"
  counts_on "$place/count"
  three_cycles
  counts_on "$place/count"
  ckpt-run --delete web --force
  seq "$(last "$place/count")" | cmp - "$place/count"
}

@test "who and where it is: the user inside and outside, with no capability and its own /proc" {
  run_detached web sh -c "cd $place && exec sleep 1000"
  eventually test "$(cat /proc/"$(pid_of web)"/comm)" = sleep
  before=$(grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' "/proc/$(pid_of web)/status")
  map=$(cat "/proc/$(pid_of web)/uid_map" "/proc/$(pid_of web)/setgroups")
  three_cycles
  [ "$before" = "$(grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' "/proc/$(pid_of web)/status")" ]
  [ "$map" = "$(cat "/proc/$(pid_of web)/uid_map" "/proc/$(pid_of web)/setgroups")" ]
  grep -q "^Uid:.$user.$user.$user.$user\$" <<<"$before"
  grep -q '^CapEff:.0000000000000000$' <<<"$before"
  [[ $map =~ ^\ +$user\ +$user\ +1 ]]
  [[ $map =~ deny$ ]]
  [ -e "/proc/$(pid_of web)/root/proc/1/stat" ]
  [ "$(readlink "/proc/$(pid_of web)/cwd")" = "$place" ]
}

@test "the working directory can be asked for after a restore" {
  run_detached web python3 -c "
import ctypes, os, time
while True:
    text = ctypes.create_string_buffer(4096)
    ctypes.CDLL(None).syscall(79, text, 4096)
    open('$place/new', 'wb').write(text.value)
    os.rename('$place/new', '$place/now')
    time.sleep(0.02)"
  eventually test -s "$place/now"
  checkpoint
  restore
  rm -f "$place/now"
  eventually test -s "$place/now"
  [ "$(cat "$place/now")" = "$PWD" ]
}

@test "threads, with their numbers" {
  run_detached web python3 "$fixtures_src/threads.py" "$place/log"
  eventually test -s "$place/log"
  threads=$(awk '/^NSpid:/ { print $NF }' "/proc/$(pid_of web)/task"/*/status | sort -n)
  three_cycles
  [ "$threads" = "$(awk '/^NSpid:/ { print $NF }' "/proc/$(pid_of web)/task"/*/status | sort -n)" ]
  lines=$(wc -l <"$place/log")
  more() { [ "$(wc -l <"$place/log")" -gt "$((lines + 2))" ]; }
  eventually more
  [ "$(cut -d' ' -f1,2 "$place/log" | sort -u | wc -l)" -eq 1 ]
}

@test "a tree with pipes between its processes" {
  run_detached web sh -c "i=0
    while :; do i=\$((i + 1)); echo \$i; sleep 0.02; done |
    while read -r n; do echo \$((n * 3)); done |
    while read -r n; do echo \$n >>$place/count; done & wait"
  eventually test -s "$place/count"
  three_cycles
  counts_on "$place/count"
  ckpt-run --delete web --force
  seq 3 3 "$(last "$place/count")" | cmp - "$place/count"
}

@test "a little of everything, left running and gone and back" {
  run_detached web python3 "$fixtures_src/state.py" "$place"
  eventually test -s "$place/ready" || cat "$tmp/out"
  checkpoint --leave-running --snapshot fork
  checkpoint --leave-running --snapshot stop
  three_cycles
  as "$user" touch "$place/check"
  looked() { grep -q '^done$' "$place/result"; }
  eventually looked
  cat "$place/result"
  no grep wrong "$place/result"
}

rounds() { grep -c '^ok' "$place/rounds"; }
more_rounds() { [ "$(rounds)" -gt "$1" ]; }

@test "all registers" {
  run_detached web "$fixtures/registers" "$place/rounds"
  eventually test -s "$place/rounds"
  three_cycles
  checkpoint --leave-running
  eventually more_rounds "$(rounds)"
  no grep round "$place/rounds"
}

@test "private memory" {
  through memory private none code moved growsdown brk stack files
}

@test "shared memory that no descriptor is open of" {
  through memory shared children-share inherited
}

@test "memfds that only mappings hold, and sealed ones" {
  through memory memfd
}

follows() { [ "$(wc -l <"$place/shared")" -gt "$1" ]; }

@test "an array of Python's multiprocessing and its lock: both without a name, one without descriptor" {
  run_detached web python3 "$fixtures_src/sharing.py" "$place/shared"
  eventually follows 5
  checkpoint --leave-running
  eventually follows "$(($(wc -l <"$place/shared") + 5))"
  three_cycles
  eventually follows "$(($(wc -l <"$place/shared") + 5))"
  ckpt-run --delete web --force
  seq "$(grep -c ' ' "$place/shared")" | awk '{ print $1, $1 * 3 }' | cmp - <(grep ' ' "$place/shared")
}

@test "a deleted file that is only mapped is refused" {
  if [ "$(stat -fc %T "$place")" = tmpfs ]; then skip "of a tmpfs it is memory, which is not"; fi
  run_detached web python3 -c "
import ctypes, os, time
libc = ctypes.CDLL(None)
file = os.open('$place/gone', os.O_RDWR | os.O_CREAT)
os.write(file, b'x' * 4096)
libc.mmap(None, 4096, 3, 1, file, 0)
os.close(file)
os.unlink('$place/gone')
open('$place/ready', 'w').write('ready')
time.sleep(1000)"
  eventually test -s "$place/ready"
  run checkpoint
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "it was deleted, and user $user may not open what is only mapped" ]]
}

@test "advice, huge pages, locks" {
  through memory advice forks huge droppable
}

@test "a server with its data, where it listens" {
  run_detached web redis-server --port 17641 --save "" --dir "$tmp/home" \
    --enable-debug-command yes
  answers() { [ "$(redis-cli -p 17641 ping)" = PONG ]; }
  eventually answers
  redis-cli -p 17641 debug populate 20000
  digest=$(redis-cli -p 17641 debug digest)
  checkpoint --leave-running
  [ "$(redis-cli -p 17641 debug digest)" = "$digest" ]
  three_cycles
  [ "$(redis-cli -p 17641 debug digest)" = "$digest" ]
}

@test "a snapshot is taken away again, and the container runs on in every way" {
  run_detached web "$fixtures/counter" "$place/count"
  eventually test -s "$place/count"
  for how in fork stop auto; do
    checkpoint --leave-running --snapshot "$how"
    [ -z "$(cat "/proc/$(pid_of web)/task"/*/children)" ]
    counts_on "$place/count"
  done
  kill -9 "$(pid_of web)"
  eventually gone "$(pid_of web)"
  restore
  counts_on "$place/count"
}

@test "a pipeline typed by hand, and another id" {
  run_detached web "$fixtures/counter" "$place/count"
  eventually test -s "$place/count"
  ckpt-load --root "$reg" web | ckpt-compress --algorithm lz4 >"$tmp/stream"
  ckpt-run --delete web --force
  close_others ckpt-rebuild --id other <"$tmp/stream"
  counts_on "$place/count"
  [ "$(inside "$(pid_of other)")" -eq 1 ]
}

@test "in the foreground: the status of what was restored" {
  run_detached web sh -c "until [ -e $place/go ]; do sleep 0.02; done; exit 7"
  checkpoint
  touch "$place/go"
  run ckpt-restore --image-path "$tmp/image"
  [ "$status" -eq 7 ]
  [ -z "$(ckpt-run --list)" ]
}

@test "the default registry is the user's own, of mode 0700, and root's is not looked for" {
  run_detached web sleep 1000
  [ "$(stat -c '%a %u' "$tmp/run/ckpt/web")" = "700 $user" ]
  XDG_RUNTIME_DIR='' run as "$user" env -u XDG_RUNTIME_DIR ckpt-run --id web -- true
  [ "$status" -eq 1 ]
  [[ $output =~ XDG_RUNTIME_DIR ]]
}

@test "another user's container is refused, and goes on" {
  run_detached web "$fixtures/counter" "$place/count"
  eventually test -s "$place/count"
  run as "$stranger" ckpt-checkpoint --root "$reg" --image-path "$tmp/image" web
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "Permission denied" ]]
  mkdir -m 777 "$tmp/strange"
  run as "$stranger" ckpt-checkpoint --image-path "$tmp/strange/image" --pid "$(pid_of web)"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "it runs as user $user, and we are user $stranger" ]]
  [ ! -e "$tmp/strange/image" ]
  counts_on "$place/count"
}

@test "root's container is refused, and goes on" {
  close_others "$bin/ckpt-run" --root "$tmp/roots" --id web --detach -- \
    "$fixtures/counter" "$place/roots" >"$tmp/roots.out" 2>&1 </dev/null
  eventually test -s "$place/roots"
  pid=$("$bin/ckpt-run" --root "$tmp/roots" --list | awk '{ print $3 }')
  run ckpt-checkpoint --image-path "$tmp/image" --pid "$pid"
  echo "$output"
  counts_on "$place/roots"
  "$bin/ckpt-run" --root "$tmp/roots" --delete web --force
  [ "$status" -eq 1 ]
  [[ $output =~ "it runs as user 0, and we are user $user" ]]
}

@test "root can checkpoint the user's container, but restores it as that user alone" {
  run_detached web "$fixtures/counter" "$place/count"
  eventually test -s "$place/count"
  "$bin/ckpt-checkpoint" --root "$reg" --image-path "$tmp/image" web
  run "$bin/ckpt-restore" --root "$tmp/roots" --image-path "$tmp/image" --detach
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "restore it as that user" ]]
  chown -R "$user" "$tmp/image"
  restore
  counts_on "$place/count"
}

@test "a tree in root's pid namespace is refused at its restore, with the way to have it" {
  # shellcheck disable=SC2016
  close_others setpriv --reuid="$user" --regid="$user" --clear-groups \
    sh -c 'echo $$ >"$0/pid"; exec "$1" "$0/count"' "$place" "$fixtures/counter" \
    >/dev/null 2>&1 </dev/null &
  eventually test -s "$place/count"
  pid=$(cat "$place/pid")
  ckpt-checkpoint --image-path "$tmp/image" --pid "$pid"
  gone "$pid"
  run ckpt-restore --image-path "$tmp/image" --detach
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "only root can choose pids" ]]
}

@test "what root alone can restore is refused" {
  close_others "$bin/ckpt-run" --root "$tmp/roots" --id web --detach -- \
    "$fixtures/counter" "$place/roots" >"$tmp/roots.out" 2>&1 </dev/null
  eventually test -s "$place/roots"
  "$bin/ckpt-checkpoint" --root "$tmp/roots" --image-path "$tmp/image" web
  chown -R "$user" "$tmp/image"
  run ckpt-restore --image-path "$tmp/image" --detach
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "only root can restore it" ]]
}

@test "a seccomp filter, which only root can suspend, is refused before the tree is touched" {
  run_detached web python3 -c "
import ctypes, struct, time
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
program = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
libc.prctl(22, 2, struct.pack('HxxxxxxQ', 1, ctypes.addressof(program)))
open('$place/ready', 'w').write('ready')
time.sleep(1000)"
  eventually test -s "$place/ready"
  grep -q '^Seccomp:.2' "/proc/$(pid_of web)/status"
  run checkpoint
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "it is under a seccomp filter, which only root can suspend and read" ]]
  no gone "$(pid_of web)"
}

@test "a file that was opened with somebody else's rights is refused" {
  echo secret >"$tmp/secret"
  chmod 600 "$tmp/secret"
  ckpt-run --id web --detach -- sleep 1000 <"$tmp/secret" >"$tmp/secret" 2>&1
  run checkpoint
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "fd 1 ($tmp/secret): cannot be checkpointed: user $user may not open it again" ]]
  [[ $output =~ "Permission denied" ]]
  no gone "$(pid_of web)"
}

@test "a pipe to a process of another user is refused; one that nobody reads any more is not" {
  mkfifo "$tmp/gate"
  ckpt-run --id web --detach -- sleep 1000 2>&1 </dev/null | cat "$tmp/gate" - >"$tmp/cat.out" &
  runs() { [ -n "$(pid_of web)" ]; }
  eventually runs
  run checkpoint
  echo "$output"
  echo >"$tmp/gate"
  [ "$status" -eq 1 ]
  [[ $output =~ "another user's process outside the tree has its other end" ]]
  kill "$(pgrep -f "^cat $tmp/gate")"
  wait
  three_cycles
}

@test "one that may not be looked at is refused" {
  run_detached web python3 -c "
import ctypes, time
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
open('$place/ready', 'w').write('ready')
time.sleep(1000)"
  eventually test -s "$place/ready"
  run checkpoint
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "it may not be traced" ]]
  no gone "$(pid_of web)"
}

@test "no user namespaces left: said with the way to have them" {
  run as "$user" unshare --user --map-current-user --keep-caps sh -c \
    'echo 0 >/proc/sys/user/max_user_namespaces && exec ckpt-run --id web -- true'
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "raise user.max_user_namespaces" ]]
  [ -z "$(ckpt-run --list)" ]
}

@test "no user namespaces allowed: said with the way to have them" {
  mkdir "$tmp/jail"
  run unshare --mount sh -c "mount --rbind / '$tmp/jail' && exec chroot '$tmp/jail' \
    '$tmp/as/ckpt-run' --id web -- true"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "kernel.unprivileged_userns_clone" ]]
  [ -z "$(ckpt-run --list)" ]
}

# -- containers of runc and crun -----------------------------------------------------------------

# A container that counts in its /dev/shm, a tmpfs; busybox with the runtime's own configuration.
rootless_bundle() {
  PATH=${PATH#"$tmp/as:"} "$here/scripts/bundle" "$tmp/box" -- true
  rm "$tmp/box/config.json"
  chown -R "$user:$user" "$tmp/box"
  as "$user" sh -c "cd '$tmp/box' && runc spec --rootless"
  jq '.process.terminal = false | .root.readonly = false | .process.args = ["sh", "-c",
    "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/new; mv /dev/shm/new /dev/shm/count; sleep 0.01; done"
    ]' "$tmp/box/config.json" >"$tmp/config.json"
  mv "$tmp/config.json" "$tmp/box/config.json"
  chown "$user:$user" "$tmp/box/config.json"
}

# crun refuses cgroups v1 with v2 beside it: what this script runs for the user does not see the latter.
without_v2() {
  cat >"$tmp/without-v2" <<END
#!/bin/sh
exec unshare --mount sh -c '
  if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
  exec setpriv --reuid=$user --regid=$user --clear-groups env $(environment) "\$@"' sh "\$@"
END
  chmod a+x "$tmp/without-v2"
}

counted() { runc exec "$1" cat /dev/shm/count; }
counted_beyond() { [ "$(counted "$1")" -gt "$2" ]; }
goes_on() { eventually counted_beyond "$1" "$(counted "$1")"; }
runs() { [ "$(runc state "$1" | jq -r .status)" = "$2" ]; }

@test "runc without privilege: gone, and back under other ids, with who had entered" {
  rootless_bundle
  name=rootless-$BASHPID
  close_others "$tmp/as/runc" run --detach --bundle "$tmp/box" "$name-0" </dev/null >/dev/null 2>&1
  eventually counted "$name-0"
  runc exec --detach "$name-0" sleep 4321 </dev/null >/dev/null 2>&1
  ckpt-checkpoint --image-path "$tmp/first" --leave-running "$name-0"
  goes_on "$name-0"
  for i in 0 1 2; do
    count=$(counted "$name-$i")
    rm -rf "$tmp/image"
    ckpt-checkpoint --image-path "$tmp/image" "$name-$i"
    runs "$name-$i" stopped
    runc delete "$name-$i"
    close_others ckpt-restore --image-path "$tmp/image" --bundle "$tmp/box" --detach "$name-$((i + 1))" \
      </dev/null >"$tmp/out" 2>&1 || { cat "$tmp/out" && false; }
    runs "$name-$((i + 1))" running
    counted_beyond "$name-$((i + 1))" "$((count - 1))"
    goes_on "$name-$((i + 1))"
    runc exec "$name-$((i + 1))" ps | grep -q 'sleep 4321'
  done
  runc kill "$name-3" KILL
  eventually runs "$name-3" stopped
  runc delete "$name-3"
  [ -z "$(ls "$tmp/run/runc")" ]
}

@test "crun without privilege: saved, and given to runc; crun's own init may not be traced" {
  rootless_bundle
  without_v2
  name=rootless-$BASHPID
  close_others "$tmp/without-v2" crun run --detach --bundle "$tmp/box" "$name" </dev/null >/dev/null 2>&1
  running() { "$tmp/without-v2" crun exec "$name" cat /dev/shm/count; }
  eventually running
  count=$(running)
  "$tmp/without-v2" ckpt-checkpoint --image-path "$tmp/image" "$name"
  "$tmp/without-v2" crun delete "$name"
  run "$tmp/without-v2" ckpt-restore --image-path "$tmp/image" --bundle "$tmp/box" --detach "$name"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ "restore with --runtime runc" ]]
  [ -z "$(ls "$tmp/run/crun")" ]
  close_others ckpt-restore --image-path "$tmp/image" --bundle "$tmp/box" --runtime runc --detach \
    "$name" </dev/null >"$tmp/out" 2>&1 || { cat "$tmp/out" && false; }
  counted_beyond "$name" "$((count - 1))"
  goes_on "$name"
  runc delete --force "$name"
}

# One process with both ends of connections: it finds what it left in them.
sockets() {
  run_detached web python3 -c "
import os, socket, time
os.chdir('$place')
pair = socket.socketpair()
boxes = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
listener = socket.socket(socket.AF_UNIX)
listener.bind('$place/listener')
listener.listen()
kept = None
if '$1':
    kept = socket.socket(socket.AF_UNIX)
    kept.connect('$place/listener')
    accepted, _ = listener.accept()
for i in range(1000000):
    pair[0].sendall(b'one two')
    boxes[0].send(b'box one')
    boxes[0].send(b'box two')
    open('new', 'w').write('%d\n' % i)
    os.rename('new', 'count')
    time.sleep(0.02)
    assert pair[1].recv(99) == b'one two'
    assert boxes[1].recv(99) + boxes[1].recv(99) == b'box onebox two'
    client = socket.socket(socket.AF_UNIX)
    client.connect('$place/listener')
    listener.accept()[0].sendall(b'hello')
    assert client.recv(99) == b'hello'"
  eventually test -s "$place/count"
}

@test "UNIX sockets with what is unread in them" {
  sockets ''
  checkpoint --leave-running
  counts_on "$place/count"
  three_cycles
  counts_on "$place/count"
}

@test "a connection by the name of a listener, which root alone can restore, is refused" {
  sockets kept
  run checkpoint
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ only\ root\ can\ bring\ back ]]
  counts_on "$place/count"
}

# How much a new pipe of the user's holds.
new_pipe() { as "$user" python3 -c 'import fcntl, os; print(fcntl.fcntl(os.pipe()[1], 1032))'; }

@test "while many processes are copied the user's other programs get pipes of the usual size" {
  [ "$(new_pipe)" -eq 65536 ]
  run_detached web sh -c "for i in 1 2 3 4 5 6 7; do $fixtures/big 8 $place/\$i & done; wait"
  for i in 1 2 3 4 5 6 7; do eventually test -s "$place/$i"; done
  mkfifo "$tmp/stream"
  "$bin/ckpt-load" --root "$reg" --snapshot fork web >"$tmp/stream" 3>&- &
  load=$!
  exec 4<"$tmp/stream"
  head -c 54M <&4 >/dev/null
  [ "$(new_pipe)" -eq 65536 ]
  cat <&4 >/dev/null
  exec 4<&-
  wait "$load"
}
