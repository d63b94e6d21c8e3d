//! A program that is to replace the master's is tried first: it runs as a child, beside the master
//! that serves, looks at what it would have to go on from, and says who it is.
//!
//! What is tried is a sealed copy of the file, and this very copy is what takes over.

use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access, getpid, getppid};
use protocol::fault;
use protocol::guard::{held_program, unblock_all_signals};
use serde::{Deserialize, Serialize};

use crate::brain;
use crate::pidfd;
use crate::program::Build;
use crate::verbs;

/// Where the child finds what it needs.
const STATE: RawFd = 3;
const LOG: RawFd = 4;
const PROGRAM: RawFd = 5;

/// Bytes of what a program says that are kept.
const SAID: u64 = 4096;
/// Bytes that it may write at all.
const MAY_WRITE: u64 = 1 << 20;

/// A program that may take over.
#[derive(Debug)]
pub struct Tried {
    /// The copy that was tried.
    pub program: OwnedFd,
    pub build: Build,
}

/// What a program says of itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Said {
    baton: String,
}

/// Tries the program in this file. The state and the log are open for reading only. An error is for
/// people.
pub fn run(path: &Path, state: &OwnedFd, log: &OwnedFd, within: Duration) -> Result<Tried, String> {
    let deadline = Instant::now() + within;
    let shown = path.display();
    // Else opening it might wait, for somebody at the other end of a pipe.
    let is_file = std::fs::metadata(path).map(|file| file.is_file());
    match is_file.map_err(|error| format!("cannot read {shown}: {error}"))? {
        true => {}
        false => return Err(format!("{shown} is not a file")),
    }
    access(path, AccessFlags::X_OK).map_err(|_| format!("{shown} is not executable"))?;
    let program = held_program(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let said = listen(&program, state, log, deadline).map_err(|why| format!("{shown}: {why}"))?;
    let build = Build::new(&said.baton, path);
    let build = build.map_err(|error| format!("cannot read {shown}: {error}"))?;
    Ok(Tried { program, build })
}

fn listen(
    program: &OwnedFd,
    state: &OwnedFd,
    log: &OwnedFd,
    deadline: Instant,
) -> Result<Said, String> {
    let mut output = memfd_create(c"baton-trial", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|error| error.desc().to_owned())?;
    let child = spawn(program, state, log, &output);
    let child = child.map_err(|error| format!("it cannot be run: {error}"))?;
    let status = wait(child, deadline).map_err(|error| error.to_string())?;
    let mut said = Vec::new();
    let read = output.rewind().and_then(|()| {
        let mut begin = (&output).take(SAID);
        begin.read_to_end(&mut said)
    });
    read.map_err(|error| error.to_string())?;
    understand(status, &String::from_utf8_lossy(&said))
}

fn understand(status: Option<ExitStatus>, said: &str) -> Result<Said, String> {
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    let quoted = match lines.join("; ") {
        nothing if nothing.is_empty() => "it said nothing".to_owned(),
        said => format!("it said: {}", said.escape_debug()),
    };
    let Some(status) = status else {
        return Err(format!("it did not answer in time; {quoted}"));
    };
    if !status.success() {
        return Err(format!("{status}; {quoted}"));
    }
    let last = lines.last().copied().unwrap_or_default();
    serde_json::from_str(last).map_err(|_| format!("this is no baton-master; {quoted}"))
}

fn spawn(program: &OwnedFd, state: &OwnedFd, log: &OwnedFd, output: &File) -> io::Result<Child> {
    let fds = [
        (state.as_raw_fd(), STATE),
        (log.as_raw_fd(), LOG),
        (program.as_raw_fd(), PROGRAM),
    ];
    let parent = getpid();
    let path = number_in(c"/proc/self/fd/", PROGRAM);
    let (state, log) = (number_in(c"", STATE), number_in(c"", LOG));
    let mut command = Command::new("baton-master");
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0);
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            for (from, to) in fds {
                // A new number without FD_CLOEXEC; sources are above all targets.
                Errno::result(libc::dup2(from, to))?;
            }
            // It ends with the brain that tries it.
            set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != parent {
                return Err(Errno::ESRCH.into());
            }
            setrlimit(Resource::RLIMIT_FSIZE, MAY_WRITE, MAY_WRITE)?;
            unblock_all_signals()?;
            // Not by the standard library, which gives to a shell what is no program.
            let name = c"baton-master".as_ptr();
            let args = [
                name,
                c"try".as_ptr(),
                state.as_ptr(),
                log.as_ptr(),
                ptr::null(),
            ];
            libc::execve(path.as_ptr(), args.as_ptr(), environ);
            Err(io::Error::last_os_error())
        })
    };
    command.spawn()
}

unsafe extern "C" {
    static environ: *const *const c_char;
}

fn number_in(before: &CStr, fd: RawFd) -> CString {
    let text = [before.to_bytes(), fd.to_string().as_bytes()].concat();
    // Neither holds a zero byte.
    CString::new(text).unwrap_or_default()
}

/// How it ended; `None`: not in time. Nothing of it is left.
fn wait(mut child: Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    let pid = child.id().cast_signed();
    let ended = pidfd::open(pid).and_then(|process| {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut polled, timeout)? > 0)
    });
    // Also what it started. It has not been reaped yet, so the number is its group's.
    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    let status = child.wait()?;
    Ok(ended?.then_some(status))
}

/// The other side: this program is tried.
pub fn report(state: RawFd, log: RawFd) -> verbs::Result {
    fault::point("master:try");
    brain::look(state, log).map_err(verbs::Error::Failed)?;
    let said = Said {
        baton: env!("CARGO_PKG_VERSION").to_owned(),
    };
    println!("{}", serde_json::to_string(&said).map_err(io::Error::from)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_a_program_says_is_understood_or_shown() {
        let ended = |code: i32| Some(ExitStatus::from_raw(code << 8));
        let own = "noise\n{\"baton\":\"0.2.0\"}\n";
        assert_eq!(understand(ended(0), own).unwrap().baton, "0.2.0");
        for (status, said, why) in [
            (ended(0), "", "this is no baton-master; it said nothing"),
            (ended(0), "hi\n", "this is no baton-master; it said: hi"),
            (
                ended(1),
                "baton: no\n\u{1b}[1m",
                "exit status: 1; it said: baton: no; \\u{1b}[1m",
            ),
            (
                Some(ExitStatus::from_raw(11)),
                "",
                "signal: 11 (SIGSEGV); it said nothing",
            ),
            (
                None,
                own,
                "it did not answer in time; it said: noise; {\\\"baton\\\":\\\"0.2.0\\\"}",
            ),
        ] {
            assert_eq!(understand(status, said).unwrap_err(), why);
        }
    }
}
