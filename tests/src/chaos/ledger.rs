//! What has been published, and at which place of its room it is: what one client has been told
//! must be what all others are told.

use serde_json::Value;

use super::world::same;
use crate::load::{Fault, Kind, Random};
use crate::rooms::packed;

#[derive(Debug)]
pub struct Ledger {
    seed: u64,
    rooms: Vec<Room>,
    publishers: Vec<Publisher>,
}

/// What is special about a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Plain,
    /// Somebody moderates it.
    Judged,
    /// Not all is for everybody: it has a budget.
    Sampled,
}

impl Sort {
    fn word(self) -> &'static str {
        match self {
            Sort::Plain => "room",
            Sort::Judged => "judged",
            Sort::Sampled => "sampled",
        }
    }
}

#[derive(Debug)]
struct Room {
    name: String,
    sort: Sort,
    /// The same to the end: its sequence is never lost.
    epoch: Option<String>,
    /// What is at each offset, as far as anybody has been told; the first offset is 1.
    order: Vec<Option<Message>>,
}

#[derive(Debug)]
struct Publisher {
    /// Whatever it says, it says in each of them.
    homes: Vec<Home>,
    /// It speaks MessagePack.
    packs: bool,
    /// What its messages are `from`.
    from: Option<String>,
    /// So many it has published.
    messages: usize,
}

#[derive(Debug)]
struct Home {
    room: usize,
    /// What became of each of its messages here.
    fates: Vec<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody has been told of it.
    Unknown,
    /// At this offset.
    At(u64),
    /// It has no place.
    Refused,
}

impl Fate {
    fn offset(self) -> Option<u64> {
        match self {
            Fate::At(offset) => Some(offset),
            Fate::Unknown | Fate::Refused => None,
        }
    }
}

/// The `number`th message of a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub publisher: usize,
    pub number: usize,
}

/// How a message's data came to a member.
#[derive(Clone, Debug)]
pub enum Came<'a> {
    Json(&'a str),
    /// The value that it is, and the message of which it is the end.
    Packed(Value, &'a [u8]),
}

impl Came<'_> {
    fn message(&self) -> Option<Message> {
        match self {
            Came::Json(data) => parse(data).or_else(|| named(&serde_json::from_str(data).ok()?)),
            Came::Packed(value, _) => named(value),
        }
    }

    /// In bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Came::Json(data) => data.len(),
            Came::Packed(_, message) => message.len(),
        }
    }
}

impl Ledger {
    #[must_use]
    pub fn new(seed: u64, sorts: &[(Sort, usize)]) -> Ledger {
        let rooms = sorts.iter().flat_map(|(sort, many)| {
            let room = |number| Room {
                name: format!("{} {number}", sort.word()),
                sort: *sort,
                epoch: None,
                order: Vec::new(),
            };
            (0..*many).map(room)
        });
        Ledger {
            seed,
            rooms: rooms.collect(),
            publishers: Vec::new(),
        }
    }

    #[must_use]
    pub fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// The rooms of a sort.
    pub fn of_sort(&self, sort: Sort) -> impl Iterator<Item = usize> {
        let rooms = self.rooms.iter().enumerate();
        rooms.filter_map(move |(room, is)| (is.sort == sort).then_some(room))
    }

    #[must_use]
    pub fn sort(&self, room: usize) -> Sort {
        self.rooms[room].sort
    }

    #[must_use]
    pub fn name(&self, room: usize) -> &str {
        &self.rooms[room].name
    }

    pub fn room(&self, name: &str) -> Result<usize, Fault> {
        let room = self.rooms.iter().position(|room| room.name == name);
        room.ok_or_else(|| Fault::new(Kind::Wrong, format!("a room {name:?}")))
    }

    /// The last offset of a room once all that is published has arrived.
    #[must_use]
    pub fn last(&self, room: usize) -> u64 {
        self.rooms[room].order.len() as u64
    }

    /// The last offset of which anybody has been told what is there.
    #[must_use]
    pub fn known(&self, room: usize) -> u64 {
        let last = self.rooms[room].order.iter().rposition(Option::is_some);
        last.map_or(0, |last| last as u64 + 1)
    }

    /// What is at an offset, as far as anybody has been told.
    #[must_use]
    pub fn at(&self, room: usize, offset: u64) -> Option<Message> {
        let index = usize::try_from(offset.checked_sub(1)?).ok()?;
        *self.rooms[room].order.get(index)?
    }

    /// `packs`: it speaks MessagePack.
    pub fn add_publisher(&mut self, rooms: &[usize], packs: bool) -> usize {
        let home = |room: &usize| Home {
            room: *room,
            fates: Vec::new(),
        };
        self.publishers.push(Publisher {
            homes: rooms.iter().map(home).collect(),
            packs,
            from: None,
            messages: 0,
        });
        self.publishers.len() - 1
    }

    pub fn greeted(&mut self, publisher: usize, from: &str) {
        self.publishers[publisher].from = Some(from.to_owned());
    }

    /// The rooms in which a publisher says what it says.
    pub fn homes(&self, publisher: usize) -> impl Iterator<Item = usize> {
        let homes = self.publishers[publisher].homes.iter();
        homes.map(|home| home.room)
    }

    /// One more is published.
    pub fn publish(&mut self, publisher: usize) -> Message {
        let of = &mut self.publishers[publisher];
        for home in &mut of.homes {
            home.fates.push(Fate::Unknown);
            self.rooms[home.room].order.push(None);
        }
        of.messages += 1;
        Message {
            publisher,
            number: of.messages - 1,
        }
    }

    /// The message was not accepted: it has no place, and nobody may be told of it.
    pub fn refused(&mut self, message: Message) -> Result<(), Fault> {
        for home in &mut self.publishers[message.publisher].homes {
            let fate = std::mem::replace(&mut home.fates[message.number], Fate::Refused);
            if fate != Fate::Unknown || self.rooms[home.room].order.pop() != Some(None) {
                let what = format!("{message:?} was refused, and is there");
                return Err(Fault::new(Kind::Doubled, what));
            }
        }
        Ok(())
    }

    /// The `data` of a message, as JSON.
    pub fn put_data(&self, message: Message, out: &mut Vec<u8>) {
        let Message { publisher, number } = message;
        out.extend(format!("{{\"p\":{publisher},\"n\":{number},").as_bytes());
        let mut random = Random::of(self.seed, ((publisher as u64) << 32) + number as u64);
        // It arrives as it was sent, byte for byte: such a number, too, and such a space.
        out.extend(
            format!(
                "\"v\":1.{}0e+0{},  \"t\":\"",
                random.below(1000),
                random.below(9)
            )
            .as_bytes(),
        );
        let most = if random.percent(1) { 60 << 10 } else { 2 << 10 };
        let length = random.size(most);
        random.text(length, out);
        out.extend(b"\"}");
    }

    /// The message's publisher speaks another format than a member of this kind.
    #[must_use]
    pub fn is_converted(&self, message: Message, packs: bool) -> bool {
        self.publishers[message.publisher].packs != packs
    }

    /// Byte for byte what was sent, if it was sent in the same format; else the same value.
    fn compare(
        &self,
        name: &str,
        message: Message,
        came: &Came<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        scratch.clear();
        self.put_data(message, scratch);
        let value = || serde_json::from_slice::<Value>(scratch).expect("JSON of ours");
        let is_right = match (self.publishers[message.publisher].packs, came) {
            (false, Came::Json(data)) => return same(name, scratch, data.as_bytes()),
            (true, Came::Packed(_, message)) => message.ends_with(&packed(&value())),
            (true, Came::Json(data)) => serde_json::from_str(data).ok() == Some(value()),
            (false, Came::Packed(came, _)) => *came == value(),
        };
        is_right
            .then_some(())
            .ok_or_else(|| Fault::new(Kind::Wrong, format!("{name} came as another value")))
    }

    /// A message that a subscriber was sent: who said it, and its offset.
    pub fn delivered(
        &mut self,
        room: usize,
        position: &str,
        from: &str,
        came: &Came<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(u64, Message), Fault> {
        let message = came
            .message()
            .filter(|message| {
                let publisher = self.publishers.get(message.publisher);
                publisher.is_some_and(|publisher| message.number < publisher.messages)
            })
            .ok_or_else(|| {
                let start: String = format!("{came:?}").chars().take(80).collect();
                Fault::new(Kind::Wrong, format!("nobody has published {start}"))
            })?;
        let name = format!("message {} of {}", message.number, message.publisher);
        self.compare(&name, message, came, scratch)?;
        let publisher = &self.publishers[message.publisher];
        if publisher.from.as_deref() != Some(from) {
            let what = format!("{name} is from {from}, not {:?}", publisher.from);
            return Err(Fault::new(Kind::Wrong, what));
        }
        Ok((self.place(room, position, message)?, message))
    }

    /// Somebody was told that the message is there.
    pub fn place(&mut self, room: usize, position: &str, message: Message) -> Result<u64, Fault> {
        let Message { publisher, number } = message;
        let offset = self.offset(room, position)?;
        let name = format!("message {number} of {publisher}, at {position} in room {room}");
        let home = self.publishers[publisher].homes.iter_mut();
        let Some(home) = home.into_iter().find(|home| home.room == room) else {
            let what = format!("{name}: it was said elsewhere");
            return Err(Fault::new(Kind::Wrong, what));
        };
        let order = &mut self.rooms[room].order;
        let published = order.len();
        let place = offset.checked_sub(1).map(|index| index as usize);
        let Some(place) = place.and_then(|index| order.get_mut(index)) else {
            let what = format!("{name}: only {published} were published");
            return Err(Fault::new(Kind::Doubled, what));
        };
        if let Some(other) = place.replace(message)
            && other != message
        {
            let what = format!("{name}: others were told that {other:?} is there");
            return Err(Fault::new(Kind::Disorder, what));
        }
        let before = std::mem::replace(&mut home.fates[number], Fate::At(offset));
        if before != Fate::Unknown && before != Fate::At(offset) {
            let what = format!("{name}: others were told {before:?}");
            return Err(Fault::new(Kind::Doubled, what));
        }
        let is_told = |fate: &&Fate| **fate != Fate::Refused;
        let before = home.fates[..number].iter().rfind(is_told);
        let before = before.and_then(|fate| fate.offset());
        let after = home.fates[number + 1..].iter().find(is_told);
        let after = after.and_then(|fate| fate.offset());
        if before.is_some_and(|before| before >= offset)
            || after.is_some_and(|after| after <= offset)
        {
            let what =
                format!("{name}: the one before is at {before:?}, the one after at {after:?}");
            return Err(Fault::new(Kind::Disorder, what));
        }
        Ok(offset)
    }

    /// The offset of a position, whose epoch must be the room's.
    pub fn offset(&mut self, room: usize, position: &str) -> Result<u64, Fault> {
        let parsed = position
            .split_once(':')
            .and_then(|(epoch, offset)| Some((epoch, offset.parse().ok()?)));
        let Some((epoch, offset)) = parsed else {
            return Err(Fault::new(Kind::Wrong, format!("a position {position:?}")));
        };
        let known = &mut self.rooms[room].epoch;
        let known = known.get_or_insert_with(|| epoch.to_owned());
        if known != epoch {
            let what = format!("{position} in room {room}, whose epoch was {known}");
            return Err(Fault::new(Kind::Lost, what));
        }
        Ok(offset)
    }

    /// The position of an offset, in a room of which something has been heard.
    #[must_use]
    pub fn position(&self, room: usize, offset: u64) -> String {
        let epoch = self.rooms[room].epoch.as_deref().unwrap_or_default();
        format!("{epoch}:{offset}")
    }

    /// Messages that nobody was told of. (Where not all is for everybody, one may be for nobody: that each of
    /// the places has been told of is all that is known.)
    pub fn missing(&self) -> impl Iterator<Item = Message> {
        let publishers = self.publishers.iter().enumerate();
        publishers.flat_map(|(publisher, of)| {
            let homes = of.homes.iter();
            let homes = homes.filter(|home| self.rooms[home.room].sort != Sort::Sampled);
            homes
                .flat_map(|home| home.fates.iter().enumerate())
                .filter(|(_, fate)| **fate == Fate::Unknown)
                .map(move |(number, _)| Message { publisher, number })
        })
    }
}

fn parse(data: &str) -> Option<Message> {
    let rest = data.strip_prefix("{\"p\":")?;
    let (publisher, rest) = rest.split_once(",\"n\":")?;
    let (number, _) = rest.split_once(',')?;
    Some(Message {
        publisher: publisher.parse().ok()?,
        number: number.parse().ok()?,
    })
}

/// The same, of a value whose fields are in any order.
fn named(data: &Value) -> Option<Message> {
    let number = |name: &str| usize::try_from(data.get(name)?.as_u64()?).ok();
    Some(Message {
        publisher: number("p")?,
        number: number("n")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger with one publisher, who has published three times.
    fn three() -> Ledger {
        let mut ledger = Ledger::new(1, &[(Sort::Plain, 1)]);
        ledger.add_publisher(&[0], false);
        ledger.greeted(0, "c1");
        for _ in 0..3 {
            ledger.publish(0);
        }
        ledger
    }

    fn said(number: usize) -> Message {
        Message {
            publisher: 0,
            number,
        }
    }

    #[test]
    fn what_is_told_twice_alike_is_no_fault() {
        let mut ledger = three();
        for _ in 0..2 {
            for number in 0..3 {
                let position = format!("e1:{}", number + 1);
                let mut data = Vec::new();
                ledger.put_data(said(number), &mut data);
                let value: Value = serde_json::from_slice(&data).unwrap();
                let text = String::from_utf8(data).unwrap();
                let message = packed(&value);
                for came in [Came::Json(&text), Came::Packed(value, &message)] {
                    let heard = ledger.delivered(0, &position, "c1", &came, &mut Vec::new());
                    assert_eq!(heard.unwrap(), (number as u64 + 1, said(number)));
                }
                ledger.place(0, &position, said(number)).unwrap();
            }
        }
        assert_eq!(ledger.missing().count(), 0);
    }

    #[test]
    fn every_lie_is_seen() {
        let kind = |ledger: &mut Ledger, position, number| {
            ledger
                .place(0, position, said(number))
                .map_err(|fault| fault.kind)
        };
        let mut ledger = three();
        assert_eq!(ledger.missing().count(), 3);
        assert_eq!(kind(&mut ledger, "e1:2", 1), Ok(2));
        // Again, further behind; one before its predecessor; another at the same place.
        assert_eq!(kind(&mut ledger, "e1:3", 1), Err(Kind::Doubled));
        let mut ledger = three();
        assert_eq!(kind(&mut ledger, "e1:2", 1), Ok(2));
        assert_eq!(kind(&mut ledger, "e1:1", 2), Err(Kind::Disorder));
        let mut ledger = three();
        assert_eq!(kind(&mut ledger, "e1:2", 1), Ok(2));
        assert_eq!(kind(&mut ledger, "e1:2", 0), Err(Kind::Disorder));
        assert_eq!(kind(&mut ledger, "e1:4", 2), Err(Kind::Doubled));
        assert_eq!(kind(&mut ledger, "e2:3", 2), Err(Kind::Lost));
        assert_eq!(kind(&mut ledger, "nonsense", 2), Err(Kind::Wrong));

        let mut ledger = three();
        let mut data = Vec::new();
        ledger.put_data(said(1), &mut data);
        let mut value: Value = serde_json::from_slice(&data).unwrap();
        data[20] ^= 1;
        let text = String::from_utf8(data).unwrap();
        value["v"] = 7.into();
        for came in [Came::Json(&text), Came::Packed(value, b"")] {
            let fault = ledger.delivered(0, "e1:2", "c1", &came, &mut Vec::new());
            assert_eq!(fault.unwrap_err().kind, Kind::Wrong);
        }
    }

    /// Those that are refused have no place: the others come one after the other.
    #[test]
    fn what_is_refused_is_nowhere() {
        let mut ledger = three();
        ledger.refused(said(1)).unwrap();
        assert_eq!(ledger.last(0), 2);
        ledger.place(0, "e1:1", said(0)).unwrap();
        ledger.place(0, "e1:2", said(2)).unwrap();
        assert_eq!(ledger.missing().count(), 0);
        assert_eq!((ledger.known(0), ledger.at(0, 2)), (2, Some(said(2))));
        let kind = |fault: Fault| fault.kind;
        let there = ledger.place(0, "e1:2", said(1)).map_err(kind);
        assert_eq!(there, Err(Kind::Disorder));
        assert_eq!(ledger.refused(said(0)).map_err(kind), Err(Kind::Doubled));
        let mut ledger = three();
        ledger.refused(said(1)).unwrap();
        let third = ledger.place(0, "e1:3", said(2)).map_err(kind);
        assert_eq!(third, Err(Kind::Doubled));
        let there = ledger.place(0, "e1:1", said(1)).map_err(kind);
        assert_eq!(there, Err(Kind::Doubled));
    }

    #[test]
    fn what_is_said_in_two_rooms_has_a_place_in_each() {
        let mut ledger = Ledger::new(1, &[(Sort::Plain, 2), (Sort::Sampled, 1)]);
        let publisher = ledger.add_publisher(&[0, 2], false);
        assert_eq!(ledger.homes(publisher).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(ledger.of_sort(Sort::Sampled).collect::<Vec<_>>(), [2]);
        let message = ledger.publish(publisher);
        assert_eq!(ledger.missing().count(), 1);
        ledger.place(0, "e1:1", message).unwrap();
        assert_eq!(ledger.missing().count(), 0);
        assert!(ledger.place(1, "e2:1", message).is_err());
        ledger.place(2, "e3:1", message).unwrap();
    }

    /// Who speaks the publisher's MessagePack gets its bytes, and who does not the same value.
    #[test]
    fn what_was_packed_is_compared_in_its_own_way() {
        let mut ledger = Ledger::new(1, &[(Sort::Plain, 1)]);
        ledger.add_publisher(&[0], true);
        ledger.greeted(0, "c1");
        ledger.publish(0);
        let mut data = Vec::new();
        ledger.put_data(said(0), &mut data);
        let value: Value = serde_json::from_slice(&data).unwrap();
        let bytes = packed(&value);
        let mut heard = |came: Came<'_>| {
            let heard = ledger.delivered(0, "e1:1", "c1", &came, &mut Vec::new());
            heard.map_err(|fault| fault.kind)
        };
        assert!(heard(Came::Json(&value.to_string())).is_ok());
        assert!(heard(Came::Packed(value.clone(), &bytes)).is_ok());
        // The same value, but not what was sent.
        let other = [b"\xde\0\x04", &bytes[1..]].concat();
        let other = heard(Came::Packed(value.clone(), &other));
        assert_eq!(other, Err(Kind::Wrong));
        let text = value.to_string().replace("\"v\":1", "\"v\":2");
        assert_eq!(heard(Came::Json(&text)), Err(Kind::Wrong));
    }
}
