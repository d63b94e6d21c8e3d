//! What may not be asked: whoever asks it all the same is told so.

use protocol::ids::Role;
use protocol::output::{Full, Output};
use protocol::settings::{Anonymous, Right};

use super::{Client, Flow};
use crate::authorize::Access;
use crate::client::request::FEED;
use crate::client::{Code, Verb};
use crate::close::CloseReason;
use crate::moderation::{EVERYWHERE, MASTER_IS_OLD};

/// For people.
const TOO_LONG: &str = "data is too large for this room";

impl Client<'_> {
    /// What may not be asked is answered here.
    pub(super) fn refuse(
        &mut self,
        out: &mut impl Output,
        id: &[u8],
        verb: &Verb<'_>,
        access: Access<'_>,
    ) -> Result<Option<Flow>, Full> {
        let (room, right, and) = match verb {
            Verb::Auth { .. } | Verb::Ping => return Ok(None),
            _ if access == Access::Nobody(Anonymous::Nothing) => {
                self.error(out, id, Code::Unauthorized, "a token is needed")?;
                return Ok(Some(Flow::Close(CloseReason::Unauthorized)));
            }
            Verb::Leave { .. } => return Ok(None),
            // For whom it is, the listener says, and it is only to be joined.
            Verb::Join { room, .. } if room == FEED => {
                if self.meta.role == Role::Admin {
                    return Ok(None);
                }
                self.error(
                    out,
                    id,
                    Code::Forbidden,
                    "only operators may join this room",
                )?;
                return Ok(Some(Flow::Next));
            }
            Verb::Send {
                author: Some(_), ..
            } if !self.settings.rooms.releases => {
                self.error(out, id, Code::Unavailable, MASTER_IS_OLD)?;
                return Ok(Some(Flow::Next));
            }
            Verb::Moderate { room, .. } => {
                let room = room.as_deref().unwrap_or(EVERYWHERE);
                return self.refuse_moderator(out, id, room, access);
            }
            Verb::Join { room, wants } if wants.presence == Some(true) => {
                (room, Right::Join, Some(Right::Presence))
            }
            Verb::Join { room, .. } => (room, Right::Join, None),
            Verb::Send {
                room,
                priority,
                author,
                ..
            } => {
                let moderates = *priority || author.is_some();
                (room, Right::Send, moderates.then_some(Right::Moderate))
            }
            Verb::Who { room, .. } => (room, Right::Presence, None),
            Verb::History { room, .. } => (room, Right::History, None),
        };
        let refused = access.refuses(room, right);
        match refused.or_else(|| access.refuses(room, and?)) {
            // Whether one may send is the master's to say, which knows all that comes before it.
            None if right == Right::Send => self.refuse_long(out, id, verb),
            None => self.refuse_banned(out, id, room, access.user()),
            Some(message) => {
                self.error(out, id, Code::Forbidden, message)?;
                Ok(Some(Flow::Next))
            }
        }
    }

    /// In rooms of some names, less may be said at once than in others.
    fn refuse_long(
        &self,
        out: &mut impl Output,
        id: &[u8],
        verb: &Verb<'_>,
    ) -> Result<Option<Flow>, Full> {
        let Verb::Send { room, data, .. } = verb else {
            return Ok(None);
        };
        let most = self.settings.options.of(room.as_bytes()).max_data;
        if most.is_none_or(|most| data.bytes.len() <= most) {
            return Ok(None);
        }
        self.error(out, id, Code::TooLarge, TOO_LONG)?;
        Ok(Some(Flow::Next))
    }
}
