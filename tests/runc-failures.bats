# A restore that cannot be: one clear error, and nothing is left. The same for runc and crun.
bats_require_minimum_version 1.5.0
load helpers
load containers

setup_file() {
  setup_runtime_file
  bundle "$shared/shell" --tmpfs /run --tmpfs /tmp -- \
    sh -c 'i=0; while :; do i=$((i+1)); echo $i >/run/count; sleep 0.05; done'
}
setup() {
  setup_runtime
  own_bundle shell
  start_container "$box"
  eventually oci exec "$box" test -s /run/count
  checkpoint "$box"
  oci delete "$box"
}
teardown() { end_containers; }

as_before() { remains | cmp -s "$tmp/remains-before" -; }

# The restore fails with these words, and all is as it was before.
fails() { # pattern [options] id
  local pattern=$1 files
  shift
  files=$(fingerprint "$bundle" 2>/dev/null || true)
  remains >"$tmp/remains-before"
  status=0
  restore "$@" || status=$?
  [ "$status" -ne 0 ]
  [[ $(cat "$tmp/said") =~ $pattern ]]
  [[ $(cat "$tmp/said") == ckpt-restore:* ]]
  eventually as_before || { remains | diff "$tmp/remains-before" - && return 1; }
  [ "$(fingerprint "$bundle" 2>/dev/null || true)" = "$files" ]
}

@test "a runtime that is not there" {
  name=$runtime
  fails 'no-such-runtime' --runtime no-such-runtime "$mark-again"
  fails '/no/such/runc' --runtime /no/such/runc "$mark-again"
  runtime=$name
  restore "$mark-again"
}

@test "an id that exists, running or stopped: its owner is not touched" {
  restore "$mark-again"
  pid=$(init_of "$mark-again")
  fails "$mark-again.*exist" "$mark-again"
  is "$mark-again" running
  [ "$(init_of "$mark-again")" = "$pid" ]
  oci kill "$mark-again" KILL
  eventually is "$mark-again" stopped
  fails "$mark-again.*exist" "$mark-again"
}

@test "no bundle, a bundle without config.json, with a damaged one, without a rootfs" {
  whole=$bundle
  bundle=$tmp/nowhere
  fails "$tmp/nowhere" "$mark-again"
  bundle=$whole
  mv "$bundle/config.json" "$tmp/kept"
  fails 'config.json' "$mark-again"
  head -c 100 "$tmp/kept" >"$bundle/config.json"
  fails "$bundle: " "$mark-again"
  cp "$tmp/kept" "$bundle/config.json"
  mv "$bundle/rootfs" "$tmp/rootfs"
  fails 'rootfs' "$mark-again"
  mv "$tmp/rootfs" "$bundle/rootfs"
  restore "$mark-again"
}

@test "an entrypoint that is gone, or another program than the image's" {
  rm "$bundle/rootfs/usr/bin/sh"
  fails 'sh' "$mark-again"
  ln -s busybox "$bundle/rootfs/usr/bin/sh"
  mv "$bundle/rootfs/usr/bin/busybox" "$tmp/busybox"
  (cat "$tmp/busybox" && echo) >"$bundle/rootfs/usr/bin/busybox"
  chmod 0755 "$bundle/rootfs/usr/bin/busybox"
  fails '/usr/bin/busybox: .*bytes' "$mark-again"
  echo no program >"$bundle/rootfs/usr/bin/busybox"
  fails "container's program" "$mark-again"
  mv "$tmp/busybox" "$bundle/rootfs/usr/bin/busybox"
  restore "$mark-again"
}

@test "a bundle with other namespaces than the container had" {
  jq '.linux.namespaces |= map(select(.type != "pid"))' "$bundle/config.json" >"$tmp/config"
  cp "$tmp/config" "$bundle/config.json"
  fails 'pid' "$mark-again"
}

@test "an image that is damaged or of no container, and no image" {
  mv "$tmp/image" "$tmp/whole"
  fails 'image' "$mark-again"
  cp -r "$tmp/whole" "$tmp/image"
  printf 'XXXX' | dd of="$tmp/image/pages.img" bs=1 seek=2000 conv=notrunc status=none
  fails 'pages.img|checksum' "$mark-again"
}

# All of the image but its end, for as long as somebody reads.
slow_stage() {
  ckpt-read-direct --image-path "$tmp/image" >"$tmp/stream"
  printf '#!/bin/sh\nhead -c %d "%s"\nexec sleep 60\n' "$(($(stat -c %s "$tmp/stream") - 64))" \
    "$tmp/stream" >"$tmp/slow"
  chmod +x "$tmp/slow"
}

fails_and_leaves_nothing() { # job
  status=0
  wait "$1" || status=$?
  [ "$status" -ne 0 ]
  eventually as_before
}

@test "a restore that is canceled, or whose ckpt-rebuild is killed, leaves no container" {
  slow_stage
  remains >"$tmp/remains-before"
  for signal in TERM KILL; do
    restore --stage ckpt-read-direct="$tmp/slow" "$mark-again" &
    restoring=$!
    eventually is "$mark-again" running
    orchestrator=$(pgrep -P "$restoring" -x ckpt-restore || pgrep -f "^ckpt-restore .*$mark-again\$")
    rebuild=$(pgrep -P "$orchestrator" -x ckpt-rebuild)
    if [ "$signal" = KILL ]; then kill -KILL "$rebuild"; else kill "-$signal" "$orchestrator"; fi
    fails_and_leaves_nothing "$restoring"
  done
  restore "$mark-again"
}

@test "a restore that is canceled while the runtime creates the container leaves none" {
  cat >"$tmp/slow-runtime" <<END
#!/bin/sh
case " \$* " in *" create "*) touch "$tmp/creating" && sleep 1 ;; esac
exec $(command -v "$runtime") "\$@"
END
  chmod +x "$tmp/slow-runtime"
  remains >"$tmp/remains-before"
  for signal in INT KILL; do
    restore --runtime "$tmp/slow-runtime" "$mark-again" &
    restoring=$!
    eventually test -e "$tmp/creating"
    rm "$tmp/creating"
    orchestrator=$(pgrep -f "^ckpt-restore .*$mark-again\$")
    if [ "$signal" = KILL ]; then kill -KILL "$(pgrep -P "$orchestrator" -x ckpt-rebuild)"; fi
    kill -"$signal" "$orchestrator"
    fails_and_leaves_nothing "$restoring"
  done
}

@test "a paused restore that fails at its end leaves no container" {
  remains >"$tmp/remains-before"
  status=0
  restore --paused --pid-file "$tmp/nowhere/pid" "$mark-again" || status=$?
  [ "$status" -eq 1 ]
  grep -q nowhere "$tmp/said"
  eventually as_before
}

# The image with one member of its first object of a kind changed.
edited() { # kind member value
  ckpt-read-direct --image-path "$tmp/image" | python3 "$fixtures_src/edit-stream.py" "$1" "$2" "$3" >"$tmp/edited"
}

@test "an image does not choose what root executes" {
  printf '#!/bin/sh\ntouch %s\n' "$tmp/executed" >"$tmp/evil"
  chmod +x "$tmp/evil"
  edited checkpoint runtime "\"$tmp/evil\""
  run close_others ckpt-rebuild --root "$root" --bundle "$bundle" --id "$mark-again" <"$tmp/edited"
  [ "$status" -eq 1 ]
  [[ $output == *"name one with --runtime"* ]]
  [ ! -e "$tmp/executed" ]
}

@test "a container that ends while it is looked at is said to have ended" {
  bundle=$tmp/short
  bundle "$bundle" -- sleep 1000
  for delay in 0 0.01 0.02 0.03 0.05; do
    start_container "$box"
    init=$(init_of "$box")
    (
      sleep "$delay"
      kill -KILL "$init"
    ) 3>&- &
    status=0
    ckpt-load --leave-running --root "$root" "$box" >"$tmp/stream" 2>"$tmp/said" || status=$?
    wait
    cat "$tmp/said"
    if [ "$status" -ne 0 ]; then grep -E "$box: the container has ended|$box is stopped" "$tmp/said"; fi
    oci delete --force "$box"
  done
}
