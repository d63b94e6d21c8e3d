//! What a new brain finds: the fd table that it shares with those before it, held against the
//! state. What the state knows goes on; a connection that nobody knows was accepted and not noted,
//! and is given; everything else is closed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{SockaddrStorage, getpeername};
use protocol::channel::cookie;
use protocol::fault;

use super::Brain;
use crate::connections::Holder;
use crate::figures::What;
use crate::link::Link;
use crate::spawn::LOW;
use crate::state::Head;
use crate::supervise::Event;

impl Brain<'_> {
    /// Goes on where the last brain died.
    pub(super) fn take_over(&mut self, left: Vec<RawFd>) -> io::Result<()> {
        if !self.settle_upgrade() {
            log::warn!("the last brain died: taking over");
            self.happens(What::MasterRecovery, None);
        }
        self.adopt_workers()?;
        fault::point("master:recover");
        self.sweep(left);
        fault::point("master:recover-swept");
        self.note_orphans();
        let rings: Vec<u16> = self.links.keys().copied().collect();
        for ring in rings {
            self.repeat(ring);
            self.on_channel(ring);
        }
        match self.state.head(Head::Stopping) {
            0 if self.state.head(Head::Booted) == 0 => {
                let reason = "the master died while it started; see its log";
                self.context.readiness.borrow_mut().failed(reason);
                self.stop(true, 1);
            }
            0 => {
                self.supervise(Event::Resume(self.state.head(Head::Seats) as u16));
                self.reload_again();
                self.order_again();
            }
            how => self.stop(how == 2, 0),
        }
        Ok(())
    }

    fn sweep(&mut self, left: Vec<RawFd>) {
        let mut known: HashSet<RawFd> = self.known_fds().into_iter().collect();
        known.insert(self.life.guard.as_raw_fd());
        let mut cookies = HashMap::new();
        for slot in self.connections.slots() {
            if let Some(connection) = self.connections.get(self.state, slot) {
                cookies.insert(connection.cookie, slot);
            }
        }
        let (mut fresh, mut closed) = (0, 0);
        for fd in left {
            if fd < LOW || known.contains(&fd) {
                continue;
            }
            // SAFETY: it is open, and nothing of this brain or of the state owns it.
            let owned = unsafe { OwnedFd::from_raw_fd(fd) };
            fault::point("master:sweep");
            // Whoever asks at the control socket, say, came through none.
            let client = self.cookie_of_client(owned.as_fd());
            match client {
                Some(cookie) => match cookies.get(&cookie) {
                    Some(slot) => closed += u64::from(!self.adopt_returned(*slot, owned)),
                    None => {
                        self.admit_unknown(owned);
                        fresh += 1;
                    }
                },
                None => closed += 1,
            }
        }
        log::info!("sweep: {fresh} connections had not been noted, {closed} fds are closed");
    }

    /// Everything that is open on purpose, for brains to come as well.
    pub(super) fn known_fds(&self) -> Vec<RawFd> {
        let slots = self.connections.slots();
        let connections = slots.filter_map(|slot| self.connections.get(self.state, slot)?.fd);
        let mut known: Vec<RawFd> = connections.collect();
        known.extend(self.links.values().flat_map(Link::fds));
        known.extend(self.context.fds());
        known.push(self.state.head(Head::ProgramFd) as RawFd - 1);
        known
    }

    /// A socket whose slot has no fd: it was on its way from a worker, or its slot has given it up
    /// and it is closed now.
    fn adopt_returned(&mut self, slot: u32, fd: OwnedFd) -> bool {
        let connection = self.connections.get(self.state, slot);
        let Some(connection) = connection.filter(|c| c.fd.is_none()) else {
            return false;
        };
        let Holder::Returning { ring } = connection.holder else {
            return false;
        };
        self.connections.returned(self.state, slot, fd);
        if !connection.lived {
            self.owe(ring, slot);
        }
        true
    }

    /// The cookie, if it is a connected socket that came through a listener.
    fn cookie_of_client(&self, fd: BorrowedFd<'_>) -> Option<u64> {
        let peer = getpeername::<SockaddrStorage>(fd.as_raw_fd()).ok();
        (peer.is_some() && self.listener_of(fd).is_some()).then(|| cookie(&fd))
    }
}

/// Of the table that is shared with the brains before.
pub(super) fn open_fds() -> io::Result<Vec<RawFd>> {
    let listing = std::fs::read_dir("/proc/self/fd")?;
    let names = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let fds: Vec<RawFd> = names.collect();
    // The listing's own fd is closed by now.
    // SAFETY: `fcntl(F_GETFD)` on a number that may be closed does no harm.
    let is_open = |fd: &RawFd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1;
    Ok(fds.into_iter().filter(is_open).collect())
}
