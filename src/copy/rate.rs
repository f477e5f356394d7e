//! Keeping a copy below a number of bytes per second (`-r`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many bytes a second may be moved (more than 0), and when they are paid for. Both are the reference's ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// A request waits for those before it, but for a tenth of a second, and not for itself: what fits into one request is
    /// moved at once. The way of `convert`.
    After(u64),
    /// A request waits for itself as well, so that the whole work keeps to the limit. The way of `commit`.
    Before(u64),
}

/// What [`Rate::After`] lets through early.
const LEAD: Duration = Duration::from_millis(100);

/// A limit shared by all workers.
#[derive(Debug)]
pub struct RateLimit {
    rate: Rate,
    /// When all requests so far will have been paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// A limit at which nothing has been moved yet.
    pub fn new(rate: Rate) -> Self {
        RateLimit { rate, paid_at: Mutex::new(None) }
    }

    /// Claims `bytes`, and says how long to wait before using them.
    pub fn claim(&self, bytes: u64, now: Instant) -> Duration {
        let (Rate::After(per_second) | Rate::Before(per_second)) = self.rate;
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let before = paid_at.map_or(now, |paid_at| paid_at.max(now));
        // An amount that cannot be waited for is one that nobody lives to see.
        let cost = Duration::try_from_secs_f64(bytes as f64 / per_second as f64).unwrap_or(Duration::MAX);
        let paid = before.checked_add(cost).unwrap_or(before + Duration::from_secs(u64::from(u32::MAX)));
        *paid_at = Some(paid);
        match self.rate {
            Rate::After(_) => (before - now).saturating_sub(LEAD),
            Rate::Before(_) => paid - now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_queue_up() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let cases = [(Rate::Before(1000), [500, 1000, 1]), (Rate::After(1000), [0, 400, 0])];
        for (rate, waits) in cases {
            let limit = RateLimit::new(rate);
            let found = [(500, now), (500, now), (1, later)].map(|(bytes, when)| limit.claim(bytes, when).as_millis());
            assert_eq!(found, waits, "{rate:?}");
        }
        assert!(RateLimit::new(Rate::Before(1)).claim(u64::MAX, now) > Duration::from_secs(1 << 31));
    }
}
