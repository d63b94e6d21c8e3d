//! A unix socket: a file, whose permissions say who may come in.
//!
//! A file of that name that is there is taken over if nobody listens behind it any more: it was left
//! by a daemon that had no time to remove it. One of a daemon that lives is not, nor is any other file.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, connect};
use nix::sys::stat::{Mode, umask};

use super::room;
use crate::config::{Listen, Rights};

/// Makes the socket and its file, and listens. An error says why not.
pub(super) fn open(listen: &Listen, path: &Path) -> Result<OwnedFd, String> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let locked = lock(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let address = UnixAddr::new(path).map_err(|error| error.desc().to_owned())?;
    make_room(path, &address)?;
    let fd = stream().map_err(|error| error.desc().to_owned())?;
    // Nobody gets in before the file has the rights that it is to have. (This process has one thread.)
    let before = umask(Mode::from_bits_truncate(0o777));
    let bound = socket::bind(fd.as_raw_fd(), &address);
    umask(before);
    bound.map_err(|error| error.desc().to_owned())?;
    let made = give(path, listen.rights)
        .and_then(|()| Ok(socket::listen(&fd, room(listen))?))
        .map_err(|error| error.to_string());
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    drop(locked);
    made.map(|()| fd)
}

fn stream() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Two daemons that start at once do not both find a file that nobody listens behind, and remove each
/// other's.
fn lock(directory: &Path) -> io::Result<Flock<File>> {
    let file = File::open(directory)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

/// Removes what a dead daemon has left there.
fn make_room(path: &Path, address: &UnixAddr) -> Result<(), String> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !kind.is_socket() {
        return Err("there is a file of this name that is no socket".to_owned());
    }
    let knocked = stream().and_then(|fd| connect(fd.as_raw_fd(), address));
    match knocked {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(|error| error.to_string()),
        // EAGAIN: its backlog is full.
        Ok(()) | Err(Errno::EAGAIN) => Err("another program listens there".to_owned()),
        Err(error) => Err(error.desc().to_owned()),
    }
}

/// The mode last: until then nobody gets in.
fn give(path: &Path, rights: Rights) -> io::Result<()> {
    if rights.owner.is_some() || rights.group.is_some() {
        chown(path, rights.owner, rights.group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(rights.mode))
}
