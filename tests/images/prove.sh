#!/usr/bin/env bash
# Shows what docker-compose.yml promises, with the image that the Dockerfile makes: every health check passes, the
# containers are not root and cannot write, and while nodes are restarted, killed, scaled out and in by compose, no client is
# disconnected and no message lost, doubled or out of order. Prints the figures; fails if one is not as it should be.
#
#   tests/images/prove.sh                 takes ten minutes and two cores
#   OFFLINE=1 tests/images/prove.sh       with what tests/images/offline.sh has made
#
# SUBS, RATE: subscribers and messages a second. KEEP=1 leaves the cluster there.
set -euo pipefail
cd "$(dirname "$0")/../.."

export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-tickmesh-prove}
export TICKMESH_PORT=${TICKMESH_PORT:-18080}
export COMPOSE_FILE=docker-compose.yml COMPOSE_PROFILES=
if [ -n "${OFFLINE:-}" ]; then
  export COMPOSE_FILE=docker-compose.yml:tests/images/docker-compose.offline.yml COMPOSE_PROFILES=observability,tdengine
  # The older builder asks no registry for what it needs itself.
  export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0
  export PROMETHEUS_PORT=${PROMETHEUS_PORT:-19090} GRAFANA_PORT=${GRAFANA_PORT:-13000}
fi
at=http://127.0.0.1:$TICKMESH_PORT
load=(--via "$at" --subs "${SUBS:-500}" --rate "${RATE:-100}" --rooms 10 --publishers 5 --requesters 20)

say() { printf '\n== %s\n' "$*"; }
fail() { echo "prove.sh: $*" >&2; exit 1; }
if docker compose version >/dev/null 2>&1; then compose='docker compose'; else compose=docker-compose; fi
compose() { $compose "$@"; }
state=$(mktemp -d)
finish() {
  rm -rf "$state"
  [ -n "${KEEP:-}" ] || compose down --volumes >/dev/null 2>&1
}
trap finish EXIT

# Every container is healthy, or runs where it has no health check.
all_healthy() {
  local container health
  for container in $(compose ps -q); do
    health=$(docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$container")
    [ "$health" = healthy ] || [ "$health" = running ] || return 1
  done
}
wait_healthy() {
  local tries=0
  until all_healthy; do
    tries=$((tries + 1))
    [ $tries -lt 240 ] || { compose ps; fail "not healthy after two minutes"; }
    sleep 0.5
  done
}

say "the image"
compose build node >"$state/build" 2>&1 || { tail -n 30 "$state/build"; fail "it cannot be built"; }
image=$(compose config | sed -n 's/^ *image: *\(tickmesh:.*\)$/\1/p' | head -n 1)
docker image inspect --format 'size {{.Size}} bytes, user {{.Config.User}}, health check {{.Config.Healthcheck.Test}}
labels {{json .Config.Labels}}' "$image"
# The load generator is in the image, too.
made=$(docker create "$image")
docker cp "$made:/usr/bin/tickmesh" "$state/tickmesh" && docker rm "$made" >/dev/null

say "docker-compose up"
compose up --detach >"$state/up" 2>&1 || { tail -n 30 "$state/up"; compose ps; fail "it does not come up"; }
wait_healthy
compose ps
for service in node gateway feed; do
  for container in $(compose ps -q $service); do
    docker inspect --format '{{.Name}}: user {{.Config.User}}, read-only {{.HostConfig.ReadonlyRootfs}}, capabilities dropped {{.HostConfig.CapDrop}}' "$container"
    [ "$(docker inspect --format '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}' "$container")" = '65532:65532 true' ] \
      || fail "it may write, or is root"
    pid=$(docker inspect --format '{{.State.Pid}}' "$container")
    [ "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")" = 65532 ] || fail "its process is not that user"
    [ -z "$(docker diff "$container")" ] || fail "it has written into its root"
  done
done

say "the demo quotes are on the page"
curl -sSf "$at/" | grep -q app.js
position() { curl -sSf "$at/api/v1/rooms/market_EURUSD" | sed -E 's/.*"seq":([0-9]+).*/\1/'; }
before=$(position) && sleep 5 && after=$(position)
echo "market_EURUSD: seq $before, five seconds later $after"
[ "$after" -gt "$before" ] || fail "they do not move"

restart="docker stop -t 45 \$($compose ps -q node | sed -n \${NODE}p) && $compose up -d --no-deps --no-recreate node"
kill="docker kill \$($compose ps -q node | sed -n \${NODE}p) && $compose up -d --no-deps --no-recreate node"
quiet() { "$@" 2>"$state/err" || { tail -n 40 "$state/err" >&2; fail "$1 $2 $3: not all checks held"; }; }

say "bench roll: every node stopped (SIGTERM) and started by compose, ${ROUNDS:-2} rounds"
quiet "$state/tickmesh" bench roll "${load[@]}" --rounds "${ROUNDS:-2}" --restart "($restart) >/dev/null 2>&1"
wait_healthy
say "bench kill: a node killed (SIGKILL) at random and started by compose, for ${KILL_FOR:-1m}"
quiet "$state/tickmesh" bench kill "${load[@]}" --for "${KILL_FOR:-1m}" --kill "($kill) >/dev/null 2>&1"
wait_healthy

say "bench during: --scale node=5, and back to 3"
cat >"$state/scale" <<END
set -e
$compose up -d --no-deps --no-recreate --scale node=5 node
"$state/tickmesh" cluster status --via $at
# Long enough for connections to move to them.
sleep 20
"$state/tickmesh" cluster status --via $at | tee "$state/five"
$compose up -d --no-deps --no-recreate --scale node=3 node
"$state/tickmesh" cluster status --via $at | tee "$state/three"
END
quiet "$state/tickmesh" bench during "${load[@]}" "sh '$state/scale' >'$state/scaled' 2>&1"
echo "with 5 nodes:" && cat "$state/five" && echo "and with 3 again:" && cat "$state/three"
[ "$(awk '$2 == "node" && $4 > 0' "$state/five" | wc -l)" = 5 ] || fail "not every one of 5 nodes had connections"
[ "$(grep -c ' node ' "$state/three")" = 3 ] || fail "there are not 3 nodes again"

say "bench during: deploy/compose/roll.sh node, as for an upgrade"
quiet "$state/tickmesh" bench during "${load[@]}" "deploy/compose/roll.sh node"
say "all of it held"
