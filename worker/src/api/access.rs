//! Who asks, as the head of a request says: what it may, and from which page it comes.

use protocol::settings::Api;
use sha2::{Digest, Sha256};

use crate::http;

/// Whether who asks may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It has shown a token.
    All,
    /// It is on this machine, and has none; `by_token`: one would allow more.
    Read {
        by_token: bool,
    },
    Nothing,
}

/// May who asks with this head do anything, or read?
#[must_use]
pub fn access(head: &[u8], api: &Api, is_remote: bool) -> Access {
    let shown = http::values(head, "authorization");
    let nobody = match is_remote {
        true => Access::Nothing,
        false => Access::Read {
            by_token: !api.tokens.is_empty(),
        },
    };
    match shown.as_slice() {
        [] => nobody,
        [one] if api.tokens.is_empty() && !one.is_empty() => nobody,
        [one] => {
            let token = one
                .split_once(' ')
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            match token.is_some_and(|(_, token)| is_token(token.trim(), api)) {
                true => Access::All,
                false => Access::Nothing,
            }
        }
        _ => Access::Nothing,
    }
}

/// Is it one of the API's tokens?
#[must_use]
pub fn is_token(token: &str, api: &Api) -> bool {
    // What is compared are hashes: how much of them is equal says nothing of a token.
    let hash = Sha256::digest(token.as_bytes());
    api.tokens.iter().any(|known| hash[..] == known[..])
}

/// Which of the origins that may read answers has asked.
#[must_use]
pub fn origin(head: &[u8], api: &Api) -> Option<u8> {
    let [origin] = &http::values(head, "origin")[..] else {
        return None;
    };
    let at = api
        .origins
        .iter()
        .position(|one| one == "*" || one.eq_ignore_ascii_case(origin))?;
    u8::try_from(at).ok()
}
