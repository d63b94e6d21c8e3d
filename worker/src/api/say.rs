//! What a back end says for a user, as far as this worker judges about it: by its words.

use protocol::api::Ask;
use protocol::format::Data;

use super::reply::fault;
use super::request::Outcome;
use crate::filter::{Filters, NOT_SAID, Verdict};

/// What becomes of a request, which may be such a one. `None`: that is not known yet.
#[must_use]
pub fn judged(asked: Outcome, filters: &Filters) -> Option<Outcome> {
    let Outcome::Ask {
        what: Ask::Say {
            room, user, key, ..
        },
        data,
        is_slow,
    } = asked
    else {
        return Some(asked);
    };
    let (data, held) = match filters.judge(&room, Data::json(&data), false) {
        Verdict::Clean => (data, false),
        Verdict::Masked(masked) => (masked, false),
        Verdict::Held => (data, true),
        Verdict::Rejected => {
            return Some(Outcome::Reply(fault(422, "rejected", NOT_SAID)));
        }
        Verdict::Waits => return None,
    };
    Some(Outcome::Ask {
        what: Ask::Say {
            room,
            user,
            key,
            held,
        },
        data,
        is_slow,
    })
}
