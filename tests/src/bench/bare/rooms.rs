//! Rooms of a worker of the floor: who is in them, and what is to be delivered.
//!
//! Messages of a turn are put together, so that each member gets them with one write. Those that
//! came from clients of this worker go to all others, too, with one wake-up; there is no order
//! between messages that came to different workers.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex};

use mio::Waker;

/// Where the other workers put what their clients have said.
pub struct Inbox {
    waker: Waker,
    /// Frames, each behind the numbers of its room and its bytes.
    frames: Mutex<Vec<u8>>,
}

impl Inbox {
    pub fn new(waker: Waker) -> Inbox {
        Inbox {
            waker,
            frames: Mutex::default(),
        }
    }
}

pub struct Rooms {
    /// Which of the inboxes is ours.
    number: usize,
    inboxes: Arc<Vec<Inbox>>,
    rooms: Vec<Room>,
    /// Rooms in which something was said in this turn.
    busy: Vec<u32>,
    /// What is for the others.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

#[derive(Default)]
struct Room {
    members: Vec<usize>,
    said: Vec<u8>,
}

impl Rooms {
    pub fn new(number: usize, inboxes: Arc<Vec<Inbox>>) -> Rooms {
        Rooms {
            number,
            inboxes,
            rooms: Vec::new(),
            busy: Vec::new(),
            outgoing: Vec::new(),
            incoming: Vec::new(),
        }
    }

    pub fn join(&mut self, room: u32, member: usize) {
        self.room(room).members.push(member);
    }

    pub fn leave(&mut self, room: u32, member: usize) {
        self.room(room).members.retain(|other| *other != member);
    }

    pub fn members(&self, room: u32) -> &[usize] {
        &self.rooms[room as usize].members
    }

    /// A client of ours has said these frames.
    pub fn say(&mut self, room: u32, frames: &[u8]) {
        if frames.is_empty() {
            return;
        }
        if self.inboxes.len() > 1 {
            self.outgoing.extend(room.to_ne_bytes());
            self.outgoing.extend((frames.len() as u32).to_ne_bytes());
            self.outgoing.extend(frames);
        }
        self.add(room, frames);
    }

    /// Tells the others what clients of ours have said.
    pub fn post(&mut self) -> io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        for (number, inbox) in self.inboxes.iter().enumerate() {
            if number != self.number {
                let mut frames = inbox.frames.lock().expect("nobody panics");
                frames.extend(&self.outgoing);
                drop(frames);
                inbox.waker.wake()?;
            }
        }
        self.outgoing.clear();
        Ok(())
    }

    /// Takes what the others have told.
    pub fn take(&mut self) {
        let mut incoming = mem::take(&mut self.incoming);
        let inbox = self.inboxes[self.number].frames.lock();
        mem::swap(&mut *inbox.expect("nobody panics"), &mut incoming);
        let mut rest = &incoming[..];
        while let Some((room, behind)) = number(rest)
            && let Some((length, behind)) = number(behind)
        {
            let (frames, behind) = behind.split_at(length as usize);
            self.add(room, frames);
            rest = behind;
        }
        incoming.clear();
        self.incoming = incoming;
    }

    /// A room in which something was said, and what.
    pub fn next(&mut self) -> Option<(u32, Vec<u8>)> {
        let room = self.busy.pop()?;
        Some((room, mem::take(&mut self.room(room).said)))
    }

    /// It was delivered; its memory is used again.
    pub fn done(&mut self, room: u32, mut said: Vec<u8>) {
        said.clear();
        self.room(room).said = said;
    }

    fn add(&mut self, number: u32, frames: &[u8]) {
        let room = self.room(number);
        let is_first = room.said.is_empty();
        room.said.extend(frames);
        if is_first {
            self.busy.push(number);
        }
    }

    fn room(&mut self, room: u32) -> &mut Room {
        let room = room as usize;
        if self.rooms.len() <= room {
            self.rooms.resize_with(room + 1, Room::default);
        }
        &mut self.rooms[room]
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_ne_bytes(*number), rest))
}
