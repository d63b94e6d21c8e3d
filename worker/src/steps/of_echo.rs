//! Steps at `/echo`.

use protocol::fault;
use protocol::journal::Record;
use protocol::output::{Buffer, Full, Output};

use super::{Io, Progress, STEPS, Stepped, Took, took};
use crate::brain::Brain;
use crate::buffers;
use crate::close::CloseReason;
use crate::connection::HIGH_WATER;
use crate::inflate::{Echo, Inflate, Owner};
use crate::slots::{Field, Slots};
use crate::websocket::{self, Head, Kind, Rules, Run, Session};

impl Brain {
    /// Echoes whole messages, of a connection of which nothing else is known: nearly all that comes to
    /// `/echo`. Steps would do the same, and take twice as long. `None`: they are to be taken.
    pub(super) fn echo_whole(&self, slot: u32) -> Option<Progress> {
        let slots = &self.slots;
        if NOTHING_ELSE
            .iter()
            .any(|field| slots.get(slot, *field) != 0)
        {
            return None;
        }
        let input = buffers::unread(&self.arena, slots, slot);
        let rules = Rules::echo(&self.settings.websocket);
        let run = Run::of(input, &rules, STEPS, HIGH_WATER)?;
        let step = run.step();
        let made = buffers::make(&self.arena, run.bytes(), |space| run.echo(space))?;
        let parsed = slots.get(slot, Field::Parsed) + step.consumed as u64;
        let written = slots.get(slot, Field::Written);
        let mut record = Record::new();
        Slots::change(&mut record, slot, Field::Parsed, parsed);
        let produced = written + run.bytes() as u64;
        Slots::change(&mut record, slot, Field::Produced, produced);
        let output = buffers::held(Some(made), written);
        Slots::change(&mut record, slot, Field::Output, output);
        fault::point("worker:step");
        fault::poison("worker:poison", &input[..step.consumed]);
        self.journal.commit(&mut record);
        fault::point("worker:commit");
        Some(match step.next {
            websocket::Next::NeedInput { total } => Progress::NeedInput(total),
            _ => Progress::More,
        })
    }
}

/// Words that are 0 when no output waits and the session is between two messages.
const NOTHING_ELSE: [Field; 5] = [
    Field::Output,
    Field::Message,
    Field::Session0,
    Field::Session1,
    Field::Session2,
];

/// Whose echo it is, and how much of it at once.
pub(super) struct Echoer<'a> {
    pub owner: Owner,
    pub now: u64,
    pub inflate: &'a mut Inflate,
    pub high_water: usize,
    pub most: usize,
}

/// Some steps: nothing but the session connects them.
pub(super) fn steps(input: &[u8], io: &mut Io<'_>, rules: Rules, mut by: Echoer<'_>) -> Stepped {
    let Some(mut session) = Session::unpack(io.words) else {
        return Ok((0, Took::Ends(CloseReason::Internal)));
    };
    let rules = rules.deflating(io.meta.window.is_some());
    let (mut at, mut steps) = (0, 0);
    let mut progress = Took::More;
    while steps < by.most {
        let rest = &input[at..];
        let before = session;
        let (message, out) = (&mut io.message, &mut io.out);
        let (left, enough) = (by.most - steps, by.high_water.saturating_sub(out.len()));
        let (step, count) = match websocket::echo_run(&mut session, rest, out, &rules, left, enough)
        {
            Some((step, count)) => (Ok(step), count),
            None => {
                let step = websocket::step(&mut session, rest, message, out, &rules);
                (step, 1)
            }
        };
        let taken = step.and_then(|step| match step.next {
            websocket::Next::Compressed(kind) => echo(kind, &mut session, io, &rules, &mut by),
            next => {
                at += step.consumed;
                Ok(took(next, io.meta))
            }
        });
        match taken {
            // The steps before it are taken.
            Err(Full) if steps > 0 => {
                session = before;
                break;
            }
            taken => progress = taken?,
        }
        if matches!(progress, Took::Yields) {
            session = before;
        }
        if !matches!(progress, Took::More) || io.out.len() > by.high_water {
            break;
        }
        steps += count;
    }
    io.words = session.pack();
    Ok((at, progress))
}

/// Echoes the compressed message that is whole. What is good is sent as it came: it was compressed
/// without knowledge of any other, as all that is sent is, and to compress it again would take longer and
/// say the same.
fn echo(
    kind: Kind,
    session: &mut Session,
    io: &mut Io<'_>,
    rules: &Rules,
    by: &mut Echoer<'_>,
) -> Result<Took, Full> {
    let window = io.meta.window.unwrap_or_default();
    let payload = io.message.bytes();
    let most = rules.max_message();
    let echo = (by.inflate).echo(by.owner, by.now, kind, payload, window, most);
    let plain;
    let (head, payload) = match echo {
        Ok(None) => return Ok(Took::Yields),
        Ok(Some(Echo::Same)) => (Head::compressed(kind, payload.len()), payload),
        Ok(Some(Echo::Plain(all))) => {
            plain = all;
            (Head::message(kind, plain.len()), &plain[..])
        }
        Err(reason) => {
            session.close(&mut io.out, reason)?;
            io.message.clear();
            return Ok(Took::Ends(reason));
        }
    };
    let head = head.as_bytes();
    let space = io.out.space(head.len() + payload.len())?;
    let (to_head, to_payload) = space.split_at_mut(head.len());
    to_head.copy_from_slice(head);
    to_payload.copy_from_slice(payload);
    io.message.clear();
    Ok(Took::More)
}
