//! Why a connection is closed: one word for the log line, the counter and the Close frame.

/// The one reason that a connection is closed for.
///
/// It fits in a byte of the connection's slot: `reason as u8`, and [`CloseReason::from_u8`] back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// All has been said: the end that was agreed on.
    Done,
    /// The peer has ended its stream.
    PeerEnd,
    /// The peer has sent a WebSocket Close frame.
    PeerClose,
    /// A request that asked first was answered without its body, which may come all the same.
    BodyUnwanted,
    /// The socket has failed: a reset, a time-out of the kernel's.
    SocketError,
    /// This worker ends, or baton does.
    GoingAway,

    // The peer breaks the WebSocket protocol.
    /// A frame of a client must be masked.
    UnmaskedFrame,
    /// A reserved bit is set that no extension gave a meaning.
    ReservedBits,
    /// A frame's opcode is none that exists.
    ReservedOpcode,
    /// A frame's length is not written in the shortest way, or is above 2^63.
    BadLength,
    /// A control frame is fragmented or longer than 125 bytes.
    BadControlFrame,
    /// A continuation of nothing, or a new message inside of another.
    BadFragment,
    /// A Close frame of one byte, or with a code that must not be sent.
    BadCloseFrame,
    /// A text that is not UTF-8.
    BadUtf8,
    /// A compressed message that cannot be inflated.
    BadCompression,
    /// A message of a kind that is not served here (binary, where JSON is spoken).
    WrongKind,
    /// A message above the limit.
    MessageTooLarge,
    /// A message in more frames than the limit.
    TooManyFragments,
    /// More pings than the limit.
    TooManyPings,
    /// Requests that cannot be understood, too often.
    TooManyErrors,

    // The peer breaks HTTP, or asks for what it cannot have.
    /// Not `METHOD target HTTP/x.y`: HTTP/0.9, TLS, noise.
    BadRequestLine,
    /// A version of HTTP that we do not speak.
    BadHttpVersion,
    /// A request target in none of the four forms, or in one that is not this method's.
    BadTarget,
    /// A line that ends without a carriage return.
    BareLineFeed,
    /// A header or trailer field that breaks the grammar: folded, a NUL, a space before the colon.
    BadField,
    /// `Host` is missing, there twice or malformed.
    BadHost,
    /// `Content-Length` is no number, or there twice.
    BadContentLength,
    /// Both `Content-Length` and `Transfer-Encoding`, or the latter in HTTP/1.0.
    AmbiguousLength,
    /// A body whose last transfer coding is not `chunked`: nobody knows where it ends.
    BadTransferCoding,
    /// A transfer coding below `chunked` that we do not have.
    UnknownTransferCoding,
    /// A chunk that breaks the grammar.
    BadChunk,
    /// A request line above the limit.
    LineTooLong,
    /// A head, or what stands beside the data in a chunked body, above the limit.
    HeadTooLarge,
    /// A request's body above the limit.
    BodyTooLarge,
    /// An `Expect` that we cannot meet.
    BadExpectation,
    /// `CONNECT`: we are no proxy.
    NoTunnel,
    /// A WebSocket handshake that breaks the grammar.
    BadUpgrade,
    /// A version of WebSocket that we do not speak.
    BadWebSocketVersion,
    /// Only subprotocols that we do not speak.
    NoSubprotocol,
    /// An `Origin` that may not open a WebSocket here.
    BadOrigin,
    /// What should be a PROXY header is none.
    BadProxyHeader,
    /// baton is at a limit.
    Refused,

    // Deadlines.
    /// A request's head that does not end.
    HeadTimeout,
    /// A request's body that does not go on.
    BodyTimeout,
    /// No request for too long.
    IdleTimeout,
    /// No answer to our ping.
    PongTimeout,
    /// No answer to our Close frame.
    CloseTimeout,
    /// The peer takes none of the bytes that wait for it.
    WriteTimeout,

    // What the service says.
    Unauthorized,
    Expired,
    Kicked,
    Banned,
    /// No memory for it, or it is the largest owner of it.
    Overloaded,
    /// It reads too slowly for what its rooms say.
    TooSlow,
    /// Better served elsewhere: come back at once.
    Reconnect,
    /// The user's back end did not let it in.
    HookDenied,
    /// The back end that decides who is let in gave no answer.
    HookUnavailable,
    /// Our fault: its state is in doubt.
    Internal,
}

impl CloseReason {
    /// Every reason, each at the place that is its number.
    pub const ALL: &[CloseReason] = &[
        CloseReason::Done,
        CloseReason::PeerEnd,
        CloseReason::PeerClose,
        CloseReason::BodyUnwanted,
        CloseReason::SocketError,
        CloseReason::GoingAway,
        CloseReason::UnmaskedFrame,
        CloseReason::ReservedBits,
        CloseReason::ReservedOpcode,
        CloseReason::BadLength,
        CloseReason::BadControlFrame,
        CloseReason::BadFragment,
        CloseReason::BadCloseFrame,
        CloseReason::BadUtf8,
        CloseReason::BadCompression,
        CloseReason::WrongKind,
        CloseReason::MessageTooLarge,
        CloseReason::TooManyFragments,
        CloseReason::TooManyPings,
        CloseReason::TooManyErrors,
        CloseReason::BadRequestLine,
        CloseReason::BadHttpVersion,
        CloseReason::BadTarget,
        CloseReason::BareLineFeed,
        CloseReason::BadField,
        CloseReason::BadHost,
        CloseReason::BadContentLength,
        CloseReason::AmbiguousLength,
        CloseReason::BadTransferCoding,
        CloseReason::UnknownTransferCoding,
        CloseReason::BadChunk,
        CloseReason::LineTooLong,
        CloseReason::HeadTooLarge,
        CloseReason::BodyTooLarge,
        CloseReason::BadExpectation,
        CloseReason::NoTunnel,
        CloseReason::BadUpgrade,
        CloseReason::BadWebSocketVersion,
        CloseReason::NoSubprotocol,
        CloseReason::BadOrigin,
        CloseReason::BadProxyHeader,
        CloseReason::Refused,
        CloseReason::HeadTimeout,
        CloseReason::BodyTimeout,
        CloseReason::IdleTimeout,
        CloseReason::PongTimeout,
        CloseReason::CloseTimeout,
        CloseReason::WriteTimeout,
        CloseReason::Unauthorized,
        CloseReason::Expired,
        CloseReason::Kicked,
        CloseReason::Banned,
        CloseReason::Overloaded,
        CloseReason::TooSlow,
        CloseReason::Reconnect,
        CloseReason::HookDenied,
        CloseReason::HookUnavailable,
        CloseReason::Internal,
    ];

    /// The reason with this number, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<CloseReason> {
        CloseReason::ALL.get(usize::from(number)).copied()
    }

    /// The reason with this word ([`as_str`](CloseReason::as_str)), if there is one.
    #[must_use]
    pub fn named(word: &str) -> Option<CloseReason> {
        let mut all = CloseReason::ALL.iter();
        all.find(|reason| reason.as_str() == word).copied()
    }

    /// Somebody's fault: worth a line in the log of a service in normal operation.
    #[must_use]
    pub fn is_fault(self) -> bool {
        !matches!(
            self,
            CloseReason::Done
                | CloseReason::PeerEnd
                | CloseReason::PeerClose
                | CloseReason::BodyUnwanted
                | CloseReason::SocketError
                | CloseReason::GoingAway
                | CloseReason::IdleTimeout
                | CloseReason::Reconnect
        )
    }

    /// The word for logs, counters and Close frames.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::Done => "done",
            CloseReason::PeerEnd => "peer_end",
            CloseReason::PeerClose => "peer_close",
            CloseReason::BodyUnwanted => "body_unwanted",
            CloseReason::SocketError => "socket_error",
            CloseReason::GoingAway => "going_away",
            CloseReason::UnmaskedFrame => "unmasked_frame",
            CloseReason::ReservedBits => "reserved_bits",
            CloseReason::ReservedOpcode => "reserved_opcode",
            CloseReason::BadLength => "bad_length",
            CloseReason::BadControlFrame => "bad_control_frame",
            CloseReason::BadFragment => "bad_fragment",
            CloseReason::BadCloseFrame => "bad_close_frame",
            CloseReason::BadUtf8 => "bad_utf8",
            CloseReason::BadCompression => "bad_compression",
            CloseReason::WrongKind => "wrong_kind",
            CloseReason::MessageTooLarge => "message_too_large",
            CloseReason::TooManyFragments => "too_many_fragments",
            CloseReason::TooManyPings => "too_many_pings",
            CloseReason::TooManyErrors => "too_many_errors",
            CloseReason::BadRequestLine => "bad_request_line",
            CloseReason::BadHttpVersion => "bad_http_version",
            CloseReason::BadTarget => "bad_target",
            CloseReason::BareLineFeed => "bare_line_feed",
            CloseReason::BadField => "bad_field",
            CloseReason::BadHost => "bad_host",
            CloseReason::BadContentLength => "bad_content_length",
            CloseReason::AmbiguousLength => "ambiguous_length",
            CloseReason::BadTransferCoding => "bad_transfer_coding",
            CloseReason::UnknownTransferCoding => "unknown_transfer_coding",
            CloseReason::BadChunk => "bad_chunk",
            CloseReason::LineTooLong => "line_too_long",
            CloseReason::HeadTooLarge => "head_too_large",
            CloseReason::BodyTooLarge => "body_too_large",
            CloseReason::BadExpectation => "bad_expectation",
            CloseReason::NoTunnel => "no_tunnel",
            CloseReason::BadUpgrade => "bad_upgrade",
            CloseReason::BadWebSocketVersion => "bad_websocket_version",
            CloseReason::NoSubprotocol => "no_subprotocol",
            CloseReason::BadOrigin => "bad_origin",
            CloseReason::BadProxyHeader => "bad_proxy_header",
            CloseReason::Refused => "refused",
            CloseReason::HeadTimeout => "head_timeout",
            CloseReason::BodyTimeout => "body_timeout",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::PongTimeout => "pong_timeout",
            CloseReason::CloseTimeout => "close_timeout",
            CloseReason::WriteTimeout => "write_timeout",
            CloseReason::Unauthorized => "unauthorized",
            CloseReason::Expired => "expired",
            CloseReason::Kicked => "kicked",
            CloseReason::Banned => "banned",
            CloseReason::Overloaded => "overloaded",
            CloseReason::TooSlow => "too_slow",
            CloseReason::Reconnect => "reconnect",
            CloseReason::HookDenied => "hook_denied",
            CloseReason::HookUnavailable => "hook_unavailable",
            CloseReason::Internal => "internal",
        }
    }

    /// The code of the Close frame that says it, where a frame can still be sent.
    #[must_use]
    pub fn code(self) -> Option<u16> {
        Some(match self {
            CloseReason::PeerEnd
            | CloseReason::PeerClose
            | CloseReason::BodyUnwanted
            | CloseReason::SocketError
            | CloseReason::CloseTimeout
            | CloseReason::WriteTimeout => return None,
            // Before there are frames.
            CloseReason::BadRequestLine
            | CloseReason::BadHttpVersion
            | CloseReason::BadTarget
            | CloseReason::BareLineFeed
            | CloseReason::BadField
            | CloseReason::BadHost
            | CloseReason::BadContentLength
            | CloseReason::AmbiguousLength
            | CloseReason::BadTransferCoding
            | CloseReason::UnknownTransferCoding
            | CloseReason::BadChunk
            | CloseReason::LineTooLong
            | CloseReason::HeadTooLarge
            | CloseReason::BodyTooLarge
            | CloseReason::BadExpectation
            | CloseReason::NoTunnel
            | CloseReason::BadUpgrade
            | CloseReason::BadWebSocketVersion
            | CloseReason::NoSubprotocol
            | CloseReason::BadOrigin
            | CloseReason::BadProxyHeader
            | CloseReason::Refused
            | CloseReason::HeadTimeout
            | CloseReason::BodyTimeout
            | CloseReason::IdleTimeout => return None,
            CloseReason::Done => 1000,
            CloseReason::GoingAway | CloseReason::PongTimeout => 1001,
            CloseReason::UnmaskedFrame
            | CloseReason::ReservedBits
            | CloseReason::ReservedOpcode
            | CloseReason::BadLength
            | CloseReason::BadControlFrame
            | CloseReason::BadFragment
            | CloseReason::BadCloseFrame => 1002,
            CloseReason::WrongKind => 1003,
            CloseReason::BadUtf8 | CloseReason::BadCompression => 1007,
            CloseReason::TooManyFragments
            | CloseReason::TooManyPings
            | CloseReason::TooManyErrors => 1008,
            CloseReason::MessageTooLarge => 1009,
            CloseReason::Internal => 1011,
            CloseReason::Unauthorized | CloseReason::HookDenied => 4000,
            CloseReason::Expired => 4001,
            CloseReason::Kicked => 4003,
            CloseReason::Banned => 4004,
            CloseReason::Overloaded | CloseReason::HookUnavailable => 4100,
            CloseReason::TooSlow => 4101,
            CloseReason::Reconnect => 4200,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_its_reason() {
        for (number, &reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert_eq!(CloseReason::from_u8(number as u8), Some(reason));
        }
        let beyond = CloseReason::ALL.len() as u8;
        assert_eq!(CloseReason::from_u8(beyond), None);
        // The last one of the enum: none is missing in the list.
        assert_eq!(CloseReason::Internal as u8, beyond - 1);
    }

    #[test]
    fn words_differ_and_codes_may_be_sent() {
        let mut words: Vec<_> = CloseReason::ALL.iter().map(|r| r.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), CloseReason::ALL.len());
        for reason in CloseReason::ALL {
            // RFC 6455, 5.5: a control frame carries up to 125 bytes, two of them the code.
            assert!(reason.as_str().len() <= 123);
            if let Some(code) = reason.code() {
                // RFC 6455, 7.4: these are never sent, or nobody's.
                assert!((1000..5000).contains(&code));
                assert!(!matches!(code, 1004..=1006 | 1015..=2999));
            }
        }
    }
}
