//! Lets time pass in the registry: leases that nobody renews lapse.

use std::time::Instant;

use registry::Registry;

/// Expires leases for ever, each at its moment. A lease that begins while this sleeps lapses a TTL later at the
/// earliest, so no sleep is longer than that.
pub(super) async fn expire(registry: &Registry) {
    loop {
        let now = Instant::now();
        let next = registry.expire(now);
        let latest = now + registry.config().ttl;
        tokio::time::sleep_until(next.map_or(latest, |next| next.min(latest)).into()).await;
    }
}
