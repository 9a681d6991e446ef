# nginx: a master and workers of another user, joined by socketpairs, with listeners on TCP and UNIX
# sockets. A client is the judge.
load helpers

setup() {
  setup_dirs
  port=$((20000 + RANDOM % 10000))
  place=$(mktemp -d "${TMPDIR:-/tmp}/nginx.XXXXXX") # its workers can get at it
  chmod 0755 "$place"
  mkdir "$place/www"
  echo hello >"$place/www/index.html"
  cat >"$place/conf" <<CONF
daemon off;
worker_processes 3;
user www-data;
pid $place/pid;
error_log $place/error.log;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path $place/body;
  proxy_temp_path $place/proxy;
  fastcgi_temp_path $place/fastcgi;
  uwsgi_temp_path $place/uwsgi;
  scgi_temp_path $place/scgi;
  server {
    listen 127.0.0.1:$port;
    listen unix:$place/socket;
    root $place/www;
  }
}
CONF
  run_detached web nginx -c "$place/conf"
  eventually answers
}

teardown() {
  touch "$place/stop"
  if [ -n "${client:-}" ]; then wait "$client" || true; fi
  end_all
  rm -rf "$place"
}

answer_at() { # family address
  python3 -c '
import socket, sys
to = socket.socket(getattr(socket, sys.argv[1]))
to.settimeout(30)
to.connect(sys.argv[2] if sys.argv[1] == "AF_UNIX" else ("127.0.0.1", int(sys.argv[2])))
to.sendall(b"GET / HTTP/1.0\r\n\r\n")
text = b""
while True:
    more = to.recv(9999)
    if not more:
        break
    text += more
sys.exit(not text.endswith(b"\r\n\r\nhello\n"))' "$@" 2>/dev/null
}

answers() { answer_at AF_INET "$port" && answer_at AF_UNIX "$place/socket"; }

start_client() { # [keep]
  python3 "$fixtures_src/http-client.py" "$port" "$place/stop" "$place/result" "$@" 3>&- &
  client=$!
  eventually test -s "$place/result"
}

workers() { pgrep -P "$(pid_of web)" | sort -n | tr '\n' ' '; }
other_workers() { [ -n "$(workers)" ] && no grep -qwE "$(xargs <<<"$1" | tr ' ' '|')" <<<"$(workers)"; }

checkpoint() {
  rm -rf "$tmp/image"
  ckpt-checkpoint --root "$reg" --image-path "$tmp/image" "$@" web
}

restore() {
  close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach "$@" </dev/null
}

@test "nginx answers before, between and after, and its master still rules its workers" {
  local before i
  for i in 1 2 3; do
    checkpoint --leave-running --compression lz4
    answers
    checkpoint
    no answers
    restore
    answers
  done
  # A new generation of workers: the old one hears of its end through the channels.
  before=$(workers)
  [ "$(wc -w <<<"$before")" -eq 3 ]
  kill -HUP "$(pid_of web)"
  eventually other_workers "$before"
  answers
  checkpoint
  restore
  answers
  kill -QUIT "$(pid_of web)"
  eventually no answers
}

@test "no request fails while nginx is checkpointed and left running" {
  start_client
  for i in 1 2 3; do
    checkpoint --leave-running --tcp-close
    eventually beyond "$place/result" "$(last "$place/result")"
  done
  no grep bad "$place/result"
}

@test "a kept connection is refused; with --tcp-close it ends and new ones come" {
  start_client keep
  run checkpoint
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ established\ TCP\ connection ]]
  eventually beyond "$place/result" "$(last "$place/result")"
  checkpoint --tcp-close
  eventually grep -q bad "$place/result"
  restore --tcp-close
  answers
}
