//! Who is muted and who is banned: memory that the master writes and all workers read, behind the
//! [history](crate::history) in its segment.
//!
//! An entry is staged where no valid one is, and counts once the journal has set its stamp, in the
//! record that also tells of it in the log; so all brains of all processes find the same, whoever
//! dies. Every process has an index of its own ([`Sanctions`]), and looks again at the entries whose
//! stamps have changed when the generation has.
//!
//! ```text
//! words:  generation · one more than the highest entry that was ever used · 6 unused
//! stamps: a word each: generation of its last change, times two, plus one if it is valid
//! entry:  kind and the lengths of room, who and by · when (ms) · until when (ms; 0: for good)
//!         · room · who · by
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::cidr::Cidr;
use crate::memory::Segment;
use crate::moderation::MAX_WHO;

/// Entries that there can ever be: one more than count, so that one can take another's place.
pub const MAX: u32 = (1 << 16) + 1;

/// Words of an entry.
const ENTRY_WORDS: usize = 80;
const TEXT: usize = 3;
const MAX_TEXT: usize = (ENTRY_WORDS - TEXT) * 8;
const STAMPS: usize = 8;
const ENTRIES: usize = STAMPS + MAX as usize;

/// Words in all.
pub const WORDS: usize = ENTRIES + MAX as usize * ENTRY_WORDS;

const _: () = assert!(3 * MAX_WHO <= MAX_TEXT && MAX_WHO <= u8::MAX as usize);

/// The generation; it changes last of all in a record.
pub const GENERATION: usize = 0;
/// One more than the highest entry that was ever used.
pub const USED: usize = 1;

/// The stamp of an entry, by its place from the first word on.
#[must_use]
pub const fn stamp(entry: u32) -> usize {
    STAMPS + entry as usize
}

/// What a stamp says that is set in this generation.
#[must_use]
pub const fn stamped(generation: u64, is_valid: bool) -> u64 {
    generation << 1 | is_valid as u64
}

/// What is done to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// What it sends is refused.
    Mute = 1,
    /// It is not let in.
    Ban = 2,
    /// Nobody is who comes from an address.
    BanAddress = 3,
}

/// Somebody is muted or banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sanction {
    pub kind: Kind,
    /// Empty: everywhere.
    pub room: Box<str>,
    /// As it stands in `from`; or an address range.
    pub who: Box<str>,
    /// Milliseconds since 1970; 0: for good.
    pub until_ms: u64,
    /// When that was decided, and by whom.
    pub at_ms: u64,
    pub by: Box<str>,
}

impl Sanction {
    #[must_use]
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.until_ms != 0 && self.until_ms <= now_ms
    }

    /// In so many milliseconds it is over; 0: it is for good.
    #[must_use]
    pub fn left_ms(&self, now_ms: u64) -> u64 {
        match self.until_ms {
            0 => 0,
            until => until.saturating_sub(now_ms).max(1),
        }
    }

    /// For the writer: puts it where no valid entry is. It counts once it is stamped. A text that is
    /// too long is cut.
    pub fn stage(&self, segment: &Segment, base: usize, entry: u32) {
        // Whoever still reads what was here before and does not see yet that it is gone must not see
        // what is written from here on.
        fence(Ordering::SeqCst);
        let texts = [&self.room, &self.who, &self.by].map(|text| {
            let bytes = text.as_bytes();
            &bytes[..bytes.len().min(MAX_WHO)]
        });
        let [room, who, by] = texts.map(|text| text.len() as u64);
        let first = self.kind as u64 | room << 8 | who << 16 | by << 24;
        let at = base + ENTRIES + entry as usize * ENTRY_WORDS;
        for (word, value) in [first, self.at_ms, self.until_ms].into_iter().enumerate() {
            segment.word(at + word).store(value, Ordering::Relaxed);
        }
        segment.copy_in((at + TEXT) * 8, &texts.concat());
    }
}

/// The index of one process.
#[derive(Debug)]
pub struct Sanctions {
    segment: Arc<Segment>,
    /// The first word of it all in the segment.
    base: usize,
    generation: u64,
    stamps: Vec<u64>,
    entries: Vec<Option<Sanction>>,
    valid: u32,
    /// Of users.
    by_who: HashMap<Box<str>, Vec<u32>>,
    addresses: Vec<(Cidr, u32)>,
}

impl Sanctions {
    /// As they are now in the segment of the history.
    #[must_use]
    pub fn new(segment: Arc<Segment>, base: usize) -> Sanctions {
        let mut sanctions = Sanctions {
            segment,
            base,
            generation: 0,
            stamps: Vec::new(),
            entries: Vec::new(),
            valid: 0,
            by_who: HashMap::new(),
            addresses: Vec::new(),
        };
        sanctions.refresh();
        sanctions
    }

    fn word(&self, word: usize) -> u64 {
        let word = self.segment.word(self.base + word);
        word.load(Ordering::Acquire)
    }

    /// Looks at what has changed. If nothing has, which is nearly always so, that is one load.
    pub fn refresh(&mut self) {
        let generation = self.word(GENERATION);
        if generation == self.generation {
            return;
        }
        self.generation = generation;
        let used = self.word(USED).min(MAX.into()) as usize;
        self.stamps.resize(used, 0);
        self.entries.resize(used, None);
        for entry in 0..used as u32 {
            let stamp = self.word(stamp(entry));
            if stamp == self.stamps[entry as usize] {
                continue;
            }
            self.forget(entry);
            // One that changes meanwhile does so with a generation that is looked at next.
            self.stamps[entry as usize] = stamp;
            if stamp & 1 == 1
                && let Some(sanction) = self.read(entry, stamp)
            {
                self.note(entry, sanction);
            }
        }
    }

    /// `None`: it is another now, or not what [`Sanction::stage`] writes.
    fn read(&self, entry: u32, stamped: u64) -> Option<Sanction> {
        let at = self.base + ENTRIES + entry as usize * ENTRY_WORDS;
        let [first, at_ms, until_ms] = [0, 1, 2].map(|word| {
            let word = self.segment.word(at + word);
            word.load(Ordering::Relaxed)
        });
        let mut text = [0; MAX_TEXT];
        self.segment.copy_out((at + TEXT) * 8, &mut text);
        fence(Ordering::Acquire);
        if self.word(stamp(entry)) != stamped {
            return None;
        }
        let len = |place: u32| usize::from((first >> place) as u8);
        let (room, rest) = text.split_at_checked(len(8))?;
        let (who, rest) = rest.split_at_checked(len(16))?;
        let (by, _) = rest.split_at_checked(len(24))?;
        let text = |bytes| Some(std::str::from_utf8(bytes).ok()?.into());
        Some(Sanction {
            kind: match first as u8 {
                1 => Kind::Mute,
                2 => Kind::Ban,
                3 => Kind::BanAddress,
                _ => return None,
            },
            room: text(room)?,
            who: text(who)?,
            until_ms,
            at_ms,
            by: text(by)?,
        })
    }

    fn note(&mut self, entry: u32, sanction: Sanction) {
        match sanction.kind {
            Kind::Mute | Kind::Ban => {
                let entries = self.by_who.entry(sanction.who.clone()).or_default();
                entries.push(entry);
            }
            Kind::BanAddress => match sanction.who.parse() {
                Ok(range) => self.addresses.push((range, entry)),
                Err(_) => return,
            },
        }
        self.valid += 1;
        self.entries[entry as usize] = Some(sanction);
    }

    fn forget(&mut self, entry: u32) {
        let Some(sanction) = self.entries[entry as usize].take() else {
            return;
        };
        self.valid -= 1;
        self.addresses.retain(|(_, other)| *other != entry);
        if let Some(entries) = self.by_who.get_mut(&sanction.who) {
            entries.retain(|other| *other != entry);
            if entries.is_empty() {
                self.by_who.remove(&sanction.who);
            }
        }
    }

    /// How many there are, with those that are over and not taken out yet.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.valid
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.valid == 0
    }

    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// In a room, or everywhere: the one that lasts longest of this kind.
    #[must_use]
    pub fn find(&self, kind: Kind, room: &str, who: &str, now_ms: u64) -> Option<&Sanction> {
        let entries = self.by_who.get(who)?.iter();
        let all = entries.filter_map(|entry| self.entries[*entry as usize].as_ref());
        all.filter(|sanction| sanction.kind == kind)
            .filter(|sanction| sanction.room.is_empty() || *sanction.room == *room)
            .filter(|sanction| !sanction.is_over(now_ms))
            .max_by_key(|sanction| sanction.until_ms.wrapping_sub(1))
    }

    /// Is there any address that is banned?
    #[must_use]
    pub fn bans_addresses(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Everybody from this address is banned.
    #[must_use]
    pub fn banned_address(&self, address: IpAddr, now_ms: u64) -> Option<&Sanction> {
        let mut bans = self.addresses.iter();
        bans.find_map(|(range, entry)| {
            let ban = self.entries[*entry as usize].as_ref()?;
            (range.contains(address) && !ban.is_over(now_ms)).then_some(ban)
        })
    }

    /// The entry that says exactly this, over or not.
    #[must_use]
    pub fn entry(&self, kind: Kind, room: &str, who: &str) -> Option<u32> {
        let is_it = |entry: &u32| {
            let sanction = self.entries[*entry as usize].as_ref();
            sanction.is_some_and(|s| s.kind == kind && *s.room == *room && *s.who == *who)
        };
        match kind {
            Kind::BanAddress => self.addresses.iter().map(|(_, e)| *e).find(|e| is_it(e)),
            _ => self.by_who.get(who)?.iter().copied().find(|e| is_it(e)),
        }
    }

    /// An entry that is not used.
    #[must_use]
    pub fn vacant(&self) -> Option<u32> {
        let free = self.entries.iter().position(Option::is_none);
        let entry = free.unwrap_or(self.entries.len()) as u32;
        (entry < MAX).then_some(entry)
    }

    /// All that there are, also those that are over, each with its entry.
    pub fn each(&self) -> impl Iterator<Item = (u32, &Sanction)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(entry, sanction)| Some((entry as u32, sanction.as_ref()?)))
    }

    /// What is in force.
    pub fn list(&self, now_ms: u64) -> impl Iterator<Item = &Sanction> {
        self.each()
            .map(|(_, sanction)| sanction)
            .filter(move |sanction| !sanction.is_over(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sanction(kind: Kind, room: &str, who: &str, until_ms: u64) -> Sanction {
        Sanction {
            kind,
            room: room.into(),
            who: who.into(),
            until_ms,
            at_ms: 1,
            by: "m".into(),
        }
    }

    struct Table {
        segment: Arc<Segment>,
        generation: u64,
    }

    const BASE: usize = 512;

    impl Table {
        fn new() -> Table {
            let size = (BASE + WORDS) * 8;
            Table {
                segment: Arc::new(Segment::create(c"test", size).unwrap()),
                generation: 0,
            }
        }

        fn set(&mut self, entry: u32, sanction: Option<&Sanction>) {
            if let Some(sanction) = sanction {
                sanction.stage(&self.segment, BASE, entry);
            }
            self.generation += 1;
            let store = |word: usize, value| {
                let word = self.segment.word(BASE + word);
                word.store(value, Ordering::Release);
            };
            store(USED, 100);
            store(stamp(entry), stamped(self.generation, sanction.is_some()));
            store(GENERATION, self.generation);
        }
    }

    #[test]
    fn another_process_finds_what_is_written() {
        let mut table = Table::new();
        let mut read = Sanctions::new(table.segment.clone(), BASE);
        let all = [
            sanction(Kind::Mute, "r", "u7", 100),
            sanction(Kind::Mute, "", "u7", 50),
            sanction(Kind::Ban, &"r".repeat(200), &"u".repeat(200), 0),
            sanction(Kind::BanAddress, "", "10.0.0.0/8", 0),
        ];
        for (entry, sanction) in all.iter().enumerate() {
            table.set(entry as u32, Some(sanction));
        }
        assert!(read.is_empty());
        read.refresh();
        assert!(read.list(10).eq(all.iter()));
        assert_eq!(read.vacant(), Some(4));
        let find = |kind, room: &str, who: &str, now| {
            let found = read.find(kind, room, who, now);
            found.map(|s| s.left_ms(now))
        };
        assert_eq!(find(Kind::Mute, "r", "u7", 40), Some(60));
        assert_eq!(find(Kind::Mute, "other", "u7", 40), Some(10));
        assert_eq!(find(Kind::Mute, "other", "u7", 50), None);
        assert_eq!(find(Kind::Ban, "r", "u7", 40), None);
        let long = "u".repeat(200);
        assert_eq!(find(Kind::Ban, &"r".repeat(200), &long, 40), Some(0));
        let from = |address: &str| read.banned_address(address.parse().unwrap(), 9).is_some();
        assert!(from("10.1.2.3") && !from("11.1.2.3"));
        assert_eq!(read.entry(Kind::Mute, "", "u7"), Some(1));
        table.set(0, None);
        table.set(3, Some(&sanction(Kind::Mute, "", "u8", 0)));
        read.refresh();
        assert_eq!((read.len(), read.vacant()), (3, Some(0)));
        assert!(
            read.banned_address("10.1.2.3".parse().unwrap(), 9)
                .is_none()
        );
        assert!(read.find(Kind::Mute, "r", "u8", 9).is_some());
    }

    #[test]
    fn what_cannot_be_is_nobodys() {
        let mut table = Table::new();
        table.set(0, Some(&sanction(Kind::Ban, "r", "u7", 0)));
        for word in [u64::MAX, 9, 1 | 255 << 8 | 255 << 16 | 255 << 24] {
            let entry = table.segment.word(BASE + ENTRIES);
            entry.store(word, Ordering::Relaxed);
            let read = Sanctions::new(table.segment.clone(), BASE);
            assert!(read.is_empty() && read.find(Kind::Ban, "r", "u7", 9).is_none());
        }
    }
}
