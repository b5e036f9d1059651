#!/usr/bin/env bash
# Runs one of our components alone under stock `wasmtime serve`.
#
#   serve.sh storage|echo|gateway [arguments for `wasmtime serve`]
#
# The address is 127.0.0.1:8080 unless `--addr` says otherwise. The gateway is composed with registry-static, and finds
# its storages in STORAGE_SERVICES=http://a:1,http://b:2. Passed on: STORAGE_NAME, STORAGE_SERVICES, HOSTLER_API_KEYS.
set -euo pipefail

name=${1:-}
case $name in
storage | echo | gateway) shift ;;
*)
    echo "usage: serve.sh storage|echo|gateway [arguments for wasmtime serve]" >&2
    exit 2
    ;;
esac

if ! command -v wasmtime >/dev/null; then
    echo "wasmtime is not installed. To install it: cargo install --locked wasmtime-cli@48.0.8" >&2
    exit 1
fi

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
target=${CARGO_TARGET_DIR:-target}
out=$target/wasm32-wasip2/release

build() {
    cargo build --quiet --release --target wasm32-wasip2 "$@"
}

if [ "$name" = gateway ]; then
    build -p gateway -p registry-static
    file=$out/gateway-standalone.wasm
    cargo run --quiet --profile tool -p compose -- "$out/gateway.wasm" "$out/registry_static.wasm" "$file"
else
    build -p "$name"
    file=$out/$name.wasm
fi

arguments=(-Scli -Skeyvalue -Sconfig --addr 127.0.0.1:8080)
for argument in "$@"; do
    # A repeated --addr is an error, so ours gives way.
    case $argument in
    --addr | --addr=*) arguments=(-Scli -Skeyvalue -Sconfig) ;;
    esac
done
for variable in STORAGE_NAME STORAGE_SERVICES HOSTLER_API_KEYS; do
    if [ -n "${!variable:-}" ]; then
        arguments+=(--env "$variable")
    fi
done
exec wasmtime serve "${arguments[@]}" "$@" "$file"
