# For tests of containers: each file of them is there for runc and for crun, which its name tells.
# Bundles are made once in a file, and copied where a test writes to them.

setup_runtime_file() {
  here=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
  shared=$BATS_FILE_TMPDIR
  mkdir -p "$shared/bin"
  chmod go+x "$BATS_RUN_TMPDIR" # for the root of a user namespace
  # crun refuses cgroups v1 with v2 beside it: it does not get to see the latter.
  if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ] && mountpoint -q /sys/fs/cgroup/unified; then
    cat >"$shared/bin/crun" <<WITHOUT
#!/bin/sh
exec unshare --mount sh -c 'umount /sys/fs/cgroup/unified && exec $(command -v crun) "\$@"' crun "\$@"
WITHOUT
    chmod +x "$shared/bin/crun"
  fi
}

setup_runtime() {
  setup_dirs
  shared=$BATS_FILE_TMPDIR
  PATH=$shared/bin:$PATH
  runtime=$(basename "$BATS_TEST_FILENAME")
  runtime=${runtime%%-*}
  root=$tmp/root
  # Control groups are named by the id: nobody else on this machine has it.
  mark=ckpt-$runtime-$BASHPID
  box=$mark-box
}

end_containers() {
  local id
  for id in $(ls "$root" 2>/dev/null); do
    oci delete --force "$id" || true
  done
  chown 0:0 /dev/null # crun gives its standard streams to the root of a user namespace
}

oci() { "$runtime" --root "$root" "$@"; }

bundle() { "$here/scripts/bundle" "$@"; } # [options] DIR [-- COMMAND...]

# A copy that a test can write to.
own_bundle() { # shared-bundle
  cp -a "$shared/$1" "$tmp/$1"
  bundle=$tmp/$1
}

# Nothing of it is open in the test; what the runtime has to say is in $tmp/log.
start_container() { # id [options of run]
  local id=$1
  shift
  close_others "$runtime" --root "$root" --log "$tmp/log" run --detach --bundle "$bundle" "$@" "$id" \
    </dev/null >/dev/null 2>&1 || { cat "$tmp/log" && return 1; }
}

status_of() { oci state "$1" | jq -r .status; }
is() { [ "$(status_of "$1" 2>/dev/null)" = "$2" ]; } # id status
init_of() { oci state "$1" | jq -r .pid; }

checkpoint() { ckpt-checkpoint --root "$root" --image-path "$tmp/image" "$@"; }

# What it says is in $tmp/said: the container has its descriptors.
restore() { # [options] id
  close_others ckpt-restore --image-path "$tmp/image" --bundle "$bundle" --runtime "$runtime" \
    --root "$root" --detach "$@" </dev/null >"$tmp/said" 2>&1 || { cat "$tmp/said" && return 1; }
}

restore_created() { # id
  close_others ckpt-restore --image-path "$tmp/image" --runtime "$runtime" --root "$root" --created --detach "$@" \
    </dev/null
}

# What there is of this test's containers: control groups and whether they are empty, mounts,
# programs of ours and of the runtime's at work on them, records.
remains() {
  local group program
  find /sys/fs/cgroup -type d -name "$mark*" 2>/dev/null | sort | while read -r group; do
    echo "$group $(wc -l <"$group/cgroup.procs")"
  done
  grep -F "$tmp" /proc/self/mountinfo | awk '{ print $5 }' | sort
  grep -lE '^(ckpt-|runc|crun)' /proc/[0-9]*/comm 2>/dev/null | while read -r program; do
    tr '\0' ' ' 2>/dev/null <"${program%comm}cmdline" | grep -F -e "$mark" -e "$tmp" || true
  done
  ls -A "$root" 2>/dev/null || true
}

nothing() { [ -z "$(remains)" ]; }
nothing_remains() { eventually nothing || { remains && return 1; }; }

# Bytes and attributes of all files.
fingerprint() { # dir
  (cd "$1" && find . -printf '%p %M %u %g %s %l\n' | sort && find . -type f -exec sha256sum {} + | sort)
}

# Numbers from one on, none missing and none twice.
is_sequence() { # file
  seq "$(wc -l <"$1")" | cmp - "$1"
}
