//! What is counted: by the workers, each in its ring's header ([`row`]), and by the master in its state.
//!
//! No count goes back. A worker's outlive its brains; when the worker itself is gone, what it had
//! counted is added to what its seat has, in the state.

use protocol::ids::Seat;
use protocol::journal::Record;
use protocol::row::{self, COUNTERS, Figure};

use crate::state::{self, EVENT_WORDS, Head, MAX_EVENTS, State};

/// The figures of a worker, or of a seat, each where [`Figure`] says.
pub type Row = Vec<u64>;

/// Pairs of a step that adds up, besides its own three.
const AT_ONCE: usize = 56;

/// Adds what the worker of a ring had counted to what its seat has, and takes the worker out of the
/// table with the last of it. A brain that dies in between leaves word how far it was.
pub fn fold(state: &State, ring: u16, seat: Seat, figures: &Row) {
    let mut at = folded(state, ring);
    while at < figures.len() {
        let mut record = Record::new();
        let end = (at + AT_ONCE).min(figures.len());
        for (figure, value) in figures.iter().enumerate().take(end).skip(at) {
            let word = state::figure(seat.0, figure);
            if *value > 0 {
                record.set(word, state.get(word) + value);
            }
        }
        let is_done = end == figures.len();
        let folding = (u64::from(ring) + 1) | ((end as u64) << 32);
        record.set(Head::Folding.word(), if is_done { 0 } else { folding });
        if is_done {
            record.set(state::worker(ring, 0), 0);
        }
        state.commit(&mut record);
        at = end;
    }
}

/// Which of the figures of this ring's worker are in its seat's already: those before, of those that
/// count.
fn folded(state: &State, ring: u16) -> usize {
    let word = state.head(Head::Folding);
    match word as u32 == u32::from(ring) + 1 {
        true => (word >> 32) as usize,
        false => COUNTERS,
    }
}

/// What a seat has counted, and what its present workers show; `rows`: the figures of these, by ring.
#[must_use]
pub fn of_seat<'a>(state: &State, seat: Seat, rows: impl Iterator<Item = (u16, &'a Row)>) -> Row {
    let mut all: Row = (0..row::FIGURES)
        .map(|figure| state.get(state::figure(seat.0, figure)))
        .collect();
    for (ring, row) in rows {
        let folded = folded(state, ring);
        for (figure, (sum, value)) in all.iter_mut().zip(row).enumerate() {
            let is_in = (COUNTERS..folded).contains(&figure);
            *sum += if is_in { 0 } else { *value };
        }
    }
    all
}

/// All of a seat's figures, or of several seats', together.
#[must_use]
pub fn sum<'a>(rows: impl Iterator<Item = &'a Row>) -> Row {
    let mut all = vec![0; row::FIGURES];
    for row in rows {
        all.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value);
    }
    all
}

/// Part of a row: so many words from this figure on.
#[must_use]
pub fn words(row: &Row, from: Figure, count: usize) -> &[u64] {
    &row[from as usize..from as usize + count]
}

/// Counts one more.
pub fn count(state: &State, head: Head) {
    state.set(head.word(), state.head(head) + 1);
}

/// Something that operators want to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    Start = 1,
    Reload,
    ReloadFailed,
    Scale,
    Recovery,
    WorkerLost,
    GivenUp,
    Hung,
    MasterRecovery,
    Upgrade,
}

const ALL: [What; 10] = [
    What::Start,
    What::Reload,
    What::ReloadFailed,
    What::Scale,
    What::Recovery,
    What::WorkerLost,
    What::GivenUp,
    What::Hung,
    What::MasterRecovery,
    What::Upgrade,
];

impl What {
    /// In one word, and what it means.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            What::Start => ("start", "baton serves"),
            What::Reload => ("reload", "the workers were replaced"),
            What::ReloadFailed => (
                "reload-failed",
                "the old workers serve on; see the master's log",
            ),
            What::Scale => ("scale", "there is another number of workers"),
            What::Recovery => ("recovery", "a brain died, the next one went on"),
            What::WorkerLost => ("worker-lost", "guard and brain ended; another is started"),
            What::GivenUp => (
                "given-up",
                "brain after brain died; its connections went elsewhere",
            ),
            What::Hung => ("hung", "its loop stood still; the brain was aborted"),
            What::MasterRecovery => (
                "master-recovery",
                "the master's brain died, the next one went on",
            ),
            What::Upgrade => ("upgrade", "another program of the master took over"),
        }
    }
}

/// Something that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    /// The first is 1.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub what: What,
    pub worker: Option<Seat>,
}

/// Notes it; the oldest is forgotten for it.
pub fn happens(state: &State, at_ms: u64, what: What, worker: Option<Seat>) {
    let number = state.head(Head::Events) + 1;
    let mut record = Record::new();
    let seat = worker.map_or(0, |seat| u64::from(seat.0));
    for (field, value) in [number, at_ms, what as u64 | seat << 8]
        .into_iter()
        .enumerate()
    {
        record.set(state::event(number, field), value);
    }
    record.set(Head::Events.word(), number);
    state.commit(&mut record);
}

/// The last that have happened, the oldest first.
#[must_use]
pub fn events(state: &State) -> Vec<Happened> {
    let last = state.head(Head::Events);
    let first = last.saturating_sub(MAX_EVENTS - 1).max(1);
    let read = |number: u64| {
        let field = |field| state.get(state::event(number, field));
        let kind = field(2);
        let what = *ALL.get((kind as u8 as usize).checked_sub(1)?)?;
        Some(Happened {
            number,
            at_ms: field(1),
            what,
            worker: Some(Seat((kind >> 8) as u16)).filter(|seat| seat.0 > 0),
        })
    };
    (first..=last).filter_map(read).collect()
}

const _: () = assert!(EVENT_WORDS == 3);

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> Row {
        (0..row::FIGURES as u64)
            .map(|figure| figure * 1_000 + n)
            .collect()
    }

    #[test]
    fn counts_of_a_worker_that_is_gone_stay_with_its_seat() {
        let state = State::create(4096, 7).unwrap();
        state.set(state::worker(5, 0), 1);
        let (old, new) = (row(3), row(9));
        let seat = Seat(2);
        let shown = |rows: &[(u16, &Row)]| of_seat(&state, seat, rows.iter().copied());
        let before = shown(&[(5, &old), (6, &new)]);
        fold(&state, 5, seat, &old);
        assert_eq!(state.get(state::worker(5, 0)), 0);
        let after = shown(&[(6, &new)]);
        assert_eq!(after[COUNTERS..], before[COUNTERS..]);
        assert_eq!(after[..COUNTERS], new[..COUNTERS], "these are as they are");
        // The ring's number is another worker's later.
        fold(&state, 5, seat, &old);
        let twice = shown(&[]);
        assert!((COUNTERS..row::FIGURES).all(|f| twice[f] == 2 * old[f]));
    }

    #[test]
    fn a_brain_that_dies_while_it_adds_up_is_gone_on_from() {
        let state = State::create(4096, 7).unwrap();
        let (seat, old) = (Seat(1), row(4));
        // The first step of `fold`, and no more.
        let end = COUNTERS + AT_ONCE;
        for (figure, value) in old.iter().enumerate().take(end).skip(COUNTERS) {
            state.set(state::figure(seat.0, figure), *value);
        }
        state.set(Head::Folding.word(), 6 | ((end as u64) << 32));
        let rows = || [(5, &old)].into_iter();
        assert_eq!(of_seat(&state, seat, rows()), old, "nothing counts twice");
        fold(&state, 5, seat, &old);
        let after = of_seat(&state, seat, std::iter::empty());
        assert_eq!(after[COUNTERS..], old[COUNTERS..]);
    }

    #[test]
    fn the_last_events_are_remembered() {
        let state = State::create(4096, 7).unwrap();
        assert_eq!(events(&state), []);
        for n in 1..=40 {
            let what = ALL[n as usize % ALL.len()];
            happens(&state, n * 10, what, (n % 2 == 0).then_some(Seat(n as u16)));
        }
        let known = events(&state);
        assert_eq!(known.len() as u64, MAX_EVENTS);
        let last = known.last().unwrap();
        assert_eq!((last.number, last.at_ms), (40, 400));
        assert_eq!((last.what, last.worker), (ALL[0], Some(Seat(40))));
        assert_eq!(known[0].number, 9);
    }
}
