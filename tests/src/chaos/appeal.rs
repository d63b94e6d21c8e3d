//! When all is over, and after a restart: may everybody do what was decided last?

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::court::{Court, Measure};
use super::ledger::Ledger;
use crate::load::{Fault, Kind};
use crate::rooms::Client;
use crate::tokens::{Key, claims};

/// The name of the key, and of its file.
pub const KEY: &str = "key";

#[must_use]
pub fn key() -> Key {
    Key::secret(1)
}

/// Shown by a user. `moderates`: everywhere.
#[must_use]
pub fn token(user: &str, moderates: bool) -> String {
    let mut claims = claims(user, 86_400);
    let mut rights = vec!["join", "send", "presence", "history"];
    rights.extend(moderates.then_some("moderate"));
    claims["rooms"] = json!({ "*": rights });
    key().token(KEY, &claims)
}

/// Who was muted or banned last still is, and nobody else.
pub fn appeal(to: SocketAddr, court: &Court, ledger: &Ledger, when: &str) -> Vec<(String, Fault)> {
    let mut faults = Vec::new();
    for user in court.users() {
        let mut client = Client::with_token(to, &token(&user.name, false));
        let name = ledger.name(user.room);
        let (muted, banned) = (user.is(Measure::Mute), user.is(Measure::Ban));
        for (asked, refused) in [
            (json!({"send": name, "data": "may I?"}), muted || banned),
            (json!({ "join": name }), banned),
        ] {
            let reply = client.ask(asked.clone());
            let is_right = match refused {
                true => reply["error"]["code"] == "forbidden",
                false => reply["ok"] != Value::Null,
            };
            if !is_right {
                let what = format!("{when}, {asked} is answered {reply}: {user:?}");
                faults.push((user.name.clone(), Fault::new(Kind::Wrong, what)));
            }
        }
    }
    faults
}
