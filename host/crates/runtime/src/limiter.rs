//! How much memory a guest may have. A request for more is refused, which the guest sees as being out of memory.

use wasmtime::ResourceLimiter;

/// Counts a guest's linear memories together; its tables are bounded one by one.
pub(crate) struct Limiter {
    memory: usize,
    table_elements: usize,
    used: usize,
}

impl Limiter {
    /// For a guest that may have `memory` bytes and tables of `table_elements` each.
    pub(crate) fn new(memory: usize, table_elements: usize) -> Self {
        Self { memory, table_elements, used: 0 }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used - current.min(self.used) + desired;
        let allowed = used <= self.memory;
        if allowed {
            self.used = used;
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_counted_together() {
        let mut limiter = Limiter::new(100, 10);
        let mut grow = |from, to| limiter.memory_growing(from, to, None).expect("no error is ever returned");
        assert!(grow(0, 60));
        assert!(!grow(0, 50));
        assert!(grow(0, 40));
        assert!(!grow(60, 61));
    }

    #[test]
    fn each_table_has_the_limit_for_itself() {
        let mut limiter = Limiter::new(100, 10);
        let mut grow = |to| limiter.table_growing(0, to, None).expect("no error is ever returned");
        assert!(grow(10));
        assert!(grow(10));
        assert!(!grow(11));
    }
}
