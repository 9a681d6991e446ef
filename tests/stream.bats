# Strangers in the stream: a program written from its document alone, and bytes that are no stream.
load helpers

setup() {
  setup_dirs
  run_detached web "$fixtures/counter" "$tmp/count"
  eventually test -s "$tmp/count"
}
teardown() { end_all; }

@test "a program written from the document edits a state frame, and the result restores" {
  ckpt-load --root "$reg" web | ckpt-scan-zero |
    python3 "$fixtures_src/edit-stream.py" process threads.0.name '"renamed"' |
    ckpt-compress | python3 "$fixtures_src/edit-stream.py" process umask 63 >"$tmp/stream"
  ckpt-run --root "$reg" --delete web --force
  close_others ckpt-rebuild --root "$reg" <"$tmp/stream"
  counts_on "$tmp/count"
  [ "$(cat "/proc/$(pid_of web)/comm")" = renamed ]
  grep -q '^Umask:.*0077' "/proc/$(pid_of web)/status"
}

@test "an edit that the tree cannot have is refused by name" {
  ckpt-load --root "$reg" web >"$tmp/whole"
  ckpt-run --root "$reg" --delete web --force
  python3 "$fixtures_src/edit-stream.py" process descriptors.0.file 4711 <"$tmp/whole" >"$tmp/bad"
  run ckpt-rebuild --root "$reg" <"$tmp/bad"
  [ "$status" -eq 1 ]
  [[ $output == *"4711"* ]]
  python3 "$fixtures_src/edit-stream.py" process umask '"x"' <"$tmp/whole" >"$tmp/bad"
  run ckpt-rebuild --root "$reg" <"$tmp/bad"
  [ "$status" -eq 1 ]
  [[ $output == *"process"*"umask"* ]]
  [ -z "$(ckpt-run --root "$reg" --list)" ]
}

# pages NUMBER.FIELD VALUE TEXT: that lie about the second frame of pages is refused.
lie_is_refused() {
  python3 "$fixtures_src/edit-stream.py" PAGES "1.$1" "$2" <"$tmp/whole" >"$tmp/bad"
  run ckpt-rebuild --root "$reg" <"$tmp/bad"
  echo "$1 $2: $output"
  [ "$status" -eq 1 ]
  [ "${#lines[@]}" -eq 1 ]
  [[ $output == *"$3"* ]]
  [ -z "$(ckpt-run --root "$reg" --list)" ]
}

@test "frames of pages that lie are refused, and nothing is left" {
  ckpt-load --root "$reg" web | ckpt-compress >"$tmp/whole"
  ckpt-run --root "$reg" --delete web --force
  lie_is_refused space 4711 "page frame of space 4711, which no state frame knows"
  lie_is_refused address 4096 "is in no private mapping"
  lie_is_refused address $((0x7ffffff00000)) "is in no private mapping"
  lie_is_refused codec 2 "does not decompress"
  no pgrep -f "^$fixtures/counter $tmp/count"
}

@test "a frame that comes twice counts twice, and is there" {
  ckpt-load --root "$reg" web | python3 "$fixtures_src/edit-stream.py" PAGES 1.times 3 >"$tmp/stream"
  ckpt-run --root "$reg" --delete web --force
  ckpt-inspect --verify - <"$tmp/stream"
  close_others ckpt-rebuild --root "$reg" <"$tmp/stream"
  counts_on "$tmp/count"
}

# Every reader, with its way of being called.
readers() {
  cat <<'READERS'
ckpt-scan-zero
ckpt-compress
ckpt-decompress
ckpt-rebuild
ckpt-inspect -
ckpt-write-direct --image-path image
READERS
}

@test "every reader refuses what is no whole stream, with one line that names the offset" {
  ckpt-load --root "$reg" web >"$tmp/whole"
  cd "$tmp"
  ckpt-run --root "$reg" --delete web --force
  head -c -1 whole >cut-at-end
  head -c 5000 whole >cut-within
  head -c 30 whole >cut-in-header
  : >empty
  head -c 4096 /dev/urandom >random
  { cat whole && echo; } >longer
  { head -c 70 whole && printf '\377' && tail -c +72 whole; } >flipped
  while read -r -a reader; do
    for input in cut-at-end cut-within cut-in-header empty random longer flipped; do
      status=0
      if [ "${reader[0]}" = ckpt-rebuild ]; then reader=(ckpt-rebuild --root "$reg"); fi
      "${reader[@]}" <"$input" >/dev/null 2>errors || status=$?
      echo "${reader[*]} $input: $status: $(cat errors)"
      [ "$status" -eq 1 ]
      [ "$(wc -l <errors)" -eq 1 ]
      grep -q "^${reader[0]}: .*offset [0-9]" errors
      [ ! -e image ] || [ -z "$(ls -A image)" ]
    done
  done < <(readers)
  [ -z "$(ckpt-run --root "$reg" --list)" ]
}
