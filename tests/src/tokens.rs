//! Tokens, as whoever logs users in makes them, and the keys that a daemon is given for them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::Signer;
use ed25519_dalek::pkcs8::EncodePublicKey;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::Builder;

/// A key that tokens are made with.
#[derive(Clone, Debug)]
pub enum Key {
    Secret(Vec<u8>),
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

impl Key {
    /// One of each; `seed` makes it another.
    pub fn secret(seed: u8) -> Key {
        Key::Secret(vec![b'a' + seed; 32])
    }

    pub fn ed25519(seed: u8) -> Key {
        Key::Ed25519(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]))
    }

    pub fn p256(seed: u8) -> Key {
        let key = p256::ecdsa::SigningKey::from_slice(&[seed; 32]);
        Key::P256(key.expect("a number that is one"))
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Key::Secret(_) => "HS256",
            Key::Ed25519(_) => "EdDSA",
            Key::P256(_) => "ES256",
        }
    }

    /// What the daemon's file holds: the secret, or the public key as PEM.
    pub fn file(&self) -> String {
        let pem = match self {
            Key::Secret(secret) => return String::from_utf8_lossy(secret).into_owned(),
            Key::Ed25519(key) => key.verifying_key().to_public_key_pem(Default::default()),
            Key::P256(key) => {
                p256::PublicKey::from(key.verifying_key()).to_public_key_pem(Default::default())
            }
        };
        pem.expect("a key that is one")
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Key::Secret(secret) => {
                let mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
                mac.chain_update(message).finalize().into_bytes().to_vec()
            }
            Key::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
            Key::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
        }
    }

    /// A token that says this, and names the key.
    pub fn token(&self, kid: &str, claims: &Value) -> String {
        self.signed(&json!({"alg": self.algorithm(), "kid": kid}), claims)
    }

    /// With whatever header.
    pub fn signed(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = BASE64.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// The section of a configuration for it.
    pub fn section(&self, kid: &str, file: &str) -> String {
        let algorithm = self.algorithm();
        format!("[[auth.key]]\nkid = {kid:?}\nalgorithm = {algorithm:?}\nfile = {file:?}\n")
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is later than 1970").as_secs()
}

/// A daemon that takes the tokens of [`token`] and [`with_rights`].
pub fn with_key(builder: Builder) -> Builder {
    builder.config(&section()).file(KID, &key().file())
}

/// The section for their key, in whatever else that daemon's configuration is to become.
pub fn section() -> String {
    key().section(KID, KID)
}

/// For a user who may do what anybody may, for an hour.
pub fn token(user: &str) -> String {
    key().token(KID, &claims(user, 3600))
}

/// For one who may do this in these rooms, and nothing else: `{"*": ["join", "send"]}`.
pub fn with_rights(user: &str, rooms: Value) -> String {
    let mut claims = claims(user, 3600);
    claims["rooms"] = rooms;
    key().token(KID, &claims)
}

const KID: &str = "k";

fn key() -> Key {
    Key::secret(1)
}

/// What a token for this user says that lasts for so many seconds.
pub fn claims(user: &str, lasts: u64) -> Value {
    json!({"sub": user, "exp": now() + lasts})
}
