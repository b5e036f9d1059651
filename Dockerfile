# The image `hostler`: the binary `host` on Debian, and nothing else. `just image` builds it.
FROM debian:bookworm-slim

# Where values and compiled components are kept. A volume made from this folder belongs to the same user.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/hostler
ENV HOSTLER_DATA_DIR=/var/lib/hostler

# The binary, relative to this file. It must have been built for Debian 12 or older.
ARG HOST=target/image/host
COPY ${HOST} /usr/local/bin/host

USER 65532:65532
EXPOSE 8080 9090
# Finds the internal address by HOSTLER_INTERNAL (http://127.0.0.1:9090) and opens it with HOSTLER_INTERNAL_TOKEN.
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s CMD ["host", "status"]
ENTRYPOINT ["host"]
CMD ["run"]
