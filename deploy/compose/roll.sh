#!/bin/sh
# Replaces the containers of a service one after the other, each once the one before is healthy: a rolling upgrade, which
# compose alone does not do.
#
#   docker compose build (or pull), then
#   deploy/compose/roll.sh node         clients notice nothing: they are moved to other nodes
#   deploy/compose/roll.sh gateway      its clients are told to come back, and recover
set -eu
cd "$(dirname "$0")/../.."
service=${1:?usage: deploy/compose/roll.sh node|gateway}

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}
healthy() {
  for container in $(compose ps -q "$service"); do
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$container")" = healthy ] || return 1
  done
}

old=$(compose ps -q "$service")
count=$(echo "$old" | wc -l)
for container in $old; do
  # SIGTERM: a node leaves when its clients have moved, at most after stop_grace_period.
  docker stop -t 45 "$container" >/dev/null
  docker rm "$container" >/dev/null
  compose up --detach --no-deps --no-recreate --scale "$service=$count" "$service" >/dev/null 2>&1
  tries=0
  until healthy; do
    tries=$((tries + 1))
    [ "$tries" -lt 120 ] || { echo "a new $service is not healthy after a minute: stopped here" >&2; exit 1; }
    sleep 0.5
  done
done
