# UNIX sockets through every kind of checkpoint; and those that cannot be had.
load helpers
load cases

# Users other than root connect to sockets in it.
setup() {
  setup_cases
  place=$(mktemp -d "${TMPDIR:-/tmp}/sockets.XXXXXX")
  chmod 0755 "$place"
}

teardown() {
  end_all
  rm -rf "$place"
  if [ -n "${server:-}" ]; then kill "$server" || true; fi
}

@test "socketpairs of all types with unread data" {
  through sockets stream seqpacket datagram
}

@test "channels that a master and its workers share" {
  through sockets workers
}

@test "ends that are closed, shut down or reset" {
  through sockets closed
}

@test "listeners and connections by path, abstract and relative name" {
  through sockets path abstract relative
}

@test "names without a file: unlinked, or the listener is closed" {
  through sockets unlinked orphan
}

@test "datagrams from named, unnamed and former senders" {
  through sockets mailbox
}

@test "options, buffers, offsets of peeks, sockets that are nothing yet" {
  through sockets options
}

@test "all of them in one process" {
  through sockets
}

@test "refused: connections that wait to be accepted" {
  refused 'pid [0-9]+ fd [0-9]+ .*1 connections wait to be accepted; retry' sockets waiting
}

@test "refused: descriptors on their way" {
  refused 'fd [0-9]+ .*1 descriptors wait in its queue .*; retry' sockets rights
}

@test "refused: unread data with credentials" {
  refused 'fd [0-9]+ .*carries descriptors or credentials; retry' sockets credentials
}

@test "refused: an urgent byte" {
  refused 'fd [0-9]+ .*urgent byte' sockets urgent
}

@test "refused: a datagram socket whose target is connected elsewhere" {
  refused 'fd [0-9]+ .*has been connected elsewhere' sockets elsewhere
}

@test "refused: a peer outside the tree, which is named" {
  close_others python3 -c '
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1] + ".pid")
kept = []
while True:
    kept.append(listener.accept())' "$place/outer.sock" </dev/null >/dev/null 2>&1 &
  eventually test -s "$place/outer.sock.pid"
  server=$(cat "$place/outer.sock.pid")
  refused "fd [0-9]+ .*its other end is pid $server \(python3\), outside the tree" sockets outside
}

@test "refused at a restore: the name is in use; nothing of it is touched" {
  start_cases sockets path
  checkpoint --leave-running
  before=$(stat -c %i "$place/path.sock")
  run close_others ckpt-restore --root "$reg" --image-path "$tmp/image" --detach other
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output =~ path.sock:\ is\ in\ use ]]
  [ "$(stat -c %i "$place/path.sock")" = "$before" ]
  look
}

@test "a restore makes the socket file anew where it is gone" {
  start_cases sockets path
  checkpoint
  rm "$place/path.sock"
  restore
  look
}
