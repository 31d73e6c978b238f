//! Limits of a rate: token buckets that know no clock.

use std::num::NonZeroU64;
use std::time::Duration;

use vmrun_spec::RateSpec;

const SECOND_NS: i128 = 1_000_000_000;

/// How much of a second may be caught up in one go.
const BURSTS_PER_SECOND: u64 = 10;

/// What may pass, in bytes and in pieces: frames of a network, requests to a disk.
///
/// The size of a piece is known only when it is there, so it is charged afterwards: what is
/// overdrawn then is waited for. Times are those of any clock that only goes forward.
#[derive(Debug)]
pub(super) struct Limit {
    bytes: Option<Bucket>,
    packets: Option<Bucket>,
}

impl Limit {
    /// What `spec` allows from `now` on; however low the rate is, `piece` bytes may pass at once.
    pub(super) fn new(spec: Option<RateSpec>, piece: usize, now: Duration) -> Self {
        let spec = spec.unwrap_or_default();
        let piece = u64::try_from(piece).unwrap_or(u64::MAX);
        Self {
            bytes: spec.bytes.map(|rate| Bucket::new(rate, piece, now)),
            packets: spec.packets.map(|rate| Bucket::new(rate, 1, now)),
        }
    }

    /// There is one.
    pub(super) fn applies(&self) -> bool {
        self.bytes.is_some() || self.packets.is_some()
    }

    /// How long the next piece has to wait.
    pub(super) fn wait(&mut self, now: Duration) -> Option<Duration> {
        let waits = [&mut self.bytes, &mut self.packets];
        waits.into_iter().flatten().filter_map(|bucket| bucket.wait(now)).max()
    }

    /// A piece has passed.
    pub(super) fn charge(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(bytes);
        }
        if let Some(bucket) = &mut self.packets {
            bucket.charge(1);
        }
    }
}

/// Tokens that come at a rate, up to a limit, and may be overdrawn by what is charged at once.
#[derive(Debug)]
struct Bucket {
    rate: i128,
    burst: i128,
    level: i128,
    /// When the level was right.
    filled: Duration,
}

impl Bucket {
    /// A full one, of at least `least` tokens.
    fn new(rate: NonZeroU64, least: u64, now: Duration) -> Self {
        let burst = (rate.get() / BURSTS_PER_SECOND).max(least).into();
        Self { rate: rate.get().into(), burst, level: burst, filled: now }
    }

    fn wait(&mut self, now: Duration) -> Option<Duration> {
        self.fill(now);
        if self.level > 0 {
            return None;
        }
        let missing = (1 - self.level) * SECOND_NS;
        // Rounded up: a wait that is too short would be a second one.
        let wait = missing.saturating_add(self.rate - 1) / self.rate;
        Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    fn charge(&mut self, tokens: usize) {
        self.level -= i128::try_from(tokens).unwrap_or(i128::MAX / 2);
    }

    fn fill(&mut self, now: Duration) {
        let passed = nanoseconds(now.saturating_sub(self.filled));
        let tokens = passed.saturating_mul(self.rate) / SECOND_NS;
        if tokens == 0 {
            return; // What has passed is not lost: it counts the next time.
        }
        self.level = self.level.saturating_add(tokens);
        if self.level >= self.burst {
            self.level = self.burst;
            self.filled = now;
        } else {
            let used = tokens * SECOND_NS / self.rate;
            self.filled += Duration::from_nanos(u64::try_from(used).unwrap_or(u64::MAX));
        }
    }
}

fn nanoseconds(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_FRAME_BYTES: usize = 65_569;

    fn limit(bytes: u64, packets: u64) -> Limit {
        let spec = RateSpec { bytes: NonZeroU64::new(bytes), packets: NonZeroU64::new(packets) };
        Limit::new(Some(spec), MAX_FRAME_BYTES, Duration::ZERO)
    }

    /// Sends frames of `bytes` as soon as it may until `end`, and says how many those were.
    fn send(limit: &mut Limit, bytes: usize, start: Duration, end: Duration) -> u32 {
        let (mut now, mut sent) = (start, 0);
        while now < end {
            match limit.wait(now) {
                Some(wait) => now += wait,
                None => {
                    limit.charge(bytes);
                    sent += 1;
                }
            }
        }
        sent
    }

    #[test]
    fn nothing_given_is_nothing_limited() {
        let mut limit = Limit::new(None, MAX_FRAME_BYTES, Duration::ZERO);
        limit.charge(usize::MAX);
        assert!(!limit.applies() && limit.wait(Duration::ZERO).is_none());
    }

    #[test]
    fn packets_come_at_their_rate_behind_a_burst() {
        let mut limit = limit(0, 100);
        assert_eq!(send(&mut limit, 60, Duration::ZERO, Duration::from_secs(10)), 10 + 1000 - 1);
        // A long rest is not saved up.
        let (start, end) = (Duration::from_secs(100), Duration::from_secs(101));
        assert!(send(&mut limit, 60, start, end) <= 10 + 100);
    }

    #[test]
    fn bytes_come_at_their_rate_though_a_frame_is_larger_than_a_tenth_of_it() {
        let mut limit = limit(100_000, 0);
        let sent = send(&mut limit, 60_000, Duration::ZERO, Duration::from_secs(60));
        assert!((100..=103).contains(&sent), "{sent}");
    }

    #[test]
    fn the_narrower_of_two_limits_counts() {
        let mut limit = limit(1_000_000, 10);
        let sent = send(&mut limit, 1500, Duration::ZERO, Duration::from_secs(10));
        assert!((99..=101).contains(&sent), "{sent}");
    }

    proptest! {
        #[test]
        fn no_rate_is_exceeded_and_none_is_missed_by_much(rate in 1u64..=u64::MAX, frame in 1usize..70_000, seconds in 1u64..50) {
            let mut limit = limit(rate, 0);
            let (mut now, mut sent) = (Duration::ZERO, 0u128);
            let end = Duration::from_secs(seconds);
            let mut turns = 0;
            while now < end && turns < 2000 {
                turns += 1;
                match limit.wait(now) {
                    Some(wait) => {
                        prop_assert!(wait > Duration::ZERO);
                        now += wait;
                        prop_assert!(now > end || limit.wait(now).is_none());
                    }
                    None => {
                        limit.charge(frame);
                        sent += u128::try_from(frame).unwrap();
                    }
                }
            }
            let frame = u128::try_from(frame).unwrap();
            let burst = u128::from(rate / 10).max(u128::try_from(MAX_FRAME_BYTES).unwrap());
            let passed = now.min(end).as_nanos() * u128::from(rate) / 1_000_000_000;
            prop_assert!(sent <= burst + passed + frame + 1);
        }
    }
}
