# Containers by their ids and names, in the records of their runtimes.
bats_require_minimum_version 1.5.0
load helpers
load containers

setup_file() {
  setup_runtime_file
  bundle "$shared/idle" -- sleep 1000
}
setup() {
  setup_runtime
  runtime=runc
  bundle=$shared/idle
}
teardown() {
  for runtime in runc crun; do
    root=$tmp/$runtime
    end_containers
  done
}

start() { # runtime id
  runtime=$1 root=$tmp/$1
  start_container "$2"
}

check() { ckpt-checkpoint --check --root "$root" "$@"; }

refuses() { # pattern id
  run check "$2"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output == "ckpt-checkpoint: loading container: "* ]]
  [[ $output =~ $1 ]]
}

# A command with a /run and a /var/lib of its own, made by `prepare`.
in_place() { # prepare command...
  unshare --mount bash -euc '
    mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib
    eval "$1"
    shift
    unset XDG_RUNTIME_DIR
    exec "$@"' sh "$@"
}

@test "an exact id, the beginning of one, and candidates where there are several" {
  for runtime in runc crun; do
    start "$runtime" "$mark-$runtime-web"
    start "$runtime" "$mark-$runtime-web2"
    check "$mark-$runtime-web"
    check "$mark-$runtime-web2"
    refuses "ambiguous: .*$mark-$runtime-web" "$mark"
    [[ $output == *"$mark-$runtime-web2"* ]]
    oci delete --force "$mark-$runtime-web"
    check "$mark"
    refuses "there is no container \"$mark-$runtime-x\"" "$mark-$runtime-x"
    for wrong in '*' "$mark*" .. "../$runtime" ''; do refuses 'not a container id' "$wrong"; done
  done
}

@test "created and stopped containers are refused with their status, paused ones are not" {
  for runtime in runc crun; do
    root=$tmp/$runtime
    oci create --bundle "$bundle" "$mark-$runtime" </dev/null >/dev/null 2>&1
    refuses "$mark-$runtime is created" "$mark-$runtime"
    oci start "$mark-$runtime"
    check "$mark-$runtime"
    oci pause "$mark-$runtime"
    check "$mark-$runtime"
    oci resume "$mark-$runtime"
    oci kill "$mark-$runtime" KILL
    eventually is "$mark-$runtime" stopped
    refuses "$mark-$runtime is stopped" "$mark-$runtime"
  done
}

# The runtime's record, with a change.
forge() { # jq-filter id file
  mkdir -p "$tmp/forged/$2"
  jq "$1" "$root/$2/$3" >"$tmp/forged/$2/$3"
}

@test "a pid that was given to another process, records that are damaged or not ours" {
  start runc "$mark-runc"
  start crun "$mark-crun"
  root=$tmp/runc forge '.init_process_start += 1' "$mark-runc" state.json
  root=$tmp/crun forge '."process-start-time" += 1' "$mark-crun" status
  root=$tmp/forged
  refuses "$mark-runc is stopped" "$mark-runc"
  refuses "$mark-crun is stopped" "$mark-crun"
  for damage in '' '{' '[]' '{"init_process_pid": "7"}' '{"init_process_pid": -1, "init_process_start": 1}' \
    '{"pid": 99999999999, "process-start-time": 1}' 'null'; do
    echo "$damage" >"$tmp/forged/$mark-runc/state.json"
    refuses "$mark-runc: its state file is damaged" "$mark-runc"
    echo "$damage" >"$tmp/forged/$mark-crun/status"
    refuses "$mark-crun: its state file is damaged" "$mark-crun"
  done
}

@test "all the places where runtimes and engines keep their records" {
  start runc "$mark-runc"
  start crun "$mark-crun"
  for where in /run/runc /run/docker/runtime-runc/moby /run/containerd/runc/k8s.io /run/containerd/runc/default; do
    in_place "mkdir -p $where; cp -r '$tmp/runc/$mark-runc' $where" ckpt-checkpoint --check "$mark-runc"
  done
  for where in /run/crun /run/docker/runtime-crun/moby; do
    in_place "mkdir -p $where; cp -r '$tmp/crun/$mark-crun' $where" ckpt-checkpoint --check "$mark-crun"
  done
  for runtime in runc crun; do
    in_place "mkdir -p /run/user/$runtime; cp -r '$tmp/$runtime/$mark-$runtime' /run/user/$runtime" \
      env XDG_RUNTIME_DIR=/run/user ckpt-checkpoint --check "$mark-$runtime"
  done
  # The same id in two of them cannot be told apart, but by --root.
  twice="mkdir -p /run/runc /run/docker/runtime-runc/moby
    cp -r '$tmp/runc/$mark-runc' /run/runc; cp -r '$tmp/runc/$mark-runc' /run/docker/runtime-runc/moby"
  run in_place "$twice" ckpt-checkpoint --check "$mark-runc"
  [ "$status" -eq 1 ]
  [[ $output == *"ambiguous: "*"(/run/runc)"*"(/run/docker/runtime-runc/moby)"* ]]
  in_place "$twice" ckpt-checkpoint --check --root /run/runc "$mark-runc"
}

# podman's and Docker's own lists.
podman=/var/lib/containers/storage/overlay-containers
docker=/var/lib/docker/containers/one
named() { # podman's json, docker's json, command...
  in_place "mkdir -p /run/runc $podman $docker; cp -r '$tmp'/runc/* /run/runc
    echo '$1' >$podman/containers.json; echo '$2' >$docker/config.v2.json" "${@:3}"
}

@test "an engine's name for a container: behind an id, before the beginning of one" {
  start runc "$mark-one"
  start runc "$mark-two"
  start runc "$mark-three"
  one='[{"id": "'$mark-one'", "names": ["web", "'$mark-two'"]}, {"id": "x", "names": null}]'
  three='{"ID": "'$mark-three'", "Name": "/db"}'
  loaded() { # name: which container that is, from the first lines of what would be an image
    named "$one" "$three" sh -c 'ckpt-load "$0" | ckpt-inspect - | sed -n "s/^container \([^,]*\),.*/\1/p"' "$1"
  }
  [ "$(loaded web)" = "$mark-one" ]
  [ "$(loaded db)" = "$mark-three" ]
  [ "$(loaded "$mark-two")" = "$mark-two" ]
  [ "$(loaded "$mark-tw")" = "$mark-two" ]
  # The name is not guessed at.
  run named "$one" "$three" ckpt-checkpoint --check we
  [[ $output == *'there is no container "we"' ]]
  # Known to the engine, but not to a runtime.
  run named '[{"id": "0123456789abcdef", "names": ["off"]}]' '{}' ckpt-checkpoint --check off
  [[ $output == *'container off (0123456789ab) is not running' ]]
  # Two engines, one name.
  run named "$one" "${three/db/web}" ckpt-checkpoint --check web
  [[ $output == *'"web" is ambiguous: '*"$mark-one"* ]]
  [[ $output == *"$mark-three"* ]]
  # A damaged list is told only when it could have had the answer.
  named '[{' '{}' ckpt-checkpoint --check "$mark-one"
  run named '[{' '{}' ckpt-checkpoint --check web
  [[ $output == *"$podman/containers.json: is damaged" ]]
}

@test "containers of sandboxes are refused with a pointer to their own command" {
  for where in /run/runsc /run/docker/runtime-runsc/moby; do
    run in_place "mkdir -p $where; echo {} >$where/box.state" ckpt-checkpoint --check box
    [ "$status" -eq 1 ]
    [[ $output == *"box runs under gVisor"*'`runsc checkpoint`' ]]
  done
  for where in /run/vc/sbs /run/kata; do
    run in_place "mkdir -p $where/box" ckpt-checkpoint --check box
    [ "$status" -eq 1 ]
    [[ $output == *"box runs under Kata"* ]]
  done
}

@test "who is in the control group but in other namespaces is refused by name" {
  for runtime in runc crun; do
    start "$runtime" "$mark-$runtime"
    group=$(awk -F: '/freezer|^0::/ { print $3; exit }' "/proc/$(init_of "$mark-$runtime")/cgroup")
    sleep 1000 </dev/null >/dev/null 2>&1 3>&- &
    stranger=$!
    for procs in /sys/fs/cgroup{,/freezer}"$group"/cgroup.procs; do
      if [ -e "$procs" ]; then echo "$stranger" >"$procs"; fi
    done
    run check "$mark-$runtime"
    echo "$output"
    kill "$stranger"
    [ "$status" -eq 1 ]
    [[ $output == *"pid $stranger process: "*"another pid namespace"* ]]
    no grep -qv "^pid $stranger " <<<"$output"
  done
}

@test "what one runtime made, another one gets, by name and by path" {
  own_bundle idle
  start runc "$mark-runc"
  checkpoint "$mark-runc"
  runtime=crun root=$tmp/crun
  restore "$mark-crun"
  is "$mark-crun" running
  rm -r "$tmp/image"
  checkpoint "$mark-crun"
  runtime=$(command -v runc) root=$tmp/runc
  restore "$mark-again"
  is "$mark-again" running
  [ "$(oci exec "$mark-again" pidof sleep)" = 1 ]
}
