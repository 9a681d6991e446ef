# What a container changes in its own namespaces comes back with it: the same for runc and crun.
bats_require_minimum_version 1.5.0
load helpers
load containers

setup_file() {
  setup_runtime_file
  fixture=$here/.build/fixtures/namespaces
  bundle "$shared/names" --hostname first --capabilities CAP_SYS_ADMIN,CAP_NET_ADMIN -- \
    sh -c 'hostname changed; ip link set lo up mtu 1500; ip addr add 10.1.2.3/24 dev lo; ip addr del 127.0.0.1/8 dev lo
      i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done >/tmp/count'
  bundle "$shared/objects" --program "$fixture" -- namespaces /tmp/place
  bundle "$shared/mapped" --program "$fixture" --user-namespace 100000 -- namespaces /tmp/place
  bundle "$shared/segment" --program "$fixture" -- namespaces /tmp/place segment
  mkdir -m 0777 "$shared"/{segment,objects,mapped}/rootfs/tmp/place
  chmod 0777 "$shared"/{segment,objects,mapped}/rootfs/tmp/place
}
setup() {
  setup_runtime
  round=0
}
teardown() { end_containers; }

# The bundle's configuration without a namespace of the kind, and what needs one.
sharing() { # bundle kind
  jq --arg kind "$2" 'del(.hostname) | .linux.namespaces |= map(select(.type != $kind))' "$1/config.json" >"$1/new.json"
  mv "$1/new.json" "$1/config.json"
}

logged() { grep -q "^$1\$" "$place/log"; }

look() {
  round=$((round + 1))
  printf '%010d\n' "$round" >"$place/check.new"
  mv "$place/check.new" "$place/check"
  eventually logged "ok $round" || { cat "$place/log" && return 1; }
  if grep wrong "$place/log"; then return 1; fi
}

start_objects() { # shared-bundle
  own_bundle "$1"
  place=$bundle/rootfs/tmp/place
  start_container "$box"
  eventually logged ready || { cat "$place/log" && return 1; }
  look
  look
}

through() { # shared-bundle
  start_objects "$1"
  for snapshot in fork stop; do
    checkpoint --leave-running --snapshot "$snapshot" "$box"
    rm -r "$tmp/image"
    look
  done
  checkpoint "$box"
  oci delete "$box"
  restore "$box"
  look
  look
  rm -r "$tmp/image"
  checkpoint --compression lz4 --exclude-committed-zero-pages "$box"
  restore "$mark-again"
  look
}

@test "shared memory, semaphores and message queues of System V, message queues of POSIX" {
  through objects
}

@test "the same in a user namespace" {
  through mapped
  [ "$(nsenter --target "$(init_of "$mark-again")" --ipc awk '$1 == 20966 { print $8 }' /proc/sysvipc/shm)" = 100000 ]
}

# A checkpoint of the container is refused, and it goes on as it was.
refused_now() { # pattern
  run checkpoint "$box"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ $1 ]]
  [ ! -e "$tmp/image/checkpoint.img" ]
  look
}

@test "an ipc namespace that somebody else is in is not the container's own" {
  start_objects objects
  nsenter --target "$(init_of "$box")" --ipc sleep 1000 </dev/null >/dev/null 2>&1 3>&- &
  entered() { [ "$(readlink "/proc/$1/ns/ipc")" = "$(readlink "/proc/$(init_of "$box")/ns/ipc")" ]; }
  eventually entered "$!"
  refused_now 'mapping at 0x[0-9a-f]+ \(/SYSV.*: System V shared memory of an ipc namespace that others use'
  kill "$!"
  wait "$!" || true
  checkpoint --leave-running "$box"
  look
}

@test "segments that would end by themselves are refused" {
  start_objects segment
  inside() { nsenter --target "$(init_of "$box")" --ipc "$@"; }
  inside sh -c 'echo 1 >/proc/sys/kernel/shm_rmid_forced'
  refused_now 'kernel.shm_rmid_forced'
  inside sh -c 'echo 0 >/proc/sys/kernel/shm_rmid_forced'
  look
  checkpoint --leave-running "$box"
}

@test "a bundle whose container shares what the image has to change is refused" {
  own_bundle names
  start_container "$box"
  eventually test -s "$bundle/rootfs/tmp/count"
  checkpoint "$box"
  name=$(hostname)
  sharing "$bundle" uts
  run restore "$mark-again"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output == *"uts namespace, but the new container has none of its own"* ]]
  [ "$(hostname)" = "$name" ]
  oci delete "$box"
  nothing_remains() { [ -z "$(remains)" ]; }
  eventually nothing_remains
}

@test "the host's name and the loopback device" {
  own_bundle names
  start_container "$box"
  eventually test -s "$bundle/rootfs/tmp/count"
  state() {
    nsenter --target "$(init_of "$1")" --uts hostname
    nsenter --target "$(init_of "$1")" --net ip address show dev lo
  }
  state "$box" >"$tmp/before"
  checkpoint "$box"
  restore "$mark-again"
  state "$mark-again" >"$tmp/after"
  cat "$tmp/after"
  diff "$tmp/before" "$tmp/after"
  grep -q '^changed$' "$tmp/after"
  grep -q 'inet 10.1.2.3/24' "$tmp/after"
}
