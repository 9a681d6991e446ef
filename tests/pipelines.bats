# Stages typed by hand, in all kinds of orders.
load helpers

setup() { setup_dirs; }
teardown() { end_all; }

start_counter() {
  run_detached web "$fixtures/counter" "$tmp/count"
  eventually test -s "$tmp/count"
}

# Ends the original, restores from $tmp/stream, and sees it count on from there.
restore_stream() {
  local before
  ckpt-run --root "$reg" --delete web --force
  before=$(last "$tmp/count")
  close_others ckpt-rebuild --root "$reg" <"$tmp/stream"
  [ -n "$(pid_of web)" ]
  counts_on "$tmp/count"
}

@test "a tree runs on after a hand-typed dump" {
  start_counter
  ckpt-load --root "$reg" web >"$tmp/stream"
  counts_on "$tmp/count"
}

@test "a shell that starts programs as fast as it can is stopped and let go, over and over" {
  printf 'n=0\nwhile :; do\n  n=$((n + 1))\n  echo $n\n  sleep 0.001\ndone\n' >"$tmp/hurry"
  run_detached web sh "$tmp/hurry"
  eventually test -s "$tmp/out"
  for i in $(seq 200); do
    ckpt-load --root "$reg" web >/dev/null
  done
  counts_on "$tmp/out"
}

@test "load | rebuild" {
  start_counter
  ckpt-load --root "$reg" web >"$tmp/stream"
  restore_stream
}

@test "load | scan-zero | compress lz4 | zstd | zstd -d | rebuild" {
  start_counter
  ckpt-load --root "$reg" web | ckpt-scan-zero | ckpt-compress --algorithm lz4 | zstd -q |
    zstd -qd >"$tmp/stream"
  restore_stream
}

@test "each filter twice, and in another order" {
  start_counter
  ckpt-load --root "$reg" web | ckpt-compress | ckpt-compress | ckpt-scan-zero | ckpt-decompress |
    ckpt-scan-zero | ckpt-scan-zero | ckpt-compress --algorithm lz4 | ckpt-decompress |
    ckpt-decompress >"$tmp/stream"
  restore_stream
}

@test "a filter is a no-op on a stream in its state" {
  start_counter
  ckpt-load --root "$reg" web | ckpt-scan-zero | ckpt-compress >"$tmp/once"
  ckpt-scan-zero <"$tmp/once" | ckpt-compress --algorithm lz4 | cmp - "$tmp/once"
  ckpt-decompress <"$tmp/once" | ckpt-decompress >"$tmp/raw"
  ckpt-decompress <"$tmp/once" | cmp - "$tmp/raw"
}

@test "a truncated stream restores nothing" {
  start_counter
  ckpt-load --root "$reg" web >"$tmp/whole"
  ckpt-run --root "$reg" --delete web --force
  head -c -1 "$tmp/whole" >"$tmp/short"
  run ckpt-rebuild --root "$reg" <"$tmp/short"
  [ "$status" -eq 1 ]
  [[ $output == *"without END"* ]]
  [ -z "$(ckpt-run --root "$reg" --list)" ]
}
