//! Who of a room's members is given a message, where more is said than each of them is to get.
//!
//! The master, by which everything that is said in a room comes, measures ([`Budget`]) and writes into
//! each message's record for what share of the members it is. Whether a certain one is among these is a
//! function of the message's position and of the connection's number alone: whoever asks, before or
//! after a death, here or where the connection has moved to, comes to the same answer.

use crate::ids::{Cid, Position};

/// Bits of a fraction.
const BITS: u32 = 24;
const ONE: u64 = 1 << BITS;

/// For how many of the members a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    #[default]
    All,
    /// For all, and at once: it waits for no window's end and is left out for nobody.
    First,
    Part(Fraction),
}

/// Less than one; never nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fraction(u32);

impl Fraction {
    /// `n` of 2^24.
    #[must_use]
    pub fn new(n: u32) -> Fraction {
        Fraction(n.clamp(1, ONE as u32 - 1))
    }
}

impl Share {
    /// As a number of 25 bits, where 0 is all.
    #[must_use]
    pub fn pack(self) -> u32 {
        match self {
            Share::All => 0,
            Share::First => 1 << BITS,
            Share::Part(Fraction(n)) => n,
        }
    }

    /// `None`: no share is packed so.
    #[must_use]
    pub fn unpack(packed: u32) -> Option<Share> {
        match packed {
            0 => Some(Share::All),
            n if n < 1 << BITS => Some(Share::Part(Fraction(n))),
            n if n == 1 << BITS => Some(Share::First),
            _ => None,
        }
    }

    /// Is the message at this position for this connection, which is in its room? Who has said it gets
    /// it, whatever the share.
    #[must_use]
    pub fn includes(self, position: Position, said_by: Cid, cid: Cid) -> bool {
        match self {
            Share::All | Share::First => true,
            Share::Part(Fraction(share)) => cid == said_by || place(position, cid) < share,
        }
    }
}

/// Messages of which each connection gets its share evenly: see [`place`].
const BLOCK_BITS: u32 = 6;

/// Where the message stands for this connection, evenly spread over all fractions.
///
/// From one message to the next it goes on by the golden ratio, so that among any neighbours a connection
/// gets the share that it should, give or take one; where it begins is another for each connection, so
/// that each message goes to as many as it should; and it begins anew every 64 messages, so that
/// nobody who speaks in some rhythm is always heard, or never.
fn place(position: Position, cid: Cid) -> u32 {
    const GOLDEN: u32 = 0x9e_3779;
    let block = position.offset >> BLOCK_BITS;
    let begin = mix(cid.0 ^ mix(block ^ mix(position.epoch)));
    let step = (position.offset & ((1 << BLOCK_BITS) - 1)) as u32;
    (begin as u32).wrapping_add(step.wrapping_mul(GOLDEN)) & (ONE as u32 - 1)
}

/// The finalizer of SplitMix64: each bit of what comes in changes half of those that go out.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// How much of what is said in a room its members can still be given: a vessel into which so many
/// messages a second come, and which holds those of half a second. As long as it is half full, a message
/// is for all; the emptier it is, the smaller the share. So the share settles where as much goes out
/// as comes in, without a jump that would leave out one message for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Parts of messages, each of [`ONE`].
    left: u64,
    at_ms: u64,
}

impl Budget {
    #[must_use]
    pub fn new(per_second: u32, now_ms: u64) -> Budget {
        Budget {
            left: 2 * half(per_second),
            at_ms: now_ms,
        }
    }

    /// For how many a message is that is said now; `first`: for all, whatever is left.
    pub fn take(&mut self, per_second: u32, first: bool, now_ms: u64) -> Share {
        let half = half(per_second);
        // Nothing more comes in than fits.
        let passed = now_ms.saturating_sub(self.at_ms).min(60_000);
        let comes = passed * u64::from(per_second) * ONE / 1_000;
        self.left = (self.left + comes).min(2 * half);
        self.at_ms = now_ms;
        if first || self.left >= half {
            self.left = self.left.saturating_sub(ONE);
            return match first {
                true => Share::First,
                false => Share::All,
            };
        }
        let share = self.left * ONE / half;
        self.left -= share;
        Share::Part(Fraction::new(share as u32))
    }
}

/// Of what fits in: a quarter of a second's, and one message at least.
fn half(per_second: u32) -> u64 {
    (u64::from(per_second) * ONE / 4).max(ONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 1_790_000_000_000;

    fn gets(share: Share, offset: u64, cid: u64) -> bool {
        let position = Position {
            epoch: EPOCH,
            offset,
        };
        share.includes(position, Cid(u64::MAX), Cid(cid))
    }

    #[test]
    fn shares_come_back() {
        let part = |n| Share::Part(Fraction::new(n));
        for share in [Share::All, Share::First, part(0), part(77), part(u32::MAX)] {
            assert_eq!(Share::unpack(share.pack()), Some(share));
        }
        assert_eq!(Share::unpack((1 << BITS) + 1), None);
    }

    /// A connection gets its share of what is said, and of what each sender says, in any second; a
    /// message goes to its share of the connections.
    #[test]
    fn it_is_fair_over_connections_messages_and_senders() {
        for percent in [1, 5, 20, 50, 90] {
            let share = Share::Part(Fraction::new(ONE as u32 / 100 * percent));
            let fraction = f64::from(percent) / 100.0;
            let (connections, messages) = (1_000, 1_024);
            for cid in 1..=connections {
                let got = |offsets: &mut dyn Iterator<Item = u64>| {
                    offsets.filter(|n| gets(share, *n, cid)).count() as f64
                };
                let in_all = got(&mut (0..messages));
                let expected = fraction * messages as f64;
                // Two for each block in which it begins anew, as a random walk.
                assert!((in_all - expected).abs() < 14.0, "{percent} {in_all}");
                for second in (0..messages).step_by(64) {
                    let got = got(&mut (second..second + 64));
                    assert!((got - fraction * 64.0).abs() < 3.0, "{percent} {got}");
                }
            }
            for offset in 0..messages {
                let of_message = (1..=connections).filter(|cid| gets(share, offset, *cid));
                let (of_message, expected) =
                    (of_message.count() as f64, fraction * connections as f64);
                let deviation = (expected * (1.0 - fraction)).sqrt();
                assert!(
                    (of_message - expected).abs() < 5.0 * deviation + 1.0,
                    "{percent} {of_message}"
                );
            }
            // Whatever the rhythm of a sender, nobody gets far more of it than others do.
            for every in [2, 3, 5, 8, 13, 21, 34, 55, 64, 89, 144, 233] {
                for cid in 1..=50 {
                    let said = 1_000;
                    let heard = (0..said).filter(|n| gets(share, n * every, cid));
                    let (heard, expected) = (heard.count() as f64, fraction * said as f64);
                    let deviation = (expected * (1.0 - fraction)).sqrt();
                    assert!(
                        (heard - expected).abs() < 6.0 * deviation + 6.0,
                        "{percent} {every} {heard}"
                    );
                }
            }
        }
    }

    #[test]
    fn who_has_said_it_hears_it() {
        let share = Share::Part(Fraction::new(1));
        let position = Position {
            epoch: EPOCH,
            offset: 9,
        };
        assert!(share.includes(position, Cid(3), Cid(3)));
        let others = (10..10_000).filter(|cid| share.includes(position, Cid(3), Cid(*cid)));
        assert!(others.count() < 5);
    }

    /// What a member can expect to be given of each second in which so many messages are said.
    fn given(budget: u32, said: u64, seconds: u64) -> Vec<f64> {
        let mut of = Budget::new(budget, 5_000);
        let second = |second: u64| {
            let mut sum = 0.0;
            for n in 0..said {
                let now = 5_000 + second * 1_000 + n * 1_000 / said;
                sum += match of.take(budget, false, now) {
                    Share::All | Share::First => 1.0,
                    Share::Part(Fraction(n)) => f64::from(n) / ONE as f64,
                };
            }
            sum
        };
        (0..seconds).map(second).collect()
    }

    #[test]
    fn a_member_gets_its_budget_and_what_is_less_comes_whole() {
        for budget in [1, 4, 20, 100, 1_000] {
            let per_second = f64::from(budget);
            for times in [2, 3, 10, 100, 1_000] {
                let given = given(budget, u64::from(budget) * times, 10);
                let first = per_second * 1.5 + 2.0;
                assert!(given[0] <= first, "{budget} × {times}: {given:?}");
                for second in &given[2..] {
                    let close = (second - per_second).abs() < per_second * 0.05 + 0.5;
                    assert!(close, "{budget} × {times}: {given:?}");
                }
            }
            for said in [1, u64::from(budget)] {
                let given = given(budget, said, 10);
                assert!(
                    given.iter().all(|n| (n - said as f64).abs() < 0.01),
                    "{given:?}"
                );
            }
        }
    }

    /// Messages that come in the same instant are for some, each of them.
    #[test]
    fn nothing_is_left_out_for_everybody() {
        let mut budget = Budget::new(20, 1_000);
        let mut least = ONE as u32;
        for _ in 0..50 {
            if let Share::Part(Fraction(n)) = budget.take(20, false, 1_000) {
                least = least.min(n);
            }
        }
        assert!(least > 1 << 8, "{least}");
    }

    #[test]
    fn what_comes_first_is_for_all_and_paid_for() {
        let mut budget = Budget::new(4, 1_000);
        for _ in 0..100 {
            assert_eq!(budget.take(4, true, 1_000), Share::First);
        }
        assert!(matches!(budget.take(4, false, 1_100), Share::Part(_)));
        // A clock that stands, or goes back, takes nothing.
        assert!(matches!(budget.take(4, false, 0), Share::Part(_)));
        assert_eq!(budget.take(4, false, 1_000_000), Share::All);
    }
}
