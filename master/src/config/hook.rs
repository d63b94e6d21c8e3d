//! `[[hook]]`: back ends that are asked. Their names are looked up here, and their secrets read, so
//! that `check` says what is wrong, and no worker ever waits for a name.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use protocol::settings::{Event, Fail, Hook, Material, Server};

use super::auth::secret;
use super::reader::Section;
use super::units::SECOND;

/// Each may have as many connections in each worker as `in_flight` says.
pub const MAX_HOOKS: usize = 8;

/// Bytes of a URL, and of all header fields.
const MAX_TEXT: usize = 2_048;

const FAIL: [(&str, Fail); 2] = [("open", Fail::Open), ("closed", Fail::Closed)];

/// `None`: something is wrong with it, and has been said.
pub fn hook(s: &mut Section<'_, '_>) -> Option<Hook> {
    let d = Hook::default();
    let on = s.list("on", d.on, event);
    if !s.has("on") {
        s.wrong("on", "is missing, such as [\"send\"]");
    }
    if s.has("match") && on == [Event::Connect] {
        s.wrong(
            "match",
            "means nothing for \"connect\", which is for no room",
        );
    }
    let rooms = s.pattern("match");
    let url = s.text("url");
    if !s.has("url") {
        s.wrong("url", "is missing, such as \"http://127.0.0.1:9000/hook\"");
    }
    let url = url.and_then(|url| match place(&url) {
        Ok(url) => Some(url),
        Err(fault) => {
            s.wrong("url", fault);
            None
        }
    });
    let fields = s.list("headers", Vec::new(), field).concat();
    if fields.len() > MAX_TEXT {
        s.wrong("headers", format!("must not be more than {MAX_TEXT} bytes"));
    }
    let file = s.path("secret");
    let secret = file.and_then(|file| match secret(&file) {
        Ok(secret) => Some(secret),
        Err(fault) => {
            s.wrong("secret", format!("{}: {fault}", file.display()));
            None
        }
    });
    let hook = Hook {
        on,
        rooms: rooms.unwrap_or(d.rooms),
        timeout_ms: s.duration("timeout", d.timeout_ms, 10..=30 * SECOND),
        batch: s.number("batch", d.batch as u32, 1..=1_000) as usize,
        wait_ms: s.duration("wait", d.wait_ms, 0..=SECOND),
        in_flight: s.number("in_flight", d.in_flight as u32, 1..=16) as usize,
        queue: s.number("queue", d.queue as u32, 1..=100_000) as usize,
        fail: s.choice("fail", d.fail, &FAIL),
        fields: Material::new(fields.into_bytes()),
        secret,
        ..d
    };
    if hook.wait_ms >= hook.timeout_ms {
        s.wrong("wait", "must be less than timeout");
    }
    let (server, host, target) = url?;
    Some(Hook {
        server,
        host,
        target,
        ..hook
    })
}

fn event(word: &str) -> Result<Event, String> {
    let found = Event::ALL.into_iter().find(|event| event.as_str() == word);
    let all = Event::ALL.map(|event| format!("{:?}", event.as_str()));
    found.ok_or_else(|| format!("must hold {}, not {word:?}", all.join(", ")))
}

/// Where it listens, the value of `Host`, and the request's target.
fn place(url: &str) -> Result<(Server, String, String), String> {
    let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !is_plain(url) || url.len() > MAX_TEXT {
        return Err(format!(
            "must be ASCII without spaces and without a fragment, up to {MAX_TEXT} bytes"
        ));
    }
    if let Some(rest) = url.strip_prefix("unix:") {
        let (path, target) = rest.split_once(':').unwrap_or((rest, "/"));
        // sun_path has 108 bytes with the NUL behind the name (unix(7)).
        if !path.starts_with('/') || path.len() > 107 || !target.starts_with('/') {
            return Err(
                "must be an absolute path of up to 107 bytes, such as \"unix:/run/app.sock\" or \
                 \"unix:/run/app.sock:/hook\""
                    .to_owned(),
            );
        }
        let server = Server::Unix(PathBuf::from(path));
        return Ok((server, "localhost".to_owned(), target.to_owned()));
    }
    if url.starts_with("https:") {
        return Err(
            "must begin with http: or unix:; for TLS put a proxy in front of the back end"
                .to_owned(),
        );
    }
    let example = "must be such as \"http://127.0.0.1:9000/hook\" or \"unix:/run/app.sock\"";
    let rest = url.strip_prefix("http://").ok_or(example)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(end);
    if host.is_empty() || host.contains('@') {
        return Err(example.to_owned());
    }
    let target = match target {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        path => path.to_owned(),
    };
    Ok((Server::Tcp(look_up(host)?), host.to_owned(), target))
}

/// The first address of `host` or `host:port`.
fn look_up(host: &str) -> Result<SocketAddr, String> {
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    // In brackets, an address of IPv6 has colons of its own.
    let has_port = has_port && !host.ends_with(']');
    let full = match has_port {
        true => host.to_owned(),
        false => format!("{host}:80"),
    };
    let mut found = full
        .to_socket_addrs()
        .map_err(|error| format!("{host} cannot be looked up: {error}"))?;
    found.next().ok_or_else(|| format!("{host} has no address"))
}

/// A header field, with its line's end.
fn field(text: &str) -> Result<String, String> {
    const OURS: [&str; 7] = [
        "host",
        "content-length",
        "content-type",
        "connection",
        "transfer-encoding",
        "expect",
        "baton-signature",
    ];
    let wrong = || format!("must hold fields such as \"Authorization: Bearer x\", not {text:?}");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let is_text = |b: u8| matches!(b, b'\t' | b' '..=b'~' | 0x80..);
    if name.is_empty() || !name.bytes().all(is_token) || !value.bytes().all(is_text) {
        return Err(wrong());
    }
    if OURS.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("{name} is set by baton"));
    }
    Ok(format!("{name}: {}\r\n", value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let tcp = |url: &str| match place(url).unwrap() {
            (Server::Tcp(address), host, target) => (address.to_string(), host, target),
            other => panic!("{other:?}"),
        };
        let is = |a: &str, h: &str, t: &str| (a.to_owned(), h.to_owned(), t.to_owned());
        assert_eq!(
            tcp("http://127.0.0.1:9000/a?b=c"),
            is("127.0.0.1:9000", "127.0.0.1:9000", "/a?b=c")
        );
        assert_eq!(
            tcp("http://127.0.0.1"),
            is("127.0.0.1:80", "127.0.0.1", "/")
        );
        assert_eq!(tcp("http://[::1]/x"), is("[::1]:80", "[::1]", "/x"));
        assert_eq!(tcp("http://[::1]:8?x"), is("[::1]:8", "[::1]:8", "/?x"));
        let unix = |path: &str, target: &str| {
            let server = Server::Unix(path.into());
            Ok((server, "localhost".to_owned(), target.to_owned()))
        };
        assert_eq!(place("unix:/run/a.sock"), unix("/run/a.sock", "/"));
        assert_eq!(place("unix:/a:/hook?x"), unix("/a", "/hook?x"));
        for wrong in [
            "https://127.0.0.1",
            "127.0.0.1:9000",
            "http://",
            "http:///x",
            "http://u@127.0.0.1/",
            "http://127.0.0.1:x/",
            "http://127.0.0.1/a b",
            "http://127.0.0.1/#x",
            "unix:relative",
            "unix:/a:relative",
        ] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn fields() {
        assert_eq!(field("X-Key:  a b ").unwrap(), "X-Key: a b\r\n");
        for wrong in [
            "X-Key",
            ": x",
            "X Key: x",
            "X: a\r\nY: b",
            "Host: x",
            "expect: x",
        ] {
            assert!(field(wrong).is_err(), "{wrong}");
        }
    }
}
