# What a container may do comes back as it was: the same for runc and crun.
bats_require_minimum_version 1.5.0
load helpers
load containers

setup_file() {
  setup_runtime_file
  loop='i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done >/tmp/count'
  bundle "$shared/confined" --hostname confined \
    --seccomp "$here/tests/fixtures/seccomp.json" --capabilities CAP_NET_BIND_SERVICE,CAP_KILL \
    --user 1000:1000,5,6 --memory 134217728 --pids 50 -- sh -c "$loop"
  bundle "$shared/privileged" --new-privileges --share network \
    --share ipc -- sh -c "$loop"
  bundle "$shared/mapped" --user-namespace 100000 -- sh -c "$loop"
}
setup() { setup_runtime; }
teardown() { end_containers; }

# The directory of a process's control group in a hierarchy; the unified one has them all.
group_of() { # pid controller
  local at
  at=$(awk -F: -v c="$2" '$2 == c { print "/" c $3 }' "/proc/$1/cgroup")
  echo "/sys/fs/cgroup${at:-$(awk -F: '$1 == 0 { print $3 }' "/proc/$1/cgroup")}"
}

limits_of() { # pid
  local file
  for file in "$(group_of "$1" memory)"/memory.{limit_in_bytes,max} "$(group_of "$1" pids)/pids.max"; do
    if [ -e "$file" ]; then cat "$file"; fi
  done
}

# All that /proc tells about what a process may do, and the bytes of its filters.
permissions() { # pid
  grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' "/proc/$1/status"
  cat /proc/"$1"/{limits,uid_map,gid_map,oom_score_adj}
  python3 "$fixtures_src/filters.py" "$1"
  limits_of "$1"
  nsenter --target "$1" --uts hostname
  nsenter --target "$1" --mount awk '{ print $4, $5, $6 }' /proc/1/mountinfo
}

# Runs it, saves it, brings it back under another id; everybody has all that they had.
comes_back() { # shared-bundle
  own_bundle "$1"
  count=$bundle/rootfs/tmp/count
  start_container "$box"
  eventually test -s "$count"
  permissions "$(init_of "$box")" >"$tmp/before"
  oci exec --detach "$box" sh -c 'exec sleep 1000 </dev/null >/dev/null 2>&1'
  members "$box" >"$tmp/members-before"
  checkpoint "$box"
  oci delete "$box"
  restore "$box"
  counts_on "$count"
  permissions "$(init_of "$box")" >"$tmp/after"
  diff "$tmp/before" "$tmp/after"
  members "$box" >"$tmp/members-after"
  diff "$tmp/members-before" "$tmp/members-after"
  oci pause "$box"
  is_sequence "$count"
  oci resume "$box"
}

# What sleeps in it, with its permissions: the loop's own sleep comes and goes.
members() {
  for pid in $(cat "$(group_of "$(init_of "$1")" pids)/cgroup.procs"); do
    if [ "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")" = "sleep 1000 " ]; then permissions "$pid"; fi
  done
}

@test "seccomp that forbids what restoring needs, dropped capabilities, another user, limits" {
  comes_back confined
  # It is in force: what it forbids is refused still.
  grep -q '^Seccomp:.2' "/proc/$(init_of "$box")/status"
  no oci exec "$box" mount -t tmpfs tmpfs /tmp
}

@test "privileges that can be gained, namespaces shared with the machine" {
  comes_back privileged
  [ "$(readlink "/proc/$(init_of "$box")/ns/net")" = "$(readlink /proc/self/ns/net)" ]
}

@test "a user namespace: root inside, nobody outside" {
  comes_back mapped
  grep -q '^Uid:.100000.100000' "/proc/$(init_of "$box")/status"
  [ "$(oci exec "$box" id -u)" = 0 ]
}

@test "the profile has the instructions of the image, though runc orders them by chance" {
  own_bundle confined
  start_container "$box"
  eventually test -s "$bundle/rootfs/tmp/count"
  python3 "$fixtures_src/filters.py" "$(init_of "$box")" >"$tmp/before"
  checkpoint "$box"
  size=$(stat -c %s "$bundle/rootfs/tmp/count")
  for i in 1 2 3 4 5; do
    restore "$mark-$i"
    python3 "$fixtures_src/filters.py" "$(init_of "$mark-$i")" | cmp - "$tmp/before"
    oci delete --force "$mark-$i"
    truncate -s "$size" "$bundle/rootfs/tmp/count"
  done
  # Another profile is refused.
  jq '.linux.seccomp.syscalls[0].names |= . - ["uname"]' "$bundle/config.json" >"$tmp/config"
  cp "$tmp/config" "$bundle/config.json"
  no restore "$mark-other"
  grep 'seccomp profile' "$tmp/said"
}
