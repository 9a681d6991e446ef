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

@test "what a filter does not change comes out byte for byte, from pipes and files" {
  run_detached web "$fixtures/big" 16 "$tmp/count"
  eventually test -s "$tmp/count"
  ckpt-load --root "$reg" web >"$tmp/stream"
  none=(ckpt-compress --algorithm none)
  "${none[@]}" <"$tmp/stream" >"$tmp/out" && cmp "$tmp/stream" "$tmp/out"
  cat "$tmp/stream" | "${none[@]}" | "${none[@]}" | "${none[@]}" | cmp - "$tmp/stream"
  ckpt-decompress <"$tmp/stream" | cat >"$tmp/out" && cmp "$tmp/stream" "$tmp/out"
  ckpt-scan-zero --splice <"$tmp/stream" | "${none[@]}" --splice | ckpt-scan-zero >"$tmp/out"
  ckpt-scan-zero <"$tmp/stream" | cmp - "$tmp/out"
}

@test "a payload that was damaged on the way is refused by whoever uses it" {
  run_detached web "$fixtures/big" 16 "$tmp/count"
  eventually test -s "$tmp/count"
  ckpt-load --root "$reg" web >"$tmp/stream"
  printf 'damaged' | dd of="$tmp/stream" bs=1 seek=$((8 << 20)) conv=notrunc status=none
  mkdir "$tmp/image"
  for reader in "ckpt-compress" "ckpt-write-direct --image-path $tmp/image" "ckpt-inspect -"; do
    run sh -c "$reader <'$tmp/stream' >/dev/null"
    echo "$reader: $output"
    [ "$status" -eq 1 ]
    [[ $output == *"offset "*"checksum does not match"* ]]
  done
  run sh -c "ckpt-compress --algorithm none <'$tmp/stream' | ckpt-write-direct --image-path '$tmp/image'"
  [[ $output == *"checksum does not match"* ]]
  [ -z "$(ls -A "$tmp/image")" ]
}

@test "no program needs more than 64 MiB and 4 MiB a processor, however large the target" {
  run_detached web "$fixtures/big" 300 "$tmp/count"
  eventually test -s "$tmp/count"
  mkdir "$tmp/image"
  peak "$tmp/load" ckpt-load --root "$reg" --splice web |
    peak "$tmp/scan" ckpt-scan-zero --splice |
    peak "$tmp/compress" ckpt-compress --algorithm lz4 --splice |
    peak "$tmp/write" ckpt-write-direct --image-path "$tmp/image" --direct
  tail -n 1 "$tmp"/{load,scan,compress,write}
  for program in load scan compress write; do
    [ "$(cat "$tmp/$program")" -le $((1024 * (64 + 4 * $(nproc)))) ]
  done
}

@test "where io_uring is not allowed threads write the same image" {
  run_detached web "$fixtures/big" 40 "$tmp/count"
  eventually test -s "$tmp/count"
  ckpt-load --root "$reg" web >"$tmp/stream"
  mkdir "$tmp/ring" "$tmp/threads"
  # A leak checker cannot work under strace.
  for flag in "" --direct; do
    rm -f "$tmp"/{ring,threads}/*
    ckpt-write-direct $flag --image-path "$tmp/ring" <"$tmp/stream"
    ASAN_OPTIONS=detect_leaks=0 strace -f -qq -o "$tmp/trace" -e trace=io_uring_setup,pwrite64 \
      -e inject=io_uring_setup:error=EPERM ckpt-write-direct $flag --image-path "$tmp/threads" \
      <"$tmp/stream"
    [ "$(grep -c 'pwrite64(' "$tmp/trace")" -ge 9 ]
    cmp "$tmp/ring/pages.img" "$tmp/threads/pages.img"
  done
}
