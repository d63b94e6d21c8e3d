//! Every way in which a token can be wrong, and some in which it is right.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::Signer;
use hmac::{Hmac, Mac};
use protocol::settings::{Algorithm, Auth, Key, Material, Right};
use serde_json::{Value, json};
use sha2::Sha256;

use super::grant::Packed;
use super::{Keys, MAX_TOKEN, Refused};

/// Milliseconds since 1970.
const NOW: u64 = 1_700_000_000_000;
const SECOND: u64 = 1_000;
const NOW_S: u64 = NOW / SECOND;

const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";

fn ed25519() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[7; 32])
}

fn p256() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap()
}

fn p256_point() -> Vec<u8> {
    p256()
        .verifying_key()
        .to_encoded_point(false)
        .as_bytes()
        .to_vec()
}

fn key(kid: &str, algorithm: Algorithm, bytes: &[u8]) -> Key {
    Key {
        kid: kid.to_owned(),
        algorithm,
        material: Material::new(bytes.to_vec()),
    }
}

fn auth() -> Auth {
    Auth {
        keys: vec![
            key("h", Algorithm::HS256, SECRET),
            key("d", Algorithm::EdDSA, ed25519().verifying_key().as_bytes()),
            key("e", Algorithm::ES256, &p256_point()),
        ],
        ..Auth::default()
    }
}

/// With whatever header and signature.
fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    raw(&header.to_string(), &claims.to_string(), sign)
}

fn raw(header: &str, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let signature = BASE64.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn hmac(secret: &[u8]) -> impl FnOnce(&[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    move |message| mac.chain_update(message).finalize().into_bytes().to_vec()
}

fn sign_ed25519(message: &[u8]) -> Vec<u8> {
    ed25519().sign(message).to_bytes().to_vec()
}

fn sign_p256(message: &[u8]) -> Vec<u8> {
    let signature: p256::ecdsa::Signature = p256().sign(message);
    signature.to_bytes().to_vec()
}

/// Of the key `h`.
fn good(claims: &Value) -> String {
    token(&json!({"alg": "HS256", "kid": "h"}), claims, hmac(SECRET))
}

fn claims() -> Value {
    json!({"sub": "u7", "exp": NOW_S + 60})
}

fn check(token: &str) -> Result<super::Grant, Refused> {
    Keys::new(&auth()).check(token, NOW)
}

#[test]
fn good_tokens_of_each_algorithm() {
    let h = good(&claims());
    let d = token(
        &json!({"alg": "EdDSA", "kid": "d", "typ": "JWT"}),
        &claims(),
        sign_ed25519,
    );
    let e = token(&json!({"alg": "ES256", "kid": "e"}), &claims(), sign_p256);
    for token in [h, d, e] {
        let grant = check(&token).unwrap();
        assert_eq!(grant.user, "u7");
        assert_eq!(
            grant.expires_ms,
            NOW + 65 * SECOND,
            "with what clocks may be off"
        );
        let packed = grant.pack();
        let rights = Packed::read(&packed).unwrap().rights(b"any");
        assert!(rights.has(Right::Join) && rights.has(Right::Send));
        assert!(!rights.has(Right::Moderate));
    }
}

#[test]
fn none_and_other_algorithms() {
    for alg in ["none", "None", "NONE", "", "HS512", "RS256", "hs256"] {
        for kid in [json!({"alg": alg, "kid": "h"}), json!({"alg": alg})] {
            let signed = token(&kid, &claims(), hmac(SECRET));
            let bare = token(&kid, &claims(), |_| Vec::new());
            for token in [signed, bare] {
                let is = check(&token).unwrap_err();
                assert!(
                    matches!(
                        is,
                        Refused::Malformed | Refused::WrongAlgorithm | Refused::UnknownKey
                    ),
                    "{alg}: {is:?}"
                );
            }
        }
    }
    let without = token(&json!({"kid": "h"}), &claims(), hmac(SECRET));
    assert_eq!(check(&without), Err(Refused::Malformed));
}

/// The public key is no secret: as one, it must not sign.
#[test]
fn keys_are_not_confused() {
    let point = p256_point();
    let pem = b"-----BEGIN PUBLIC KEY-----\n".to_vec();
    for secret in [point, ed25519().verifying_key().as_bytes().to_vec(), pem] {
        for (kid, expected) in [
            ("e", Refused::WrongAlgorithm),
            ("d", Refused::WrongAlgorithm),
            ("h", Refused::BadSignature),
        ] {
            let header = json!({"alg": "HS256", "kid": kid});
            assert_eq!(
                check(&token(&header, &claims(), hmac(&secret))),
                Err(expected)
            );
        }
    }
    let header = json!({"alg": "ES256", "kid": "h"});
    assert_eq!(
        check(&token(&header, &claims(), sign_p256)),
        Err(Refused::WrongAlgorithm)
    );
    let header = json!({"alg": "EdDSA", "kid": "e"});
    assert_eq!(
        check(&token(&header, &claims(), sign_ed25519)),
        Err(Refused::WrongAlgorithm)
    );
    // A key that the token brings along is nobody's.
    let header = json!({"alg": "EdDSA", "kid": "x", "jwk": {"kty": "OKP", "crv": "Ed25519",
        "x": BASE64.encode(ed25519().verifying_key().as_bytes())}});
    assert_eq!(
        check(&token(&header, &claims(), sign_ed25519)),
        Err(Refused::UnknownKey)
    );
}

#[test]
fn keys_are_found_by_name() {
    let unnamed = token(&json!({"alg": "HS256"}), &claims(), hmac(SECRET));
    assert_eq!(check(&unnamed), Err(Refused::UnknownKey), "there are three");
    let one = Auth {
        keys: vec![key("h", Algorithm::HS256, SECRET)],
        ..Auth::default()
    };
    assert!(Keys::new(&one).check(&unnamed, NOW).is_ok(), "there is one");
    assert_eq!(
        Keys::new(&Auth::default()).check(&unnamed, NOW),
        Err(Refused::NoKeys)
    );
    let other = token(
        &json!({"alg": "HS256", "kid": "i"}),
        &claims(),
        hmac(SECRET),
    );
    assert_eq!(check(&other), Err(Refused::UnknownKey));
    assert_eq!(Keys::new(&one).check(&other, NOW), Err(Refused::UnknownKey));
}

#[test]
fn signatures() {
    let header = json!({"alg": "HS256", "kid": "h"});
    let wrong = token(&header, &claims(), hmac(b"another secret"));
    assert_eq!(check(&wrong), Err(Refused::BadSignature));
    assert_eq!(
        check(&token(&header, &claims(), |_| Vec::new())),
        Err(Refused::BadSignature)
    );
    let cut = |message: &[u8]| hmac(SECRET)(message)[..16].to_vec();
    assert_eq!(
        check(&token(&header, &claims(), cut)),
        Err(Refused::BadSignature)
    );
    let zeros = token(&json!({"alg": "ES256", "kid": "e"}), &claims(), |_| {
        vec![0; 64]
    });
    assert_eq!(check(&zeros), Err(Refused::BadSignature));
    // One bit of anything.
    let whole = good(&claims());
    for at in 0..whole.len() {
        let mut bytes = whole.clone().into_bytes();
        bytes[at] ^= 1;
        if let Ok(text) = String::from_utf8(bytes) {
            assert!(check(&text).is_err(), "{at}");
        }
    }
}

#[test]
fn times() {
    let with = |claims: Value| check(&good(&claims)).map(|grant| grant.expires_ms);
    assert_eq!(
        with(json!({"sub": "u", "exp": NOW_S - 6})),
        Err(Refused::Expired)
    );
    assert_eq!(
        with(json!({"sub": "u", "exp": NOW_S - 5})),
        Err(Refused::Expired)
    );
    assert_eq!(
        with(json!({"sub": "u", "exp": NOW_S - 4})),
        Ok(NOW + SECOND),
        "clocks differ"
    );
    assert_eq!(
        with(json!({"sub": "u", "exp": NOW_S as f64 + 0.5})),
        Ok(NOW + 5_500)
    );
    assert_eq!(with(json!({"sub": "u", "exp": -5})), Err(Refused::Expired));
    assert_eq!(with(json!({"sub": "u", "exp": 1e300})), Ok(u64::MAX));
    assert_eq!(
        with(json!({"sub": "u", "exp": "soon"})),
        Err(Refused::Malformed)
    );
    assert_eq!(
        with(json!({"sub": "u", "exp": null})),
        Err(Refused::Malformed)
    );
    assert_eq!(with(json!({"sub": "u"})), Err(Refused::Malformed));
    let later = |nbf: u64| with(json!({"sub": "u", "exp": NOW_S + 60, "nbf": nbf}));
    assert_eq!(later(NOW_S + 6), Err(Refused::NotYet));
    assert!(later(NOW_S + 5).is_ok());
    assert!(later(NOW_S - 5).is_ok());
    let nonsense = json!({"sub": "u", "exp": NOW_S + 60, "nbf": [1]});
    assert_eq!(with(nonsense), Err(Refused::Malformed));
}

#[test]
fn audiences() {
    let ours = Auth {
        audience: vec!["chat".to_owned(), "game".to_owned()],
        ..auth()
    };
    let with = |auth: &Auth, aud: Value| {
        let mut claims = claims();
        claims["aud"] = aud;
        Keys::new(auth).check(&good(&claims), NOW).map(|_| ())
    };
    assert_eq!(with(&ours, json!("chat")), Ok(()));
    assert_eq!(with(&ours, json!(["x", "game"])), Ok(()));
    for other in [json!("x"), json!(["x"]), json!([]), json!(null), json!(5)] {
        assert_eq!(
            with(&ours, other.clone()),
            Err(Refused::Audience),
            "{other}"
        );
    }
    assert_eq!(
        Keys::new(&ours).check(&good(&claims()), NOW),
        Err(Refused::Audience)
    );
    // RFC 7519, 4.1.3: who does not find itself in it must reject it.
    assert_eq!(with(&auth(), json!("chat")), Err(Refused::Audience));
}

#[test]
fn users() {
    let with = |sub: Value| check(&good(&json!({"sub": sub, "exp": NOW_S + 60})));
    for sub in ["u", "ü", "c", "c7x", "C7", "a b", "@", &"u".repeat(199)] {
        assert_eq!(with(json!(sub)).unwrap().user, sub);
    }
    for sub in ["", "a\nb", "c7", "c123456", &"u".repeat(200)] {
        assert_eq!(with(json!(sub)), Err(Refused::Subject), "{sub}");
    }
    for sub in [json!(7), json!(null), json!(["u"])] {
        assert_eq!(with(sub), Err(Refused::Malformed));
    }
}

#[test]
fn rooms() {
    let with = |rooms: Value| {
        let mut claims = claims();
        claims["rooms"] = rooms;
        check(&good(&claims))
    };
    let grant = with(json!({"a/*": ["join", "fly"], "a/b": ["send"], "@*": ["send"]})).unwrap();
    let packed = grant.pack();
    let packed = Packed::read(&packed).unwrap();
    let has = |room: &str, right| packed.rights(room.as_bytes()).has(right);
    assert!(has("a/x", Right::Join) && !has("a/x", Right::Send));
    assert!(has("a/b", Right::Join) && has("a/b", Right::Send));
    assert!(has("@u9", Right::Send) && !has("b", Right::Join));
    let none = with(json!({})).unwrap().pack();
    assert_eq!(
        Packed::read(&none).unwrap().rights(b"a"),
        Default::default()
    );
    for rooms in [
        json!("*"),
        json!(["*"]),
        json!({"*": "join"}),
        json!({"": ["join"]}),
    ] {
        assert_eq!(with(rooms.clone()), Err(Refused::Malformed), "{rooms}");
    }
}

#[test]
fn garbage() {
    let whole = good(&claims());
    let parts: Vec<&str> = whole.split('.').collect();
    let texts = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "a.b.c".to_owned(),
        "{}".to_owned(),
        parts[..2].join("."),
        format!("{whole}."),
        format!("{whole}.{}", parts[1]),
        format!("{whole}="),
        format!(" {whole}"),
        format!("{}..{}", parts[0], parts[2]),
        "\u{0}".repeat(64),
        "é".repeat(64),
    ];
    for text in texts {
        assert!(check(&text).is_err(), "{text:?}");
    }
    let header = r#"{"alg":"HS256","kid":"h"}"#;
    for claims in ["", "[]", "7", "null", "{", r#"{"sub":"u"}{"#, "\u{feff}{}"] {
        assert_eq!(
            check(&raw(header, claims, hmac(SECRET))),
            Err(Refused::Malformed),
            "{claims}"
        );
    }
    let twice = format!(r#"{{"sub":"a","sub":"b","exp":{}}}"#, NOW_S + 60);
    assert_eq!(
        check(&raw(header, &twice, hmac(SECRET))),
        Err(Refused::Malformed)
    );
    for header in ["", "[]", "{}", r#"{"alg":7}"#, r#"{"alg":"HS256","kid":7}"#] {
        let is = check(&raw(header, &claims().to_string(), hmac(SECRET)));
        assert_eq!(is, Err(Refused::Malformed), "{header}");
    }
    let critical = json!({"alg": "HS256", "kid": "h", "crit": ["b64"], "b64": false});
    assert_eq!(
        check(&token(&critical, &claims(), hmac(SECRET))),
        Err(Refused::Malformed)
    );
}

#[test]
fn length() {
    let mut claims = claims();
    claims["x"] = json!("x".repeat(2_800));
    let long = good(&claims);
    assert!(long.len() <= MAX_TOKEN && check(&long).is_ok());
    claims["x"] = json!("x".repeat(4_000));
    assert_eq!(check(&good(&claims)), Err(Refused::TooLong));
}

/// What is logged or shown for debugging shows no key.
#[test]
fn keys_are_not_shown() {
    let shown = format!("{:?}", auth());
    assert!(
        !shown.contains("secret") && !shown.contains("97, 32"),
        "{shown}"
    );
}
