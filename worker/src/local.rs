//! What a connection is to this brain alone: a few bytes, since there are many.

/// The slot is what counts; the next brain begins with none of this.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local {
    /// Bytes that must be unread together for its parser to go on.
    pub want: u32,
    /// Of the slot's present user, so that an event for the one before is known: they come in the
    /// same turn, in which no slot has so many users.
    pub generation: u16,
    marks: u8,
}

const _: () = assert!(size_of::<Local>() == 8);

/// What is so or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// Events of its socket come.
    Watched = 1,
    /// It is in the list of those to be flushed in this turn.
    Touched = 2,
    /// Its kernel side may have more to read than was read.
    Readable = 4,
    /// Its input waits for its output to go.
    Waits = 8,
    /// As the slot's flag.
    Lagging = 16,
    /// It is to be given away and not read any more ([`crate::part`]).
    Parting = 32,
    /// Its end was announced with the last event: read on to it.
    Ended = 64,
}

impl Local {
    #[must_use]
    pub fn is(self, mark: Mark) -> bool {
        self.marks & mark as u8 != 0
    }

    /// Returns what it was.
    pub fn set(&mut self, mark: Mark, on: bool) -> bool {
        let was = self.is(mark);
        self.marks = self.marks & !(mark as u8) | (mark as u8 * u8::from(on));
        was
    }

    /// The slot is another connection's from now on, or nobody's.
    #[must_use]
    pub fn next(self) -> Local {
        Local {
            generation: self.generation.wrapping_add(1),
            ..Local::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_by_itself() {
        let mut local = Local::default();
        assert!(!local.set(Mark::Readable, true));
        assert!(local.set(Mark::Readable, true));
        assert!(!local.set(Mark::Ended, true));
        assert!(local.set(Mark::Readable, false));
        assert!(!local.is(Mark::Readable) && local.is(Mark::Ended));
        let next = local.next();
        assert!(!next.is(Mark::Ended));
        assert_eq!(next.generation, local.generation + 1);
    }
}
