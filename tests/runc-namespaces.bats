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
  mkdir -m 0777 "$shared"/{objects,mapped}/rootfs/tmp/place
  chmod 0777 "$shared"/{objects,mapped}/rootfs/tmp/place
}
setup() {
  setup_runtime
  round=0
}
teardown() { end_containers; }

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

@test "shared memory, semaphores and message queues of System V" {
  through objects
}

@test "the same in a user namespace" {
  through mapped
  [ "$(nsenter --target "$(init_of "$mark-again")" --ipc awk '$1 == 20966 { print $8 }' /proc/sysvipc/shm)" = 100000 ]
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
