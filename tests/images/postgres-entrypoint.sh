#!/bin/sh
# What the image of PostgreSQL does at its first start, as far as docker-compose.yml needs it.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?}"
  user=${POSTGRES_USER:-postgres}
  file=$(mktemp)
  printf '%s\n' "$POSTGRES_PASSWORD" >"$file"
  initdb --username="$user" --pwfile="$file" --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8
  rm "$file"
  printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  # Not on the network before it is whole.
  pg_ctl --wait --options="-c listen_addresses='' -c unix_socket_directories=/tmp" start
  createdb --host=/tmp --username="$user" "${POSTGRES_DB:-$user}"
  pg_ctl --wait stop
fi
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/tmp
