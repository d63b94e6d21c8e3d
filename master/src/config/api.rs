//! `[api]`: who may use the HTTP API. The tokens' files are read here; workers get hashes of them.

use protocol::settings::Api;
use sha2::{Digest, Sha256};

use super::auth::secret;
use super::reader::Section;
use super::schema::origin;

/// Tokens at once: the one that is used, the next.
const MAX_TOKENS: usize = 8;

pub fn api(s: &mut Section<'_, '_>) -> Api {
    let directory = s.directory();
    let tokens = s.list("tokens", Vec::new(), |file| {
        let wrong = |why: &str| format!("{file}: {why}");
        let token = secret(&directory.join(file)).map_err(|why| wrong(&why))?;
        // It travels in a header field.
        match token.bytes().iter().all(u8::is_ascii_graphic) {
            true => Ok(Sha256::digest(token.bytes()).into()),
            false => Err(wrong("must hold visible ASCII without spaces")),
        }
    });
    if tokens.len() > MAX_TOKENS {
        s.wrong("tokens", format!("there may be {MAX_TOKENS} of them"));
    }
    Api {
        tokens,
        origins: s.list("origins", Vec::new(), origin),
    }
}
