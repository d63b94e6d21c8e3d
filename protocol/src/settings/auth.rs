//! Who may do what: the keys that tokens are checked with, and what who has none may do.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// What who has no token may do. `None`: everything for who came through a listener on a
    /// loopback address, nothing for others.
    pub anonymous: Option<Anonymous>,
    /// Each with another `kid`.
    pub keys: Vec<Key>,
    /// One of these is in a token's `aud`. Empty: a token has none.
    pub audience: Vec<String>,
    /// What a token without the claim `rooms` allows in every room.
    pub rights: Rights,
    /// How far the clocks of who makes tokens may be off.
    pub leeway_ms: u64,
    /// Who needs a token and shows none is closed after this.
    pub timeout_ms: u64,
    /// So long before its token expires a client is asked for the next one.
    pub ask_before_ms: u64,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            anonymous: None,
            keys: Vec::new(),
            audience: Vec::new(),
            rights: [Right::Join, Right::Send, Right::Presence, Right::History]
                .into_iter()
                .collect(),
            leeway_ms: 5_000,
            timeout_ms: 10_000,
            ask_before_ms: 30_000,
        }
    }
}

/// What who has no token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    Nothing,
    /// All but sending.
    Read,
    Full,
}

impl Anonymous {
    /// In every room.
    #[must_use]
    pub fn rights(self) -> Rights {
        match self {
            Anonymous::Nothing => Rights::default(),
            Anonymous::Read => [Right::Join, Right::Presence, Right::History]
                .into_iter()
                .collect(),
            Anonymous::Full => [Right::Join, Right::Send, Right::Presence, Right::History]
                .into_iter()
                .collect(),
        }
    }
}

/// What tokens are checked with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// By which a token says that it was made with this one.
    pub kid: String,
    pub algorithm: Algorithm,
    pub material: Material,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256: the secret.
    HS256,
    /// Ed25519: the public key, 32 bytes.
    EdDSA,
    /// ECDSA with P-256 and SHA-256: the public key, an uncompressed point (SEC 1, 2.3.3).
    ES256,
}

/// A key's bytes, which may be secret: nothing shows them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Material(ByteBuf);

impl Material {
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Material {
        Material(ByteBuf::from(bytes))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Something that not everybody may do in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Right {
    Join = 1,
    Send = 2,
    Presence = 4,
    History = 8,
    Moderate = 16,
}

impl Right {
    pub const ALL: [Right; 5] = [
        Right::Join,
        Right::Send,
        Right::Presence,
        Right::History,
        Right::Moderate,
    ];

    /// As tokens and the configuration say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Right::Join => "join",
            Right::Send => "send",
            Right::Presence => "presence",
            Right::History => "history",
            Right::Moderate => "moderate",
        }
    }

    #[must_use]
    pub fn named(word: &str) -> Option<Right> {
        Right::ALL.into_iter().find(|right| right.as_str() == word)
    }
}

/// Some of the rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rights(u8);

impl Rights {
    #[must_use]
    pub fn has(self, right: Right) -> bool {
        self.0 & right as u8 != 0
    }

    #[must_use]
    pub fn with(self, others: Rights) -> Rights {
        Rights(self.0 | others.0)
    }

    #[must_use]
    pub fn without(self, right: Right) -> Rights {
        Rights(self.0 & !(right as u8))
    }

    /// Those that it has, in the order of [`Right::ALL`].
    pub fn each(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.has(*right))
    }

    /// As a byte, and back; bits that are no right's are dropped.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    #[must_use]
    pub fn from_bits(bits: u8) -> Rights {
        let all: Rights = Right::ALL.into_iter().collect();
        Rights(bits & all.0)
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Rights {
        Rights(rights.into_iter().fold(0, |bits, right| bits | right as u8))
    }
}
