# A container saved and given back to its runtime: the same for runc and crun.
bats_require_minimum_version 1.5.0
load helpers
load containers

setup_file() {
  setup_runtime_file
  bundle "$shared/loop" -- sh -c 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done >/tmp/count'
  bundle "$shared/memory" --tmpfs /run --hostname first --capabilities CAP_CHOWN,CAP_FOWNER \
    -- sh -c 'exec >>/run/log; i=0
      while :; do i=$((i+1)); echo $i; echo $i >/run/new; mv /run/new /run/count; sleep 0.01; done'
}
setup() { setup_runtime; }
teardown() { end_containers; }

loop() {
  own_bundle loop
  count=$bundle/rootfs/tmp/count
  start_container "$box"
  eventually test -s "$count"
}

# The count of a container that keeps it in a tmpfs of its own.
count_of() { oci exec "$1" cat /run/count; }
count_beyond() { [ "$(count_of "$1")" -gt "$2" ]; }
goes_on() { eventually count_beyond "$1" "$(count_of "$1")"; }

in_memory() {
  own_bundle memory
  start_container "$box"
  eventually count_of "$box"
}

@test "a shell loop counts on under another id, and no number is missing" {
  loop
  before=$(init_of "$box")
  checkpoint "$box"
  gone "$before"
  is "$box" stopped
  restore "$mark-again"
  is "$mark-again" running
  counts_on "$count"
  [ "$(oci exec "$mark-again" sh -c 'echo in here')" = "in here" ]
  oci kill "$mark-again" KILL
  eventually is "$mark-again" stopped
  is_sequence "$count"
  oci delete "$mark-again"
  oci delete "$box"
  nothing_remains
}

@test "the same id, when its old container is deleted; --pid-file tells the new init" {
  loop
  inside=$(oci exec "$box" sh -c 'ls -d /proc/[0-9]*' | sort | head -n 1)
  checkpoint "$box"
  oci delete "$box"
  restore --pid-file "$tmp/pid" "$box"
  [ "$(cat "$tmp/pid")" = "$(init_of "$box")" ]
  [ "$(awk '/^NSpid/ { print $NF }' "/proc/$(cat "$tmp/pid")/status")" = 1 ]
  [ "$inside" = /proc/1 ]
  counts_on "$count"
}

@test "--leave-running: the container runs on, its record and its bundle stay as they were" {
  loop
  before=$(init_of "$box")
  checkpoint --leave-running "$box"
  is "$box" running
  [ "$(init_of "$box")" = "$before" ]
  counts_on "$count"
  [ "$(oci exec "$box" echo here)" = here ]
  oci kill "$box" KILL
  eventually is "$box" stopped
  is_sequence "$count"
}

@test "a plain checkpoint ends it: stopped for its runtime, the bundle untouched" {
  in_memory
  before=$(fingerprint "$bundle")
  checkpoint "$box"
  is "$box" stopped
  [ "$(fingerprint "$bundle")" = "$before" ]
  nobody() { [ -z "$(cat /sys/fs/cgroup/{,*/}"$box"/cgroup.procs 2>/dev/null)" ]; }
  eventually nobody
  oci delete "$box"
  nothing_remains
}

@test "another directory for the bundle; one image, three times, under three ids" {
  in_memory
  checkpoint "$box"
  mv "$bundle" "$tmp/moved"
  bundle=$tmp/moved
  for i in 1 2 3; do restore "$mark-$i"; done
  for i in 1 2 3; do
    is "$mark-$i" running
    goes_on "$mark-$i"
    oci kill "$mark-$i" KILL
    eventually is "$mark-$i" stopped
    oci delete "$mark-$i"
  done
}

@test "processes that came by exec, and what is in a tmpfs" {
  in_memory
  oci exec "$box" sh -c 'mkdir -m 0711 /run/d; echo kept >/run/d/file; ln -s d/file /run/link; chown 7:8 /run/d'
  oci exec --detach "$box" sh -c 'exec >/dev/null 2>&1 </dev/null; j=0; while :; do j=$((j+1)); echo $j >/run/m; mv /run/m /run/second; sleep 0.01; done'
  eventually oci exec "$box" test -s /run/second
  checkpoint "$box"
  restore "$mark-again"
  goes_on "$mark-again"
  second() { oci exec "$mark-again" cat /run/second; }
  second_beyond() { [ "$(second)" -gt "$1" ]; }
  eventually second_beyond "$(second)"
  oci exec "$mark-again" cat /run/log >"$tmp/log-of-it"
  is_sequence "$tmp/log-of-it"
  [ "$(oci exec "$mark-again" cat /run/link)" = kept ]
  [ "$(oci exec "$mark-again" stat -c '%a %u %g' /run/d)" = "711 7 8" ]
}

@test "a paused container stays paused, and is restored paused when asked" {
  in_memory
  oci pause "$box"
  checkpoint --leave-running "$box"
  is "$box" paused
  oci resume "$box"
  goes_on "$box"
  oci pause "$box"
  rm -r "$tmp/image"
  checkpoint "$box"
  is "$box" stopped
  restore --paused "$mark-again"
  is "$mark-again" paused
  oci resume "$mark-again"
  goes_on "$mark-again"
}

@test "a terminal comes from the console socket, with what was typed and set" {
  bundle "$tmp/terminal" --rootfs "$shared/loop/rootfs" --terminal -- sh
  bundle=$tmp/terminal
  mkfifo "$tmp/keys"
  exec 4<>"$tmp/keys"
  close_others python3 "$fixtures_src/console.py" "$tmp/socket" "$tmp/shown" <"$tmp/keys" &
  eventually test -S "$tmp/socket"
  start_container "$box" --console-socket "$tmp/socket"
  echo 'x=41; stty -echoctl rows 33 columns 99; echo set' >&4
  eventually grep -q '^set' "$tmp/shown"
  checkpoint "$box"
  close_others python3 "$fixtures_src/console.py" "$tmp/socket2" "$tmp/shown2" <"$tmp/keys" &
  eventually test -S "$tmp/socket2"
  restore --console-socket "$tmp/socket2" "$mark-again"
  echo 'echo x is $((x+1)); stty size; stty -a' >&4
  eventually grep -q '^x is 42' "$tmp/shown2"
  eventually grep -q '^33 99' "$tmp/shown2"
  eventually grep -q -e '-echoctl' "$tmp/shown2"
}

@test "a container that somebody else has created: its streams, its record, its end are theirs" {
  in_memory
  checkpoint "$box"
  into() { restore_created "$mark-again" >"$tmp/said" 2>&1; }
  no into # there is none
  grep -q "$mark-again" "$tmp/said"
  create() { close_others "$runtime" --root "$root" create --bundle "$bundle" "$mark-again" </dev/null >"$tmp/out" 2>&1; }
  create
  before=$(init_of "$mark-again")
  into
  is "$mark-again" running
  [ "$(init_of "$mark-again")" = "$before" ]
  [ ! -s "$tmp/said" ]
  goes_on "$mark-again"
  no into # it runs
  grep -q 'running' "$tmp/said"
  goes_on "$mark-again"
  # What fails before it is started leaves it as it is; what fails later ends it.
  oci delete --force "$mark-again"
  create
  cp -r "$tmp/image" "$tmp/whole"
  printf 'XXXX' | dd of="$tmp/image/checkpoint.img" bs=1 seek=200 conv=notrunc status=none
  no into
  is "$mark-again" created
  rm -r "$tmp/image"
  mv "$tmp/whole" "$tmp/image"
  cp "$bundle/rootfs/usr/bin/busybox" "$tmp/busybox"
  (cat "$tmp/busybox" && echo) >"$bundle/rootfs/usr/bin/busybox"
  no into
  grep 'busybox: .*bytes' "$tmp/said"
  eventually is "$mark-again" stopped
}

@test "whatever kills ckpt-load, a paused container stays paused" {
  loop
  oci pause "$box"
  for delay in 0.002 0.004 0.006 0.008 0.010 0.015 0.020; do
    ckpt-load --root "$root" --leave-running "$box" >/dev/null 2>&1 &
    loading=$!
    sleep "$delay"
    kill -KILL "$loading" 2>/dev/null || true
    wait "$loading" || true
    eventually is "$box" paused
  done
  oci resume "$box"
  counts_on "$count"
}

@test "a container below a frozen group is refused, and runs on when that is thawed" {
  above=/sys/fs/cgroup/freezer/$mark-above
  [ -d /sys/fs/cgroup/freezer ] || skip "no freezer of version 1"
  own_bundle loop
  jq --arg path "/$mark-above/$box" '.linux.cgroupsPath = $path' "$bundle/config.json" >"$tmp/config"
  cp "$tmp/config" "$bundle/config.json"
  count=$bundle/rootfs/tmp/count
  start_container "$box"
  eventually test -s "$count"
  echo FROZEN >"$above/freezer.state"
  run checkpoint "$box"
  echo THAWED >"$above/freezer.state"
  [ "$status" -eq 1 ]
  [[ $output == *"a control group above its container's is frozen"* ]]
  is "$box" running
  counts_on "$count"
  oci delete --force "$box"
  rmdir /sys/fs/cgroup/*/"$mark-above" || true
}
