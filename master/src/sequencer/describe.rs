//! What a worker has asked, in words, for the master's log.

use protocol::record::{Cids, Up};
use protocol::shown::shown;

/// What it is, with the beginning of what a client wrote.
pub(super) fn describe(up: &Up<'_>) -> String {
    match *up {
        Up::Publish {
            asker, room, data, ..
        }
        | Up::Release {
            asker, room, data, ..
        } => {
            format!(
                "a message for room \"{}\" by {}: {}",
                room.escape_ascii(),
                asker.cid,
                shown(data.bytes)
            )
        }
        Up::Open { asker, room } | Up::Hold { asker, room } => {
            format!("room \"{}\" for {}", room.escape_ascii(), asker.cid)
        }
        Up::Who { asker, room, .. } | Up::Watch { asker, room } => {
            format!(
                "who is in room \"{}\", for {}",
                room.escape_ascii(),
                asker.cid
            )
        }
        Up::Moderate { room, by, .. } => {
            let (room, by) = (room.escape_ascii(), by.escape_ascii());
            format!("a decision of {by} about room \"{room}\"")
        }
        Up::Withhold {
            asker, room, data, ..
        } => {
            format!(
                "a message for those who moderate room \"{}\", by {}: {}",
                room.escape_ascii(),
                asker.cid,
                shown(data.bytes)
            )
        }
        Up::Members { room, count, .. } => format!("{count} members of room {room}"),
        Up::Users { room, came, gone } => {
            format!("{} and {} users of room {room}", came.len(), gone.len())
        }
        Up::Recounted => "the end of a count".to_owned(),
        Up::List { room } => format!("who is in room {room}"),
        Up::Ask { asker, what, .. } => format!("{} for {}", shown(what), asker.cid),
        Up::Told { asker, .. } => format!("an answer for {}", asker.cid),
        Up::Ack { cids } => format!("an acknowledgement of {}", list(cids)),
        Up::Closed { cids } => format!("the end of {}", list(cids)),
    }
}

fn list(cids: Cids<'_>) -> String {
    let first: Vec<String> = cids.iter().take(8).map(|cid| cid.to_string()).collect();
    first.join(", ")
}
