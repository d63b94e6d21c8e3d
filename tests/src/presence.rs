//! What a client knows of who is in a room: the list that it was given, and what it was told since.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::rooms::Client;

/// Kept as a client keeps it, but that what contradicts it is a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// `None`: the room is too large for names, or the list has not come.
    pub users: Option<BTreeSet<String>>,
    pub count: u64,
    pub distinct: Option<u64>,
}

impl List {
    /// An event of presence.
    pub fn apply(&mut self, event: &Value) -> Result<(), String> {
        let fault = |what: &str| Err(format!("{what}: {event}, to {self:?}"));
        let users = match (&event["users"], &event["in"], &event["out"]) {
            (Value::Array(users), Value::Null, Value::Null) => Some(names(users)?),
            (Value::Null, Value::Array(came), Value::Array(gone)) => {
                let Some(mut users) = self.users.clone() else {
                    return fault("a change without a list");
                };
                let (came, gone) = (names(came)?, names(gone)?);
                if came.intersection(&users).next().is_some() || !gone.is_subset(&users) {
                    return fault("a change that is none");
                }
                users.extend(came);
                Some(&users - &gone)
            }
            (Value::Null, Value::Null, Value::Null) => None,
            _ => return fault("no event of presence"),
        };
        let Some(count) = event["count"].as_u64() else {
            return fault("no count");
        };
        let distinct = event["distinct"].as_u64();
        let agrees = users
            .as_ref()
            .is_none_or(|users| distinct == Some(users.len() as u64));
        let list = List {
            users,
            count,
            distinct,
        };
        if !agrees {
            return Err(format!(
                "users and their number: {event}, which makes {list:?}"
            ));
        }
        *self = list;
        Ok(())
    }
}

fn names(names: &[Value]) -> Result<BTreeSet<String>, String> {
    let set: Option<BTreeSet<String>> = names
        .iter()
        .map(|name| name.as_str().map(str::to_owned))
        .collect();
    match set {
        Some(set) if set.len() == names.len() => Ok(set),
        _ => Err(format!("not names, each once: {names:?}")),
    }
}

/// A member of a room who watches it.
#[derive(Debug)]
pub struct Watcher {
    pub client: Client,
    pub room: String,
    pub list: List,
    /// Events since the list came first.
    pub events: Vec<Value>,
}

impl Watcher {
    #[track_caller]
    pub fn join(to: SocketAddr, room: &str) -> Watcher {
        Watcher::with(Client::connect(to), room)
    }

    /// Joins, and waits for the list.
    #[track_caller]
    pub fn with(mut client: Client, room: &str) -> Watcher {
        client.ok(json!({ "join": room, "presence": true }));
        let mut watcher = Watcher {
            client,
            room: room.to_owned(),
            list: List::default(),
            events: Vec::new(),
        };
        watcher.hear();
        watcher.events.clear();
        watcher
    }

    /// The next event of presence.
    #[track_caller]
    pub fn hear(&mut self) -> &Value {
        let event = self.client.event();
        assert_eq!(event["room"], self.room.as_str(), "{event}");
        if let Err(fault) = self.list.apply(&event) {
            panic!("{fault}");
        }
        self.events.push(event);
        self.events.last().expect("it is there")
    }

    /// Hears until it is so.
    #[track_caller]
    pub fn hear_until(&mut self, is_so: impl Fn(&List) -> bool) {
        while !is_so(&self.list) {
            self.hear();
        }
    }

    /// Hears until exactly these are in the room.
    #[track_caller]
    pub fn hear_of<'a>(&mut self, users: impl IntoIterator<Item = &'a str>) {
        let users: BTreeSet<String> = users.into_iter().map(str::to_owned).collect();
        self.hear_until(|list| list.users.as_ref() == Some(&users));
    }

    /// All that has been told by name since the list came first: who came, who went.
    pub fn named(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let all = |key: &str| {
            let names = self.events.iter().flat_map(|event| event[key].as_array());
            let names = names.flatten().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        };
        (all("in"), all("out"))
    }
}
