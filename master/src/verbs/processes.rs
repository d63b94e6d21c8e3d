//! All processes of a running baton, found without its help: a master that hangs can still be
//! stopped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::pidfd;

/// The master's guard and all that descends from it, each held by a pidfd, so that a number that is
/// used again is never taken for one of them.
#[derive(Debug, Default)]
pub struct Tree {
    /// The guard of the master first, if it lives.
    processes: BTreeMap<Depth, OwnedFd>,
}

/// Guards before brains, so that none is made again while the rest is seen to.
type Depth = (usize, i32);

impl Tree {
    /// What there is now.
    pub fn of(master: i32) -> Tree {
        let mut tree = Tree::default();
        tree.look(master);
        tree
    }

    /// Adds what there is now.
    pub fn look(&mut self, master: i32) {
        let parents = parents();
        let mut generation = vec![master];
        let mut depth = 0;
        while !generation.is_empty() {
            for pid in &generation {
                let key = (depth, *pid);
                // One that has just ended needs nothing more.
                if !self.processes.contains_key(&key)
                    && let Ok(fd) = pidfd::open(*pid)
                {
                    self.processes.insert(key, fd);
                }
            }
            generation = parents
                .iter()
                .filter(|(_, parent)| generation.contains(parent))
                .map(|(pid, _)| *pid)
                .collect();
            depth += 1;
        }
    }

    /// Waits until all have ended. False: some have not, at the deadline.
    pub fn wait(&mut self, deadline: Instant) -> io::Result<bool> {
        loop {
            self.forget_ended()?;
            let Some(one) = self.processes.values().next() else {
                return Ok(true);
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(one.as_fd(), PollFlags::POLLIN)], timeout)?;
        }
    }

    fn forget_ended(&mut self) -> io::Result<()> {
        let mut polled: Vec<_> = self
            .processes
            .values()
            .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut polled, PollTimeout::ZERO)?;
        let ended: Vec<bool> = polled.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut ended = ended.into_iter();
        self.processes.retain(|_, _| ended.next() == Some(false));
        Ok(())
    }

    /// Signals the master alone.
    pub fn signal_master(&self, signal: Signal) {
        if let Some(((0, _), fd)) = self.processes.first_key_value() {
            pidfd::send(fd, signal);
        }
    }

    /// Kills all: first each is halted, parents before children, so that none comes after.
    pub fn kill(&mut self) {
        let master = self.processes.keys().find(|(depth, _)| *depth == 0);
        let master = master.map(|(_, pid)| *pid);
        self.signal_all(Signal::SIGSTOP);
        if let Some(pid) = master {
            self.look(pid);
            self.signal_all(Signal::SIGSTOP);
        }
        self.signal_all(Signal::SIGKILL);
    }

    fn signal_all(&self, signal: Signal) {
        for fd in self.processes.values() {
            pidfd::send(fd, signal);
        }
    }
}

/// Every process's parent.
fn parents() -> BTreeMap<i32, i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // "4242 (name, which may hold anything) S 1 …"
        let (_, behind) = stat.rsplit_once(") ")?;
        Some((pid, behind.split(' ').nth(1)?.parse().ok()?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    #[test]
    fn finds_and_kills_what_descends() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 1000 & sleep 1000 & echo; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        io::Read::read_exact(&mut shell.stdout.take().unwrap(), &mut line).unwrap();
        let mut tree = Tree::of(shell.id().cast_signed());
        assert_eq!(tree.processes.len(), 3);
        assert!(!tree.wait(Instant::now()).unwrap());
        tree.kill();
        assert!(!shell.wait().unwrap().success());
        assert!(tree.wait(Instant::now() + Duration::from_secs(20)).unwrap());
    }
}
