#!/usr/bin/env bash
# THE OFFLINE WAY. Where images can be pulled, nobody needs this: `docker compose up` is all.
#
# Makes local images under the names that Dockerfile and docker-compose.yml use, from Debian's packages and this
# machine's Rust, for machines that reach Debian's and Rust's packages but no image registry. The two files are used
# as they are; tests/images/docker-compose.offline.yml leaves out what Debian does not have (Grafana, TDengine, the
# OpenTelemetry collector).
#
#   tests/images/offline.sh          installs Docker and makes the images that are not there; again: only what is missing
#   tests/images/offline.sh --dockerd   also starts a Docker daemon, where none runs and no init system would start it
#
# Wants root, Debian 12 or newer, and a few GB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."

start=
case "${1:-}" in
  "") ;;
  --dockerd) start=1 ;;
  *) echo "usage: tests/images/offline.sh [--dockerd]" >&2; exit 64 ;;
esac

say() { printf '\n== %s\n' "$*" >&2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

missing=()
command -v dockerd >/dev/null || missing+=(docker.io iptables)
command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || missing+=(docker-compose)
command -v debootstrap >/dev/null || missing+=(debootstrap)
if [ ${#missing[@]} -gt 0 ]; then
  say "packages: ${missing[*]}"
  apt-get update -qq
  # RUNLEVEL: the daemon that the package brings is not started here.
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

if ! docker info >/dev/null 2>&1; then
  [ -n "$start" ] || { echo "no Docker daemon answers: start one, or say --dockerd" >&2; exit 1; }
  say "dockerd"
  state=${TMPDIR:-/tmp}/tickmesh-dockerd
  mkdir -p "$state"
  # An overlay on an overlay does not work: then plain copies have to do.
  for driver in overlay2 vfs; do
    setsid dockerd --storage-driver "$driver" --data-root "$state/$driver" --pidfile "$state/pid" \
      >"$state/log" 2>&1 </dev/null &
    for _ in $(seq 60); do
      docker info >/dev/null 2>&1 && break 2
      kill -0 $! 2>/dev/null || break
      sleep 0.5
    done
  done
  docker info >/dev/null || { tail "$state/log" >&2; exit 1; }
  echo "its log and process id are in $state" >&2
fi

# The names stand in one place: where they are used.
named() {
  grep -ohE "(image:|FROM) +$1:[^ ]+" Dockerfile docker-compose.yml | head -n 1 | sed -E 's/^[^ ]+ +//'
}
absent() { ! docker image inspect "$1" >/dev/null 2>&1; }

# Debian itself, of the release that the images name.
base=debian:bookworm-slim
if absent "$base"; then
  say "$base"
  debootstrap --variant=minbase --include=ca-certificates bookworm "$scratch/root" >"$scratch/log" \
    || { tail "$scratch/log" >&2; exit 1; }
  rm -rf "$scratch"/root/var/cache/apt/archives/*.deb "$scratch"/root/var/lib/apt/lists/*
  tar -C "$scratch/root" -c . | docker import --change 'CMD ["bash"]' - "$base"
fi

context=$scratch/context
mkdir "$context"
cp tests/images/postgres-entrypoint.sh /etc/ssl/certs/ca-certificates.crt "$context"
mkdir "$context/toolchain"

make_image() {
  local target=$1 name
  name=$(named "$2")
  if absent "$name"; then
    say "$name (a stand-in)"
    DOCKER_BUILDKIT=0 docker build --quiet --file tests/images/offline.Dockerfile --target "$target" --tag "$name" "$context"
  fi
}
make_image haproxy haproxy
make_image redis redis
make_image postgres postgres
make_image prometheus prom/prometheus
make_image node node
if absent "$(named rust)"; then
  sysroot=$(rustc --print sysroot)
  # Without its documentation, which is half of it.
  cp -r "$sysroot"/bin "$sysroot"/lib "$context/toolchain"
fi
make_image rust rust
say "done"
