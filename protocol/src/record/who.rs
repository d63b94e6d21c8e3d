//! Who is in a room, as records tell it.

use crate::names::Names;

/// Who is in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Who<'a> {
    /// Connections.
    pub total: u32,
    /// Users; `None`: they are not counted there.
    pub distinct: Option<u32>,
    /// All of them or some; `None`: their names are not told.
    pub users: Option<Names<'a>>,
}

impl<'a> Who<'a> {
    /// Are all of them named?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let named = self.users.map(|users| users.len() as u64);
        named.is_some() && named == self.distinct.map(u64::from)
    }

    pub(super) fn words(&self) -> [u64; 2] {
        [
            pack_counts(self.total, self.distinct),
            self.users.is_some().into(),
        ]
    }

    pub(super) fn part(&self) -> &'a [u8] {
        self.users.unwrap_or_default().as_bytes()
    }

    pub(super) fn read(counts: u64, named: u64, users: &'a [u8]) -> Option<Who<'a>> {
        let (total, distinct) = unpack_counts(counts);
        let users = Names::read(users)?;
        let users = match named {
            0 if users.is_empty() => None,
            1 => Some(users),
            _ => return None,
        };
        Some(Who {
            total,
            distinct,
            users,
        })
    }
}

/// Connections, and users plus one: 0 where these are not counted.
pub fn pack_counts(total: u32, distinct: Option<u32>) -> u64 {
    let distinct = distinct.map_or(0, |distinct| u64::from(distinct) + 1);
    u64::from(total) | distinct << 32
}

pub fn unpack_counts(word: u64) -> (u32, Option<u32>) {
    (word as u32, ((word >> 32) as u32).checked_sub(1))
}
