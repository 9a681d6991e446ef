# podman's containers: found by their names, saved, and brought back by a runtime of podman's.
bats_require_minimum_version 1.5.0
load helpers
load containers

setup_file() {
  setup_runtime_file
  bundle "$shared/base" -- true
}
setup() {
  setup_runtime
  mark=ckpt-podman-$BASHPID
  mkdir "$tmp/bin"
}
teardown() {
  podman rm --force --time 0 "$mark-one" "$mark-two" >/dev/null 2>&1 || true
}

# podman calls its runtimes with a PATH of its own: they get ours.
with_path() { # program
  printf '#!/bin/sh\nPATH=%s exec %s "$@"\n' "$PATH" "$1" >"$tmp/bin/${1##*/}"
  chmod +x "$tmp/bin/${1##*/}"
  echo "$tmp/bin/${1##*/}"
}

# scripts/podman-runtime for this runtime, which its name tells.
restoring() { # runtime
  ln -s "$here/scripts/podman-runtime" "$tmp/ckpt-$1"
  with_path "$tmp/ckpt-$1"
}

# The limits are for machines whose root may not raise them; the network would need one to be made.
run_podman() { # runtime name [options] -- command...
  local options=()
  while [ "$3" != -- ]; do
    options+=("$3")
    set -- "$1" "$2" "${@:4}"
  done
  close_others podman --runtime "$1" run --detach --name "$2" --net none --ulimit nofile=1024:1024 \
    --ulimit nproc=1000:1000 "${options[@]}" --rootfs "$shared/base/rootfs" "${@:4}" </dev/null >"$tmp/out" 2>&1 ||
    { cat "$tmp/out" && return 1; }
}

lines() { podman logs "$1" 2>/dev/null | wc -l; }
more_lines() { [ "$(lines "$1")" -gt "$2" ]; }
podman_says() { [ "$(podman inspect -f '{{.State.Status}}' "$1")" = "$2" ]; }

# Its number goes to its log, as podman keeps it, and to a tmpfs.
saved_and_back() { # runtime [option]
  local loop='i=0; while :; do i=$((i+1)); echo $i; echo $i >/dev/shm/new; mv /dev/shm/new /dev/shm/count; sleep 0.05; done'
  run_podman "$(with_path "$(command -v "$1")")" "$mark-one" ${2:+"$2"} -- sh -c "$loop"
  eventually more_lines "$mark-one" 3
  ckpt-checkpoint --check "$mark-one"
  ckpt-checkpoint --image-path "$tmp/image" "$mark-one"
  eventually podman_says "$mark-one" exited
  last=$(podman logs "$mark-one" | tail -n 1)
  run ckpt-checkpoint --check "$mark-one"
  [[ $output == *"container $mark-one ("*") is not running" ]]

  run_podman "$(restoring "$1")" "$mark-two" ${2:+"$2"} --annotation ckpt.image="$tmp/image" -- sh -c "$loop"
  podman_says "$mark-two" running
  eventually more_lines "$mark-two" 3
  [ "$(podman logs "$mark-two" | head -n 1)" -ge "$last" ]
  [ "$(podman exec "$mark-two" cat /dev/shm/count)" -gt "$last" ]
  podman pause "$mark-two"
  podman unpause "$mark-two"
  # Started again it comes out of the image again.
  podman stop --time 0 "$mark-two"
  podman start "$mark-two"
  podman_says "$mark-two" running
}

@test "crun's, by name, and under podman again" {
  saved_and_back crun
}

@test "runc's, by name, and under podman again" {
  # runc compiles podman's profile to one of several orders, by chance: a start may be refused.
  saved_and_back runc --security-opt=seccomp=unconfined
}
