//! `host join`.

use tokio::signal::unix::{SignalKind, signal};

use super::JoinArgs;
use crate::join::Joiner;

/// Keeps the service registered until SIGTERM or SIGINT.
pub(crate) async fn join(args: JoinArgs) -> anyhow::Result<()> {
    let client = args.host.client()?;
    let joiner = Joiner::of_service(client, args.namespace, args.name, args.url, &args.health_path)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(joiner.run(stop).await?)
}
