#!/usr/bin/env bash
# Makes host/host.profdata: what the compiler is told of the host under load. `just profile` runs it.
#
# Builds an instrumented host, loads it the ways it is used (through the gateway to storages of both WASI versions, here and
# elsewhere, reads and writes of the store, bodies that stream), and merges what it counted. Needs wrk, curl, and llvm-tools
# of rustup.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=$(mktemp -d)
hosts=()
cleanup() {
    for host in "${hosts[@]}"; do kill "$host" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap cleanup EXIT

# start NAME ARGUMENTS...: starts a host and waits until it listens. Sets `public` and `internal` to its addresses.
start() {
    local name=$1
    shift
    "$target/release/host" run --listen 127.0.0.1:0 --internal-listen 127.0.0.1:0 --data-dir "$folder/$name" "$@" \
        >"$folder/$name.addresses" 2>"$folder/$name.log" &
    hosts+=($!)
    until grep -q internal "$folder/$name.addresses"; do
        kill -0 $! || { cat "$folder/$name.log" >&2; exit 1; }
        sleep 0.1
    done
    public=$(sed -n 's/^public *//p' "$folder/$name.addresses")
    internal=$(sed -n 's/^internal *//p' "$folder/$name.addresses")
}

profdata=$(rustc --print target-libdir)/../bin/llvm-profdata
[ -x "$profdata" ] || { echo "llvm-profdata is missing: rustup component add llvm-tools" >&2; exit 1; }

# The folder's name is part of how everything is compiled: were it another each time, nothing could be kept.
target=$(realpath -m "${CARGO_TARGET_DIR:-target}/profile")
counts=$target/counts
CARGO_ENCODED_RUSTFLAGS="-Cprofile-generate=$counts" \
    cargo build --release --locked -p host --target-dir "$target"
# Build scripts and macros have counted too.
rm -rf "$counts"

start elsewhere
elsewhere=$public
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
environment = { STORAGE_SERVICES = "$elsewhere" }
allowed-outbound-hosts = ["$elsewhere"]
MANIFEST
cat >"$folder/set.lua" <<'LUA'
wrk.method, wrk.body = "POST", '{"key":"key","value":"a value of some length, as values are"}'
wrk.headers["content-type"] = "application/json"
LUA
echo 'wrk.method, wrk.body = "POST", string.rep("x", 100000)' >"$folder/echo.lua"

start here -f "$folder/hostler.toml"
for name in far-1 far-2; do
    curl -fsS "$internal/register" -H 'content-type: application/json' \
        -d "{\"namespace\":\"far\",\"name\":\"$name\",\"address\":\"$elsewhere\"}"
done
wrk -t1 -c32 -d6s "$public/services/far/data"
wrk -t1 -c32 -d3s "$public/services/standalone/data"
wrk -t1 -c32 -d12s "$public/data"
wrk -t1 -c32 -d6s "$public/services/storage-0-3/data"
wrk -t1 -c64 -d6s -s "$folder/set.lua" "$public/api/set"
wrk -t1 -c32 -d4s "$public/api/get?key=key"
wrk -t1 -c8 -d3s -s "$folder/echo.lua" "$public/echo"
wrk -t1 -c4 -d2s "$public/status"
kill "${hosts[@]}"
wait "${hosts[@]}"
hosts=()
"$profdata" merge --sparse -o host/host.profdata "$counts"/*.profraw
ls -l host/host.profdata
