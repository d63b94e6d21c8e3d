//! The processes of a baton, each with its guard and its brain, as `/proc` shows them: nobody has to
//! be asked who may be dead.

use std::fs;

use crate::process;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub role: Role,
    pub guard: i32,
    /// None while there is none, or while one is on its way.
    pub brain: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Master,
    Worker { seat: u16, ring: u16 },
}

struct Seen {
    pid: i32,
    parent: i32,
    role: Role,
}

/// Everything that runs with this in its environment.
#[must_use]
pub fn look(mark: &str) -> Vec<Process> {
    let seen: Vec<Seen> = process::with_environment(mark)
        .into_iter()
        .filter_map(see)
        .collect();
    let is_brain = |one: &Seen| {
        let same = |other: &Seen| other.pid == one.parent && other.role == one.role;
        seen.iter().any(same)
    };
    let mut processes: Vec<Process> = seen
        .iter()
        .filter(|one| !is_brain(one))
        .map(|guard| {
            let brain = seen
                .iter()
                .find(|one| one.parent == guard.pid && one.role == guard.role);
            Process {
                role: guard.role,
                guard: guard.pid,
                brain: brain.map(|brain| brain.pid),
            }
        })
        .collect();
    processes.sort_by_key(|process| process.role);
    processes
}

/// What the process is, by its arguments. None: it is going, or a command of the operator.
fn see(pid: i32) -> Option<Seen> {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments);
    let mut arguments = arguments.split('\0');
    let program = arguments.next()?.rsplit('/').next()?;
    let first = arguments.next()?;
    let role = match program {
        // A guard that was a brain before has arguments of its own.
        "baton-master" if ["serve", "guard"].contains(&first) => Role::Master,
        "baton-worker" => Role::Worker {
            seat: first.parse().ok()?,
            ring: arguments.next()?.parse().ok()?,
        },
        _ => return None,
    };
    let parent = process::parent(pid)?;
    Some(Seen { pid, parent, role })
}
