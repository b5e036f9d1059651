# What there is to do in this repository. CI runs `just check` and `just test`; everything else is for people.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

# What components are built for.
wasm := "wasm32-wasip2"

# The package that compiles for `wasm` only, and those that are worth building for it.
guest_only := "--exclude guest"
guests := "-p guest -p problem -p gateway -p storage -p echo -p registry-static"
test_guests := shell("for guest in tests/guests/*/; do printf -- '-p %s ' \"$(basename \"$guest\")\"; done")

# Flags for what ships: built with the profile that `just profile` makes, which code that has changed since does without.
shipped := shell('printf -- "-Cprofile-use=%s\037-Cllvm-args=-no-pgo-warn-mismatch" "$1"', justfile_directory() / "host/host.profdata")

# List the recipes
default:
    @just --list --unsorted

# Build everything and install `host` into cargo's bin folder
build: target
    CARGO_ENCODED_RUSTFLAGS={{ quote(shipped) }} cargo install --locked --path host

# Build everything and run `host run` with the arguments given
run *arguments: target
    CARGO_ENCODED_RUSTFLAGS={{ quote(shipped) }} cargo run --release --locked -p host -- run "$@"

# Run storage, gateway or echo alone under stock `wasmtime serve`, with further arguments for it
serve name *arguments: target
    components/serve.sh "$@"

# Run all tests: unit, property and end to end; arguments go to `cargo test`
test *arguments: target
    # The binary that the end-to-end tests drive, with the features that other tests need: else the runtime and what it
    # stands on would be compiled once more for those. The same goes for the features of `compose`, which has no tests;
    # nor has `bench`, which needs criterion.
    cargo build --locked -p host --features store/contract-tests
    HOST_BIN=${HOST_BIN:-$(realpath "${CARGO_TARGET_DIR:-target}/debug/host")} \
        cargo test --locked --workspace {{ guest_only }} --exclude compose --exclude bench "$@"

# Make the pictures of the dashboard in the README anew
screenshots: target
    cargo build --locked -p host
    cargo test --locked -p e2e --test dashboard -- --ignored screenshots

# Run the tests that kill, swap and break things much longer than `just test` does. Takes about half an hour
soak: target
    cargo build --locked -p host
    CRASH_ROUNDS=1000 cargo test --locked -p e2e --test crash
    # One file at a time, and nothing beside it: what is measured is the process's memory.
    SWAP_ROUNDS=100 SWAPS_IN_A_ROW=1000 cargo test --locked -p e2e --test swap -- --nocapture --test-threads 1
    BAD_ROUNDS=50 cargo test --locked -p e2e --test bad_revisions -- --nocapture --test-threads 1
    KILL_ROUNDS=200 cargo test --locked -p e2e --test swap_restart -- --nocapture

# Check format, lints, documentation and dependencies
check: target
    cargo fmt --all --check
    cargo clippy --locked --workspace {{ guest_only }} --all-targets -- -D warnings
    cargo clippy --locked --target {{ wasm }} {{ guests }} {{ test_guests }} -- -D warnings
    cargo clippy --locked --target {{ wasm }} -p storage --features wasi-0-3 -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace {{ guest_only }} --no-deps --document-private-items
    cargo deny check bans licenses sources
    just advisories

# Check the dependencies for known vulnerabilities
advisories:
    #!/usr/bin/env bash
    set -euo pipefail
    if cargo deny fetch db; then
        cargo deny check advisories
    else
        echo "skipped: the check for known vulnerabilities needs https://github.com/rustsec/advisory-db" >&2
    fi

# Measure the host beside its peers on this machine: one table; arguments as `tests/bench/figures.py --help` says
bench *arguments: target bench-guests
    #!/usr/bin/env bash
    set -euo pipefail
    for tool in wrk nginx haproxy redis-benchmark:redis-server etcd:etcd-server; do
        command -v "${tool%:*}" >/dev/null || { echo "${tool%:*} is missing: apt-get install ${tool#*:}" >&2; exit 1; }
    done
    command -v wasmtime >/dev/null || { echo "wasmtime is missing: cargo install --locked wasmtime-cli@48.0.8" >&2; exit 1; }
    command -v oha >/dev/null || cargo install --quiet --locked oha@1.16.0
    CARGO_ENCODED_RUSTFLAGS={{ quote(shipped) }} cargo build --release --locked -p host -p bench
    tests/bench/figures.py "$@"

# Make the profile that `just build` uses anew: builds an instrumented host and loads it. Takes a quarter of an hour
profile: target bench-guests
    tests/bench/profile.sh

# Measure the key-value store beside Redis and etcd, over HTTP; then the log alone; arguments as those of `bench`
bench-store *arguments:
    just bench --only store "$@"
    just bench-log

# Measure the stages of a request one by one, without sockets; arguments as criterion's
bench-stages *arguments: target bench-guests
    CARGO_ENCODED_RUSTFLAGS={{ quote(shipped) }} cargo bench --locked -p host -p bench --bench stages -- "$@"

# Measure what requests notice of hot swaps, and how long these take; arguments as `tests/bench/swap.py --help` says
bench-swap *arguments: target
    #!/usr/bin/env bash
    set -euo pipefail
    command -v wrk >/dev/null || { echo "wrk is missing: apt-get install wrk" >&2; exit 1; }
    CARGO_ENCODED_RUSTFLAGS={{ quote(shipped) }} cargo build --release --locked -p host -p bench
    cargo build --release --locked --target {{ wasm }} --target-dir target/guests \
        -p stamped -p stamped-gateway -p stamped-storage -p stamped-echo
    tests/bench/swap.py "$@"

# Measure txlog beside Redis on this disk, in turns; then replay and compaction of a log of 1 GiB
bench-log:
    #!/usr/bin/env bash
    set -euo pipefail
    for tool in redis-server redis-benchmark; do
        command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install redis-server" >&2; exit 1; }
    done
    CARGO_ENCODED_RUSTFLAGS={{ quote(shipped) }} cargo build --release --locked -p txlog --example bench
    bench=${CARGO_TARGET_DIR:-$PWD/target}/release/examples/bench
    folder=$(mktemp -d target/bench-log.XXXXXX)
    cd "$folder"
    redis-server --unixsocket redis.socket --port 0 --appendonly yes --appendfsync always --save '' >redis.log &
    redis=$!
    trap 'kill $redis || true; wait $redis || true; rm -r "$PWD"' EXIT
    until redis-cli -s redis.socket ping >/dev/null 2>&1; do sleep 0.1; done
    for _ in 1 2 3; do
        "$bench" write 64 300000
        printf 'Redis, appendfsync always, 64 clients: '
        redis-benchmark -s redis.socket -c 64 -t set -n 300000 -d 64 -q | tr '\r' '\n' | grep requests
    done
    "$bench" replay
    "$bench" compact

# Run txlog's fuzz targets side by side, for so many seconds each
fuzz seconds="60":
    #!/usr/bin/env bash
    set -euo pipefail
    # It only starts the compiler; to optimise it would take longer than it ever runs.
    command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --debug cargo-fuzz@0.13.2
    target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
    cd host/crates/txlog
    for name in payloads recovery; do
        cargo fuzz build --sanitizer none --target-dir "$target" "$name"
    done
    # Side by side: each takes one core.
    running=()
    for name in payloads recovery; do
        # What it finds on the way is kept for the next time; what it starts from is in the repository. No sanitizer: it
        # would need a nightly compiler, and there is no unsafe code to be found out.
        mkdir -p "$target/corpus/$name"
        cargo fuzz run --sanitizer none --target-dir "$target" "$name" "$target/corpus/$name" "fuzz/seeds/$name" -- \
            -max_total_time={{ seconds }} -max_len=4096 -print_final_stats=1 2>&1 | sed -u "s/^/$name: /" &
        running+=($!)
    done
    # Both are waited for, so that none is left behind when the other fails.
    failed=0
    for one in "${running[@]}"; do
        wait "$one" || failed=1
    done
    exit $failed

# Format all Rust code
fmt:
    cargo fmt --all

# Build the container image `hostler`, for docker-compose.yml
image: target
    CARGO_ENCODED_RUSTFLAGS={{ quote(shipped) }} cargo build --release --locked -p host
    install -D "${CARGO_TARGET_DIR:-target}/release/host" target/image/host
    docker build -t hostler .

# Build the storage for both WASI versions
[private]
bench-guests: target
    mkdir -p target/bench
    cargo build --release --locked --target {{ wasm }} --target-dir target/guests -p storage -p echo -p gateway -p registry-static
    cp target/guests/{{ wasm }}/release/storage.wasm target/bench/storage-0.2.wasm
    cp target/guests/{{ wasm }}/release/echo.wasm target/bench
    cargo run --quiet --locked --profile tool -p compose -- \
        target/guests/{{ wasm }}/release/{gateway,registry_static}.wasm target/bench/gateway-standalone.wasm
    cargo build --release --locked --target {{ wasm }} --target-dir target/guests -p storage --features wasi-0-3
    cp target/guests/{{ wasm }}/release/storage.wasm target/bench/storage-0.3.wasm

# Add the target of the components, if it isn't there
[private]
target:
    #!/usr/bin/env bash
    set -euo pipefail
    if ! [ -d "$(rustc --print target-libdir --target {{ wasm }})" ]; then
        rustup target add {{ wasm }}
    fi
