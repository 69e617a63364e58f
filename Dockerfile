# tickmesh: nodes, gateways and tools in one binary.
#
#   docker build --tag tickmesh --build-arg REVISION="$(git rev-parse HEAD)" .
#
# Any builder will do: nothing here needs BuildKit.

# The web pages. They are in every image: where they cannot be built, this fails.
FROM node:22-bookworm-slim AS pages
WORKDIR /web
COPY web/package.json web/package-lock.json web/.npmrc ./
RUN npm ci --omit=dev --ignore-scripts
COPY web/build.mjs .
COPY web/ui ui
RUN node build.mjs /pages

FROM rust:1.95-slim-bookworm AS sources
WORKDIR /src
COPY . .

# The manifests and the lock file, round crates that are empty. What comes out of this is the same as long as no
# dependency changes, so the layer in which they are compiled is kept.
FROM sources AS skeleton
RUN set -eu; \
    mkdir /skeleton; \
    cp --parents Cargo.toml Cargo.lock */Cargo.toml /skeleton; \
    for manifest in */Cargo.toml; do \
        crate=/skeleton/${manifest%/Cargo.toml}/src; \
        mkdir "$crate"; \
        if [ -e "${manifest%/Cargo.toml}/src/main.rs" ]; then \
            echo 'fn main() {}' >"$crate/main.rs"; \
        else \
            : >"$crate/lib.rs"; \
        fi; \
    done

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY --from=skeleton /skeleton .
# The empty crates must not be taken for the real ones, whose files may be older than this layer.
RUN set -eu; \
    cargo build --profile dist --locked --package tickmesh --features tdengine; \
    find target -name '*tickmesh*' -prune -exec rm -rf {} +
COPY . .
COPY --from=pages /pages /pages
RUN TICKMESH_WEB=/pages cargo build --profile dist --locked --package tickmesh --features tdengine

# The image's root: the binary and the libraries that it names, with what tells scanners their versions, and licences.
RUN set -eu; \
    install -D -m 755 target/dist/tickmesh /root-fs/usr/bin/tickmesh; \
    cd /root-fs; \
    mkdir -p etc var/lib/dpkg/status.d usr/share/doc/tickmesh; \
    cp /src/LICENSE-* usr/share/doc/tickmesh; \
    ldd usr/bin/tickmesh | grep -o '/[^ )]*' | while read -r library; do \
        install -D -m 755 "$(readlink -f "$library")" "/root-fs$library"; \
        package=$(dpkg --search "*/${library##*/}" | head -n 1 | cut -d : -f 1); \
        dpkg --status "$package" >"var/lib/dpkg/status.d/$package"; \
        if [ -e "/usr/share/doc/$package/copyright" ]; then \
            cp --parents -L "/usr/share/doc/$package/copyright" .; \
        fi; \
    done; \
    cp --parents -L /etc/ssl/certs/ca-certificates.crt .; \
    echo 'tickmesh:x:65532:65532::/nonexistent:/nonexistent' >etc/passwd; \
    echo 'tickmesh:x:65532:' >etc/group; \
    echo 'hosts: files dns' >etc/nsswitch.conf

FROM scratch
COPY --from=build /root-fs /
# Numeric, so that it can be seen not to be root (Kubernetes: runAsNonRoot).
USER 65532:65532
# The others reach it, too. Nobody gets in without a token: see `tickmesh config default`.
ENV TICKMESH_NODE__LISTEN=0.0.0.0:8080
EXPOSE 8080
# Whether it is alive. Whether it should get clients is another question: `tickmesh health --ready`.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/bin/tickmesh", "health"]
ENTRYPOINT ["/usr/bin/tickmesh"]
CMD ["help"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tickmesh" \
      org.opencontainers.image.description="Realtime push cluster for market data: node, gateway and tools" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
