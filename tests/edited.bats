# Images may come from anybody: what somebody has written into one is refused before it does harm.
bats_require_minimum_version 1.5.0
load helpers
load containers

setup_file() { setup_runtime_file; }
setup() {
  setup_runtime
  runtime=runc
}
teardown() {
  end_containers
  end_all
  if mountpoint -q "$tmp/host"; then umount "$tmp/host"; fi
}

edit() { python3 "$fixtures_src/edit-stream.py" "$@"; }

# One error with the text, from a program that has not crashed, and nothing is left.
is_refused() { # text command...
  local text=$1
  shift
  run close_others "$@"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output == *"$text"* ]]
}

# The saved container in $tmp/whole, with some edits, into a new container.
rebuilds_refused() { # text [edit...]
  local text=$1 kind member value
  shift
  cp "$tmp/whole" "$tmp/bad"
  while [ $# -gt 0 ]; do
    edit "$1" "$2" "$3" <"$tmp/bad" >"$tmp/edited"
    mv "$tmp/edited" "$tmp/bad"
    shift 3
  done
  is_refused "$text" ckpt-rebuild --bundle "$bundle" --runtime runc --root "$root" --id "$mark-again" <"$tmp/bad"
  [ -z "$(ls -A "$root")" ]
}

# A container with a tmpfs and what is bound from the host, saved and ended.
save_container() { # bundle's options
  bundle=$tmp/bundle
  bundle "$bundle" --tmpfs /tmp --bind "$tmp/host:/data" "$@" -- sleep 1000
  start_container "$box"
  oci exec "$box" sh -c 'echo content >/tmp/file'
  ckpt-load --root "$root" "$box" >"$tmp/whole"
  oci delete --force "$box"
}

@test "an image does not reach what the bundle binds from the host" {
  mkdir -p "$tmp/host/deep"
  echo mine | tee "$tmp/host/file" >"$tmp/host/deep/file"
  fingerprint "$tmp/host" >"$tmp/before"
  save_container --capabilities CAP_SYS_ADMIN
  for mount in /data /data/deep /data/../data /dev/null; do
    rebuilds_refused "mount at $mount, of which the image has files: " file:inode detail.mount "\"$mount\"" \
      file:inode detail.path '""' file:inode detail.whole true
    fingerprint "$tmp/host" | diff "$tmp/before" -
  done
  # By way of a mount of the image's own.
  rebuilds_refused "mount at /tmp, of which the image has files: is not a tmpfs of the new container's own" \
    file:mount detail.point '"/tmp"' file:mount detail.bound '"/data"' \
    file:inode detail.mount '"/tmp"' file:inode detail.path '""' file:inode detail.whole true
  fingerprint "$tmp/host" | diff "$tmp/before" -
}

@test "nor a tmpfs of the host's, neither its files nor its size" {
  mkdir "$tmp/host"
  mount -t tmpfs -o size=5m host "$tmp/host"
  echo mine >"$tmp/host/file"
  save_container
  rebuilds_refused "mount at /data, of which the image has files: is not a tmpfs of the new container's own: it is mounted at $tmp/host, too" \
    file:inode detail.mount '"/data"' file:inode detail.path '""' file:inode detail.whole true
  rebuilds_refused "mount at /data: is not a tmpfs of the new container's own: it is mounted at $tmp/host, too" \
    file:mount detail.point '"/data"' file:mount detail.type '"tmpfs"' file:mount detail.options '"rw,size=1024k"'
  [ "$(cat "$tmp/host/file")" = mine ]
  grep "$tmp/host tmpfs .*size=5120k" /proc/mounts
}

@test "what the bundle mounts read-only or masks stays so, where the container may not change it" {
  mkdir "$tmp/host"
  save_container --capabilities CAP_KILL
  text="the image changes what is mounted there, which the new container may not: its bundle does not give it CAP_SYS_ADMIN"
  rebuilds_refused "mount at /proc/sys: $text" file:mount detail.point '"/proc/sys"' file:mount detail.absent true
  rebuilds_refused "mount at /tmp/proc: $text" file:mount detail.point '"/tmp/proc"' file:mount detail.type '"proc"' \
    file:mount detail.options '"rw"'
  rebuilds_refused "mount at /tmp/data: $text" file:mount detail.point '"/tmp/data"' file:mount detail.bound '"/data"'
  rebuilds_refused "mount at /proc/sys: $text" file:mount detail.point '"/proc/sys"' file:mount detail.bound '"/proc/sys"' \
    file:mount detail.flags '"rw"'
}

@test "members of mounts that are not there" {
  mkdir "$tmp/host"
  save_container
  rebuilds_refused "its mount point is none" file:mount detail.point null
  rebuilds_refused "a mount without a type or flags" file:mount detail.type null
  rebuilds_refused "a mount without a type or flags" file:mount detail.flags null
  rebuilds_refused "a mount without options" file:mount detail.options null
}

@test "ids of containers that are options, or none" {
  mkdir "$tmp/host"
  save_container
  is_refused 'is not a container id' ckpt-rebuild --bundle "$bundle" --runtime runc --root "$root" \
    --id=--version <"$tmp/whole"
  edit checkpoint id '"--help"' <"$tmp/whole" >"$tmp/bad"
  is_refused '"--help" is not a container id' ckpt-rebuild --bundle "$bundle" --runtime runc --root "$root" <"$tmp/bad"
  edit checkpoint id null <"$tmp/whole" >"$tmp/bad"
  is_refused 'name the new container' ckpt-rebuild --bundle "$bundle" --runtime runc --root "$root" <"$tmp/bad"
}

# A plain tree in $tmp/whole.
save_tree() {
  run_detached web "$fixtures/counter" "$tmp/count"
  eventually test -s "$tmp/count"
  ckpt-load --root "$reg" web >"$tmp/whole"
  ckpt-run --root "$reg" --delete web --force
}

tree_refused() { # text kind member value
  edit "$2" "$3" "$4" <"$tmp/whole" >"$tmp/bad"
  is_refused "$1" ckpt-rebuild --root "$reg" <"$tmp/bad"
  [ "${#lines[@]}" -eq 1 ]
  [ -z "$(ckpt-run --root "$reg" --list)" ]
}

@test "files of types that no process can have" {
  save_tree
  for type in mount inode; do
    tree_refused "is of a type that nobody can have" file:regular type "\"$type\""
    tree_refused "is of a type that nobody can have" file:directory type "\"$type\""
    tree_refused "is of a type that nobody can have" file:device type "\"$type\""
  done
  tree_refused "is of a type that nobody can have" file:regular type '"nothing"'
}

@test "pages for a file of the host's" {
  save_tree
  tree_refused 'a "regular" has no pages' file:regular space 4711
  tree_refused 'a "device" has no pages' file:device space 4711
}

@test "numbers that no process can have" {
  save_tree
  for number in -1 -2147483648 0 4194305 2147483647; do
    tree_refused impossible process pid "$number"
    if [ "$number" -ne 0 ]; then
      for member in ppid pgid sid; do tree_refused impossible process "$member" "$number"; done
    fi
    tree_refused "its threads do not begin with its leader" process threads.0.tid "$number"
  done
}

@test "a device that is another one is not opened" {
  save_tree
  mkfifo "$tmp/waits" # opening it for reading would wait for ever
  tree_refused "is no longer the device" file:device detail.path "\"$tmp/waits\""
}

@test "who entered the container gets no more than its bundle gives" {
  bundle=$tmp/confined
  bundle "$bundle" --user 1000:1000 --capabilities "" --seccomp "$fixtures_src/seccomp.json" -- cat /waits
  mkfifo -m 0666 "$bundle/rootfs/waits"
  start_container "$box"
  close_others "$runtime" --root "$root" exec --detach "$box" cat /waits /waits </dev/null >/dev/null 2>&1
  entered() { pgrep -f "^cat /waits /waits" >/dev/null; }
  eventually entered
  ckpt-load --root "$root" "$box" >"$tmp/whole"
  oci delete --force "$box"
  rebuilds_refused 'capabilities that its bundle does not give' \
    process#1 credentials.bounding '"0x1ffffffffff"'
  rebuilds_refused 'capabilities that its bundle does not give' \
    process#1 credentials.permitted '"0x200000"'
  rebuilds_refused "without its bundle's seccomp profile" process#1 filters '[]'
  close_others ckpt-rebuild --bundle "$bundle" --runtime runc --root "$root" --id "$mark-again" \
    <"$tmp/whole" >/dev/null 2>&1
  entered
}
