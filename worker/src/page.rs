//! The pages: files that whoever asks for them gets as they are.
//!
//! `baton.js` is the client for all; `index.html` is live comments, at `/` for clients, and
//! `operators.html` what operators see at `/` of theirs. Each comes with a tag of its content, so that
//! who has it already is told just that.

use std::sync::LazyLock;

use protocol::ids::Role;
use sha2::{Digest, Sha256};

/// A file that is served.
#[derive(Debug)]
pub struct File {
    pub path: &'static str,
    /// Through which listeners; none: all.
    role: Option<Role>,
    pub kind: Kind,
    pub content: &'static [u8],
}

/// What a file is to a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Page,
    Style,
    Script,
    /// A script that the pages of others may take from here, too.
    Library,
}

macro_rules! file {
    ($path:literal, $role:expr, $kind:ident, $name:literal) => {
        File {
            path: $path,
            role: $role,
            kind: Kind::$kind,
            content: include_bytes!(concat!("page/", $name)),
        }
    };
}

/// All of them; 16 at most ([`http`](crate::http) packs their numbers into four bits).
pub const FILES: [File; 10] = [
    file!("/", Some(Role::Public), Page, "index.html"),
    file!("/baton.js", None, Library, "baton.js"),
    file!("/danmaku.css", Some(Role::Public), Style, "danmaku.css"),
    file!("/danmaku.js", Some(Role::Public), Script, "danmaku.js"),
    file!("/stage.js", Some(Role::Public), Script, "stage.js"),
    file!("/lanes.js", Some(Role::Public), Script, "lanes.js"),
    file!("/", Some(Role::Admin), Page, "operators.html"),
    file!("/operators.css", Some(Role::Admin), Style, "operators.css"),
    file!("/operators.js", Some(Role::Admin), Script, "operators.js"),
    file!("/charts.js", Some(Role::Admin), Script, "charts.js"),
];

static TAGS: LazyLock<[String; FILES.len()]> = LazyLock::new(|| {
    std::array::from_fn(|number| {
        let digest = Sha256::digest(FILES[number].content);
        let bytes: [u8; 8] = std::array::from_fn(|index| digest[index]);
        format!("\"{:016x}\"", u64::from_be_bytes(bytes))
    })
});

/// The number of the file that is at this path, for who comes through such a listener.
#[must_use]
pub fn find(path: &str, role: Role) -> Option<u8> {
    let number = (FILES.iter())
        .position(|file| file.path == path && file.role.is_none_or(|only| only == role));
    number.map(|number| number as u8)
}

/// The entity tag of a file, quotes included (RFC 9110, 8.8.3).
#[must_use]
pub fn tag(number: u8) -> &'static str {
    TAGS.get(usize::from(number)).map_or("", |tag| tag)
}
