//! A step of an HTTP connection: of a request, or its end as one.

use protocol::output::Buffer;

use super::of_rooms::flowed;
use super::{Io, Stepped, Took};
use crate::close::CloseReason;
use crate::http::{self, Endpoint, Subprotocol};
use crate::requests::{Client, Flow};
use crate::slots::{Flag, Phase};
use crate::websocket::Session;

/// `client`: what becomes one at `/rooms`, or asks the API; few requests do.
pub(super) fn step<'c>(
    input: &[u8],
    io: &mut Io<'_>,
    cx: &http::Context<'_>,
    client: impl FnOnce() -> Client<'c>,
) -> Stepped {
    let Some(mut state) = http::State::unpack([io.words[0], io.words[1]]) else {
        return Ok((0, Took::Ends(CloseReason::Internal)));
    };
    let step = http::step(&mut state, input, &mut io.message, &mut io.out, cx)?;
    let took = match step.next {
        http::Next::NeedInput => Took::NeedInput(0),
        http::Next::Again => Took::More,
        http::Next::Close(reason) => Took::Ends(reason),
        http::Next::Ask(manner) => {
            let mut client = client();
            let behind = client.offset + step.consumed as u64;
            let body = io.message.bytes();
            let (flow, waiting) = client.ask_api(body, behind, manner, &mut io.out, cx)?;
            match flow {
                Flow::RingFull => return Ok((0, Took::RingFull)),
                Flow::Unready => return Ok((0, Took::Unready)),
                _ => {}
            }
            io.message.clear();
            let took = match flow {
                Flow::Close(reason) => Took::Ends(reason),
                Flow::Opening => {
                    io.meta = io.meta.with(Flag::Opening, true);
                    Took::Opening
                }
                _ if manner.ends() => Took::Ends(CloseReason::Done),
                _ => Took::More,
            };
            io.words = [0, 0, waiting.map_or(0, crate::api::Waiting::pack)];
            return Ok((step.consumed, took));
        }
        http::Next::Upgrade(upgrade) => {
            let mut session = Session::default();
            io.meta.window = upgrade.window;
            let (phase, took) = match upgrade.endpoint {
                Endpoint::Echo => (Phase::Echo, Took::Commit),
                Endpoint::Rooms => {
                    let head = &input[..step.consumed];
                    let batch = http::wants_batches(head);
                    let msgpack = upgrade.subprotocol == Subprotocol::RoomsMsgpack;
                    io.meta = io
                        .meta
                        .with(Flag::Batch, batch)
                        .with(Flag::Msgpack, msgpack);
                    let mut client = client();
                    client.meta = io.meta;
                    let flow = client.greet(&mut io.out, &mut io.record, head)?;
                    (Phase::Rooms, flowed(flow, &mut session, io)?)
                }
            };
            // The step is taken again when the ring has room, or a back end has answered.
            if matches!(took, Took::RingFull | Took::Asking) {
                return Ok((0, took));
            }
            io.meta.phase = phase;
            io.words = session.pack();
            return Ok((step.consumed, took));
        }
    };
    let [first, second] = state.pack();
    io.words = [first, second, 0];
    Ok((step.consumed, took))
}
