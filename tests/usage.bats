# What all programs have in common: --help, --version, manuals, wrong usage, forms of options.
bats_require_minimum_version 1.5.0
load helpers

setup() { setup_dirs; }

programs() { basename -a "$bin"/ckpt-*; }

@test "--help fits a screen, --version names the version, both succeed" {
  for program in $(programs); do
    echo "$program"
    "$program" --help >"$tmp/help" 2>"$tmp/errors"
    [ ! -s "$tmp/errors" ]
    [ "$(wc -l <"$tmp/help")" -le 24 ]
    [ "$(wc -L <"$tmp/help")" -le 96 ]
    grep -q "^usage: $program " "$tmp/help"
    "$program" -help | cmp - "$tmp/help"
    "$program" --version | head -n 1 | grep -Eqx "$program [0-9.]+"
  done
}

@test "wrong usage is status 2 and says so on standard error" {
  for program in $(programs); do
    for wrong in --no-such-option --image-path; do
      run --separate-stderr "$program" "$wrong"
      echo "$program $wrong: $status: $stderr"
      [ "$status" -eq 2 ]
      [ -z "$output" ]
      [[ ${stderr_lines[0]} == "$program: "* ]]
    done
  done
}

@test "every program has a manual that knows each of its options" {
  for program in $(programs); do
    manual=$here/src/$program.1
    [ -s "$manual" ]
    for option in $("$program" --help | sed -nE 's/^  --([a-z-]+).*/\1/p'); do
      echo "$program --$option"
      grep -Eq "Fl -$option( |\$)" "$manual"
    done
  done
}

@test "manuals are well-formed" {
  command -v mandoc || skip "mandoc is not installed"
  for manual in "$here"/src/*.1; do
    mandoc -T lint -W warning "$manual"
  done
}

@test "options in each form" {
  mkdir "$tmp/none"
  for form in "--image-path $tmp/none" "--image-path=$tmp/none" "-image-path $tmp/none" \
    "-image-path=$tmp/none"; do
    # shellcheck disable=SC2086
    run ckpt-read-direct $form
    [ "$status" -eq 1 ]
    [[ $output == *"$tmp/none: holds no checkpoint"* ]]
  done
  run ckpt-checkpoint --root "$tmp" --leave-running=perhaps --image-path x y
  [ "$status" -eq 2 ]
  run ckpt-checkpoint --root "$tmp" --deadline 12x --image-path x y
  [ "$status" -eq 2 ]
  run ckpt-checkpoint --root "$tmp" --deadline 99999999999999999999 --image-path x y
  [ "$status" -eq 2 ]
}

@test "make install puts programs and manuals in their places" {
  make -C "$here" --no-print-directory install DESTDIR="$tmp/root" PREFIX=/usr >/dev/null
  for program in $(programs); do
    [ -x "$tmp/root/usr/bin/$program" ]
    [ -s "$tmp/root/usr/share/man/man1/$program.1" ]
  done
}
