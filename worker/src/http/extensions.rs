//! The extensions that a client offers (RFC 6455, 9.1), and what is taken of them: compression
//! (permessage-deflate, RFC 7692), without anything remembered from one message to the next.

use crate::close::CloseReason;
use crate::http::head::is_token;
use crate::websocket::Window;

/// The name of what we speak.
const DEFLATE: &[u8] = b"permessage-deflate";

/// Of the client's offers, in all the fields that make them, the first that can be met: how far back
/// what we send may refer. `None`: there is none.
///
/// # Errors
/// "If a value is received that doesn't conform to the ABNF, the receiver MUST immediately fail".
pub(super) fn choose<'a>(
    values: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<Window>, CloseReason> {
    let mut chosen = None;
    for value in values {
        let mut offers = Words(value);
        while let Some(offer) = offers
            .offer()
            .map_err(|Malformed| CloseReason::BadUpgrade)?
        {
            chosen = chosen.or(offer);
        }
    }
    Ok(chosen)
}

/// The answer to the offer that was chosen.
pub(super) fn answer(window: Window) -> String {
    let mut answer = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                      client_no_context_takeover"
        .to_owned();
    if window != Window::LARGEST {
        answer += &format!("; server_max_window_bits={}", window.bits());
    }
    answer + "\r\n"
}

/// It does not conform to the grammar.
struct Malformed;

/// What is left of a field's value.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The next offer, if it can be met (the inner `None`: it cannot).
    fn offer(&mut self) -> Result<Option<Option<Window>>, Malformed> {
        // Empty elements of a list do not count (RFC 9110, 5.6.1).
        while self.takes(b',') {}
        if self.0.is_empty() {
            return Ok(None);
        }
        let name = self.token()?;
        let mut offer = Some(Offer::default()).filter(|_| name == DEFLATE);
        while self.takes(b';') {
            let name = self.token()?;
            let value = match self.takes(b'=') {
                true => Some(self.value()?),
                false => None,
            };
            offer = offer.and_then(|offer| offer.with(name, value.as_deref()));
        }
        match self.0.is_empty() || self.takes(b',') {
            true => Ok(Some(offer.map(|offer| offer.window))),
            false => Err(Malformed),
        }
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn takes(&mut self, separator: u8) -> bool {
        self.skip_space();
        match self.0.split_first() {
            Some((first, rest)) if *first == separator => {
                self.0 = rest;
                self.skip_space();
                true
            }
            _ => false,
        }
    }

    fn token(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.0.iter().take_while(|b| is_token(**b)).count();
        let (token, rest) = self.0.split_at(len);
        self.0 = rest;
        match token {
            [] => Err(Malformed),
            _ => Ok(token),
        }
    }

    /// A token, or one in quotes: "the value after quoted-string unescaping MUST conform to the
    /// 'token' ABNF".
    fn value(&mut self) -> Result<Vec<u8>, Malformed> {
        let Some(mut rest) = self.0.strip_prefix(b"\"") else {
            return self.token().map(<[u8]>::to_vec);
        };
        let mut value = Vec::new();
        loop {
            let (byte, behind) = match rest {
                [b'"', behind @ ..] => {
                    self.0 = behind;
                    break;
                }
                [b'\\', byte, behind @ ..] | [byte, behind @ ..] => (*byte, behind),
                [] => return Err(Malformed),
            };
            match is_token(byte) {
                true => value.push(byte),
                false => return Err(Malformed),
            }
            rest = behind;
        }
        match value.is_empty() {
            true => Err(Malformed),
            false => Ok(value),
        }
    }
}

/// An offer of compression, as far as it was read.
#[derive(Clone, Copy, Default)]
struct Offer {
    window: Window,
    /// Parameters that it has, a bit each.
    seen: u8,
}

impl Offer {
    /// "A server MUST decline an extension negotiation offer for this extension if" it has a
    /// parameter that is not known, is there twice or has an invalid value.
    fn with(mut self, name: &[u8], value: Option<&[u8]>) -> Option<Offer> {
        let bit = match (name, value) {
            // Nothing is remembered in either direction, asked for or not.
            (b"server_no_context_takeover", None) => 1,
            (b"client_no_context_takeover", None) => 2,
            (b"server_max_window_bits", Some(value)) => {
                self.window = window(value)?;
                4
            }
            // How far back the client refers: all is inflated with the largest window.
            (b"client_max_window_bits", None) => 8,
            (b"client_max_window_bits", Some(value)) => {
                window(value)?;
                8
            }
            _ => return None,
        };
        let twice = self.seen & bit != 0;
        self.seen |= bit;
        (!twice).then_some(self)
    }
}

/// "A decimal integer value without leading zeroes between 8 to 15 inclusive".
fn window(value: &[u8]) -> Option<Window> {
    let bits = match value {
        [digit @ b'8'..=b'9'] => digit - b'0',
        [b'1', digit @ b'0'..=b'5'] => 10 + digit - b'0',
        _ => return None,
    };
    Window::new(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(values: &[&str]) -> Result<Option<u8>, CloseReason> {
        choose(values.iter().map(|value| value.as_bytes())).map(|w| w.map(Window::bits))
    }

    #[test]
    fn the_first_offer_that_can_be_met_is_taken() {
        let cases: &[(&[&str], Option<u8>)] = &[
            (&[], None),
            (&[""], None),
            (&[" , ,"], None),
            // RFC 7692, 5.1 and 7.1.
            (&["permessage-deflate"], Some(15)),
            (&["permessage-deflate; client_max_window_bits"], Some(15)),
            (
                &["permessage-deflate; server_no_context_takeover"],
                Some(15),
            ),
            (
                &["permessage-deflate; client_no_context_takeover"],
                Some(15),
            ),
            (&["permessage-deflate; server_max_window_bits=10"], Some(10)),
            (&["permessage-deflate; client_max_window_bits=10"], Some(15)),
            (
                &[
                    "permessage-deflate; client_max_window_bits; server_max_window_bits=10, \
                   permessage-deflate; client_max_window_bits",
                ],
                Some(10),
            ),
            (
                &["permessage-deflate; server_max_window_bits=10, permessage-deflate"],
                Some(10),
            ),
            // RFC 6455, 9.1, and other ways to write it.
            (&["foo, bar; baz=2"], None),
            (&["foo; bar=\"x\", permessage-deflate"], Some(15)),
            (&["foo", "bar", "permessage-deflate"], Some(15)),
            (
                &["permessage-deflate;server_max_window_bits=\"9\""],
                Some(9),
            ),
            (
                &["permessage-deflate ;\tserver_max_window_bits = \"1\\2\" ,"],
                Some(12),
            ),
            (&["permessage-deflate; server_max_window_bits=8"], Some(8)),
            // Declined: the next one is looked at.
            (&["permessage-deflate; unknown"], None),
            (
                &["permessage-deflate; unknown=1, permessage-deflate"],
                Some(15),
            ),
            (&["permessage-deflate; server_max_window_bits"], None),
            (&["permessage-deflate; server_max_window_bits=7"], None),
            (&["permessage-deflate; server_max_window_bits=16"], None),
            (&["permessage-deflate; server_max_window_bits=010"], None),
            (&["permessage-deflate; server_max_window_bits=+9"], None),
            (&["permessage-deflate; client_max_window_bits=7"], None),
            (&["permessage-deflate; client_max_window_bits=99"], None),
            (&["permessage-deflate; server_no_context_takeover=1"], None),
            (
                &["permessage-deflate; client_no_context_takeover=true"],
                None,
            ),
            (
                &["permessage-deflate; client_max_window_bits; client_max_window_bits=10"],
                None,
            ),
            (
                &[
                    "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9, \
                   permessage-deflate; server_max_window_bits=11",
                ],
                Some(11),
            ),
            (&["x-webkit-deflate-frame", "permessage-bzip2"], None),
            (&["Permessage-Deflate"], None),
        ];
        for (values, expected) in cases {
            assert_eq!(chosen(values), Ok(*expected), "{values:?}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_fails() {
        for value in [
            ";",
            "=",
            "permessage-deflate;",
            "permessage-deflate; ;",
            "permessage-deflate; =9",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=\"",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; server_max_window_bits=\"9\\",
            "permessage-deflate; server_max_window_bits=\"\"",
            "permessage-deflate; server_max_window_bits=\"1 0\"",
            "permessage-deflate; server_max_window_bits=\"9\"9",
            "permessage-deflate client_no_context_takeover",
            "permessage deflate",
            "foo; \"bar\"",
            "foo, permessage-deflate; a=b c",
            "foo/bar",
            "permessage-deflate, \u{e9}",
        ] {
            for values in [[value, "permessage-deflate"], ["permessage-deflate", value]] {
                assert_eq!(chosen(&values), Err(CloseReason::BadUpgrade), "{value}");
            }
        }
    }

    #[test]
    fn the_answer_says_what_holds() {
        let say = |bits| answer(Window::new(bits).unwrap());
        let always = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                      client_no_context_takeover";
        assert_eq!(say(15), format!("{always}\r\n"));
        assert_eq!(say(9), format!("{always}; server_max_window_bits=9\r\n"));
    }
}
