//! What a worker process is born with: its arguments, and fds at fixed numbers. The master sets
//! both, the worker's guard and every brain of it use them.

use std::os::fd::RawFd;

use crate::ids::Seat;

/// The worker's log file, and stderr.
pub const LOG_FILE: RawFd = 2;
/// The worker's end of the channel.
pub const CHANNEL: RawFd = 3;
/// Its ring, to be mapped for writing.
pub const RING: RawFd = 4;
/// The log, to be mapped for reading.
pub const LOG: RawFd = 5;
/// An eventfd: the worker writes it when its ring has something new.
pub const RING_BELL: RawFd = 6;
/// An eventfd that all workers share: the master writes it when the log has something new. Nobody
/// reads it; edge-triggered epoll reports every write.
pub const LOG_BELL: RawFd = 7;
/// The program itself, to exec when a brain becomes a guard.
pub const PROGRAM: RawFd = 8;
/// The process's own state, made by its first guard.
pub const STATE: RawFd = 9;
/// An eventfd: the guard writes it when it has counted a signal.
pub const GUARD_BELL: RawFd = 10;

/// The rooms' history, to be mapped for reading.
pub const HISTORY: RawFd = 11;

/// The fds that the master sets.
pub const FROM_MASTER: [RawFd; 8] = [
    LOG_FILE, CHANNEL, RING, LOG, RING_BELL, LOG_BELL, PROGRAM, HISTORY,
];
/// The last number that has a meaning.
pub const LAST: RawFd = HISTORY;

/// The arguments of a worker process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerArgs {
    pub seat: Seat,
    /// The number of its ring: where its read index is ([`crate::row::read_index`]), and what an
    /// asker in a record names. Not the seat's: during a reload a seat has two.
    pub ring: u16,
    /// To become this user and group; `None`: stay.
    pub user: Option<(u32, u32)>,
    /// As [`crate::logging`] takes it: `info`, `worker=debug,info`.
    pub log_filter: String,
    pub log_json: bool,
}

impl WorkerArgs {
    /// Behind the program's name.
    #[must_use]
    pub fn to_args(&self) -> Vec<String> {
        let (uid, gid) = self.user.map_or(("-".into(), "-".into()), |(u, g)| {
            (u.to_string(), g.to_string())
        });
        let format = if self.log_json { "json" } else { "text" };
        vec![
            self.seat.0.to_string(),
            self.ring.to_string(),
            uid,
            gid,
            self.log_filter.clone(),
            format.to_owned(),
        ]
    }

    /// `None`: not what [`to_args`](WorkerArgs::to_args) makes.
    pub fn from_args(args: impl Iterator<Item = String>) -> Option<WorkerArgs> {
        let args: Vec<String> = args.collect();
        let [seat, ring, uid, gid, log_filter, format] = args.as_slice() else {
            return None;
        };
        let user = match (uid.as_str(), gid.as_str()) {
            ("-", "-") => None,
            (uid, gid) => Some((uid.parse().ok()?, gid.parse().ok()?)),
        };
        Some(WorkerArgs {
            seat: Seat(seat.parse().ok()?),
            ring: ring.parse().ok()?,
            user,
            log_filter: log_filter.clone(),
            log_json: format == "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_back() {
        for user in [None, Some((65534, 65534))] {
            let args = WorkerArgs {
                seat: Seat(3),
                ring: 9,
                user,
                log_filter: "info".into(),
                log_json: true,
            };
            assert_eq!(
                WorkerArgs::from_args(args.to_args().into_iter()),
                Some(args)
            );
        }
        assert_eq!(WorkerArgs::from_args(["1".to_owned()].into_iter()), None);
    }
}
