//! `start` and `restart`: run the master, in the background or here, and wait for its news.

use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::setsid;

use super::processes::Tree;
use super::{Error, Result, stop};
use crate::cli::{self, Cli};
use crate::config::{Config, Source};
use crate::listener::activation;
use crate::pid_file;
use crate::program;
use crate::readiness::{Form, News, Readiness};
use crate::run_dir::RunDir;

/// Beyond what the configuration allows for: processes have to start, and to end.
const MARGIN: Duration = Duration::from_secs(10);

pub fn start(cli: &Cli, run: &RunDir, args: &cli::Start) -> Result {
    let source = args.flags.source()?;
    let config = source.load()?;
    warn(&config);
    run.create().map_err(Error::Failed)?;
    if let Some(pid) = pid_file::running(&run.pid_file())? {
        return Err(pid_file::Error::Running(Some(pid)).into());
    }
    let logs = format!(
        "  logs     {} ({})\n",
        run.logs().display(),
        cli.hint("logs -f")
    );
    if args.foreground {
        here(config, source, run.clone(), logs + "  stop     Ctrl-C\n")
    } else {
        let stop = format!("  stop     {}\n", cli.hint("stop"));
        in_background(&config, &source, run, &(logs + &stop))
    }
}

pub fn restart(cli: &Cli, run: &RunDir, args: &cli::Start) -> Result {
    // What cannot start is no reason to stop what runs.
    args.flags.source()?.load()?;
    match stop::stop(run, false) {
        Ok(()) | Err(Error::NotRunning) => start(cli, run, args),
        Err(error) => Err(error),
    }
}

/// What the operator had better know is said here, too, and not only in the log.
pub fn warn(config: &Config) {
    for warning in config.warnings() {
        eprintln!("baton: WARNING: {warning}");
    }
}

/// This process becomes the master.
fn here(config: Config, source: Source, run: RunDir, more: String) -> Result {
    let readiness = Readiness::new(io::stdout().as_fd().try_clone_to_owned()?, Form::Text(more));
    crate::serve::serve(config, source, run, readiness)
}

/// This process, which [`in_background`] made, becomes the master.
pub fn serve(run: RunDir, args: &cli::Serve) -> Result {
    // Away from the terminal and its signals. It fails only for who has that already.
    let _ = setsid();
    close_strays();
    let readiness = Readiness::new(io::stdout().as_fd().try_clone_to_owned()?, Form::Json);
    let source = args.flags.source()?;
    let config = source.load()?;
    crate::serve::serve(config, source, run, readiness)
}

/// Closes what the caller of `start` has left open for its children, which would stay so for as long
/// as baton runs: a lock, the end of a pipe that somebody reads.
fn close_strays() {
    let first = (activation::FIRST + activation::passed().unwrap_or(0)).cast_unsigned();
    // SAFETY: this process has only just begun and has opened none of these itself.
    unsafe { libc::close_range(first, libc::c_uint::MAX, 0) };
}

fn in_background(config: &Config, source: &Source, run: &RunDir, more: &str) -> Result {
    let (news, to) = io::pipe()?;
    let mut master = Command::new(program::own_path()?);
    if let Some(fds) = activation::passed() {
        master.env(activation::PASSED, fds.to_string());
    }
    let mut master = master
        .args(cli::Serve::args(source, run.path()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(to)
        .spawn()?;
    let within = Duration::from_millis(config.timeouts.ready_ms) + MARGIN;
    match wait(news, within)? {
        Some(News::Ready(served)) => {
            print!("{served}{more}");
            io::stdout().flush()?;
            Ok(())
        }
        Some(News::Failed(reason)) => {
            end(&mut master)?;
            Err(Error::Failed(reason))
        }
        None => {
            end(&mut master)?;
            let log = run.master_log();
            Err(Error::Failed(format!(
                "the master did not come up; see {}",
                log.display()
            )))
        }
    }
}

/// One line of news; `None`: there is none in time, or the master is gone.
fn wait(news: PipeReader, within: Duration) -> io::Result<Option<News>> {
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    if poll(&mut [PollFd::new(news.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
        return Ok(None);
    }
    let mut line = String::new();
    BufReader::new(news).read_line(&mut line)?;
    Ok(serde_json::from_str(&line).ok())
}

/// A master that did not come up ends by itself; if not, it is killed with all that it started.
fn end(master: &mut Child) -> io::Result<()> {
    let deadline = Instant::now() + MARGIN;
    while master.try_wait()?.is_none() {
        if Instant::now() > deadline {
            Tree::of(master.id().cast_signed()).kill();
            master.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
