//! `host rollback`.

use serde_json::json;

use super::RollbackArgs;
use super::swap::{failed, told};
use crate::swap::Swapped;

/// Brings a component back to another revision.
///
/// # Errors
/// The host refused, or can't be reached.
pub(crate) async fn rollback(args: &RollbackArgs) -> anyhow::Result<()> {
    let client = args.component.host.client()?;
    let path = args.component.path("/rollback");
    let swapped = client.roll_back(&path, &json!({"to": args.to})).await;
    let swapped: Swapped = swapped.map_err(|error| failed(&client, error))?;
    super::print(&told(&swapped))
}
