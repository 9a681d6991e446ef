# Servers in containers: the same for runc and crun.
bats_require_minimum_version 1.5.0
load helpers
load containers

setup_file() {
  setup_runtime_file
  bundle "$shared/redis" --program "$(command -v redis-server)" --program "$(command -v redis-cli)" \
    -- redis-server --save "" --enable-debug-command yes
  bundle "$shared/nginx" --program /usr/sbin/nginx \
    --capabilities CAP_CHOWN,CAP_SETUID,CAP_SETGID,CAP_DAC_OVERRIDE,CAP_KILL,CAP_NET_BIND_SERVICE -- nginx
  mkdir -p "$shared"/nginx/rootfs/{etc/nginx,srv,var/lib/nginx,var/log/nginx}
  cat >"$shared/nginx/rootfs/etc/nginx/nginx.conf" <<'CONF'
daemon off;
user nobody nogroup;
worker_processes 2;
error_log /var/log/nginx/error.log;
events { }
http {
  access_log off;
  server { listen 80; root /srv; location = /worker { return 200 "$pid\n"; } }
}
CONF
  head -c 300000 /dev/urandom >"$shared/nginx/rootfs/srv/page"
}
setup() { setup_runtime; }
teardown() { end_containers; }

redis() { # id command...
  local id=$1
  shift
  oci exec "$id" redis-cli "$@"
}
answers() { [ "$(redis "$1" ping)" = PONG ]; }
counter_beyond() { [ "$(redis "$1" get counter)" -gt "$2" ]; }

@test "redis with 100,000 keys: the digest is equal, a client connects again" {
  own_bundle redis
  start_container "$box"
  eventually answers "$box"
  redis "$box" debug populate 100000
  digest=$(redis "$box" debug digest)
  # A client of the same network, connected all the time. Its counter goes into another database.
  oci exec --detach "$box" sh -c 'exec </dev/null >/dev/null 2>&1
    while :; do redis-cli -n 1 -r -1 -i 0.02 incr counter; done'
  client() { redis "$1" -n 1 get counter; }
  client_beyond() { [ "$(client "$1")" -gt "$2" ]; }
  eventually client_beyond "$box" 3
  checkpoint --tcp-close "$box"
  restore --tcp-close "$mark-again"
  eventually answers "$mark-again"
  [ "$(redis "$mark-again" dbsize)" = 100000 ]
  eventually client_beyond "$mark-again" "$(client "$mark-again")"
  # The digest is of all databases: the client's must be empty.
  oci exec "$mark-again" killall sh redis-cli
  redis "$mark-again" -n 1 flushdb
  [ "$(redis "$mark-again" debug digest)" = "$digest" ]
  # From outside, in its network namespace.
  [ "$(nsenter --target "$(init_of "$mark-again")" --net redis-cli ping)" = PONG ]
  oci kill "$mark-again" TERM
  eventually is "$mark-again" stopped
  oci delete "$mark-again"
  oci delete "$box"
  nothing_remains
}

page() { # id path
  nsenter --target "$(init_of "$1")" --net python3 -c '
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen("http://127.0.0.1" + sys.argv[1], timeout=20).read())' "$2"
}
serves() { page "$1" /worker >/dev/null 2>&1; }

@test "nginx with two workers serves on, and its master still reloads them" {
  own_bundle nginx
  start_container "$box"
  eventually serves "$box"
  workers() { oci exec "$1" sh -c "ps -o pid,args | awk '/worker process/ && !/awk/ { print \$1 }'" | sort | xargs; }
  before=$(workers "$box")
  [ "$(wc -w <<<"$before")" = 2 ]
  checkpoint "$box"
  restore "$mark-again"
  eventually serves "$mark-again"
  [ "$(workers "$mark-again")" = "$before" ]
  page "$mark-again" /page | cmp - "$bundle/rootfs/srv/page"
  [[ " $before " == *" $(page "$mark-again" /worker) "* ]]
  oci kill "$mark-again" HUP
  replaced() { no grep -qwE "${before// /|}" <<<"$(workers "$mark-again")" && serves "$mark-again"; }
  eventually replaced
  oci kill "$mark-again" QUIT
  eventually is "$mark-again" stopped
}
