//! Whom workers run as.

use nix::unistd::{Gid, Group, Uid, User, geteuid};
use serde::{Deserialize, Serialize};

/// Linux's "nobody", on a machine that has no user of that name.
const NOBODY: u32 = 65_534;

/// What the worker's guard becomes before it makes its first brain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

impl Identity {
    /// Looks up what the configuration names. `None`: workers stay what the master is, because it
    /// is not root and cannot change it. An error comes with its key.
    pub fn find(
        user: Option<&str>,
        group: Option<&str>,
    ) -> Result<Option<Identity>, (&'static str, String)> {
        let (uid, gid) = match user {
            Some(name) => user_named(name).map_err(|message| ("user", message))?,
            None => match User::from_name("nobody") {
                Ok(Some(user)) => (user.uid, user.gid),
                _ => (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY)),
            },
        };
        let gid = match group {
            Some(name) => group_named(name).map_err(|message| ("group", message))?,
            None => gid,
        };
        Ok(geteuid().is_root().then_some(Identity {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
        }))
    }
}

/// The ids of this user, or what is to be said.
pub fn user_named(name: &str) -> Result<(Uid, Gid), String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok((user.uid, user.gid)),
        _ => Err(format!("there is no user {name:?} on this machine")),
    }
}

/// The same of a group.
pub fn group_named(name: &str) -> Result<Gid, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(format!("there is no group {name:?} on this machine")),
    }
}
