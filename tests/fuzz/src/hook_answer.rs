//! What a back end answers, in pieces: a response of HTTP, and the results in its body.

use protocol::settings::{Right, Rooms};
use serde_json::Value;
use worker::auth::MAX_TOKEN;
use worker::auth::grant::Packed;
use worker::hook::answer::{self, Answer, Limits};
use worker::hook::response::{Broken, Reply, Response};

const MAX_BODY: usize = 4_096;
const ASKED: usize = 4;

/// - How the bytes are cut into pieces changes nothing, and no more is held than is allowed.
/// - Results are understood or not, never a panic; what is taken keeps to the limits.
pub fn hook_answer(input: &[u8]) {
    let Some((&size, bytes)) = input.split_first() else {
        return;
    };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, usize::from(size).max(1)), whole);
    if let Ok(reply) = &whole {
        assert!(reply.body.len() <= MAX_BODY);
        results(&reply.body);
    }
    results(bytes);
}

fn read(bytes: &[u8], size: usize) -> Result<Reply, Broken> {
    let mut response = Response::new(MAX_BODY);
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece;
        (piece, rest) = rest.split_at(size.min(rest.len()));
        if let Some(reply) = response.read(piece)? {
            // Whether something is behind it is seen only if it comes along.
            let keep = false;
            return Ok(Reply { keep, ..reply });
        }
    }
    let reply = response.end()?;
    assert!(!reply.keep, "it has ended");
    Ok(reply)
}

fn results(body: &[u8]) {
    let limits = Limits {
        rooms: Rooms {
            max_data: 64,
            max_depth: 4,
            ..Rooms::default()
        },
        rights: [Right::Join].into_iter().collect(),
    };
    let Ok(answers) = answer::parse(body, ASKED, &limits) else {
        return;
    };
    assert_eq!(answers.len(), ASKED);
    // What is not known is passed over, whether it is UTF-8 or not.
    serde_json::from_str::<Value>(&String::from_utf8_lossy(body)).expect("JSON");
    for answer in answers.into_iter().flatten().flatten() {
        match answer {
            Answer::Deny { message } => assert!(message.is_none_or(|text| text.len() <= 512)),
            Answer::Allow { data, grant } => {
                if let Some(data) = data {
                    assert!(data.len() <= 64);
                    serde_json::from_str::<Value>(&data).expect("JSON");
                }
                if let Some(grant) = grant {
                    let bytes = grant.pack();
                    assert!(bytes.len() <= MAX_TOKEN);
                    let packed = Packed::read(&bytes).expect("what was made is read");
                    assert_eq!(packed.user, grant.user);
                }
            }
        }
    }
}
