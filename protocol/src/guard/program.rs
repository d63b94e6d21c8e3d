//! The guard program: held as an open fd, so that a brain can become a guard whatever has happened
//! to the file, and whoever it runs as.

use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::signals;
use crate::fault;

/// Replaces this brain, whose guard is dead, by the guard program, under the same pid; that one
/// clones the next brain. Of the fds above 2 only `keep` stay (under their numbers). `args` begin
/// with the program's name. The environment stays as it is.
///
/// Other threads may be running: they end with the exec. Signals that were sent to this brain are
/// forgotten: the dead guard has counted its own.
///
/// Returns only if it fails; then all is as before.
pub fn exec_over_self(
    program: BorrowedFd<'_>,
    args: &[CString],
    keep: &[BorrowedFd<'_>],
) -> io::Error {
    match signals::block_all().and_then(|()| signals::drain()) {
        Ok(()) => exec_program(program, args, keep),
        Err(e) => e,
    }
}

/// The same for a guard that is to be another program: what signals wait for it go to the new one.
pub fn exec_program(
    program: BorrowedFd<'_>,
    args: &[CString],
    keep: &[BorrowedFd<'_>],
) -> io::Error {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let mut argv: Vec<*const c_char> = args.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(std::ptr::null());
    let kept = close_on_exec(keep, FdFlag::empty());
    if let Err(e) = kept {
        return e;
    }
    fault::shared_point("exec");
    // SAFETY: argv ends in null and its strings outlive the call; nothing here changes the
    // environment while it is read (neither guards nor brains do).
    unsafe { libc::fexecve(program.as_raw_fd(), argv.as_ptr(), environ) };
    let e = io::Error::last_os_error();
    let _ = close_on_exec(keep, FdFlag::FD_CLOEXEC);
    e
}

/// Standard input, output and error stay open at every exec.
pub(super) fn close_on_exec(fds: &[BorrowedFd<'_>], flag: FdFlag) -> io::Result<()> {
    for fd in fds.iter().filter(|fd| fd.as_raw_fd() > 2) {
        fcntl(fd, FcntlArg::F_SETFD(flag))?;
    }
    Ok(())
}

/// A sealed copy of the program at `path`, in memory: what was checked is what is run, and a user
/// who cannot read `path` can exec it.
pub fn held_program(path: &Path) -> io::Result<OwnedFd> {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = CString::new(name.as_encoded_bytes())?;
    let mut from = File::open(path)?;
    let mut copy = File::from(executable_memfd(&name)?);
    io::copy(&mut from, &mut copy)?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    seal(&copy, seals)?;
    Ok(copy.into())
}

/// Sealing against writing fails while anybody in the kernel holds a page of the file, for which it
/// waits a little (`memfd_wait_for_pins` in mm/memfd.c). Pages that were just written may still be on
/// their way to a list of the memory management's: that passes.
fn seal(file: &File, seals: SealFlag) -> io::Result<()> {
    const TRIES: usize = 20;
    let mut tries = 0;
    loop {
        tries += 1;
        match fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals)) {
            Err(Errno::EBUSY) if tries < TRIES => {}
            sealed => return Ok(sealed.map(drop)?),
        }
    }
}

fn executable_memfd(name: &CStr) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Where vm.memfd_noexec is 1, only this flag makes one that can be run; kernels before 6.3
    // do not know it.
    let executable = MFdFlags::from_bits_retain(libc::MFD_EXEC);
    match memfd_create(name, flags | executable) {
        Err(Errno::EINVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// Sets the name that `ps` and `/proc/PID/comm` show (15 bytes): a program that runs from a memfd
/// would have the memfd's.
pub fn name_process(name: &CStr) -> io::Result<()> {
    Ok(nix::sys::prctl::set_name(name)?)
}

/// Nothing that is open above stderr goes to a program that is spawned.
pub(super) fn close_all_on_exec() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
    // SAFETY: no memory is involved, and no fd is closed by it.
    Errno::result(unsafe { libc::close_range(3, libc::c_uint::MAX, flags) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    #[test]
    fn what_is_held_is_the_program_and_cannot_be_changed() {
        let path = Path::new("/bin/true");
        let mut held = File::from(held_program(path).unwrap());
        assert!(held.write_all(b"other").is_err());
        assert!(held.set_len(0).is_err());
        let mut bytes = Vec::new();
        held.rewind().unwrap();
        held.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, std::fs::read(path).unwrap());
    }

    #[test]
    fn an_exec_that_fails_leaves_all_as_it_was() {
        let no_program = File::open("/dev/null").unwrap();
        let kept = File::open("/dev/null").unwrap();
        let e = exec_program(no_program.as_fd(), &[c"x".to_owned()], &[kept.as_fd()]);
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
        let flags = fcntl(&kept, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, FdFlag::FD_CLOEXEC.bits());
    }
}
