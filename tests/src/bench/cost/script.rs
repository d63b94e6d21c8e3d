//! What a client says, and what it must hear: bytes, made before anything is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use crate::socket;

/// The steps of a connection.
pub struct Script {
    steps: Vec<Step>,
    /// The last step comes again and again. Otherwise the server ends the connection behind it, and
    /// the client makes another.
    repeats: bool,
    /// For so many messages each time counts.
    pub worth: u64,
}

struct Step {
    says: Vec<u8>,
    /// Each of these is right.
    answers: Vec<Answer>,
}

pub enum Heard {
    Whole,
    Part,
    Wrong,
}

impl Script {
    /// Connections that are ended by the server.
    pub fn once() -> Script {
        Script {
            steps: Vec::new(),
            repeats: false,
            worth: 1,
        }
    }

    /// The last step is repeated, and worth so many messages.
    pub fn forever(worth: u64) -> Script {
        Script {
            steps: Vec::new(),
            repeats: true,
            worth,
        }
    }

    pub fn then(mut self, says: impl Into<Vec<u8>>, answers: Vec<Answer>) -> Script {
        let says = says.into();
        self.steps.push(Step { says, answers });
        self
    }

    pub fn ends(&self) -> bool {
        !self.repeats
    }

    /// Does this step come again and again?
    pub fn repeats(&self, step: usize) -> bool {
        self.repeats && step + 1 == self.steps.len()
    }

    /// The step behind this one.
    pub fn behind(&self, step: usize) -> usize {
        match self.repeats(step) {
            true => step,
            false => step + 1,
        }
    }

    /// Nothing is missing but the end of the connection.
    pub fn is_over(&self, step: usize) -> bool {
        !self.repeats && step == self.steps.len()
    }

    fn step(&self, step: usize) -> Option<&Step> {
        self.steps.get(step)
    }

    pub fn says(&self, step: usize) -> &[u8] {
        self.step(step).map_or(&[], |step| &step.says)
    }

    pub fn hear(&self, step: usize, bytes: &[u8]) -> Heard {
        let Some(step) = self.step(step) else {
            return Heard::Wrong;
        };
        let longest = step.answers.iter().map(|answer| answer.bytes.len()).max();
        if step.answers.iter().any(|answer| answer.is(bytes)) {
            Heard::Whole
        } else if bytes.len() < longest.unwrap_or(0) {
            Heard::Part
        } else {
            Heard::Wrong
        }
    }

    /// What a client at this step waits for.
    pub fn wanted(&self, step: usize) -> String {
        match self.step(step).and_then(|step| step.answers.first()) {
            Some(answer) => show(&answer.bytes),
            None => "the end of the connection".to_owned(),
        }
    }
}

/// Bytes that must come, but for the time of day.
#[derive(Clone, Debug)]
pub struct Answer {
    bytes: Vec<u8>,
    date: Range<usize>,
}

impl Answer {
    pub fn exactly(bytes: Vec<u8>) -> Answer {
        Answer { bytes, date: 0..0 }
    }

    /// As this one; the value of its `Date` may be another.
    fn like(bytes: Vec<u8>) -> Answer {
        const FIELDS: [&[u8]; 2] = [b"\r\nDate: ", b"\r\ndate: "];
        const VALUE: usize = "Thu, 01 Jan 1970 00:00:00 GMT".len();
        let found = FIELDS.map(|field| memchr::memmem::find(&bytes, field));
        let date = found.into_iter().flatten().next().map_or(0..0, |field| {
            let start = field + FIELDS[0].len();
            start..start + VALUE
        });
        Answer { bytes, date }
    }

    fn is(&self, got: &[u8]) -> bool {
        let Range { start, end } = self.date;
        got.len() == self.bytes.len()
            && got[..start] == self.bytes[..start]
            && got[end..] == self.bytes[end..]
    }
}

/// Asks until it has been answered in each of these ways: with a head that holds `head`, and with
/// one of these bodies. The heads are the server's own affair.
pub fn learn(
    to: SocketAddr,
    request: &[u8],
    head: &str,
    bodies: &[String],
) -> Result<Vec<Answer>, String> {
    let mut answers: Vec<Answer> = Vec::new();
    for _ in 0..100 {
        let got = ask(to, request).map_err(|error| format!("it cannot be asked: {error}"))?;
        let is_known = |body: &String| got.ends_with(format!("\r\n\r\n{body}").as_bytes());
        let is_good = memchr::memmem::find(&got, head.as_bytes()).is_some();
        if !is_good || !bodies.iter().any(is_known) {
            return Err(format!(
                "got {} instead of {head:?}, {bodies:?}",
                show(&got)
            ));
        }
        if !answers.iter().any(|answer| answer.is(&got)) {
            answers.push(Answer::like(got));
        }
        if answers.len() == bodies.len() {
            return Ok(answers);
        }
    }
    Err(format!("of {bodies:?} came only {answers:?}"))
}

/// The whole of an answer.
fn ask(to: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream: TcpStream = socket::connect(to)?;
    stream.write_all(request)?;
    let mut got = Vec::new();
    while length(&got).is_none_or(|length| got.len() < length) {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        got.extend(byte);
    }
    Ok(got)
}

/// Of the answer that begins so, if the head is whole.
fn length(got: &[u8]) -> Option<usize> {
    let end = memchr::memmem::find(got, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
    let body = head.lines().find_map(|line| {
        let value = line.strip_prefix("content-length: ")?;
        value.parse::<usize>().ok()
    });
    Some(end + body.unwrap_or(0))
}

/// The beginning of it, for people.
pub fn show(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(300)];
    format!("{} bytes, \"{}\"", bytes.len(), start.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(second: u8, content: &str) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:0{second} GMT\r\n\r\n");
        (head + content).into_bytes()
    }

    #[test]
    fn every_byte_is_compared_but_the_time_of_day() {
        let answers = vec![Answer::like(page(0, "one")), Answer::like(page(0, "three"))];
        let script = Script::once().then("ask", answers);
        for content in ["one", "three"] {
            assert!(matches!(script.hear(0, &page(9, content)), Heard::Whole));
        }
        assert!(matches!(script.hear(0, &page(9, "thr")), Heard::Part));
        assert!(matches!(script.hear(0, &page(9, "thief")), Heard::Wrong));
        assert!(matches!(script.hear(0, &page(9, "three!")), Heard::Wrong));
        assert!(matches!(script.hear(1, b"more"), Heard::Wrong));
    }

    #[test]
    fn what_is_repeated_is_the_last_step() {
        let step = || vec![Answer::exactly(b"yes".to_vec())];
        let forever = Script::forever(1)
            .then("first", step())
            .then("then", step());
        assert_eq!([forever.behind(0), forever.behind(1)], [1, 1]);
        assert!(!forever.is_over(1));
        let once = Script::once().then("first", step());
        assert_eq!(once.behind(0), 1);
        assert!(once.is_over(1));
    }
}
