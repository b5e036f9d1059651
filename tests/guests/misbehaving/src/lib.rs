//! What the misbehaving guests do, whatever their WASI. For tests only.
//!
//! | path | what happens |
//! |---|---|
//! | `/ok`, `/healthz` | answers `ok` |
//! | `/loop` | loops for ever |
//! | `/block` | waits for something that never comes (0.3: without parking the guest) |
//! | `/block-sync` | the same in one blocking call, which parks the whole guest |
//! | `/allocate` | allocates without end |
//! | `/trap` | traps |
//! | `/panic` | panics, with a message on stderr |
//! | `/stream?chunks=N&delay_ms=M` | N lines `chunk 0` and so on, M milliseconds between them |
//! | `/stream-trap?chunks=N&delay_ms=M` | the same, and traps instead of ending it |
//! | `/slow?ms=M` | answers `ok` after M milliseconds |
//! | `/env` | the environment as a JSON object |
//! | `/log` | writes a line to stdout and one to stderr, then answers `ok` |
//! | `/flood?lines=N` | writes N lines to stdout, then answers `ok` |
//! | `/outbound?url=U` | relays the answer to `GET U`, or answers 502 with the error's text |
//! | `/upload-trap?url=U` | sends the first part of a `POST U`, and traps when the answer begins |
//! | `/post-return-loop` | answers `ok`, then loops for ever |
//! | `/exit` | ends its process |
//! | `/count` | how many requests this guest has had on this path, from 1 |
//! | `/mutual?namespace=N` | asks the next instance of `N` the same, and so on for ever |
//! | `/fs?path=P` | the contents of a file, or the names in a folder, or 500 with the error |
//! | `/socket?addr=A` | connects to `A` by TCP: `ok`, or 500 with the error |

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;

/// What the shell has to do itself, because it takes waiting or streaming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Answer with this status and text.
    Answer(u16, String),
    /// Wait for ever, letting others go on if the WASI can.
    Block,
    /// Wait for ever in one blocking call.
    BlockSync,
    /// Send so many chunks with so many milliseconds between them. See [`chunk`].
    Stream {
        /// How many.
        chunks: u64,
        /// Milliseconds before each but the first.
        delay_ms: u64,
        /// Whether to [`trap`] after the last one.
        traps: bool,
    },
    /// Answer `ok` after so many milliseconds.
    Slow(u64),
    /// Send a GET there and relay the answer.
    Outbound(String),
    /// Send a POST there and of its body the first [`chunk`], wait for the answer's head, and [`trap`].
    UploadTrap(String),
    /// Answer `ok`, then call [`spin`].
    PostReturnLoop,
}

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Does what the path says, as far as it needs no WASI beyond the standard library's.
#[must_use]
pub fn act(target: &str) -> Deed {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    };
    let number = |name: &str, default: u64| parameter(name).and_then(|value| value.parse().ok()).unwrap_or(default);
    match path {
        "/ok" | "/healthz" => ok(),
        "/loop" => spin(),
        "/block" => Deed::Block,
        "/block-sync" => Deed::BlockSync,
        "/allocate" => allocate(),
        "/trap" => trap(),
        "/panic" => panic!("the path says so"),
        "/stream" | "/stream-trap" => {
            Deed::Stream { chunks: number("chunks", 3), delay_ms: number("delay_ms", 0), traps: path == "/stream-trap" }
        }
        "/slow" => Deed::Slow(number("ms", 100)),
        "/env" => Deed::Answer(200, environment()),
        "/log" => {
            println!("a line on stdout");
            eprintln!("a line on stderr");
            std::io::stdout().flush().expect("stdout can be written");
            ok()
        }
        "/flood" => {
            for line in 0..number("lines", 1) {
                println!("a flood, line {line}");
            }
            ok()
        }
        "/outbound" | "/upload-trap" => match parameter("url") {
            Some(url) if path == "/outbound" => Deed::Outbound(url.to_owned()),
            Some(url) => Deed::UploadTrap(url.to_owned()),
            None => Deed::Answer(400, "?url= is missing".to_owned()),
        },
        "/post-return-loop" => Deed::PostReturnLoop,
        "/exit" => std::process::exit(1),
        "/count" => Deed::Answer(
            200,
            COUNT.with(|count| {
                count.set(count.get() + 1);
                count.get().to_string()
            }),
        ),
        "/mutual" => {
            let namespace = parameter("namespace").unwrap_or("misbehaving");
            Deed::Outbound(format!("http://{namespace}.internal/mutual?namespace={namespace}"))
        }
        "/fs" => file(parameter("path").unwrap_or("/")),
        "/socket" => match TcpStream::connect(parameter("addr").unwrap_or("127.0.0.1:1")) {
            Ok(_) => ok(),
            Err(error) => Deed::Answer(500, error.to_string()),
        },
        _ => Deed::Answer(404, format!("no deed is called {path}")),
    }
}

/// The `n`th chunk of a stream.
#[must_use]
pub fn chunk(n: u64) -> Vec<u8> {
    format!("chunk {n}\n").into_bytes()
}

/// Loops for ever.
pub fn spin() -> ! {
    let mut round = 0u64;
    loop {
        round = std::hint::black_box(round.wrapping_add(1));
    }
}

fn ok() -> Deed {
    Deed::Answer(200, "ok".to_owned())
}

fn allocate() -> ! {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(std::hint::black_box(vec![1; 1024 * 1024]));
    }
}

/// Executes what can't be executed. Not inlined, so that its name is in the backtrace.
#[inline(never)]
pub fn trap() -> ! {
    #[cfg(target_family = "wasm")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_family = "wasm"))]
    std::process::abort();
}

fn environment() -> String {
    let mut json = String::from("{");
    for (name, value) in std::env::vars() {
        let comma = if json.len() > 1 { "," } else { "" };
        // Rust's escapes are JSON's for what an environment holds in tests.
        write!(json, "{comma}{name:?}:{value:?}").expect("a String can be written");
    }
    json.push('}');
    json
}

fn file(path: &str) -> Deed {
    let read = || {
        if std::fs::metadata(path)?.is_dir() {
            let names: Result<Vec<_>, _> =
                std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
            names.map(|names| names.join("\n"))
        } else {
            std::fs::read_to_string(path)
        }
    };
    match read() {
        Ok(text) => Deed::Answer(200, text),
        Err(error) => Deed::Answer(500, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_parameters() {
        assert_eq!(act("/ok"), ok());
        assert_eq!(act("/stream?chunks=2&delay_ms=5"), Deed::Stream { chunks: 2, delay_ms: 5, traps: false });
        assert_eq!(act("/slow?ms=x"), Deed::Slow(100));
        assert_eq!(act("/outbound?url=http://a/b?c=d"), Deed::Outbound("http://a/b?c=d".to_owned()));
        assert_eq!(act("/count"), Deed::Answer(200, "1".to_owned()));
        assert_eq!(act("/count"), Deed::Answer(200, "2".to_owned()));
        assert!(matches!(act("/nothing"), Deed::Answer(404, _)));
    }
}
