//! What a line looks like.
//!
//! Text: `2026-11-21T05:33:22.123Z INFO  worker-2 c17 closed: peer-closed reason=4101`; JSON: an
//! object with `time`, `level`, `role`, `msg` and the record's own keys. What comes from outside
//! may hold anything: control characters are escaped, so that nobody writes lines of his own.

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use log::Record;
use log::kv::{self, Key, Value, VisitSource};

/// The longest line, in bytes: a pipe takes so many at once or none (`PIPE_BUF`), so that no line
/// is torn.
pub const MAX: usize = 4096;
/// What the end of a line needs: `…`, `"}` and the newline, and a key that begins.
const MARGIN: usize = 96;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    /// One object per line.
    Json,
}

impl Format {
    /// So many bytes at the start of a line are its time.
    pub fn time_len(self) -> usize {
        match self {
            Format::Text => "2026-11-21T05:33:22.123Z".len(),
            Format::Json => "{\"time\":\"2026-11-21T05:33:22.123Z\"".len(),
        }
    }

    /// Adds a line of [`MAX`] bytes at most to `line`; what is too long ends in `…`.
    pub fn write(self, line: &mut Vec<u8>, now: SystemTime, role: &str, record: &Record<'_>) {
        let mut line = Line {
            bytes: line,
            format: self,
            cut: false,
        };
        // Writing into a Vec cannot fail; what is refused is cut.
        let _ = match self {
            Format::Text => line.text(now, role, record),
            Format::Json => line.json(now, role, record),
        };
        line.bytes.push(b'\n');
    }
}

struct Line<'a> {
    bytes: &'a mut Vec<u8>,
    format: Format,
    cut: bool,
}

impl Line<'_> {
    fn text(&mut self, now: SystemTime, role: &str, record: &Record<'_>) -> fmt::Result {
        self.put(Time(now))?;
        self.put(format_args!(" {:<5} {role} ", record.level()))?;
        write!(self, "{}", record.args())?;
        self.pairs(record)
    }

    fn json(&mut self, now: SystemTime, role: &str, record: &Record<'_>) -> fmt::Result {
        let (now, level) = (Time(now), record.level());
        self.put(format_args!(
            "{{\"time\":\"{now}\",\"level\":\"{level}\",\"role\":\"{role}\",\"msg\":\""
        ))?;
        write!(self, "{}", record.args())?;
        self.put("\"")?;
        self.pairs(record)?;
        self.put("}")
    }

    fn pairs(&mut self, record: &Record<'_>) -> fmt::Result {
        record.key_values().visit(self).map_err(|_| fmt::Error)
    }

    /// Adds what is ours, as it is.
    fn put(&mut self, what: impl fmt::Display) -> fmt::Result {
        struct Raw<'a>(&'a mut Vec<u8>);
        impl fmt::Write for Raw<'_> {
            fn write_str(&mut self, s: &str) -> fmt::Result {
                self.0.extend_from_slice(s.as_bytes());
                Ok(())
            }
        }
        write!(Raw(self.bytes), "{what}")
    }
}

/// Adds what comes from outside, escaped, as far as there is room.
impl fmt::Write for Line<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            if self.cut {
                break;
            }
            if self.bytes.len() > MAX - MARGIN {
                self.cut = true;
                self.put('…')?;
                break;
            }
            match (c, self.format) {
                ('"' | '\\', Format::Json) => self.put(format_args!("\\{c}"))?,
                (c, Format::Json) if c.is_control() => {
                    self.put(format_args!("\\u{:04x}", c as u32))?;
                }
                (c, Format::Text) if c.is_control() => self.put(c.escape_default())?,
                _ => self.put(c)?,
            }
        }
        Ok(())
    }
}

impl<'kvs> VisitSource<'kvs> for Line<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        if self.cut {
            return Ok(());
        }
        match self.format {
            Format::Text => write!(self, " {key}={value}")?,
            Format::Json => {
                self.put(format_args!(",\"{key}\":"))?;
                if is_json(&value) {
                    self.put(value)?;
                } else {
                    self.put("\"")?;
                    write!(self, "{value}")?;
                    self.put("\"")?;
                }
            }
        }
        Ok(())
    }
}

/// Its text is a JSON value as it is.
fn is_json(value: &Value<'_>) -> bool {
    value.to_i64().is_some() || value.to_u64().is_some() || value.to_bool().is_some()
}

/// UTC, to the millisecond, as RFC 3339 has it.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub SystemTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (year, month, day) = date(since.as_secs() / 86_400);
        let second = since.as_secs() % 86_400;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
}

/// The date so many days after 1970-01-01, by the Gregorian calendar. Counted in years that begin
/// in March, so that the leap day is the last, from 0000-03-01 (719,468 days before).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use log::Level;

    use super::*;

    fn written(format: Format, message: &str) -> String {
        let mut line = Vec::new();
        format.write(
            &mut line,
            UNIX_EPOCH + Duration::from_millis(1_795_239_202_123),
            "worker-2",
            &Record::builder()
                .level(Level::Info)
                .args(format_args!("{message}"))
                .key_values(&[
                    ("cid", Value::from(17u64)),
                    ("why", Value::from("a \"b\"\n")),
                ])
                .build(),
        );
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn text() {
        assert_eq!(
            written(Format::Text, "c17 closed: \"x\"\r\nERROR forged"),
            "2026-11-21T05:33:22.123Z INFO  worker-2 c17 closed: \"x\"\\r\\nERROR forged cid=17 why=a \"b\"\\n\n"
        );
    }

    #[test]
    fn json() {
        assert_eq!(
            written(Format::Json, "c17 closed: \"x\"\r\n"),
            "{\"time\":\"2026-11-21T05:33:22.123Z\",\"level\":\"INFO\",\"role\":\"worker-2\",\
             \"msg\":\"c17 closed: \\\"x\\\"\\u000d\\u000a\",\"cid\":17,\"why\":\"a \\\"b\\\"\\u000a\"}\n"
        );
    }

    #[test]
    fn a_long_line_is_cut_and_still_whole() {
        for format in [Format::Text, Format::Json] {
            for c in ["a", "\0", "\"", "😀"] {
                let line = written(format, &c.repeat(5000));
                assert!(line.len() <= MAX, "{}", line.len());
                assert!(line.len() > MAX - 2 * MARGIN);
                assert!(line.contains('…'));
                assert!(line.ends_with(if format == Format::Json {
                    "\"}\n"
                } else {
                    "…\n"
                }));
                assert_eq!(line.matches('\n').count(), 1);
            }
        }
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(59), (1970, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(11_017), (2000, 3, 1));
        assert_eq!(date(20_778), (2026, 11, 21));
        assert_eq!(date(47_540), (2100, 2, 28));
        assert_eq!(date(47_541), (2100, 3, 1));
    }
}
