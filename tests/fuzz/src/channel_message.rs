//! A datagram of the channel, from a process that may be broken: decoded or refused, never a panic;
//! and what is decoded survives another trip.

use protocol::channel;
use protocol::message::{ToMaster, ToWorker};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub fn channel_message(data: &[u8]) {
    trip::<ToMaster>(data);
    trip::<ToWorker>(data);
}

fn trip<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(message) = channel::decode::<M>(data) else {
        return;
    };
    let bytes = channel::encode(&message).expect("what was decoded can be encoded");
    let again: M = channel::decode(&bytes).expect("what was encoded can be decoded");
    assert_eq!(again, message);
}
