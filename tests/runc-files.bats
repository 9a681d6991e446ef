# What a container changed itself in its mount namespace: the same for runc and crun.
bats_require_minimum_version 1.5.0
load helpers
load containers

setup_file() {
  setup_runtime_file
  privileged "$shared/idle" --tmpfs /tmp --tmpfs /run -- sh -c 'exec sleep 1000'
}
# A bundle whose root may mount and give files away.
privileged() { # as bundle
  bundle "$1" --capabilities CAP_SYS_ADMIN,CAP_CHOWN,CAP_FOWNER,CAP_FSETID,CAP_MKNOD,CAP_DAC_OVERRIDE,CAP_SETUID,CAP_SETGID "${@:2}"
}
setup() { setup_runtime; }
teardown() {
  end_containers
  for place in "$tmp"/{first,second}/rootfs "$tmp/volume" "$tmp/bound/shm"; do
    if mountpoint -q "$place"; then umount "$place"; fi
  done
}

start() { # shared-bundle
  own_bundle "$1"
  start_container "$box"
}

inside() { oci exec "$1" sh -euc "$2"; } # id script

# All that can be seen of what is in directories, on their own file systems.
state_of() { # id dir...
  local id=$1
  shift
  inside "$id" "
    for dir in $*; do
      find \$dir -xdev -type d -exec stat -c '%n %F %a %u:%g %y' {} + | grep -v '^/dev/pts \|^/dev/mqueue \|processes' | sort
      find \$dir -xdev ! -type d -exec stat -c '%N %F %s %a %u:%g %t:%T %h %y' {} + | sort
      find \$dir -xdev -type f -exec sha256sum {} + | sort
    done"
}

# Saved, and back under another id, with everything as it was.
comes_back() { # dir...
  state_of "$box" "$@" >"$tmp/before"
  checkpoint "$box"
  restore "$mark-again"
  state_of "$mark-again" "$@" >"$tmp/after"
  diff "$tmp/before" "$tmp/after"
}

@test "a tmpfs comes back with contents, owners, modes, times and links, and without what was removed" {
  start idle
  inside "$box" '
    cd /tmp
    echo content >file
    chown 12:34 file
    chmod 4755 file
    ln file name
    mkdir -p deep/er/and/deeper sticky
    chmod 3777 sticky
    ln -s ../nowhere deep/link
    mkfifo -m 620 pipe
    mknod -m 640 null c 1 3
    : >empty
    dd if=/dev/urandom of=large bs=1000 count=777 2>/dev/null
    touch -d "2001-02-03 04:05:06" file deep/er
    echo shared >/dev/shm/memory
    echo program >/dev/made
    rm /dev/ptmx
    chmod 600 /dev/zero
    mkdir -p -m 700 /run/lock
    chown 7:8 /run/lock'
  comes_back /tmp /run /dev /dev/shm
  grep -q '^/tmp/file .* 4755 12:34 .* 2 2001-02-03 04:05:06' "$tmp/after"
  grep -q '^/tmp/null character special file .* 1:3' "$tmp/after"
  no grep -q /dev/ptmx "$tmp/after"
  inside "$mark-again" '[ "$(stat -c %i /tmp/file)" = "$(stat -c %i /tmp/name)" ]'
}

@test "a sparse file stays one" {
  start idle
  inside "$box" 'dd if=/dev/zero of=/tmp/sparse bs=1 count=1 seek=50M && echo end >>/tmp/sparse && truncate -s 1G /tmp/holes' 2>/dev/null
  blocks=$(inside "$box" 'stat -c %b /tmp/sparse')
  [ "$blocks" -le 16 ]
  comes_back /tmp
  [ "$(inside "$mark-again" 'stat -c %b /tmp/sparse')" -le "$blocks" ]
  [ "$(inside "$mark-again" 'stat -c %b /tmp/holes')" = 0 ]
}

@test "names that are no text, thousands of files, directories deep below" {
  start idle
  # shellcheck disable=SC2016 # for the container's shell
  inside "$box" '
    cd /tmp
    touch -- "$(printf "not\\377utf8")" "$(printf "new\\nline")" "a b" -n
    i=0; while [ $i -lt 3000 ]; do echo $i >file$i; i=$((i+1)); done
    i=0; while [ $i -lt 200 ]; do mkdir d && cd d; i=$((i+1)); done; echo bottom >bottom'
  ulimit -n 1024
  comes_back /tmp
  # shellcheck disable=SC2016
  [ "$(inside "$mark-again" 'ls /tmp | wc -l; cat $(find /tmp -name bottom)')" = $'3005\nbottom' ]
}

@test "extended attributes, capabilities of a file, access lists, chattr" {
  start idle
  at=/proc/$(init_of "$box")/root/tmp
  touch "$at/file" "$at/constant"
  mkdir "$at/directory"
  python3 - "$at" <<'SET'
import os, struct, sys
file, directory = sys.argv[1] + "/file", sys.argv[1] + "/directory"
os.setxattr(file, "user.note", b"\0bytes\xff")
os.setxattr(file, "trusted.mine", b"")
os.setxattr(file, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
entries = [(1, 7, -1), (2, 5, 33), (4, 5, -1), (8, 4, 44), (16, 7, -1), (32, 0, -1)]
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
os.setxattr(directory, "system.posix_acl_default", acl)
os.setxattr(directory, "system.posix_acl_access", acl)
SET
  chattr +i "$at/constant"
  attributes() {
    (
      cd "/proc/$(init_of "$1")/root/tmp"
      lsattr -d -- *
      python3 -c 'import os
for name in sorted(os.listdir()):
  for attribute in sorted(os.listxattr(name)):
    print(name, attribute, os.getxattr(name, attribute).hex())'
    )
  }
  attributes "$box" >"$tmp/attributes"
  grep -q 'file user.note 006279746573ff' "$tmp/attributes"
  comes_back /tmp
  attributes "$mark-again" | diff "$tmp/attributes" -
  chattr -i "/proc/$(init_of "$mark-again")/root/tmp/constant"
}

@test "open, mapped and executed files of a tmpfs" {
  own_bundle idle
  bundle "$bundle" --tmpfs /tmp -- sh -c '
    cp /usr/bin/busybox /tmp/sleep && exec 7>/tmp/log 8</tmp/log && rm -f /tmp/none && echo one >&7 &&
    exec /tmp/sleep 1000'
  start_container "$box"
  eventually inside "$box" 'grep -q one /tmp/log && [ -x /proc/1/exe ] && readlink /proc/1/exe | grep -q /tmp/sleep'
  comes_back /tmp
  [ "$(inside "$mark-again" 'readlink /proc/1/exe')" = /tmp/sleep ]
  inside "$mark-again" 'echo two >>/proc/1/fd/7'
  [ "$(inside "$mark-again" 'cat /tmp/log; ls /proc/1/fd | tr "\n" " "')" = $'one\ntwo\n0 1 2 7 8 ' ]
}

# The cases of a fixture look at themselves once more.
look_inside() { # id round
  inside "$1" "echo $2 >/tmp/new && mv /tmp/new /tmp/check"
  eventually inside "$1" "grep -q '^ok $2\$' /tmp/log"
  no inside "$1" 'grep wrong /tmp/log'
}

@test "UNIX sockets with names in a tmpfs" {
  make_bundle() { privileged "$1" --tmpfs /tmp --program "$fixtures/sockets" "${@:2}" -- sockets /tmp path relative mailbox; }
  make_bundle "$tmp/idle"
  bundle=$tmp/idle
  start_container "$box"
  eventually inside "$box" 'grep -q "^ready$" /tmp/log'
  look_inside "$box" 1
  state_of "$box" /tmp | grep socket >"$tmp/sockets"
  [ -s "$tmp/sockets" ]
  checkpoint "$box"
  restore "$mark-again"
  state_of "$mark-again" /tmp | grep socket | diff "$tmp/sockets" -
  look_inside "$mark-again" 2
  look_inside "$mark-again" 3
}

@test "mounts of the container's own come back: tmpfs, proc, a bind; what it has unmounted stays so" {
  start idle
  inside "$box" '
    mkdir /tmp/disk /tmp/again /tmp/processes
    mount -t tmpfs -o size=3m,mode=750,nosuid,noexec mine /tmp/disk
    echo content >/tmp/disk/file
    mount -t tmpfs -o size=1m constant /mnt-new 2>/dev/null || { mkdir -p /srv/constant; mount -t tmpfs -o size=1m constant /srv/constant; }
    echo fixed >/srv/constant/file
    mount -o remount,ro /srv/constant
    mount --bind /tmp/disk /tmp/again
    mount -t proc proc /tmp/processes
    umount /dev/mqueue
    umount /dev/shm'
  mounts() { inside "$1" "awk '\$2 ~ /^.(tmp|srv|dev)/ { print \$1, \$2, \$3, \$4 }' /proc/mounts"; }
  mounts "$box" >"$tmp/mounts"
  no grep -q /dev/shm "$tmp/mounts"
  comes_back /tmp /tmp/disk /srv/constant /dev
  mounts "$mark-again" | diff "$tmp/mounts" -
  [ "$(inside "$mark-again" 'cat /tmp/again/file')" = content ]
  [ "$(inside "$mark-again" 'cat /tmp/processes/1/comm')" = sleep ]
  no inside "$mark-again" 'echo more >/srv/constant/file'
  # All of it once more, from what was restored.
  rm -r "$tmp/image"
  checkpoint "$mark-again"
  restore "$mark-third"
  mounts "$mark-third" | diff "$tmp/mounts" -
}

@test "a tmpfs of the runtime's that was mounted anew or with other options" {
  start idle
  inside "$box" '
    mount -o remount,size=7m /run && echo seven >/run/file
    umount /tmp && mount -t tmpfs -o size=5m tmpfs /tmp && echo five >/tmp/file'
  comes_back /tmp /run
  sizes=$(inside "$mark-again" "awk '\$2 == \"/run\" || \$2 == \"/tmp\" { print \$2, \$4 }' /proc/mounts")
  [[ $sizes == *"/run "*size=7168k* && $sizes == *"/tmp "*size=5120k* ]]
}

@test "mounts that no restore could make are refused by name, and the container runs on" {
  start idle
  truncate -s 8M "$bundle/rootfs/disk"
  mkfs.ext4 -q "$bundle/rootfs/disk"
  init=$(init_of "$box")
  mkdir "$bundle/rootfs/mnt" "$tmp/outside"
  nsenter -t "$init" -m sh -c 'mount -t ramfs ramfs /tmp'
  run checkpoint "$box"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output == *"pid $init mount at /tmp (ramfs): cannot be checkpointed: "*"unmount it in the container"* ]]
  [[ $output == *"pid $init mount at /tmp (tmpfs): cannot be checkpointed: another mount covers it"* ]]
  [ ! -e "$tmp/image" ]
  is "$box" running
  nsenter -t "$init" -m umount /tmp
  # From outside, through a descriptor of ours.
  nsenter -t "$init" -m sh -c 'mount --bind /proc/self/fd/9 /mnt' 9<"$tmp/outside" 2>/dev/null ||
    nsenter -t "$init" -m mount -t tmpfs -o mpol=local tmpfs /mnt
  run checkpoint "$box"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output == *"mount at /mnt ("* ]]
  nsenter -t "$init" -m umount /mnt
  checkpoint "$box"
}

@test "what a hook of the bundle mounts is left to the hook" {
  own_bundle idle
  mkdir "$bundle/rootfs/mnt" "$bundle/rootfs/srv" "$tmp/outside"
  echo outside >"$tmp/outside/file"
  printf '#!/bin/sh\nexec mount --bind %s %s\n' "$tmp/outside" "$bundle/rootfs/mnt" >"$tmp/hook"
  chmod +x "$tmp/hook"
  jq --arg hook "$tmp/hook" '.hooks.createContainer = [{path: $hook}]' "$bundle/config.json" >"$tmp/config"
  mv "$tmp/config" "$bundle/config.json"
  start_container "$box"
  inside "$box" 'grep outside /mnt/file && mount -t tmpfs mine /srv && echo mine >/srv/file'
  checkpoint "$box"
  restore "$mark-again"
  [ "$(inside "$mark-again" 'cat /mnt/file /srv/file')" = $'outside\nmine' ]
}

@test "a user namespace: owners are the container's, wherever its ids are" {
  chmod o+x "$BATS_RUN_TMPDIR" # for its root
  privileged "$tmp/first" --user-namespace 100000 --tmpfs /tmp -- sleep 1000
  privileged "$tmp/second" --user-namespace 300000 --tmpfs /tmp -- sleep 1000
  bundle=$tmp/first
  start_container "$box"
  inside "$box" '
    cd /tmp && echo mine >mine && echo >other && chown 12:34 other && mkdir -m 2775 deep && chown 5:6 deep
    mkfifo deep/pipe && ln -s x deep/link && chown -h 7:7 deep/link && echo >/dev/shm/here
    mkdir disk && mount -t tmpfs -o size=2m disk disk && echo >disk/file && chown 8:9 disk disk/file'
  state_of "$box" /tmp /tmp/disk /dev/shm >"$tmp/before"
  checkpoint "$box"
  for bundle in "$tmp/first" "$tmp/second"; do
    restore "$mark-${bundle##*/}"
    state_of "$mark-${bundle##*/}" /tmp /tmp/disk /dev/shm | diff "$tmp/before" -
  done
  [ "$(stat -c %u:%g "/proc/$(init_of "$mark-second")/root/tmp/other")" = 300012:300034 ]
}

@test "what is bound from outside is not touched" {
  mkdir "$tmp/volume"
  mount -t tmpfs volume "$tmp/volume"
  mkdir "$tmp/volume/shared"
  bundle "$tmp/bound" --bind "$tmp/volume/shared:/volume" -- sleep 1000
  bundle=$tmp/bound
  start_container "$box"
  inside "$box" 'echo then >/volume/file'
  checkpoint "$box"
  echo now >"$tmp/volume/shared/file"
  touch "$tmp/volume/shared/new"
  restore "$mark-again"
  [ "$(inside "$mark-again" 'cat /volume/file; ls /volume | tr "\n" " "')" = $'now\nfile new ' ]
}

@test "a tmpfs that an engine keeps in the bundle ends with the container: it comes back as a new one" {
  mkdir -p "$tmp/bound/shm"
  mount -t tmpfs -o size=6m,mode=1777 shm "$tmp/bound/shm"
  bundle "$tmp/bound" --bind "$tmp/bound/shm:/dev/shm" -- sleep 1000
  bundle=$tmp/bound
  start_container "$box"
  inside "$box" 'echo content >/dev/shm/file'
  state_of "$box" /dev/shm >"$tmp/before"
  checkpoint "$box"
  oci delete "$box"
  umount "$tmp/bound/shm"
  restore "$mark-again"
  state_of "$mark-again" /dev/shm | diff "$tmp/before" -
  inside "$mark-again" 'grep "^shm /dev/shm tmpfs .*size=6144k" /proc/mounts'
  [ -z "$(ls -A "$tmp/bound/shm")" ]
}

@test "a container whose bundle is gone is refused" {
  start idle
  mv "$bundle/config.json" "$bundle/moved"
  run checkpoint "$box"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output == *"$bundle/config.json: No such file or directory"* ]]
  is "$box" running
}

getfattr_of() { python3 -c 'import os, sys; print(os.getxattr(*sys.argv[1:]).decode())' "$@"; }

overlay() { # name options
  mkdir -p "$tmp/$1/upper" "$tmp/$1/work" "$tmp/$1/rootfs"
  mount -t overlay overlay -o "lowerdir=$tmp/lower/rootfs,upperdir=$tmp/$1/upper,workdir=$tmp/$1/work$2" \
    "$tmp/$1/rootfs"
  bundle "$tmp/$1" --rootfs "$tmp/$1/rootfs" -- sleep 1000
  bundle=$tmp/$1
}

old_files() {
  bundle "$tmp/lower" -- sleep 1000
  mkdir -p "$tmp/lower/rootfs/srv/"{kept,emptied,replaced,renamed}/below
  for directory in kept emptied replaced renamed; do
    echo old | tee "$tmp/lower/rootfs/srv/$directory/below/file" >"$tmp/lower/rootfs/srv/$directory/file"
  done
  seq 100000 >"$tmp/lower/rootfs/srv/large"
}

changed_files_come_back() { # overlay-options
  old_files
  overlay first "$1"
  start_container "$box"
  inside "$box" '
    cd /srv
    echo new >new
    chmod 4711 new
    echo more >>kept/file
    chmod 750 kept/below
    chmod 700 large
    rm -r emptied/below emptied/file
    rm -r replaced && mkdir replaced && mkdir replaced/below && echo new >replaced/below/new
    mv renamed moved
    ln new linked
    mkfifo pipe
    rm /etc/group'
  state_of "$box" /srv /etc >"$tmp/before"
  checkpoint --archive-rootfs-changes "$box"
  overlay second ""
  restore "$mark-again"
  state_of "$mark-again" /srv /etc | diff "$tmp/before" -
  [ -c "$tmp/second/upper/etc/group" ]
  # A plain directory takes them, too.
  bundle=$tmp/lower
  restore "$mark-plain"
  state_of "$mark-plain" /srv /etc | diff "$tmp/before" -
  [ ! -e "$tmp/lower/rootfs/etc/group" ]
}

@test "--archive-rootfs-changes: what was written, changed, renamed and removed on an overlay" {
  changed_files_come_back ""
}

@test "--archive-rootfs-changes: the same where the overlay redirects and copies no data" {
  changed_files_come_back ",redirect_dir=on,metacopy=on"
  [ "$(getfattr_of "$tmp/first/upper/srv/moved" trusted.overlay.redirect)" = /srv/renamed ] ||
    [ "$(getfattr_of "$tmp/first/upper/srv/moved" trusted.overlay.redirect)" = renamed ]
}

@test "--archive-rootfs-changes: of one that cannot be written there are none" {
  old_files
  overlay first ""
  jq '.root.readonly = true' "$bundle/config.json" >"$tmp/config"
  mv "$tmp/config" "$bundle/config.json"
  start_container "$box"
  checkpoint --archive-rootfs-changes "$box"
  restore "$mark-again"
  no inside "$mark-again" 'echo new >/srv/new' 2>/dev/null
}

@test "without --archive-rootfs-changes the image has none of them" {
  old_files
  overlay first ""
  start_container "$box"
  inside "$box" 'echo new >/srv/new; rm /srv/large'
  checkpoint "$box"
  overlay second ""
  restore "$mark-again"
  inside "$mark-again" '[ ! -e /srv/new ] && [ -e /srv/large ]'
}

@test "--archive-rootfs-changes is refused where there is no overlay" {
  start idle
  run checkpoint --archive-rootfs-changes "$box"
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output == *"root file system (ext4): --archive-rootfs-changes: it is no overlay"* ]] ||
    [[ $output == *"root file system ("*"): --archive-rootfs-changes: it is no overlay"* ]]
  is "$box" running
  run_detached plain sleep 100
  run ckpt-checkpoint --root "$reg" --image-path "$tmp/other" --archive-rootfs-changes plain
  [ "$status" -eq 1 ]
  [[ $output == *"--archive-rootfs-changes is for containers of runc and crun"* ]]
  end_all
}

@test "a process with a root directory of its own (chroot) below one without" {
  # shellcheck disable=SC2016 # for the container's shell
  bundle "$tmp/jail" --capabilities CAP_SYS_CHROOT --tmpfs /tmp -- sh -c '
    mkdir -p /tmp/jail/bin /tmp/jail/work
    cp /usr/bin/busybox /tmp/jail/bin/busybox
    chroot /tmp/jail /bin/busybox sh -c "
      cd /work; exec 7>/log; echo \$\$ >/pid; i=0
      while :; do i=\$((i + 1)); echo \$i >&7; /bin/busybox usleep 10000; done" &
    wait'
  bundle=$tmp/jail
  links() { inside "$1" 'cd /proc/$(cat /tmp/jail/pid) && for link in root cwd exe fd/7; do readlink $link; done'; }
  written() { inside "$1" 'tail -n 1 /tmp/jail/log'; }
  goes_on() { [ "$(written "$1")" -gt "$2" ]; } # id number
  start_container "$box"
  eventually inside "$box" '[ -s /tmp/jail/log ]'
  links "$box" >"$tmp/before"
  [ "$(cat "$tmp/before")" = $'/tmp/jail\n/tmp/jail/work\n/tmp/jail/bin/busybox\n/tmp/jail/log' ]
  checkpoint "$box"
  restore "$mark-again"
  links "$mark-again" | diff "$tmp/before" -
  eventually goes_on "$mark-again" "$(written "$mark-again")"
}
