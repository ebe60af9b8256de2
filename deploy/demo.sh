#!/usr/bin/env bash
# podd in one minute: a pod runs, its container is killed and started again, the agent is killed and comes back, the pod
# is deleted and nothing is left. Every line says what was done and what was seen; a step that fails ends the demo.
#
#   deploy/demo.sh [--keep]     --keep leaves the agent and the pod running and says how to reach them
set -euo pipefail
cd "$(dirname "$0")/.."

keep=
[ "${1:-}" = --keep ] && keep=yes
podd=${PODD:-target/debug/podd}
dir=$(mktemp -d /tmp/podd-demo-XXXXXX)
socket=$dir/run/podd.sock
bridge=podd-demo cidr=10.244.252.0/24 cgroup=podd-demo listen=127.0.0.1:7444
agent=

say() { printf '%-10s %s\n' "$1" "$2"; }
fail() {
    say FAILED "$1"
    [ -f "$dir/agent.log" ] && tail -n 20 "$dir/agent.log"
    exit 1
}
api() { curl --silent --show-error --fail-with-body --unix-socket "$socket" "http://localhost$1" "${@:2}"; }
pods=/api/v1/namespaces/default/pods
status() { api "$pods/demo" | jq -r "$1"; }
now() { date +%s%N; }
wait_for() { # what, command that succeeds once it is so
    local what=$1 deadline=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "waited in vain for $what"
        read -rt 0.005 <> <(:) || true
    done
}
is() { [ "$(status "$1" 2>/dev/null)" = "$2" ]; }
gone() { ! kill -0 "$1" 2>/dev/null; }

clean() {
    trap - EXIT INT TERM
    if [ -n "$agent" ] && kill -0 "$agent" 2>/dev/null; then
        api "$pods?gracePeriodSeconds=0" -X DELETE >/dev/null 2>&1 || true
        wait_for 'every pod to be gone' none_left
        kill -TERM "$agent" 2>/dev/null || true
        wait_for 'the agent to end' gone "$agent"
    fi
    ip link del "$bridge" 2>/dev/null || true
    nft list tables 2>/dev/null | awk -v b="$bridge" '$3 ~ b"$" {print $2, $3}' | while read -r family table; do
        nft delete table "$family" "$table" || true
    done
    find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} + 2>/dev/null || true
    rm -rf "$dir"
}
none_left() { [ "$(api "$pods" | jq '.items | length')" = 0 ]; }
trap clean EXIT INT TERM

serve() {
    "$podd" serve --root "$dir/root" --run-dir "$dir/run" --log-dir "$dir/log" --listen "$listen" --bridge "$bridge" \
        --pod-cidr "$cidr" --cgroup-root "$cgroup" --node-name demo >>"$dir/agent.log" 2>&1 &
    agent=$!
    # The shell is not to comment on its end.
    disown "$agent"
    local asked=$SECONDS
    until api /readyz >/dev/null 2>&1; do
        kill -0 "$agent" 2>/dev/null || fail 'the agent ended'
        [ $((SECONDS - asked)) -lt 30 ] || fail 'the agent does not become ready'
        read -rt 0.005 <> <(:) || true
    done
}

mkdir -p "$dir/image/bin" "$dir/image/tmp" "$dir/image/etc"
cp /bin/busybox "$dir/image/bin/busybox"
for applet in $(/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$dir/image/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$dir/image/etc/passwd"
tar -C "$dir/image" -cf "$dir/busybox.tar" .
say image "made a root file system from busybox-static: $(du -h "$dir/busybox.tar" | cut -f1)"

serve
say agent "podd serve is ready (pid $agent), state in $dir"

"$podd" image import "$dir/busybox.tar" --name demo/busybox:1 --socket "$socket" >/dev/null
say import "podd image import: $("$podd" image list --socket "$socket" | awk 'NR==2 {print $1}')"

cat >"$dir/pod.json" <<'JSON'
{
  "apiVersion": "v1", "kind": "Pod",
  "metadata": {"name": "demo", "labels": {"app": "demo"}},
  "spec": {
    "terminationGracePeriodSeconds": 1,
    "volumes": [{"name": "shared", "emptyDir": {}}],
    "containers": [
      {"name": "writer", "image": "demo/busybox:1", "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
       "command": ["sh", "-c", "echo life $(date +%s.%N) >> /shared/lives; exec sleep 100000"]},
      {"name": "server", "image": "demo/busybox:1", "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
       "command": ["sh", "-c", "while true; do nc -l -p 8080 < /shared/lives; done"]}
    ]
  }
}
JSON
begun=$(now)
api "$pods" -X POST -H 'Content-Type: application/json' --data-binary "@$dir/pod.json" >/dev/null
running() { is '.status.phase + " " + ([.status.containerStatuses[] | select(.state.running)] | length | tostring)' 'Running 2'; }
wait_for 'two running containers' running
say post "a pod of two containers with a shared emptyDir is Running, seen $((($(now) - begun) / 1000000)) ms after the POST began"

uid=$(status .metadata.uid)
facts() { cat "$dir/run/pods/$uid"/*/journal; }
infra() { facts | jq -r '.fact.InfraStarted.pid // empty' | tail -1; }
process() { facts | jq -r --arg c "$1" '.fact.Started | select(.container == $c) | .pid' | tail -1; }
before_infra=$(infra) before_writer=$(process writer) before_server=$(process server) before_ip=$(status .status.podIP)
say pod "infra is process $before_infra, writer $before_writer, server $before_server, address $before_ip"

begun=$(now)
kill -KILL "$before_writer"
restarted() { [ "$(process writer)" != "$before_writer" ] && is '.status.containerStatuses[] | select(.name == "writer") | .restartCount, (.state | keys[0])' $'1\nrunning'; }
wait_for 'the writer to run again' restarted
say kill "SIGKILL to writer: it runs again as process $(process writer), restartCount 1, seen after $((($(now) - begun) / 1000000)) ms"
[ "$(infra)" = "$before_infra" ] || fail 'the infra process changed'
[ "$(status .status.podIP)" = "$before_ip" ] || fail 'the address changed'
[ "$(process server)" = "$before_server" ] || fail 'the other container changed'
say same "infra $before_infra, address $before_ip and server $before_server are what they were"
lives=$(timeout 5 bash -c "exec 3<>/dev/tcp/$before_ip/8080; cat <&3" | wc -l)
[ "$lives" = 2 ] || fail "the shared volume tells of $lives lives, not of 2"
say volume "the shared emptyDir, asked for at http://$before_ip:8080, tells of both lives of writer"

seen=$(status '.status | tojson')
kill -KILL "$agent"
wait_for 'the agent to be dead' gone "$agent"
kill -0 "$(process writer)" && kill -0 "$before_server" || fail 'a container died with the agent'
say crash "SIGKILL to the agent: infra and both containers run on"
serve
[ "$(status '.status | tojson')" = "$seen" ] || fail 'the status of the pod changed over the crash'
[ "$(infra) $(process server)" = "$before_infra $before_server" ] || fail 'something was restarted'
say return "the agent is back (pid $agent): nothing was restarted, the pod's status is the same to the letter"

if [ -n "$keep" ]; then
    trap - EXIT INT TERM
    say keep "the agent runs on. Reach it with:"
    printf '  kubectl --kubeconfig %s get pods\n' "$dir/root/admin.kubeconfig"
    printf '  curl --unix-socket %s http://localhost%s\n' "$socket" "$pods"
    printf '  stop it: kubectl --kubeconfig %s delete pod --all; kill %s; ip link del %s; rm -rf %s\n' \
        "$dir/root/admin.kubeconfig" "$agent" "$bridge" "$dir"
    exit 0
fi

shim=$(facts | jq -r '.fact.Shim.pid // empty' | tail -1)
processes="$before_infra $(process writer) $before_server $shim"
begun=$(now)
api "$pods/demo" -X DELETE >/dev/null
absent() { [ "$(curl --silent --output /dev/null --write-out '%{http_code}' --unix-socket "$socket" "http://localhost$pods/demo")" = 404 ]; }
wait_for 'the pod to be gone' absent
took=$((($(now) - begun) / 1000000))
for pid in $processes; do
    wait_for "process $pid to be gone" gone "$pid"
done
unlinked() { [ -z "$(ip -o link show master "$bridge")" ]; }
wait_for 'its link to be gone' unlinked
left=$({ find "$dir/run/pods" "$dir/root/pods" "$dir/log" -mindepth 1; grep -F "$dir/" /proc/self/mountinfo; find /sys/fs/cgroup -type d -path "*/$cgroup/*pod*"; } 2>/dev/null || true)
[ -z "$left" ] || fail "left over: $left"
say delete "the pod is gone, seen after $took ms (a grace of 1 s included): no process, mount, link, cgroup or directory is left"
clean
say done "the agent was stopped and everything the demo made is removed"
