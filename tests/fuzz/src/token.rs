//! A token, as whoever wants to come in sends it, and as one of ours says it.

use std::cell::LazyCell;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, Mac};
use protocol::settings::{Algorithm, Auth, Key, Material, Right};
use serde_json::Value;
use sha2::Sha256;
use worker::auth::grant::Packed;
use worker::auth::{Keys, MAX_TOKEN};

const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";
const NOW_MS: u64 = 1_700_000_000_000;

thread_local! {
    static KEYS: LazyCell<Keys> = const { LazyCell::new(keys) };
}

fn keys() -> Keys {
    Keys::new(&Auth {
        keys: vec![Key {
            kid: "k".to_owned(),
            algorithm: Algorithm::HS256,
            material: Material::new(SECRET.to_vec()),
        }],
        leeway_ms: 0,
        ..Auth::default()
    })
}

/// - Nobody comes in without a signature.
/// - Whatever is signed (a header, a line's end, claims) is taken or not, never a panic; what is
///   taken says what its claims say, and comes back from the bytes that it is kept as.
/// - What is kept may be any bytes.
pub fn token(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        let taken = KEYS.with(|keys| keys.check(text, NOW_MS));
        assert!(taken.is_err(), "nobody has signed it");
    }
    if let Some(packed) = Packed::read(input) {
        let _ = packed.rights(packed.user.as_bytes());
    }
    let line = input.iter().position(|byte| *byte == b'\n');
    let (header, claims) = input.split_at(line.unwrap_or(0));
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("any length");
    let signature = mac.chain_update(&message).finalize().into_bytes();
    let text = format!("{message}.{}", BASE64.encode(signature));
    let Ok(grant) = KEYS.with(|keys| keys.check(&text, NOW_MS)) else {
        return;
    };
    assert!(text.len() <= MAX_TOKEN);
    // What a claim is that nobody asks for is nobody's concern: not even whether it is UTF-8.
    let json =
        |bytes| serde_json::from_str::<Value>(&String::from_utf8_lossy(bytes)).expect("JSON");
    let (header, claims) = (json(header), json(claims));
    assert_eq!(header["alg"], "HS256");
    assert!(header["kid"].is_null() || header["kid"] == "k");
    assert_eq!(claims["sub"], grant.user);
    assert!(claims["exp"].as_f64().expect("a number") * 1000.0 >= NOW_MS as f64);
    assert!(grant.expires_ms > NOW_MS);
    let bytes = grant.pack();
    let packed = Packed::read(&bytes).expect("what was made is read");
    assert_eq!(packed.user, grant.user);
    for (pattern, words) in claims["rooms"].as_object().into_iter().flatten() {
        // A pattern means at least itself.
        let rights = packed.rights(pattern.as_bytes());
        for right in Right::ALL {
            let is_said = words
                .as_array()
                .expect("a list")
                .iter()
                .any(|w| w == right.as_str());
            assert!(rights.has(right) || !is_said, "{pattern}");
        }
    }
}
