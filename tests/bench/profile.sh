#!/usr/bin/env bash
# Makes host/host.profdata: what the compiler is told of the host under load. `just profile` runs it.
#
# Builds an instrumented host, loads it the ways it is used (through the gateway to storages of both WASI versions, here and
# elsewhere, reads and writes of the store, bodies that stream), and merges what it counted. Needs wrk, curl, python3, and
# llvm-tools of rustup.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=$(mktemp -d)
host=
cleanup() {
    [ -z "$host" ] || kill "$host" 2>/dev/null || true
    rm -rf "$folder"
}
trap cleanup EXIT

profdata=$(rustc --print target-libdir)/../bin/llvm-profdata
[ -x "$profdata" ] || { echo "llvm-profdata is missing: rustup component add llvm-tools" >&2; exit 1; }

# The folder's name is part of how everything is compiled: were it another each time, nothing could be kept.
target=$(realpath -m "${CARGO_TARGET_DIR:-target}/profile")
counts=$target/counts
CARGO_ENCODED_RUSTFLAGS="-Cprofile-generate=$counts" \
    cargo build --release --locked -p host --target-dir "$target"
# Build scripts and macros have counted too.
rm -rf "$counts"

# The host is also the storage elsewhere, so its address has to be known before it starts.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
cat >"$folder/hostler.toml" <<MANIFEST
[components.gateway]
source = "builtin:gateway"
route = "/"
[components.storage]
source = "builtin:storage"
instances = ["storage-1", "storage-2", "storage-3"]
environment = { STORAGE_NAME = "{instance}" }
[components.storage-0-3]
source = "$PWD/target/bench/storage-0.3.wasm"
namespace = "storage-0-3"
[components.echo]
source = "builtin:echo"
route = "/echo"
[components.standalone]
source = "$PWD/target/bench/gateway-standalone.wasm"
namespace = "standalone"
environment = { STORAGE_SERVICES = "$url" }
allowed-outbound-hosts = ["$url"]
MANIFEST
cat >"$folder/set.lua" <<'LUA'
wrk.method, wrk.body = "POST", '{"key":"key","value":"a value of some length, as values are"}'
wrk.headers["content-type"] = "application/json"
LUA
echo 'wrk.method, wrk.body = "POST", string.rep("x", 100000)' >"$folder/echo.lua"

"$target/release/host" run -f "$folder/hostler.toml" --listen "127.0.0.1:$port" --internal-listen 127.0.0.1:0 \
    --data-dir "$folder/data" >"$folder/addresses" 2>"$folder/log" &
host=$!
until grep -q internal "$folder/addresses"; do
    kill -0 "$host" || { cat "$folder/log" >&2; exit 1; }
    sleep 0.1
done
internal=$(sed -n 's/^internal *//p' "$folder/addresses")
for name in far-1 far-2; do
    curl -fsS "$internal/register" -H 'content-type: application/json' \
        -d "{\"namespace\":\"far\",\"name\":\"$name\",\"address\":\"$url\"}"
done
wrk -t1 -c32 -d6s "$url/services/far/data"
wrk -t1 -c32 -d3s "$url/services/standalone/data"
wrk -t1 -c32 -d12s "$url/data"
wrk -t1 -c32 -d6s "$url/services/storage-0-3/data"
wrk -t1 -c64 -d6s -s "$folder/set.lua" "$url/api/set"
wrk -t1 -c32 -d4s "$url/api/get?key=key"
wrk -t1 -c8 -d3s -s "$folder/echo.lua" "$url/echo"
wrk -t1 -c4 -d2s "$url/status"
kill "$host"
wait "$host"
host=
"$profdata" merge --sparse -o host/host.profdata "$counts"/*.profraw
ls -l host/host.profdata
