//! Keeping a copy below a number of bytes per second (`-r`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A limit shared by all workers.
#[derive(Debug)]
pub struct RateLimit {
    bytes_per_second: u64,
    /// When the next request may start.
    free_at: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// A limit of so many bytes per second; more than 0.
    pub fn new(bytes_per_second: u64) -> Self {
        RateLimit { bytes_per_second, free_at: Mutex::new(None) }
    }

    /// Claims `bytes`, and says how long to wait before using them: until they are paid for, so that also a copy that
    /// takes only a few requests keeps to the limit.
    pub fn claim(&self, bytes: u64, now: Instant) -> Duration {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free_at.map_or(now, |free_at| free_at.max(now));
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let paid = start + cost;
        *free_at = Some(paid);
        paid - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_queue_up() {
        let limit = RateLimit::new(1000);
        let now = Instant::now();
        assert_eq!(limit.claim(500, now), Duration::from_millis(500));
        assert_eq!(limit.claim(500, now), Duration::from_millis(1000));
        assert_eq!(limit.claim(1, now + Duration::from_secs(5)), Duration::from_millis(1));
    }
}
