//! `[auth]`: tokens and their keys, and what who has none may do. A key is read here, so that
//! `check` says what is wrong with it, and no worker ever opens a file of it.

use std::path::Path;

use ed25519_dalek::pkcs8::DecodePublicKey;
use protocol::settings::{Algorithm, Anonymous, Auth, Key, Material, Right, Rights};

use super::reader::Section;
use super::units::SECOND;

/// Bytes of a secret. RFC 7518, 3.2: "A key of the same size as the hash output (for instance, 256
/// bits for "HS256") or larger MUST be used".
const SECRET: std::ops::RangeInclusive<usize> = 32..=512;
/// Keys at once: the one that tokens are made with, the ones before it, the next.
const MAX_KEYS: usize = 16;
/// Bytes of a file that may hold a key.
const MAX_FILE: u64 = 16 << 10;

const ALGORITHMS: [(&str, Option<Algorithm>); 3] = [
    ("HS256", Some(Algorithm::HS256)),
    ("EdDSA", Some(Algorithm::EdDSA)),
    ("ES256", Some(Algorithm::ES256)),
];

const ANONYMOUS: [(&str, Option<Anonymous>); 3] = [
    ("none", Some(Anonymous::Nothing)),
    ("read", Some(Anonymous::Read)),
    ("full", Some(Anonymous::Full)),
];

pub fn auth(s: &mut Section<'_, '_>) -> Auth {
    let d = Auth::default();
    let keys = s.sections("key", key).unwrap_or_default();
    let keys: Vec<Key> = keys.into_iter().flatten().collect();
    if keys.len() > MAX_KEYS {
        s.wrong("key", format!("there may be {MAX_KEYS} of them"));
    }
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].iter().any(|other| other.kid == key.kid) {
            s.wrong("key", format!("two have the kid {:?}", key.kid));
        }
    }
    Auth {
        anonymous: s.choice("anonymous", d.anonymous, &ANONYMOUS),
        audience: s.list("audience", d.audience, |text| match text {
            "" => Err("must hold texts that are not empty".to_owned()),
            text => Ok(text.to_owned()),
        }),
        rights: rights(s, d.rights),
        leeway_ms: s.duration("leeway", d.leeway_ms, 0..=300 * SECOND),
        timeout_ms: s.duration("timeout", d.timeout_ms, SECOND..=600 * SECOND),
        ask_before_ms: s.duration("ask_before", d.ask_before_ms, SECOND..=3_600 * SECOND),
        keys,
    }
}

fn rights(s: &mut Section<'_, '_>, default: Rights) -> Rights {
    let all = Right::ALL.map(|right| format!("{:?}", right.as_str()));
    let default = Right::ALL.into_iter().filter(|right| default.has(*right));
    let rights = s.list("rights", default.collect(), |word| {
        Right::named(word).ok_or_else(|| format!("must hold {}, not {word:?}", all.join(", ")))
    });
    rights.into_iter().collect()
}

/// `None`: something is wrong with it, and has been said.
fn key(s: &mut Section<'_, '_>) -> Option<Key> {
    let kid = s.text("kid");
    let algorithm = s.choice("algorithm", None, &ALGORITHMS);
    let file = s.path("file");
    for key in ["kid", "algorithm", "file"] {
        if !s.has(key) {
            s.wrong(key, "is missing");
        }
    }
    let (kid, algorithm, file) = (kid?, algorithm?, file?);
    match read(&file).and_then(|bytes| material(algorithm, &bytes)) {
        Ok(material) => Some(Key {
            kid,
            algorithm,
            material,
        }),
        Err(fault) => {
            s.wrong("file", format!("{}: {fault}", file.display()));
            None
        }
    }
}

/// A secret that a file holds.
pub(super) fn secret(file: &Path) -> Result<Material, String> {
    read(file).and_then(|bytes| material(Algorithm::HS256, &bytes))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(file).map(|found| found.len());
    if size.map_err(|error| error.to_string())? > MAX_FILE {
        return Err("is too long for a key".to_owned());
    }
    std::fs::read(file).map_err(|error| error.to_string())
}

/// What workers check tokens with, of what the file holds: the secret itself (a line's end behind it
/// does not count), or the public key as PEM (RFC 5480, RFC 8410).
fn material(algorithm: Algorithm, bytes: &[u8]) -> Result<Material, String> {
    let pem = || std::str::from_utf8(bytes).map_err(|_| "is not PEM".to_owned());
    let bytes = match algorithm {
        Algorithm::HS256 => {
            let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
            if secret.starts_with(b"-----BEGIN") {
                // Who takes a public key for a secret lets everybody make tokens.
                return Err("is PEM; it must hold a secret".to_owned());
            }
            if !SECRET.contains(&secret.len()) {
                let (least, most) = SECRET.into_inner();
                return Err(format!("must hold a secret of {least} to {most} bytes"));
            }
            secret.to_vec()
        }
        Algorithm::EdDSA => ed25519_dalek::VerifyingKey::from_public_key_pem(pem()?)
            .map(|key| key.as_bytes().to_vec())
            .map_err(|_| "must hold a public key of Ed25519, as PEM".to_owned())?,
        Algorithm::ES256 => p256::PublicKey::from_public_key_pem(pem()?)
            .map(|key| p256::EncodedPoint::from(key).as_bytes().to_vec())
            .map_err(|_| "must hold a public key of P-256, as PEM".to_owned())?,
    };
    Ok(Material::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn secrets() {
        let of = |bytes: &[u8]| material(Algorithm::HS256, bytes);
        let secret = [b'x'; 32];
        for end in ["", "\n", "\r\n"] {
            let file = [&secret[..], end.as_bytes()].concat();
            assert_eq!(of(&file).unwrap().bytes(), secret);
        }
        assert!(of(&secret[1..]).is_err());
        assert!(of(&[b'x'; 513]).is_err());
        assert!(of(ED25519.as_bytes()).unwrap_err().contains("PEM"));
    }

    #[test]
    fn public_keys() {
        let key = material(Algorithm::EdDSA, ED25519.as_bytes()).unwrap();
        assert_eq!(key.bytes().len(), 32);
        assert_eq!(key.bytes()[..2], [0x19, 0xbf]);
        for wrong in [&b"x"[..], &[0xff; 40], &ED25519.as_bytes()[..80]] {
            assert!(material(Algorithm::EdDSA, wrong).is_err());
            assert!(material(Algorithm::ES256, wrong).is_err());
        }
        let other = material(Algorithm::ES256, ED25519.as_bytes());
        assert!(other.unwrap_err().contains("P-256"));
        let key = p256::SecretKey::from_slice(&[9; 32]).unwrap().public_key();
        let pem = p256::pkcs8::EncodePublicKey::to_public_key_pem(&key, Default::default());
        let pem = pem.unwrap();
        let point = material(Algorithm::ES256, pem.as_bytes()).unwrap();
        assert_eq!((point.bytes().len(), point.bytes()[0]), (65, 4));
        assert!(material(Algorithm::EdDSA, pem.as_bytes()).is_err());
    }
}
