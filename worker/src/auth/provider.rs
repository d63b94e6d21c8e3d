//! The cryptography that tokens are checked with, for `jsonwebtoken`, which leaves the choice to us:
//! the three algorithms that we take, of RustCrypto and dalek, and no RSA.

use ed25519_dalek::VerifyingKey as Ed25519;
use hmac::{Hmac, Mac};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use p256::ecdsa::VerifyingKey as P256;
use sha2::Sha256;

/// Makes it this process's. To be called before a token is looked at; more than once does no harm.
pub fn install() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: signer,
        verifier_factory: verifier,
        key_utils: KeyUtils::new_unimplemented(),
    };
    // `Err` is the one that is there already, which is this one.
    let _ = PROVIDER.install_default();
}

/// Nothing is signed here.
fn signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::InvalidAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    let bytes = key.try_get_as_bytes()?;
    let key = match algorithm {
        Algorithm::HS256 => {
            Key::Hmac(Hmac::new_from_slice(bytes).map_err(|_| ErrorKind::InvalidKeyFormat)?)
        }
        Algorithm::EdDSA => {
            let bytes = bytes.try_into().map_err(|_| ErrorKind::InvalidEddsaKey)?;
            Key::Ed25519(Ed25519::from_bytes(bytes).map_err(|_| ErrorKind::InvalidEddsaKey)?)
        }
        Algorithm::ES256 => {
            Key::P256(P256::from_sec1_bytes(bytes).map_err(|_| ErrorKind::InvalidEcdsaKey)?)
        }
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(key))
}

enum Key {
    Hmac(Hmac<Sha256>),
    Ed25519(Ed25519),
    P256(P256),
}

impl Verifier<Vec<u8>> for Key {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        match self {
            // In constant time.
            Key::Hmac(key) => (key.clone().chain_update(message))
                .verify_slice(signature)
                .map_err(Error::from_source),
            // The strict form: one message has one signature (RFC 8032, 5.1.7, and small orders).
            Key::Ed25519(key) => {
                key.verify_strict(message, &ed25519_dalek::Signature::from_slice(signature)?)
            }
            Key::P256(key) => key.verify(message, &p256::ecdsa::Signature::from_slice(signature)?),
        }
    }
}

impl JwtVerifier for Key {
    fn algorithm(&self) -> Algorithm {
        match self {
            Key::Hmac(_) => Algorithm::HS256,
            Key::Ed25519(_) => Algorithm::EdDSA,
            Key::P256(_) => Algorithm::ES256,
        }
    }
}
