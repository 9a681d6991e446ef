# Shared by the bats files. Every test has a registry of its own and ends what it started.

setup_dirs() {
  here=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
  bin=${CKPT_BIN:-$here/bin}
  fixtures=$here/.build/fixtures # compiled ones
  fixtures_src=$here/tests/fixtures
  reg=$BATS_TEST_TMPDIR/registry
  tmp=$BATS_TEST_TMPDIR
  PATH=$bin:$PATH
}

# A container whose command has no descriptor of the test's; its output goes to $tmp/out.
run_detached() { # id command...
  local id=$1
  shift
  close_others ckpt-run --root "$reg" --id "$id" --detach -- "$@" >>"$tmp/out" 2>&1 </dev/null
}

# Bats has descriptors open that a restored process could not have.
close_others() {
  (
    for fd in /proc/"$BASHPID"/fd/*; do
      fd=${fd##*/}
      if [ "$fd" -gt 2 ]; then eval "exec $fd>&-" 2>/dev/null || true; fi
    done
    exec "$@"
  )
}

end_all() {
  local id
  ckpt-run --root "$reg" --list 2>/dev/null | while read -r id _; do
    ckpt-run --root "$reg" --delete "$id" --force || true
  done
}

pid_of() {
  ckpt-run --root "$reg" --list | awk -v id="$1" '$1 == id { print $3 }'
}

# Waits until a command succeeds: at most 20 s, however slow the machine.
eventually() {
  local i
  for i in $(seq 400); do
    if "$@"; then return 0; fi
    sleep 0.05
  done
  echo "never: $*" >&2
  return 1
}

# The last number in a file that a counter writes, and whether it goes on.
last() { echo "$((10#$(tail -n 1 "$1")))"; }
beyond() { [ "$(last "$1")" -gt "$2" ]; } # file number
counts_on() { eventually beyond "$1" "$(last "$1")"; }

pss_sum() { # of the tree under a pid, in KiB
  local pid sum=0
  for pid in $1 $(cat /proc/"$1"/task/*/children); do
    sum=$((sum + $(awk '/^Pss:/ { print $2 }' /proc/"$pid"/smaps_rollup)))
  done
  echo "$sum"
}

# The command, with the most memory that it had, in KiB, in a file.
peak() { # file command...
  python3 -c 'import os, sys
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
open(sys.argv[1], "w").write("%d\n" % usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))' "$@"
}

# For a command that must fail: bats takes no notice of `! command`.
no() { if "$@"; then return 1; fi; }

# Is the process gone, or at most a zombie that nobody has waited for yet?
gone() { no grep -q '^State:.[RSDTt]' "/proc/$1/status" 2>/dev/null; }
