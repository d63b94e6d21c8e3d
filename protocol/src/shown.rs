//! What somebody has sent, for a line of a log: short, and without what nobody is to read there.

/// Bytes of it that are shown.
const SHOWN: usize = 256;
/// Bytes of it that are looked at: a token is no longer than half of that.
const LOOKED_AT: usize = 8 << 10;
/// A brace, and a quotation mark, a blank or a line's end, in base64.
const BEGINNINGS: [&[u8]; 5] = [b"eyJ", b"eyA", b"ewo", b"ew0", b"ewk"];
/// A token has more; a word that begins like one need not.
const MIN_TOKEN: usize = 16;

/// `"…" (1234 bytes)`. Tokens and the fields of a request that say who somebody is are left out, as
/// far as they can be known.
#[must_use]
pub fn shown(sent: &[u8]) -> String {
    let clean = clean(&sent[..sent.len().min(LOOKED_AT)]);
    let short = &clean[..clean.len().min(SHOWN)];
    let is_all = short.len() == clean.len() && sent.len() <= LOOKED_AT;
    let more = if is_all { "" } else { "…" };
    format!("\"{}\"{more} ({} bytes)", short.escape_ascii(), sent.len())
}

fn clean(sent: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(sent.len());
    for line in sent.split_inclusive(|byte| *byte == b'\n') {
        let name = line.iter().position(|byte| *byte == b':');
        let name = &line[..name.unwrap_or(0)];
        let says_who = [&b"authorization"[..], b"cookie", b"proxy-authorization"];
        if says_who
            .iter()
            .any(|field| name.eq_ignore_ascii_case(field))
        {
            clean.extend_from_slice(name);
            clean.extend_from_slice(b": [not shown]\r\n");
        } else {
            without_tokens(line, &mut clean);
        }
    }
    clean
}

/// RFC 7515, 3.1: a token is in base64url, with dots between its parts, and begins with an object.
fn without_tokens(line: &[u8], clean: &mut Vec<u8>) {
    let is_of_token = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    let mut rest = line;
    while !rest.is_empty() {
        let len = rest.iter().take_while(|b| is_of_token(b)).count();
        let (word, behind) = rest.split_at(len);
        // A letter may stand before it that is the length of a string of MessagePack.
        let begin = word.windows(3).position(|at| BEGINNINGS.contains(&at));
        match begin.filter(|begin| word.len() - begin >= MIN_TOKEN) {
            Some(begin) => {
                clean.extend_from_slice(&word[..begin]);
                clean.extend_from_slice(b"[a token]");
            }
            None => clean.extend_from_slice(word),
        }
        let other = behind.iter().take_while(|b| !is_of_token(b)).count();
        clean.extend_from_slice(&behind[..other]);
        rest = &behind[other..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1NyIsImV4cCI6MTd9.c2lnbmF0dXJl-_Qx";

    #[test]
    fn tokens_are_not_shown() {
        let json = format!("{{\"id\":1,\"auth\":\"{TOKEN}\"}}");
        let len = json.len();
        assert_eq!(
            shown(json.as_bytes()),
            format!(r#""{{\"id\":1,\"auth\":\"[a token]\"}}" ({len} bytes)"#)
        );
        for text in [
            format!("GET /rooms?x=y&token={TOKEN}&b=c HTTP/1.1\r\n"),
            format!("Authorization: Bearer {TOKEN}\r\n"),
            // In MessagePack, behind its length; and a part of one.
            format!("\u{81}\u{a4}auth\u{d9}A{TOKEN}"),
            format!("{{\"auth\":\"{}", &TOKEN[..40]),
        ] {
            let shown = shown(text.as_bytes());
            for at in 0..TOKEN.len() - 12 {
                let part = &TOKEN[at..at + 12];
                assert!(!shown.contains(part), "{shown}");
            }
        }
    }

    #[test]
    fn fields_that_say_who_somebody_is_are_not_shown() {
        let head =
            "GET / HTTP/1.1\r\nCookie: session=7\r\nHost: x\r\nauthorization: Basic eA==\r\n";
        let shown = shown(head.as_bytes());
        assert!(
            !shown.contains("session=7") && !shown.contains("eA=="),
            "{shown}"
        );
        assert!(
            shown.contains("Cookie: [not shown]\\r\\nHost: x"),
            "{shown}"
        );
    }

    #[test]
    fn all_else_is_shown_as_far_as_it_is_short() {
        assert_eq!(
            shown(b"hey, eyes\x00\"\xff"),
            r#""hey, eyes\x00\"\xff" (12 bytes)"#
        );
        let long = "they ".repeat(1_000);
        let line = shown(long.as_bytes());
        assert!(line.ends_with("\"… (5000 bytes)"), "{line}");
        assert!(line.len() < 300);
        // What is cut off is no reason to show the beginning of a token.
        let late = format!("{}{TOKEN}", "x ".repeat(120));
        assert!(!shown(late.as_bytes()).contains("eyJ"));
        assert!(shown(&vec![b'x'; 1 << 20]).ends_with("(1048576 bytes)"));
        assert_eq!(shown(b""), r#""" (0 bytes)"#);
    }
}
