//! The PROXY protocol, versions 1 and 2, as haproxy's `proxy-protocol.txt` has it: what a proxy
//! says before the client's first byte about who the client is. Quotations here are from there.
//!
//! Bytes in, an address out: "the receiver MUST NOT start processing the connection before it
//! receives a complete and valid PROXY protocol header", and "MUST not try to guess whether the
//! protocol header is present".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// Bytes of a header at most, with all its additions: one block of the arena. The protocol wants
/// headers to fit in the smallest segment (536 bytes), but a certificate's name may be long.
pub const MAX_HEADER: usize = 4096;

const V1_START: &[u8] = b"PROXY ";

/// "A 108-byte buffer is always enough to store all the line and a trailing zero."
const V1_MAX: usize = 107;

const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The start, version and command, family, length.
const V2_FIXED: usize = 16;

/// What stands at the begin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The header is not all there yet.
    Incomplete,
    /// The client's own bytes begin behind these.
    Header {
        len: usize,
        /// The client. `None`: the proxy speaks for itself (a health check), or does not know;
        /// then the connection's own peer it is.
        source: Option<SocketAddr>,
    },
}

/// The header is not one, so that nobody knows who the client is: the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Bad {
    #[error("no PROXY header")]
    NoHeader,
    #[error("a PROXY line that is malformed")]
    Line,
    #[error("a PROXY header of more than {MAX_HEADER} bytes")]
    TooLong,
    #[error("a PROXY header of an unknown version")]
    Version,
    #[error("a PROXY header with an unknown command")]
    Command,
    #[error("a PROXY header with an unknown address family or transport")]
    Family,
    #[error("a PROXY header that is too short for its addresses")]
    Short,
}

/// Reads the header at the begin of `bytes`, which are all that has come so far.
///
/// # Errors
/// As soon as it is sure that no header comes.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Bad> {
    if starts(bytes, V2_START) {
        v2(bytes)
    } else if starts(bytes, V1_START) {
        v1(bytes)
    } else {
        Err(Bad::NoHeader)
    }
}

/// Does it start so, as far as it goes?
fn starts(bytes: &[u8], with: &[u8]) -> bool {
    let n = bytes.len().min(with.len());
    bytes[..n] == with[..n]
}

/// `PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n`
fn v1(bytes: &[u8]) -> Result<Parsed, Bad> {
    let line = &bytes[..bytes.len().min(V1_MAX)];
    // "The receiver must not tolerate a single CR or LF character to end the line."
    let end = line.iter().position(|&b| b == b'\r' || b == b'\n');
    let end = match (end, line.len() < V1_MAX) {
        (Some(at), more) => match line[at..] {
            [b'\r', b'\n', ..] => at,
            [b'\r'] if more => return Ok(Parsed::Incomplete),
            _ => return Err(Bad::Line),
        },
        (None, true) => return Ok(Parsed::Incomplete),
        (None, false) => return Err(Bad::Line),
    };
    let text = std::str::from_utf8(&line[V1_START.len().min(end)..end]).map_err(|_| Bad::Line)?;
    let source = match text.split_once(' ').unwrap_or((text, "")) {
        // "The receiver must ignore anything presented before the CRLF is found."
        ("UNKNOWN", _) => None,
        ("TCP4", rest) => Some(v1_source::<Ipv4Addr>(rest).ok_or(Bad::Line)?),
        ("TCP6", rest) => Some(v1_source::<Ipv6Addr>(rest).ok_or(Bad::Line)?),
        _ => return Err(Bad::Line),
    };
    Ok(Parsed::Header {
        len: end + 2,
        source,
    })
}

/// Source address, destination address, source port, destination port.
fn v1_source<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Option<SocketAddr> {
    // "Exactly one space": with two, one of the parts is empty.
    let mut parts = text.split(' ');
    let source: A = parts.next()?.parse().ok()?;
    let _destination: A = parts.next()?.parse().ok()?;
    let port = v1_port(parts.next()?)?;
    let _destination_port = v1_port(parts.next()?)?;
    match parts.next() {
        None => Some(address(source, port)),
        Some(_) => None,
    }
}

fn v1_port(text: &str) -> Option<u16> {
    // "Heading zeroes are not permitted"; and Rust would take `+80`.
    let strict =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    strict.then(|| text.parse().ok())?
}

fn v2(bytes: &[u8]) -> Result<Parsed, Bad> {
    let Some(&version_command) = bytes.get(12) else {
        return Ok(Parsed::Incomplete);
    };
    if version_command >> 4 != 2 {
        return Err(Bad::Version);
    }
    let local = match version_command & 15 {
        0 => true,
        1 => false,
        // "Receivers must drop connections presenting unexpected values here."
        _ => return Err(Bad::Command),
    };
    let Some(&family) = bytes.get(13) else {
        return Ok(Parsed::Incomplete);
    };
    // A local connection's family "is ignored".
    if !local && (family >> 4 > 3 || family & 15 > 2) {
        return Err(Bad::Family);
    }
    let Some(&[high, low]) = bytes.get(14..V2_FIXED) else {
        return Ok(Parsed::Incomplete);
    };
    let addresses = match family {
        _ if local => 0,
        // TCP over IPv4: two addresses and two ports.
        0x11 => 2 * 4 + 2 * 2,
        // TCP over IPv6.
        0x21 => 2 * 16 + 2 * 2,
        // "The receiver should ignore address information" of what is unspecified, and may treat
        // so what it does not implement: here datagrams and Unix sockets.
        _ => 0,
    };
    // "The length of the protocol header in bytes is always exactly 16 + this value."
    let len = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_HEADER {
        return Err(Bad::TooLong);
    }
    if len < V2_FIXED + addresses {
        return Err(Bad::Short);
    }
    let Some(header) = bytes.get(V2_FIXED..len) else {
        return Ok(Parsed::Incomplete);
    };
    // What lies behind the addresses are type-length-value additions, which "a receiver may choose
    // to skip over and ignore".
    let source = match (addresses, header) {
        (12, &[a, b, c, d, _, _, _, _, p, q, ..]) => {
            let ip = Ipv4Addr::new(a, b, c, d);
            Some(address(ip, u16::from_be_bytes([p, q])))
        }
        (36, _) => header.first_chunk::<16>().and_then(|&ip| {
            let &[p, q] = header.get(32..34)? else {
                return None;
            };
            Some(address(Ipv6Addr::from(ip), u16::from_be_bytes([p, q])))
        }),
        _ => None,
    };
    Ok(Parsed::Header { len, source })
}

/// An IPv4 address that came as IPv6 (`::ffff:192.0.2.1`) is the same client's.
fn address(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into().to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP4: &str = "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";

    fn whole(bytes: &[u8]) -> (usize, Option<String>) {
        match parse(bytes) {
            Ok(Parsed::Header { len, source }) => (len, source.map(|s| s.to_string())),
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }

    fn v2(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        [V2_START, &[version_command, family], &len, rest].concat()
    }

    fn tcp4() -> Vec<u8> {
        v2(
            0x21,
            0x11,
            &[192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb],
        )
    }

    fn tcp6(ip: Ipv6Addr) -> Vec<u8> {
        let ports = [0xdc, 4, 1, 0xbb];
        v2(0x21, 0x21, &[&ip.octets()[..], &[9; 16], &ports].concat())
    }

    #[test]
    fn lines() {
        for (line, source) in [
            (TCP4, Some("192.0.2.1:56324")),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                Some("255.255.255.255:65535"),
            ),
            ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some("0.0.0.0:0")),
            (
                "PROXY TCP6 2001:DB8::1 ::1 4124 443\r\n",
                Some("[2001:db8::1]:4124"),
            ),
            (
                "PROXY TCP6 ::ffff:192.0.2.1 ::1 4124 443\r\n",
                Some("192.0.2.1:4124"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN \r\n", None),
            (
                "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                None,
            ),
        ] {
            let expected = (line.len(), source.map(str::to_owned));
            assert_eq!(whole(line.as_bytes()), expected);
            let more = format!("{line}GET / HTTP/1.1\r\n");
            assert_eq!(whole(more.as_bytes()), expected);
        }
    }

    #[test]
    fn lines_that_are_none() {
        for line in [
            "PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 056324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +5632 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 \r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY TCP6 fe80::1%1 ::1 56324 443\r\n",
            "PROXY TCP6 ::1::1 ::1 56324 443\r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY UNKNOWN\n",
            "PROXY UNKNOWN\rx",
            "PROXY UNKNOWN \n \r\n",
            "PROXY UNKNOWN \r\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Bad::Line), "{line:?}");
        }
        let high = b"PROXY UNKNOWN \xff\r\n";
        assert_eq!(parse(high), Err(Bad::Line));
    }

    #[test]
    fn a_line_is_bounded() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(longest.len(), V1_MAX);
        assert_eq!(whole(longest.as_bytes()).0, V1_MAX);
        let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        assert_eq!(parse(&longer.as_bytes()[..106]), Ok(Parsed::Incomplete));
        assert_eq!(parse(&longer.as_bytes()[..107]), Err(Bad::Line));
        assert_eq!(parse(longer.as_bytes()), Err(Bad::Line));
    }

    #[test]
    fn binary_headers() {
        let port = ":56324";
        assert_eq!(whole(&tcp4()), (28, Some(format!("192.0.2.1{port}"))));
        let ip = "2001:db8::1".parse().unwrap();
        assert_eq!(whole(&tcp6(ip)), (52, Some(format!("[2001:db8::1]{port}"))));
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(whole(&tcp6(mapped)), (52, Some(format!("192.0.2.1{port}"))));

        // LOCAL: whatever else it says.
        assert_eq!(whole(&v2(0x20, 0, b"")), (16, None));
        assert_eq!(whole(&v2(0x20, 0x11, b"abc")), (19, None));
        assert_eq!(whole(&v2(0x20, 0xff, b"")), (16, None));
        // What is unspecified, or not for us.
        for family in [0x00, 0x01, 0x02, 0x10, 0x12, 0x20, 0x22, 0x30, 0x31, 0x32] {
            assert_eq!(whole(&v2(0x21, family, &[7; 216])), (232, None));
        }
    }

    #[test]
    fn binary_headers_that_are_none() {
        let with = |at: usize, byte: u8| {
            let mut bytes = tcp4();
            bytes[at] = byte;
            parse(&bytes)
        };
        assert_eq!(with(11, b'\r'), Err(Bad::NoHeader));
        assert_eq!(with(12, 0x11), Err(Bad::Version));
        assert_eq!(with(12, 0x31), Err(Bad::Version));
        assert_eq!(with(12, 0x22), Err(Bad::Command));
        assert_eq!(with(13, 0x41), Err(Bad::Family));
        assert_eq!(with(13, 0x13), Err(Bad::Family));
        assert_eq!(with(15, 11), Err(Bad::Short));
        assert_eq!(with(13, 0x21), Err(Bad::Short));
        assert_eq!(with(14, 0xff), Err(Bad::TooLong));
    }

    #[test]
    fn additions_are_skipped_up_to_a_bound() {
        let additions = vec![0xe0; MAX_HEADER - 28];
        let longest = v2(0x21, 0x11, &[&tcp4()[16..], &additions].concat());
        assert_eq!(whole(&longest), (MAX_HEADER, whole(&tcp4()).1));
        let longer = v2(0x21, 0x11, &[0; MAX_HEADER - 15]);
        assert_eq!(parse(&longer), Err(Bad::TooLong));
        // It is told before it comes.
        assert_eq!(parse(&longer[..16]), Err(Bad::TooLong));
    }

    #[test]
    fn every_cut_is_incomplete() {
        let ip = "2001:db8::1".parse().unwrap();
        for header in [
            TCP4.as_bytes().to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            tcp4(),
            tcp6(ip),
            v2(0x20, 0, b"additions"),
        ] {
            for cut in 0..header.len() {
                let parsed = parse(&header[..cut]);
                assert_eq!(parsed, Ok(Parsed::Incomplete), "{cut}");
            }
            assert_eq!(whole(&header).0, header.len());
        }
    }

    #[test]
    fn what_has_no_header_is_told_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXX",
            b"PRI",
            b"\r\n\r\nG",
            b"\x16\x03",
            b"proxy ",
        ] {
            assert_eq!(parse(bytes), Err(Bad::NoHeader));
        }
        assert_eq!(parse(b"PROXY\t"), Err(Bad::NoHeader));
        assert_eq!(parse(b"PROXY\r\n"), Err(Bad::NoHeader));
    }
}
