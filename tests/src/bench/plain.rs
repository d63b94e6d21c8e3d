//! A WebSocket client that costs next to nothing: what it says is made before, what it hears is
//! looked at where it lies. It waits for what it wants; every wait has a deadline.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;

use crate::deflate;
use crate::socket::{self, Options};
use crate::websocket::{frame, handshake};

/// FIN and the opcode.
pub const TEXT: u8 = 0x81;

pub struct Plain {
    stream: TcpStream,
    unread: Vec<u8>,
    /// Of `unread`, what has been taken.
    taken: usize,
    buffer: Box<[u8]>,
}

impl Plain {
    pub fn connect(to: SocketAddr, path: &str) -> io::Result<Plain> {
        Plain::connect_from(to, path, None, 16 << 10)
    }

    /// From this address, with a buffer of so many bytes.
    pub fn connect_from(
        to: SocketAddr,
        path: &str,
        from: Option<IpAddr>,
        buffer: usize,
    ) -> io::Result<Plain> {
        Plain::shake(to, &handshake(to, path), from, buffer)
    }

    /// What it hears may come compressed, and is taken as it comes.
    pub fn deflated(to: SocketAddr, path: &str) -> io::Result<Plain> {
        let (name, offer) = deflate::OFFER;
        let mut request = handshake(to, path);
        request.truncate(request.len() - 2);
        let request = format!("{request}{name}: {offer}\r\n\r\n");
        Plain::shake(to, &request, None, 16 << 10)
    }

    fn shake(
        to: SocketAddr,
        request: &str,
        from: Option<IpAddr>,
        buffer: usize,
    ) -> io::Result<Plain> {
        let options = Options {
            from,
            ..Options::default()
        };
        let mut plain = Plain {
            stream: socket::connect_with(to, options)?,
            unread: Vec::new(),
            taken: 0,
            buffer: vec![0; buffer].into(),
        };
        plain.say(request.as_bytes())?;
        const END: &[u8] = b"\r\n\r\n";
        let end = loop {
            match memchr::memmem::find(&plain.unread, END) {
                Some(end) => break end + END.len(),
                None => plain.read()?,
            }
        };
        if !plain.unread.starts_with(b"HTTP/1.1 101 ") {
            let answer = String::from_utf8_lossy(&plain.unread[..end]);
            return Err(io::Error::other(answer.into_owned()));
        }
        plain.taken = end;
        Ok(plain)
    }

    /// One that is greeted; and by which worker.
    pub fn greeted(to: SocketAddr) -> io::Result<(Plain, u64)> {
        let mut plain = Plain::connect(to, "/rooms")?;
        let worker = plain.greeting()?;
        Ok((plain, worker))
    }

    /// The worker that greets it.
    pub fn greeting(&mut self) -> io::Result<u64> {
        let hello: serde_json::Value = serde_json::from_slice(self.hear()?)?;
        let worker = hello["hello"]["worker"].as_u64();
        worker.ok_or_else(|| io::Error::other(format!("no greeting: {hello}")))
    }

    /// Frames, or other bytes, as they are.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says a message, and hears the next.
    pub fn ask(&mut self, message: &str) -> io::Result<String> {
        self.say(&frame(TEXT, message.as_bytes()))?;
        let heard = self.hear()?;
        Ok(String::from_utf8_lossy(heard).into_owned())
    }

    /// The next message.
    pub fn hear(&mut self) -> io::Result<&[u8]> {
        loop {
            if let Some(payload) = first_frame(&self.unread[self.taken..]) {
                let (start, end) = (self.taken + payload.start, self.taken + payload.end);
                let opcode = self.unread[self.taken] & 0x0f;
                self.taken = end;
                match opcode {
                    1 | 2 => return Ok(&self.unread[start..end]),
                    8 => return Err(io::ErrorKind::ConnectionAborted.into()),
                    // Nobody here lives long enough for pings to matter.
                    _ => continue,
                }
            }
            self.read()?;
        }
    }

    /// The next message is there already.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        first_frame(&self.unread[self.taken..]).is_some()
    }

    fn read(&mut self) -> io::Result<()> {
        self.unread.drain(..self.taken);
        self.taken = 0;
        match self.stream.read(&mut self.buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.unread.extend(&self.buffer[..read]);
                Ok(())
            }
        }
    }
}

/// Where the payload of the first frame lies, if it is whole.
fn first_frame(bytes: &[u8]) -> Option<Range<usize>> {
    let (head, length) = match *bytes.get(1)? {
        126 => (
            4,
            usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        ),
        127 => (
            10,
            u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize,
        ),
        short => (2, usize::from(short)),
    };
    (bytes.len() >= head + length).then_some(head..head + length)
}

/// The offset in `"pos":"e3:1051"`, wherever in the message it is.
#[must_use]
pub fn offset(message: &[u8]) -> Option<u64> {
    const KEY: &[u8] = br#""pos":""#;
    let position = &message[memchr::memmem::find(message, KEY)? + KEY.len()..];
    let position = &position[memchr::memchr(b':', position)? + 1..];
    let digits = position.iter().take_while(|byte| byte.is_ascii_digit());
    let (mut number, mut some) = (0, false);
    for digit in digits {
        number = number * 10 + u64::from(digit - b'0');
        some = true;
    }
    some.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_offsets_are_found_where_they_lie() {
        assert_eq!(first_frame(&[0x81, 2, b'a', b'b', 0x81]), Some(2..4));
        assert_eq!(first_frame(&[0x81, 2, b'a']), None);
        assert_eq!(first_frame(&[0x81, 126, 0]), None);
        let long = [&[0x82, 126, 1, 0][..], &[7; 300]].concat();
        assert_eq!(first_frame(&long), Some(4..260));
        assert_eq!(offset(br#"{"id":3,"ok":{"pos":"e3:1051"}}"#), Some(1051));
        assert_eq!(offset(br#"{"id":3,"ok":{}}"#), None);
        assert_eq!(offset(br#"{"pos":"e3:"}"#), None);
    }
}
