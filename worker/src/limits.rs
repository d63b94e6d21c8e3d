//! How much of what may be done in a second a connection has done.
//!
//! Its own buckets are in its [pass](crate::passes), so that they outlive brains and travel. Those of
//! an address are this brain's: what one worker's connections of it do is what is limited, and a new
//! brain begins with full ones. Those of users and rooms are the master's, through which every
//! message goes.

use std::net::IpAddr;

use protocol::bucket::{Buckets, Rate, Wait};
use protocol::output::{Full, Output};
use protocol::settings::Rates;

use crate::brain::Brain;
use crate::client::{Code, ToClient, Verb};
use crate::close::CloseReason;
use crate::moderation::Leaves;
use crate::passes::Spent;
use crate::requests::{Client, Flow};
use crate::slots::Flag;

/// The time over which refusals are counted.
const REFUSALS_MS: u64 = 10_000;

/// For people.
pub const TOO_MUCH: &str = "this is more than may be done in a second";

// Which of a pass's buckets is which.
const MESSAGES: usize = 0;
const BYTES: usize = 1;
const JOINS: usize = 2;
const REFUSALS: usize = 3;

/// With this request of so many bytes; `Err`: it is too much.
pub fn spend(
    spent: Spent,
    rates: &Rates,
    bytes: usize,
    joins: bool,
    now_ms: u64,
) -> Result<Spent, Wait> {
    let mut after = spent;
    let rate = |per_second| Rate {
        per_second,
        burst_ms: rates.burst_ms,
    };
    for (which, per_second, n) in [
        (MESSAGES, rates.connection.messages, 1),
        (BYTES, rates.connection.bytes, bytes as u64),
        (JOINS, rates.joins, joins.into()),
    ] {
        after.0[which] = rate(per_second).take(spent.0[which], n, now_ms)?;
    }
    Ok(after)
}

/// With one refusal more; `None`: that is too often.
#[must_use]
pub fn refuse(spent: Spent, rates: &Rates, now_ms: u64) -> Option<Spent> {
    let per_ten_seconds = Rate {
        per_second: (rates.refusals * 1_000).div_ceil(REFUSALS_MS),
        burst_ms: REFUSALS_MS,
    };
    let mut after = spent;
    after.0[REFUSALS] = per_ten_seconds.take(spent.0[REFUSALS], 1, now_ms).ok()?;
    Some(after)
}

impl Client<'_> {
    /// What this request takes of what may be done. `Ok(Some(…))`: it is refused.
    pub fn charge(
        &mut self,
        out: &mut impl Output,
        id: &[u8],
        verb: Option<&Verb<'_>>,
        bytes: usize,
    ) -> Result<Option<Flow>, Full> {
        let rates = &self.settings.rates;
        if matches!(verb, Some(Verb::Auth { .. })) {
            // To look at a token takes far longer than to send one.
            return Ok(self.strike());
        }
        if !rates.is_any() {
            return Ok(None);
        }
        let joins = matches!(verb, Some(Verb::Join { .. }));
        let of_connection = spend(*self.spent, rates, bytes, joins, self.now);
        let taken = of_connection.and_then(|spent| {
            let (rate, burst) = (rates.address, rates.burst_ms);
            let ip = self.slots.peer(self.slot).ip();
            // Its address has paid for what is read again, which is known for the time of a brain.
            let has_address = !self.meta.has(Flag::Unix);
            if has_address && rates.counts(ip) && !self.is_known() {
                let of_address = &mut self.addresses;
                of_address.take(ip, rate, burst, bytes as u64, self.now)?;
            }
            Ok(spent)
        });
        match taken {
            Ok(spent) => {
                *self.spent = spent;
                Ok(None)
            }
            Err(Wait(ms)) => {
                ToClient::Error {
                    id,
                    code: Code::Rate,
                    message: TOO_MUCH,
                    retry_after_ms: Some(ms),
                }
                .put_frame(out, self.meta.encoding())?;
                Ok(Some(self.strike().unwrap_or(Flow::Next)))
            }
        }
    }

    /// Counts a refusal; `Some`: that was one too many.
    fn strike(&mut self) -> Option<Flow> {
        match refuse(*self.spent, &self.settings.rates, self.now) {
            Some(spent) => {
                *self.spent = spent;
                None
            }
            None => Some(Flow::Close(CloseReason::Overloaded)),
        }
    }
}

/// By address, over all connections that this worker has of it.
pub type Addresses = Buckets<IpAddr>;

impl Brain {
    /// The master has refused what this connection asked: it is too much.
    pub(crate) fn on_rate(&mut self, slot: u32) {
        let Some(pass) = self.slots.pass(slot) else {
            return;
        };
        let spent = self.passes.spent(pass);
        match refuse(spent, &self.settings.rates, self.now) {
            Some(spent) => {
                let mut record = protocol::journal::Record::new();
                self.passes.change_spent(&mut record, pass, spent);
                self.journal.commit(&mut record);
            }
            // Behind the answers that this turn has for it.
            None => self.is_to_leave(slot, Leaves::Baton(CloseReason::Overloaded)),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::bucket::PerSecond;

    use super::*;

    fn rates() -> Rates {
        Rates {
            connection: PerSecond {
                messages: 10,
                bytes: 1_000,
            },
            joins: 1,
            burst_ms: 1_000,
            refusals: 20,
            ..Rates::default()
        }
    }

    /// Those that are done in this many seconds by one who asks every millisecond.
    fn done(rates: &Rates, seconds: u64, bytes: usize, joins: bool) -> u64 {
        let (mut spent, mut done) = (Spent::default(), 0);
        for now_ms in 0..seconds * 1_000 {
            if let Ok(after) = spend(spent, rates, bytes, joins, 5_000 + now_ms) {
                (spent, done) = (after, done + 1);
            }
        }
        done
    }

    #[test]
    fn each_limit_is_kept() {
        // The burst, and what has come in by the last millisecond.
        assert_eq!(done(&rates(), 100, 1, false), 10 + 999);
        assert_eq!(done(&rates(), 100, 500, false), 2 + 199);
        assert_eq!(done(&rates(), 100, 1, true), 1 + 99);
        assert_eq!(done(&Rates::default(), 1, 1 << 20, true), 1_000);
    }

    /// What one limit refuses takes nothing of another.
    #[test]
    fn all_or_nothing() {
        let first = spend(Spent::default(), &rates(), 1, true, 1_000).unwrap();
        for _ in 0..100 {
            assert!(spend(first, &rates(), 1, true, 1_000).is_err());
        }
        assert!(spend(first, &rates(), 900, false, 1_000).is_ok());
    }

    #[test]
    fn refusals_are_counted_and_forgiven() {
        let mut spent = Spent::default();
        for i in 0..20 {
            spent = refuse(spent, &rates(), 1_000 + i).expect("not yet too often");
        }
        assert_eq!(refuse(spent, &rates(), 1_100), None);
        assert!(refuse(spent, &rates(), 1_600).is_some());
        assert!(
            spend(spent, &rates(), 1, true, 1_100).is_ok(),
            "another bucket"
        );
    }
}
