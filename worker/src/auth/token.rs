//! A token is checked: a JWT (RFC 7519) that one of our keys has signed.

use std::collections::BTreeMap;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Header, Validation, decode, decode_header};
use protocol::settings::{Algorithm, Auth, Key, Rights};
use serde::Deserialize;

use super::grant::{Grant, Rule};
use super::provider;
use crate::client::request::MAX_ROOM;
use crate::client::{Code, is_name};

/// Bytes of a token.
pub const MAX_TOKEN: usize = 4096;

/// Bytes of a user's name: with `@` in front of it, it is a room's.
pub const MAX_USER: usize = MAX_ROOM - 1;

/// What tokens are checked with.
pub struct Keys {
    keys: Vec<(String, jsonwebtoken::Algorithm, DecodingKey)>,
    audience: Vec<String>,
    /// Of a token that says nothing of rooms.
    rights: Rights,
    leeway_ms: u64,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Nobody has said which keys tokens are made with.
    NoKeys,
    TooLong,
    /// Not three parts, or not what they should be. `alg` is `none`, or another that we do not have.
    Malformed,
    /// Made with a key that we do not have, or it does not say with which.
    UnknownKey,
    /// Its `alg` is not its key's.
    WrongAlgorithm,
    BadSignature,
    /// It is for somebody else.
    Audience,
    NotYet,
    Expired,
    /// Without `sub`, or with one that cannot be.
    Subject,
}

impl Refused {
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Refused::Expired => Code::Expired,
            _ => Code::Unauthorized,
        }
    }

    /// For people.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Refused::NoKeys => "tokens are not taken here",
            Refused::TooLong => "the token is too long",
            Refused::Malformed => "this is no token of HS256, EdDSA or ES256 with sub and exp",
            Refused::UnknownKey => "the token's key is not known",
            Refused::WrongAlgorithm => "the token's alg is not its key's",
            Refused::BadSignature => "the token's signature is wrong",
            Refused::Audience => "the token is for another audience",
            Refused::NotYet => "the token is not valid yet",
            Refused::Expired => "the token has expired",
            Refused::Subject => {
                "sub is a text of 1 to 199 bytes without control characters, and not like c7"
            }
        }
    }
}

/// What we read of a token's payload. Unknown claims are ignored, those twice there are not taken.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// Seconds since 1970, perhaps with a fraction (RFC 7519, 2, NumericDate).
    exp: f64,
    nbf: Option<f64>,
    /// What it allows: a pattern of names, and rights there.
    rooms: Option<BTreeMap<String, Vec<String>>>,
}

impl Keys {
    #[must_use]
    pub fn new(auth: &Auth) -> Keys {
        provider::install();
        Keys {
            keys: auth.keys.iter().map(Keys::key).collect(),
            audience: auth.audience.clone(),
            rights: auth.rights,
            leeway_ms: auth.leeway_ms,
        }
    }

    fn key(key: &Key) -> (String, jsonwebtoken::Algorithm, DecodingKey) {
        let bytes = key.material.bytes();
        let (algorithm, made) = match key.algorithm {
            Algorithm::HS256 => (
                jsonwebtoken::Algorithm::HS256,
                DecodingKey::from_secret(bytes),
            ),
            Algorithm::EdDSA => (
                jsonwebtoken::Algorithm::EdDSA,
                DecodingKey::from_ed_der(bytes),
            ),
            Algorithm::ES256 => (
                jsonwebtoken::Algorithm::ES256,
                DecodingKey::from_ec_der(bytes),
            ),
        };
        (key.kid.clone(), algorithm, made)
    }

    /// What the token allows; `now_ms` is the time since 1970.
    pub fn check(&self, token: &str, now_ms: u64) -> Result<Grant, Refused> {
        if self.keys.is_empty() {
            return Err(Refused::NoKeys);
        }
        if token.len() > MAX_TOKEN {
            return Err(Refused::TooLong);
        }
        let header = decode_header(token).map_err(|_| Refused::Malformed)?;
        // RFC 7515, 4.1.11: what must be understood, and is not, makes the token invalid.
        if header.crit.is_some() {
            return Err(Refused::Malformed);
        }
        let (_, algorithm, key) = self.find(&header)?;
        if header.alg != *algorithm {
            return Err(Refused::WrongAlgorithm);
        }
        let mut validation = Validation::new(*algorithm);
        // Times are checked below: the clock is our caller's.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        validation.required_spec_claims.clear();
        if !self.audience.is_empty() {
            validation.set_audience(&self.audience);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        let claims = decode::<Claims>(token, key, &validation).map_err(|e| match e.kind() {
            ErrorKind::InvalidSignature => Refused::BadSignature,
            ErrorKind::InvalidAudience => Refused::Audience,
            ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Refused::Audience,
            _ => Refused::Malformed,
        })?;
        self.grant(claims.claims, now_ms)
    }

    /// The key that the token names; it need not, if there is but one.
    fn find(
        &self,
        header: &Header,
    ) -> Result<&(String, jsonwebtoken::Algorithm, DecodingKey), Refused> {
        let found = match (&header.kid, self.keys.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(kid), keys) => keys.iter().find(|(is, ..)| is == kid),
        };
        found.ok_or(Refused::UnknownKey)
    }

    fn grant(&self, claims: Claims, now_ms: u64) -> Result<Grant, Refused> {
        // What is negative has become 0, what is huge the end of time.
        let at = |seconds: f64| (seconds * 1000.0) as u64;
        let expires_ms = at(claims.exp).saturating_add(self.leeway_ms);
        if expires_ms <= now_ms {
            return Err(Refused::Expired);
        }
        if claims
            .nbf
            .is_some_and(|nbf| at(nbf) > now_ms.saturating_add(self.leeway_ms))
        {
            return Err(Refused::NotYet);
        }
        if !is_user(&claims.sub) {
            return Err(Refused::Subject);
        }
        let rules = match claims.rooms {
            None => vec![Rule::everywhere(self.rights)],
            Some(rooms) => (rooms.iter())
                .map(|(pattern, words)| Rule::new(pattern, words))
                .collect::<Option<_>>()
                .ok_or(Refused::Malformed)?,
        };
        Ok(Grant {
            user: claims.sub,
            expires_ms,
            rules,
        })
    }
}

/// A user's name: the rest of a room's behind its `@`, and not to be taken for a connection's.
#[must_use]
pub fn is_user(name: &str) -> bool {
    let is_cid = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    name.len() <= MAX_USER && is_name(name) && !name.strip_prefix('c').is_some_and(is_cid)
}
