# Trees whose processes have lost somebody: leaders of threads, of sessions, of groups.
load helpers

setup() { setup_dirs; }
teardown() { end_all; }

checkpoint() { ckpt-checkpoint --root "$reg" --image-path "$tmp/image" "$@" web; }
restore() { close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null; }

# What there is of each process inside: number, parent, group, session.
lineage() {
  local pid
  for pid in $(pgrep --ns "$(pid_of web)" --nslist pid .); do
    awk '/^NSpid|^NSpgid|^NSsid/ { printf "%s ", $NF }' "/proc/$pid/status"
    cat "/proc/$pid/comm"
  done | sort -n
}

@test "daemons whose session leaders are dead, alone and several" {
  cat >"$tmp/program" <<'PROGRAM'
setsid sh -c '(sleep 7001 &); exit 0'
setsid sh -c '(sleep 7002 & sleep 7003 &); exit 0'
setsid sh -c 'setsid sh -c "(sleep 7004 &); exit 0"; sleep 7005'
PROGRAM
  run_detached web sh "$tmp/program"
  all_sleep() { [ "$(lineage | grep -c sleep)" -eq 5 ]; }
  eventually all_sleep
  lineage >"$tmp/before"
  checkpoint
  restore
  lineage | diff "$tmp/before" -
}

@test "a process whose first thread has exited is refused, and goes on" {
  run_detached web "$fixtures/headless" "$tmp/count"
  eventually test -s "$tmp/count"
  run ckpt-checkpoint --root "$reg" --check --pid "$(pid_of web)"
  [ "$status" -eq 1 ]
  [[ $output == *"its first thread has exited, others run on"* ]]
  run checkpoint
  [ "$status" -eq 1 ]
  [[ $output == *"its first thread has exited, others run on"* ]]
  counts_on "$tmp/count"
}
