//! Who reloads, scales and upgrades meanwhile, and holds what the command says against what is.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::family::{self, Role};
use super::monkey::Shared;
use crate::Baton;
use crate::load::{Fault, Kind, Random};

/// A command that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What may be commanded.
#[derive(Clone, Copy, Debug)]
pub struct Commands {
    pub reload: bool,
    pub scale: bool,
    pub upgrade: bool,
    /// While nobody kills, none may fail.
    pub may_fail: bool,
}

/// How often each was done, how often it said that it failed, and how long one took at most.
#[derive(Clone, Debug, Default)]
pub struct Done {
    pub times: BTreeMap<&'static str, (u64, u64, Duration)>,
}

impl Done {
    #[must_use]
    pub fn report(&self) -> String {
        let all: Vec<String> = self
            .times
            .iter()
            .map(|(verb, (done, failed, longest))| {
                format!("{verb} {done} ({failed} failed, {longest:.1?} at most)")
            })
            .collect();
        all.join(", ")
    }
}

/// Commands until it is told to stop.
pub fn run(
    baton: &Baton,
    shared: &Shared,
    mut random: Random,
    commands: Commands,
    pause: Duration,
) -> Done {
    let mut done = Done::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let workers = random.between(1, 4).to_string();
        let args: &[&str] = match random.below(10) {
            0..=5 if commands.reload => &["reload"],
            6..=7 if commands.scale => &["scale", &workers],
            8..=9 if commands.upgrade => &["upgrade"],
            _ if commands.reload || commands.scale || commands.upgrade => continue,
            _ => return done,
        };
        if let Err(fault) = command(baton, shared, args, commands, &mut done) {
            shared.faults.lock().expect("nobody panics").push(fault);
        }
        thread::sleep(Duration::from_micros(
            random.below(2 * pause.as_micros() as u64),
        ));
    }
    done
}

fn command(
    baton: &Baton,
    shared: &Shared,
    args: &[&str],
    commands: Commands,
    done: &mut Done,
) -> Result<(), Fault> {
    let fault = |what: String| Fault::new(Kind::Command, what);
    let before = rings(shared);
    let name = args.join(" ");
    shared.diary.note(format!("{name}: begins"));
    let start = Instant::now();
    let (code, said) = within(baton, args).map_err(fault)?;
    let took = start.elapsed();
    shared
        .diary
        .note(format!("{name}: {code:?} after {took:.3?}: {said}"));
    let verb = match args[0] {
        "reload" => "reload",
        "scale" => "scale",
        _ => "upgrade",
    };
    let (good, failed, longest) = done.times.entry(verb).or_default();
    *longest = took.max(*longest);
    match code {
        Some(0) => *good += 1,
        Some(1) if commands.may_fail => {
            *failed += 1;
            return Ok(());
        }
        _ => return Err(fault(format!("{name} ends with {code:?}: {said}"))),
    }
    if verb == "reload" {
        shared.reloads.fetch_add(1, Ordering::Relaxed);
    }
    // What it says is true now.
    let after = rings(shared);
    let seats: Vec<u16> = after.iter().map(|(_, seat)| *seat).collect();
    match args {
        ["reload"] if after.iter().any(|ring| before.contains(ring)) => {
            Err(fault(format!("{name}: before {before:?}, after {after:?}")))
        }
        ["scale", wanted] if seats.len().to_string() != *wanted => {
            Err(fault(format!("{name}: workers {seats:?}")))
        }
        _ => Ok(()),
    }
}

/// The workers that there are, by ring and seat.
fn rings(shared: &Shared) -> Vec<(u16, u16)> {
    family::look(&shared.mark)
        .into_iter()
        .filter_map(|process| match process.role {
            Role::Worker { seat, ring } => Some((ring, seat)),
            Role::Master => None,
        })
        .collect()
}

/// How the command ends, and what it said.
fn within(baton: &Baton, args: &[&str]) -> Result<(Option<i32>, String), String> {
    let mut child = baton
        .command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{args:?}: {error}"))?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() > PATIENCE => {
                let status = baton.run(&["status"]).stdout;
                let _ = child.kill();
                let _ = child.wait();
                let status = String::from_utf8_lossy(&status);
                return Err(format!(
                    "{args:?} takes more than {PATIENCE:?}; status:\n{status}"
                ));
            }
            Ok(None) => thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(format!("{args:?}: {error}")),
        }
    };
    let mut said = String::new();
    if let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) {
        let _ = stdout.read_to_string(&mut said);
        let _ = stderr.read_to_string(&mut said);
    }
    Ok((status.code(), said.trim().replace('\n', "; ")))
}
