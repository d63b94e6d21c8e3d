//! An HTTP/1.1 client that sends any bytes, and reads answers strictly.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::socket::{self, Options};

/// A connection.
#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first field with this name (in lower case).
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find_map(|(is, value)| (is == name).then_some(value.as_str()))
    }
}

impl Client {
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Client {
        Client::over(socket::connect(to).expect("the daemon takes connections"))
    }

    #[track_caller]
    pub fn connect_with(to: SocketAddr, options: Options) -> Client {
        Client::over(socket::connect_with(to, options).expect("the daemon takes connections"))
    }

    pub fn over(stream: TcpStream) -> Client {
        Client {
            stream,
            unread: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// A GET without more than it needs.
    pub fn request(&mut self, path: &str) -> io::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))?;
        self.response()
    }

    /// Panics unless it is answered.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.request(path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// The next answer, whose request was not HEAD. `UnexpectedEof`: the stream has ended.
    pub fn response(&mut self) -> io::Result<Response> {
        self.read_response(true)
    }

    /// The next answer to a HEAD.
    pub fn head_response(&mut self) -> io::Result<Response> {
        self.read_response(false)
    }

    /// Everything up to the end of the stream; a reset is an error.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.unread);
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Waits until the peer has ended the stream, and returns whether it said nothing more.
    pub fn ends(&mut self) -> bool {
        match self.rest() {
            Ok(rest) => rest.is_empty(),
            Err(error) => socket::is_closed(&error),
        }
    }

    pub fn shutdown_write(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn read_response(&mut self, with_body: bool) -> io::Result<Response> {
        let head = self.read_until(b"\r\n\r\n")?;
        let head = String::from_utf8(head).map_err(|_| invalid("a head that is not UTF-8"))?;
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| invalid(&format!("a status line {first:?}")))?;
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line
                .split_once(": ")
                .ok_or_else(|| invalid(&format!("a field {line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut response = Response {
            status,
            fields,
            body: Vec::new(),
        };
        // RFC 9112, 6.3: these have no body, whatever their fields say.
        if with_body && status >= 200 && status != 204 && status != 304 {
            response.body = self.read_body(&response)?;
        }
        Ok(response)
    }

    fn read_body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        if let Some(length) = response.field("content-length") {
            let length = length.parse().map_err(|_| invalid("a length"))?;
            return self.read_exactly(length);
        }
        if response.field("transfer-encoding") != Some("chunked") {
            return self.rest();
        }
        let mut body = Vec::new();
        loop {
            let line = self.read_until(b"\r\n")?;
            let line = String::from_utf8_lossy(&line);
            let length = usize::from_str_radix(line.trim_end(), 16)
                .map_err(|_| invalid(&format!("a chunk's length {line:?}")))?;
            body.extend(self.read_exactly(length)?);
            if self.read_exactly(2)? != b"\r\n" {
                return Err(invalid("a chunk's end"));
            }
            if length == 0 {
                return Ok(body);
            }
        }
    }

    /// Up to and with `end`.
    fn read_until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            let found = self.unread[searched..]
                .windows(end.len())
                .position(|window| window == end);
            if let Some(at) = found {
                let rest = self.unread.split_off(searched + at + end.len());
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            searched = (self.unread.len() + 1).saturating_sub(end.len());
            self.read_more()?;
        }
    }

    fn read_exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            self.read_more()?;
        }
        let rest = self.unread.split_off(length);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut block = [0; 16 << 10];
        let read = self.stream.read(&mut block)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend(&block[..read]);
        Ok(())
    }
}

/// GET on a connection of its own.
#[track_caller]
pub fn get(to: SocketAddr, path: &str) -> Response {
    Client::connect(to).get(path)
}

/// Sends the bytes on a connection of its own, and returns all that comes back until it ends.
#[track_caller]
pub fn exchange(to: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut client = Client::connect(to);
    client.send(bytes).expect("the daemon reads");
    client
        .rest()
        .expect("the daemon answers and ends the stream")
}

/// Who answers: the worker's number and the pid of its brain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    pub worker: u64,
    pub pid: i32,
}

impl Who {
    /// From the body of `/whoami`: `handled by worker 2 (pid 4242)`.
    pub fn parse(text: &str) -> Option<Who> {
        let rest = text.trim_end().strip_prefix("handled by worker ")?;
        let (worker, pid) = rest.strip_suffix(')')?.split_once(" (pid ")?;
        Some(Who {
            worker: worker.parse().ok()?,
            pid: pid.parse().ok()?,
        })
    }
}

/// Asks `/whoami` on this connection.
pub fn ask_whoami(client: &mut Client) -> io::Result<Who> {
    let response = client.request("/whoami")?;
    match Who::parse(&response.text()) {
        Some(who) if response.status == 200 => Ok(who),
        _ => Err(invalid(&format!("{response:?}"))),
    }
}

/// Asks `/whoami` on a connection of its own.
#[track_caller]
pub fn whoami(to: SocketAddr) -> Who {
    ask_whoami(&mut Client::connect(to)).unwrap_or_else(|error| panic!("/whoami: {error}"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}
