# THE OFFLINE WAY, for machines that reach Debian's packages but no image registry. See offline.sh.
#
# Stand-ins for the images that Dockerfile and docker-compose.yml name, made of Debian's packages: what they run is the
# version that Debian has, whatever the tag says. They take the same settings, as far as these files use them.

FROM debian:bookworm-slim AS packages
# Certificates that the host trusts (a proxy's, perhaps): made by offline.sh.
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN apt-get update -qq \
 && printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d

FROM packages AS haproxy
RUN apt-get install -y -qq --no-install-recommends haproxy wget
USER haproxy
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]

FROM packages AS redis
RUN apt-get install -y -qq --no-install-recommends redis-server && install -d -o redis -g redis /data
VOLUME /data
WORKDIR /data
USER redis
CMD ["redis-server", "--protected-mode", "no"]

FROM packages AS postgres
RUN apt-get install -y -qq --no-install-recommends postgresql \
 && install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data && ln -s /usr/lib/postgresql/*/bin /opt/bin
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data PGHOST=/tmp
VOLUME /var/lib/postgresql/data
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "/usr/local/bin/docker-entrypoint.sh"]
CMD ["postgres"]

FROM packages AS prometheus
RUN apt-get install -y -qq --no-install-recommends prometheus wget && install -d -o nobody /prometheus
VOLUME /prometheus
WORKDIR /prometheus
USER nobody
ENTRYPOINT ["prometheus"]

FROM packages AS node
RUN apt-get install -y -qq --no-install-recommends nodejs npm

# The last one: Docker's older builder makes all that stand before the one that is asked for.
FROM packages AS rust
RUN apt-get install -y -qq --no-install-recommends gcc libc6-dev
# The host's toolchain.
COPY toolchain /usr/local
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo
RUN cargo --version && rustc --version
