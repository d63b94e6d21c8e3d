//! Why what was asked is refused.

/// Why the master refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The room table is full.
    Limit,
    /// The record was not one that we write.
    Internal,
    /// More than may be sent in a second, to this room or by this user, or too soon after the last.
    Rate { after_ms: u32 },
    /// Who sends is muted, for so long (0: for good).
    Muted { after_ms: u32 },
    /// Who sends is banned, for so long (0: for good).
    Banned { after_ms: u32 },
    /// There is no such message, or no such room.
    Unknown,
    /// As many are muted and banned as there is room for.
    Full,
}

impl Refusal {
    /// As a number, which is not 0.
    #[must_use]
    pub fn pack(self) -> u64 {
        match self {
            Refusal::Limit => 1,
            Refusal::Internal => 2,
            Refusal::Rate { after_ms } => 3 | u64::from(after_ms) << 32,
            Refusal::Muted { after_ms } => 8 | u64::from(after_ms) << 32,
            Refusal::Banned { after_ms } => 9 | u64::from(after_ms) << 32,
            Refusal::Unknown => 10,
            Refusal::Full => 11,
        }
    }

    #[must_use]
    pub fn unpack(word: u64) -> Option<Refusal> {
        Some(match (word as u32, (word >> 32) as u32) {
            (1, 0) => Refusal::Limit,
            (2, 0) => Refusal::Internal,
            (3, after_ms) => Refusal::Rate { after_ms },
            (8, after_ms) => Refusal::Muted { after_ms },
            (9, after_ms) => Refusal::Banned { after_ms },
            (10, 0) => Refusal::Unknown,
            (11, 0) => Refusal::Full,
            _ => return None,
        })
    }
}
