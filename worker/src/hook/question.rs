//! What a back end is asked, as JSON, and the request that many questions are put into.

use std::net::IpAddr;

use hmac::{Hmac, Mac};
use protocol::ids::Cid;
use protocol::settings::{Event, Hook};
use sha2::Sha256;

use crate::client::write::Sink;
use crate::http;

/// Bytes of a request's body; a question that is larger goes alone.
const MAX_BODY: usize = 1 << 20;

/// Fields of a handshake that a back end may want to know, as they are called in its question.
const FIELDS: [&str; 6] = [
    "authorization",
    "cookie",
    "origin",
    "user-agent",
    "x-forwarded-for",
    "x-real-ip",
];

/// One question, of one connection. It has one at a time: what it asks next waits behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub cid: Cid,
    pub slot: u32,
    /// Where in the connection's input the request is that is asked about.
    pub offset: u64,
    pub asked: u64,
    /// As in the request, but for its number.
    pub json: Vec<u8>,
}

/// Whoever asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub cid: Cid,
    pub slot: u32,
    pub offset: u64,
    pub user: Option<&'a str>,
    pub address: IpAddr,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// The head of the handshake.
    Connect {
        head: &'a [u8],
    },
    Join {
        room: &'a str,
    },
    Send {
        room: &'a str,
        key: Option<&'a str>,
        /// Under whose name, if it is not the asker's.
        author: Option<&'a str>,
        /// One JSON value.
        data: &'a [u8],
    },
}

impl Subject<'_> {
    #[must_use]
    pub fn event(&self) -> Event {
        match self {
            Subject::Connect { .. } => Event::Connect,
            Subject::Join { .. } => Event::Join,
            Subject::Send { .. } => Event::Send,
        }
    }

    #[must_use]
    pub fn room(&self) -> Option<&str> {
        match self {
            Subject::Connect { .. } => None,
            Subject::Join { room } | Subject::Send { room, .. } => Some(room),
        }
    }
}

impl Question {
    #[must_use]
    pub fn new(asker: Asker<'_>, subject: Subject<'_>, now: u64) -> Question {
        let mut json = Vec::with_capacity(256);
        let to = &mut json;
        text(to, "event", subject.event().as_str());
        let Asker { cid, offset, .. } = asker;
        // The same if it is asked again, by another brain or another worker.
        text(to, "ask", &format!("{cid}-{offset}"));
        text(to, "cid", &cid.to_string());
        if let Some(user) = asker.user {
            text(to, "user", user);
        }
        text(to, "address", &asker.address.to_canonical().to_string());
        if let Some(room) = subject.room() {
            text(to, "room", room);
        }
        match subject {
            Subject::Connect { head } => connect(to, head),
            Subject::Join { .. } => {}
            Subject::Send {
                key, author, data, ..
            } => {
                if let Some(key) = key {
                    text(to, "key", key);
                }
                if let Some(author) = author {
                    text(to, "as", author);
                }
                to.add(b",\"data\":");
                to.add(data);
            }
        }
        Question {
            cid,
            slot: asker.slot,
            offset,
            asked: now,
            json,
        }
    }
}

fn text(to: &mut Vec<u8>, name: &str, value: &str) {
    to.add(b",");
    to.string(name.as_bytes());
    to.add(b":");
    to.string(value.as_bytes());
}

/// The query, and the fields that are there.
fn connect(to: &mut Vec<u8>, head: &[u8]) {
    text(to, "query", http::query(head).unwrap_or_default());
    to.add(b",\"headers\":{");
    let mut between: &[u8] = b"";
    for name in FIELDS {
        let mut values = http::values(head, name).into_iter();
        let Some(first) = values.next() else {
            continue;
        };
        to.add(between);
        between = b",";
        to.string(name.as_bytes());
        to.add(b":");
        // RFC 6265, 5.4, and RFC 9110, 5.3: how several are one.
        let glue = if name == "cookie" { "; " } else { ", " };
        let value = values.fold(first, |all, value| all + glue + &value);
        to.string(value.as_bytes());
    }
    to.add(b"}");
}

/// How many of these questions go together into one request.
#[must_use]
pub fn fit<'a>(questions: impl Iterator<Item = &'a Question>, most: usize) -> usize {
    let mut bytes = 0;
    let together = questions.take(most).take_while(|question| {
        bytes += question.json.len();
        bytes <= MAX_BODY
    });
    together.count().max(1)
}

/// The request that asks them, each by its place.
#[must_use]
pub fn request(hook: &Hook, questions: &[Question]) -> Vec<u8> {
    let mut body = Vec::new();
    body.add(b"{\"events\":[");
    for (n, question) in questions.iter().enumerate() {
        body.add(if n == 0 { b"{\"n\":" } else { b",{\"n\":" });
        body.number(n as u64);
        body.add(&question.json);
        body.add(b"}");
    }
    body.add(b"]}");
    let mut request = Vec::with_capacity(body.len() + 512);
    let to = &mut request;
    for part in ["POST ", &hook.target, " HTTP/1.1\r\nHost: ", &hook.host] {
        to.add(part.as_bytes());
    }
    to.add(b"\r\nUser-Agent: baton\r\nContent-Type: application/json\r\nContent-Length: ");
    to.number(body.len() as u64);
    to.add(b"\r\n");
    to.add(hook.fields.bytes());
    if let Some(signature) = hook.secret.as_ref().and_then(|s| sign(s.bytes(), &body)) {
        to.add(b"Baton-Signature: sha256=");
        to.add(signature.as_bytes());
        to.add(b"\r\n");
    }
    to.add(b"\r\n");
    to.add(&body);
    request
}

/// HMAC with SHA-256, in hexadecimal.
fn sign(secret: &[u8], body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use protocol::settings::Material;
    use serde_json::{Value, json};

    use super::*;

    fn asker() -> Asker<'static> {
        Asker {
            cid: Cid(7),
            slot: 3,
            offset: 1234,
            user: Some("ü\"7"),
            address: "::ffff:10.0.0.9".parse().unwrap(),
        }
    }

    fn body_of(request: &[u8]) -> &[u8] {
        let at = memchr::memmem::find(request, b"\r\n\r\n").unwrap();
        &request[at + 4..]
    }

    fn ask(subject: Subject<'_>) -> Value {
        let question = Question::new(asker(), subject, 5);
        let request = request(&Hook::default(), &[question]);
        let body: Value = serde_json::from_slice(body_of(&request)).unwrap();
        body["events"][0].clone()
    }

    #[test]
    fn what_is_asked() {
        let subject = Subject::Send {
            room: "a\tb",
            key: Some("k"),
            author: Some("u8"),
            data: br#"{"x":[1.0]}"#,
        };
        let expected = json!({"n": 0, "event": "send", "ask": "c7-1234", "cid": "c7",
            "user": "ü\"7", "address": "10.0.0.9", "room": "a\tb", "key": "k",
            "as": "u8", "data": {"x": [1.0]}});
        assert_eq!(ask(subject), expected);
        let expected = json!({"n": 0, "event": "join", "ask": "c7-1234", "cid": "c7",
            "user": "ü\"7", "address": "10.0.0.9", "room": "r"});
        assert_eq!(ask(Subject::Join { room: "r" }), expected);
        let head =
            b"GET /rooms?a=b&token=x HTTP/1.1\r\nHost: x\r\nCookie: a=1\r\nOrigin: http://x\r\n\
            X-Other: y\r\ncookie: b=\"\xff\"\r\n\r\n";
        let expected = json!({"n": 0, "event": "connect", "ask": "c7-1234", "cid": "c7",
            "user": "ü\"7", "address": "10.0.0.9", "query": "a=b&token=x",
            "headers": {"cookie": "a=1; b=\"\u{fffd}\"", "origin": "http://x"}});
        assert_eq!(ask(Subject::Connect { head }), expected);
        let head = b"GET /rooms HTTP/1.1\r\nHost: x\r\n\r\n";
        let asked = ask(Subject::Connect { head });
        assert_eq!(
            (&asked["query"], &asked["headers"]),
            (&json!(""), &json!({}))
        );
    }

    #[test]
    fn the_request() {
        let hook = Hook {
            host: "localhost:9".to_owned(),
            target: "/hook?x".to_owned(),
            fields: Material::new(b"X-Key: a\r\n".to_vec()),
            secret: Some(Material::new(vec![b'k'; 32])),
            ..Hook::default()
        };
        let questions = vec![Question::new(asker(), Subject::Join { room: "r" }, 5); 3];
        let request = request(&hook, &questions);
        let body = body_of(&request);
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut fields);
        assert!(parsed.parse(&request).unwrap().is_complete());
        assert_eq!(
            (parsed.method, parsed.path),
            (Some("POST"), Some("/hook?x"))
        );
        let field = |name: &str| {
            let mut fields = parsed.headers.iter();
            let field = fields.find(|field| field.name == name).unwrap();
            String::from_utf8_lossy(field.value).into_owned()
        };
        assert_eq!(field("Host"), "localhost:9");
        assert_eq!(field("X-Key"), "a");
        assert_eq!(field("Content-Length"), body.len().to_string());
        let mut mac = Hmac::<Sha256>::new_from_slice(&[b'k'; 32]).unwrap();
        mac.update(body);
        let signature = field("Baton-Signature");
        let digits = signature.strip_prefix("sha256=").unwrap();
        let digest: Vec<u8> = (0..32)
            .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        mac.verify_slice(&digest).unwrap();
        let body: Value = serde_json::from_slice(body).unwrap();
        let numbers: Vec<_> = (0..3).map(|i| body["events"][i]["n"].clone()).collect();
        assert_eq!(numbers, [json!(0), json!(1), json!(2)]);
    }

    #[test]
    fn how_many_fit() {
        let of = |len: usize| Question {
            json: vec![b' '; len],
            ..Question::new(asker(), Subject::Join { room: "r" }, 5)
        };
        let small: Vec<_> = (0..10).map(|_| of(100)).collect();
        assert_eq!(fit(small.iter(), 4), 4);
        assert_eq!(fit(small.iter(), 100), 10);
        let large: Vec<_> = (0..10).map(|_| of(400 << 10)).collect();
        assert_eq!(fit(large.iter(), 100), 2);
        assert_eq!(fit([of(2 << 20)].iter(), 100), 1);
    }
}
