# Many of everything: more than goes into one batch of calls, in many processes.
load helpers

setup() { setup_dirs; }
teardown() { end_all; }

# Ranges of addresses with what may be done there: neighbours that are alike count as one, as the
# kernel may have joined them or not.
ranges() { # pid
  sed 's/-/ /' "/proc/$1/maps" | awk '
    { kind = $3 " " $7 }
    $1 == last && kind == what { last = $2; next }
    { if (what) print first "-" last, what; first = $1; last = $2; what = kind }
    END { print first "-" last, what }'
}

# What each process of the tree has, by its pid inside. The remote mapping, if it were left, would be
# one more.
inventory() {
  local pid
  pid=$(pid_of many)
  for pid in "$pid" $(cat /proc/"$pid"/task/*/children); do
    awk '/^NSpid:/ { print "process", $NF }' "/proc/$pid/status"
    ranges "$pid"
    find "/proc/$pid/fd" -type l -printf 'fd %f %l\n' | sed 's/:.*//' | sort
    awk '/^NSpid:/ { print "thread", $NF }' /proc/"$pid"/task/*/status | sort # not by outer number
  done
}

@test "10 children with 5 threads, 200 mappings and 300 descriptors each" {
  run_detached many "$fixtures/many" 10 5 200 300 "$tmp/beat"
  eventually test -s "$tmp/beat"
  inventory >"$tmp/before"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" many
  beat=$(cat "$tmp/beat")
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach </dev/null
  inventory >"$tmp/after"
  cmp "$tmp/before" "$tmp/after"
  [ "$(grep -c '^process' "$tmp/after")" -eq 11 ]
  [ "$(grep -c '^fd' "$tmp/after")" -ge 3000 ]
  beats_on() { [ "$(cat "$tmp/beat")" != "$beat" ]; }
  eventually beats_on
}
