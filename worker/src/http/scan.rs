//! Where does a head end? Lines are counted and measured as they arrive, and no byte is looked at
//! twice, so that a head that comes byte by byte costs no more than one that comes at once.

use memchr::memchr;
use protocol::settings::Http;

use super::MAX_FIELDS;
use super::head;
use crate::close::CloseReason;

/// How far the head at the start of the input has been scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Scan {
    /// There is no line end before here but those that were counted.
    pub scanned: u32,
    /// Where the line that is not complete starts.
    line: u32,
    /// Lines that are complete.
    lines: u16,
    /// An empty line came before, and was skipped.
    pub after_blank: bool,
}

impl Scan {
    pub const AFTER_BLANK: Scan = Scan {
        scanned: 0,
        line: 0,
        lines: 0,
        after_blank: true,
    };

    /// Scans what is new in `input`, and returns the length of the head if it is complete.
    ///
    /// A fault is found at the byte that makes it, whether or not more has come with that byte.
    pub fn advance(&mut self, input: &[u8], http: &Http) -> Result<Option<usize>, CloseReason> {
        if self.scanned as usize > input.len() {
            // Not the input that was scanned: begin again rather than trust it.
            *self = Scan::default();
        }
        // Before anything else: what speaks TLS or another protocol sends no line ends to wait for.
        if !input.first().is_some_and(|&b| head::is_token(b)) {
            return Err(CloseReason::BadRequestLine);
        }
        let checked = self.lines > 0;
        let found = self.lines(input, http);
        // A complete head is parsed as a whole, its first line first. Otherwise that line is looked
        // at once, here: of two faults the first counts, and HTTP/0.9 ends after one line.
        if !checked && self.lines > 0 && !matches!(found, Ok(Some(_))) {
            head::check_line(input)?;
        }
        found
    }

    fn lines(&mut self, input: &[u8], http: &Http) -> Result<Option<usize>, CloseReason> {
        let max_head = http.max_head.min(u32::MAX as usize);
        // CR and LF do not count as bytes of the request line.
        let max_line = http.max_line.min(max_head).saturating_add(2);
        loop {
            let start = self.line as usize;
            let from = self.scanned as usize;
            let end = memchr(b'\n', &input[from..]).map(|n| from + n + 1);
            let seen = end.unwrap_or(input.len());
            if self.lines == 0 {
                if seen > max_line {
                    return Err(CloseReason::LineTooLong);
                }
            } else if seen > max_head {
                return Err(CloseReason::HeadTooLarge);
            }
            self.scanned = seen as u32;
            let Some(end) = end else {
                return Ok(None);
            };
            match &input[start..end - 1] {
                [b'\r'] => return Ok(Some(end)),
                [.., b'\r'] => {}
                _ => return Err(CloseReason::BareLineFeed),
            }
            if usize::from(self.lines) > http.max_fields.min(MAX_FIELDS) {
                return Err(CloseReason::HeadTooLarge);
            }
            self.lines += 1;
            self.line = end as u32;
        }
    }

    /// Fields of a head that is complete: its lines but the first.
    pub fn fields(self) -> usize {
        usize::from(self.lines).saturating_sub(1)
    }

    /// In 56 and 64 bits.
    pub fn pack(self) -> (u64, u64) {
        (
            u64::from(self.after_blank)
                | u64::from(self.lines) << 8
                | u64::from(self.scanned) << 24,
            u64::from(self.line),
        )
    }

    pub fn unpack(first: u64, second: u64) -> Option<Scan> {
        let scan = Scan {
            scanned: (first >> 24) as u32,
            line: u32::try_from(second).ok()?,
            lines: (first >> 8) as u16,
            after_blank: first & 1 == 1,
        };
        let sound = scan.line <= scan.scanned
            && (scan.lines == 0) == (scan.line == 0)
            && usize::from(scan.lines) <= MAX_FIELDS + 1;
        sound.then_some(scan)
    }
}
