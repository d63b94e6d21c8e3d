//! A message on its way to the master.

use protocol::format::Data;
use protocol::output::{Full, Output};
use protocol::record::{Asker, Lane, Up};

use super::{Client, Flow};
use crate::client::Code;
use crate::filter::{NOT_SAID, Verdict};

/// What is sent.
pub(super) struct Said<'a> {
    pub asker: Asker<'a>,
    pub room: &'a str,
    pub from: &'a [u8],
    /// Under whose name, if it is not the sender's.
    pub author: Option<&'a str>,
    pub key: &'a [u8],
    pub lane: Lane,
    pub data: Data<'a>,
}

impl Client<'_> {
    /// Asks the master to publish it, unless there are words in it that are not to be said.
    pub(super) fn say(&mut self, out: &mut impl Output, said: Said<'_>) -> Result<Flow, Full> {
        let Said {
            asker,
            room,
            from,
            author,
            key,
            lane,
            data,
        } = said;
        let masked;
        let data = match self.filters.judge(room, data, lane.exempt) {
            Verdict::Clean => data,
            Verdict::Masked(bytes) => {
                masked = bytes;
                Data {
                    bytes: &masked,
                    ..data
                }
            }
            Verdict::Waits => return Ok(Flow::Unready),
            Verdict::Rejected => {
                self.error(out, asker.id, Code::Rejected, NOT_SAID)?;
                return Ok(Flow::Next);
            }
            Verdict::Held => {
                let room = room.as_bytes();
                return Ok(self.stage(Up::Withhold {
                    asker,
                    room,
                    from,
                    data,
                }));
            }
        };
        let room = room.as_bytes();
        Ok(self.stage(match author {
            None => Up::Publish {
                asker,
                room,
                from,
                key,
                lane,
                data,
            },
            Some(author) => Up::Release {
                asker,
                room,
                by: from,
                from: author.as_bytes(),
                key,
                lane,
                data,
            },
        }))
    }
}
