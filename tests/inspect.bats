# What ckpt-inspect shows and verifies.
load helpers

setup() { setup_dirs; }
teardown() { end_all; }

# An image of a program in $tmp/image, its stream in $tmp/stream; the program runs on. Without words
# it is a counter.
make_image() {
  [ $# -gt 0 ] || set -- "$fixtures/counter"
  run_detached web "$@" "$tmp/count"
  eventually test -s "$tmp/count"
  ckpt-load --root "$reg" web | ckpt-scan-zero | ckpt-compress >"$tmp/stream"
  ckpt-write-direct --image-path "$tmp/image" <"$tmp/stream"
}

flip() { # file offset: inverts one byte
  local byte
  byte=$(od -An -tu1 -j "$2" -N 1 "$1")
  printf "\\x$(printf %x $((byte ^ 255)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

@test "tables of an image and of its stream are the same" {
  make_image
  ckpt-inspect "$tmp/image" >"$tmp/of-image"
  ckpt-inspect - <"$tmp/stream" >"$tmp/of-stream"
  cmp "$tmp/of-image" "$tmp/of-stream"
  grep -q "container web, root pid 1 of its own pid namespace, 1 processes, 1 threads" "$tmp/of-image"
  grep -Eq "^ +1 +0 +1 +1 running +1 .* counter$" "$tmp/of-image"
  grep -q "regular $fixtures/counter" "$tmp/of-image"
  grep -q "regular $tmp/count" "$tmp/of-image"
}

@test "--json holds every state object and the pages of each space" {
  make_image "$fixtures/mix" 4 50 25 small 0 # half of it are zeros
  ckpt-inspect --json "$tmp/image" >"$tmp/json"
  [ "$(jq -r '.state[] | select(.kind == "checkpoint") | .id' "$tmp/json")" = web ]
  [ "$(jq '[.state[] | select(.kind == "process")] | length' "$tmp/json")" -eq 1 ]
  jq -e '.spaces[0] | .present_pages > .stored_pages and .stored_pages >= .compressed_pages and
    .payload_bytes > 0' "$tmp/json"
  [ "$(jq .bytes "$tmp/json")" -eq "$(stat -c %s "$tmp/stream")" ]
}

@test "--verify is silent about a good image and sees one wrong bit in any of its files" {
  make_image
  run ckpt-inspect --verify "$tmp/image"
  [ "$status" -eq 0 ] && [ -z "$output" ]
  for file in checkpoint.img pages_meta.img pages.img; do
    rm -rf "$tmp/bad"
    cp -r "$tmp/image" "$tmp/bad"
    flip "$tmp/bad/$file" "$(($(stat -c %s "$tmp/bad/$file") / 2))"
    run ckpt-inspect --verify "$tmp/bad"
    [ "$status" -eq 1 ]
    [[ $output == *"$file"*"checksum does not match"* ]]
  done
}

@test "what is no checkpoint is refused" {
  mkdir "$tmp/empty"
  run ckpt-inspect "$tmp/empty"
  [ "$status" -eq 1 ]
  [[ $output == *"holds no checkpoint"* ]]
  run ckpt-inspect - </dev/null
  [ "$status" -eq 1 ]
  run ckpt-inspect
  [ "$status" -eq 2 ]
}
