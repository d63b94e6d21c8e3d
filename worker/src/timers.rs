//! When which connection must be looked at.
//!
//! A connection's deadlines are in its slot, and move with nearly every byte; here is only when the
//! slot is looked at next, which is never later than its earliest deadline. So a deadline that
//! becomes later costs nothing: the slot is looked at too early, once, and queued again.
//!
//! [`Timers`] is a hashed timing wheel (Varghese and Lauck, 1987, scheme 6) whose buckets are lists
//! through the slots' nodes: 6 bytes a slot, and every operation is O(1).

use crate::state::MAX_SLOTS;

/// How exact the wheel is: a slot comes out up to so late, and never early.
pub const RESOLUTION_MS: u64 = 100;

/// A power of two. What is further away than a turn of the wheel (1 min 42 s) comes out once a turn.
const BUCKETS: usize = 1024;

/// No slot, no bucket.
const NONE: u16 = u16::MAX;
const _: () = assert!(MAX_SLOTS <= NONE as u32);

/// Slots in the order of when they are to be looked at.
#[derive(Debug)]
pub struct Timers {
    nodes: Vec<Node>,
    /// The first slot of each bucket.
    heads: Box<[u16; BUCKETS]>,
    /// Which buckets are not empty.
    filled: [u64; BUCKETS / 64],
    /// The last tick that has come; its bucket may still hold some of it.
    tick: u64,
}

/// A slot's place in a list.
#[derive(Clone, Copy, Debug)]
struct Node {
    previous: u16,
    next: u16,
    bucket: u16,
}

impl Timers {
    #[must_use]
    pub fn new(now_ms: u64) -> Timers {
        Timers {
            nodes: Vec::new(),
            heads: Box::new([NONE; BUCKETS]),
            filled: [0; BUCKETS / 64],
            tick: now_ms / RESOLUTION_MS,
        }
    }

    /// The slot comes out at `at_ms` at the latest. Does nothing if it comes out sooner already,
    /// which makes it cheap to call for every deadline that is set.
    pub fn schedule(&mut self, slot: u32, at_ms: u64) {
        let due = at_ms.div_ceil(RESOLUTION_MS);
        // Not in the bucket that is coming out, or it would come out again and again.
        let away = due.saturating_sub(self.tick).clamp(1, BUCKETS as u64 - 1);
        let index = slot as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, Node::OUT);
        }
        let slot = slot as u16;
        match self.nodes[index].bucket {
            NONE => {}
            bucket if self.away(bucket) <= away => return,
            _ => self.unlink(slot),
        }
        self.link(slot, bucket_of(self.tick + away));
    }

    /// Takes one out whose time has come. Its deadlines are in its slot: if the earliest is still
    /// ahead, [`schedule`](Timers::schedule) it again. What is scheduled meanwhile for a time that
    /// has come comes out too, but never without end.
    pub fn pop(&mut self, now_ms: u64) -> Option<u32> {
        let now = now_ms / RESOLUTION_MS;
        // After a jump, each bucket is looked at once, however far it was.
        self.tick = self.tick.max(now.saturating_sub(BUCKETS as u64 - 1));
        loop {
            let bucket = bucket_of(self.tick);
            let slot = self.heads[usize::from(bucket)];
            if slot != NONE {
                self.unlink(slot);
                return Some(slot.into());
            }
            if self.tick >= now {
                return None;
            }
            // The next that is not empty, but not past `now`.
            let step = self.next_filled().unwrap_or(u64::MAX);
            self.tick += step.min(now - self.tick);
        }
    }

    /// There are no slots from `used` on any more: none of them comes out, and their memory goes.
    pub fn rest(&mut self, used: u32) {
        for slot in used as usize..self.nodes.len() {
            if self.nodes[slot].bucket != NONE {
                self.unlink(slot as u16);
            }
        }
        self.nodes.truncate(used as usize);
        self.nodes.shrink_to_fit();
    }

    /// When one comes out; `None`: there is none.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let bucket = usize::from(bucket_of(self.tick));
        let away = if self.heads[bucket] == NONE {
            self.next_filled()?
        } else {
            0
        };
        Some((self.tick + away) * RESOLUTION_MS)
    }

    /// Ticks from now to a bucket.
    fn away(&self, bucket: u16) -> u64 {
        u64::from(bucket.wrapping_sub(bucket_of(self.tick))) % BUCKETS as u64
    }

    /// Ticks from now to the next bucket that is not empty, behind the one that is coming out.
    fn next_filled(&self) -> Option<u64> {
        let words = self.filled.len();
        let from = (usize::from(bucket_of(self.tick)) + 1) % BUCKETS;
        // The first word counts from its middle on, and once more at the end for its begin.
        (0..=words).find_map(|i| {
            let at = (from / 64 + i) % words;
            let mask = if i == 0 {
                u64::MAX << (from % 64)
            } else {
                u64::MAX
            };
            let word = self.filled[at] & mask;
            let bucket = at * 64 + word.trailing_zeros() as usize;
            (word != 0).then(|| self.away(bucket as u16))
        })
    }

    fn link(&mut self, slot: u16, bucket: u16) {
        let head = &mut self.heads[usize::from(bucket)];
        let next = std::mem::replace(head, slot);
        if next != NONE {
            self.nodes[usize::from(next)].previous = slot;
        }
        self.nodes[usize::from(slot)] = Node {
            previous: NONE,
            next,
            bucket,
        };
        self.filled[usize::from(bucket) / 64] |= 1 << (bucket % 64);
    }

    /// Of a slot that is in a bucket.
    fn unlink(&mut self, slot: u16) {
        let node = std::mem::replace(&mut self.nodes[usize::from(slot)], Node::OUT);
        let Node {
            previous,
            next,
            bucket,
        } = node;
        if next != NONE {
            self.nodes[usize::from(next)].previous = previous;
        }
        if previous != NONE {
            self.nodes[usize::from(previous)].next = next;
            return;
        }
        self.heads[usize::from(bucket)] = next;
        if next == NONE {
            self.filled[usize::from(bucket) / 64] &= !(1 << (bucket % 64));
        }
    }
}

impl Node {
    /// In no bucket.
    const OUT: Node = Node {
        previous: NONE,
        next: NONE,
        bucket: NONE,
    };
}

fn bucket_of(tick: u64) -> u16 {
    (tick % BUCKETS as u64) as u16
}

#[cfg(test)]
mod tests {
    use protocol::random::Random;

    use super::*;

    fn all(timers: &mut Timers, now_ms: u64) -> Vec<u32> {
        let mut slots: Vec<u32> = std::iter::from_fn(|| timers.pop(now_ms)).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn comes_out_not_early_and_once() {
        let mut timers = Timers::new(1_000);
        assert_eq!(timers.next(), None);
        timers.schedule(7, 1_950);
        timers.schedule(3, 2_000);
        assert_eq!(timers.next(), Some(2_000));
        assert!(all(&mut timers, 1_999).is_empty());
        assert_eq!(all(&mut timers, 2_000), [3, 7]);
        assert!(all(&mut timers, 200_000).is_empty());
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn only_an_earlier_time_counts() {
        let mut timers = Timers::new(0);
        timers.schedule(1, 5_000);
        timers.schedule(1, 9_000);
        assert_eq!(timers.next(), Some(5_000));
        timers.schedule(1, 2_000);
        assert_eq!(all(&mut timers, 2_000), [1]);
        assert!(all(&mut timers, 10_000).is_empty());
    }

    #[test]
    fn a_time_beyond_the_wheel_comes_out_once_a_turn() {
        let mut timers = Timers::new(0);
        timers.schedule(1, u64::MAX);
        let turn = (BUCKETS as u64 - 1) * RESOLUTION_MS;
        assert_eq!(timers.next(), Some(turn));
        assert_eq!(all(&mut timers, turn), [1]);
    }

    #[test]
    fn what_is_past_comes_out_at_the_next_tick_and_not_for_ever() {
        let mut timers = Timers::new(10_000);
        timers.schedule(1, 0);
        assert_eq!(timers.pop(10_099), None);
        let mut times = 0;
        while let Some(slot) = timers.pop(11_000) {
            timers.schedule(slot, 0);
            times += 1;
        }
        assert_eq!(times, 10);
        assert_eq!(timers.next(), Some(11_100));
    }

    #[test]
    fn a_jump_does_not_hang() {
        let mut timers = Timers::new(0);
        for slot in 0..2_000 {
            timers.schedule(slot, u64::from(slot) * 50);
        }
        let end = u64::MAX - BUCKETS as u64;
        assert_eq!(all(&mut timers, end).len(), 2_000);
        assert_eq!(timers.pop(end), None);
    }

    #[test]
    fn who_is_gone_does_not_come_out() {
        let mut timers = Timers::new(0);
        (0..100).for_each(|slot| timers.schedule(slot, 1_000 + u64::from(slot % 3) * 1_000));
        timers.rest(2);
        assert_eq!(timers.nodes.capacity(), 2);
        assert_eq!(all(&mut timers, 60_000), [0, 1]);
        assert_eq!(timers.next(), None);
        timers.schedule(50, 70_000);
        assert_eq!(all(&mut timers, 70_000), [50]);
    }

    /// Against a list of who is due when, through jumps of all sizes.
    #[test]
    fn agrees_with_a_list() {
        let mut random = Random::new(11);
        let mut random = move |n: u64| random.below(n);
        let mut now = 123_456_789;
        let mut timers = Timers::new(now);
        // A slot's deadline, as the slot itself knows it.
        let mut deadlines: Vec<Option<u64>> = vec![None; 300];
        for _ in 0..50_000 {
            match random(9) {
                // Nobody has these any more.
                8 => {
                    let used = random(300) as usize;
                    timers.rest(used as u32);
                    deadlines[used..].fill(None);
                }
                0..=3 => {
                    let slot = random(300) as u32;
                    let size = [50, 3_000, 80_000, 500_000][random(4) as usize];
                    let ahead = random(size);
                    deadlines[slot as usize] = Some(now + ahead);
                    timers.schedule(slot, now + ahead);
                }
                4 | 5 => deadlines[random(300) as usize] = None,
                _ => {
                    let size = [10, 300, 5_000, 400_000][random(4) as usize];
                    now += random(size);
                    let mut popped = 0;
                    while let Some(slot) = timers.pop(now) {
                        popped += 1;
                        match &mut deadlines[slot as usize] {
                            Some(at) if *at > now => timers.schedule(slot, *at),
                            done => *done = None,
                        }
                    }
                    assert!(popped <= 2 * 300, "each once, and once more after a jump");
                    let late = now.saturating_sub(RESOLUTION_MS);
                    assert!(deadlines.iter().flatten().all(|&at| at > late), "forgotten");
                }
            }
            let earliest = deadlines.iter().flatten().min();
            if let Some(&at) = earliest {
                let next = timers.next().expect("one is queued");
                assert!(
                    next < at.max(now) + 2 * RESOLUTION_MS,
                    "would sleep too long"
                );
            }
        }
    }
}
