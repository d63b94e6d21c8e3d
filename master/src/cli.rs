//! The command line, as typed. What each verb does is in [`crate::verbs`].

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};

use crate::config::{MAX_WORKERS, Overrides, Source};
use crate::run_dir::RunDir;

/// In the environment: the run directory, if `--run-dir` does not say.
const RUN_DIR: &str = "BATON_RUN_DIR";
/// In the environment: how this program was called, if by a script.
const COMMAND: &str = "BATON_COMMAND";

/// A server for live connections: a master hands every connection to a worker.
#[derive(Debug, Parser)]
#[command(
    name = "baton",
    version,
    max_term_width = 90,
    after_help = "Exit status: 0 done, 1 failed, 2 usage or configuration, 3 not running."
)]
pub struct Cli {
    /// Where pid file, control socket and logs are [default: run/ in the checkout]
    #[arg(long, global = true, value_name = "DIR")]
    run_dir: Option<PathBuf>,

    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start in the background; return when every worker is ready
    Start(Start),
    /// Let connections end, within the configured time, and stop
    Stop(Stop),
    /// Stop, if it runs, and start with these flags; closes all connections
    Restart(Start),
    /// Check the configuration and replace workers one by one, new before old
    Reload,
    /// Replace the master's program by the one on disk, in place: same pid, same connections
    Upgrade,
    /// Show master, listeners and workers
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Run so many workers, until stop
    Scale {
        #[arg(value_name = "N", value_parser = value_parser!(u16).range(1..=i64::from(MAX_WORKERS)))]
        workers: u16,
    },
    /// Print the ends of the logs
    Logs(Logs),
    /// Test the configuration without starting
    Check(Flags),
    /// Be the master (what `start` runs)
    #[command(hide = true)]
    Serve(Serve),
    /// Be the guard of a master whose guard is dead (what its brain runs over itself), or gives way
    /// (what that runs over itself)
    #[command(hide = true)]
    Guard {
        state: i32,
        log: i32,
        history: i32,
        #[arg(long)]
        takes_over: bool,
    },
    /// Look whether this program could go on in place of a master, and say its version
    #[command(hide = true)]
    Try { state: i32, log: i32 },
}

/// The configuration.
#[derive(Clone, Debug, Default, Args)]
pub struct Flags {
    /// The configuration; without it, the defaults (see scripts/baton.toml)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Listen here for clients, in place of the configured addresses; may be repeated
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,

    /// Listen here for the operators, in place of the configured addresses; may be repeated
    #[arg(long, value_name = "ADDR")]
    admin: Vec<SocketAddr>,

    /// Run so many workers [default: as configured, or one for each processor]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=i64::from(MAX_WORKERS)))]
    workers: Option<u16>,
}

#[derive(Clone, Debug, Args)]
pub struct Start {
    #[command(flatten)]
    pub flags: Flags,

    /// Stay in the foreground (logs go to files all the same)
    #[arg(long)]
    pub foreground: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Stop {
    /// Do not wait for connections to end
    #[arg(long)]
    pub fast: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Logs {
    /// Go on with what is written, over reopening and restarts
    #[arg(short, long)]
    pub follow: bool,

    /// Begin with so many lines of each log
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub lines: usize,

    /// The log of this worker (a number), or "master" [default: all]
    #[arg(value_name = "WORKER")]
    pub which: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    pub flags: Flags,
}

impl Cli {
    /// Takes the arguments of the process; if they are wrong or ask for help, says so and exits.
    pub fn from_env() -> Cli {
        let matches = Cli::command().bin_name(command()).get_matches();
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The run directory that is meant.
    pub fn run_dir(&self) -> io::Result<RunDir> {
        let from_env = || std::env::var_os(RUN_DIR).map(PathBuf::from);
        let path = self.run_dir.clone().or_else(from_env);
        RunDir::new(&path.unwrap_or_else(|| PathBuf::from("run")))
    }

    /// A command line, for people to copy, that does `verb` with what this one is about.
    pub fn hint(&self, verb: &str) -> String {
        let command = quoted(&command());
        match (&self.run_dir, self.run_dir()) {
            (Some(_), Ok(run)) => {
                let dir = quoted(&run.path().to_string_lossy());
                format!("{command} {verb} --run-dir {dir}")
            }
            _ => format!("{command} {verb}"),
        }
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// How this program is called.
fn command() -> String {
    std::env::var(COMMAND).unwrap_or_else(|_| "baton-master".to_owned())
}

impl Flags {
    /// Where the configuration comes from.
    pub fn source(&self) -> io::Result<Source> {
        let file = self.config.as_deref().map(std::path::absolute);
        Ok(Source {
            file: file.transpose()?,
            overrides: Overrides {
                listen: self.listen.clone(),
                admin: self.admin.clone(),
                workers: self.workers,
            },
        })
    }
}

impl Serve {
    /// The arguments that come back as [`Verb::Serve`] with this source and run directory.
    pub fn args(source: &Source, run: &Path) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["serve".into(), "--run-dir".into(), run.into()];
        if let Some(file) = &source.file {
            args.extend(["--config".into(), file.into()]);
        }
        let Overrides {
            listen,
            admin,
            workers,
        } = &source.overrides;
        let listen = listen
            .iter()
            .map(|address| ("--listen", address.to_string()));
        let admin = admin.iter().map(|address| ("--admin", address.to_string()));
        let workers = workers.iter().map(|n| ("--workers", n.to_string()));
        for (flag, value) in listen.chain(admin).chain(workers) {
            args.extend([flag.into(), value.into()]);
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["baton"], args].concat())
    }

    #[test]
    fn is_a_sound_command() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_status_2_and_help_is_0() {
        for wrong in [
            &[] as &[&str],
            &["begin"],
            &["start", "--workers", "0"],
            &["start", "--workers", "65"],
            &["start", "--listen", "nowhere"],
            &["scale"],
            &["scale", "0"],
            &["reload", "--config", "x"],
            &["stop", "--workers", "3"],
        ] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
        for help in [
            "start", "stop", "restart", "reload", "upgrade", "status", "scale", "logs", "check",
        ] {
            let error = parse(&[help, "--help"]).unwrap_err();
            assert_eq!(error.exit_code(), 0, "{help}");
            assert!(error.to_string().contains("--run-dir"), "{help}");
        }
        assert_eq!(parse(&["--version"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn hints_can_be_copied() {
        assert_eq!(quoted("scripts/baton"), "scripts/baton");
        assert_eq!(quoted("/a b/baton"), "'/a b/baton'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        let cli = parse(&["start", "--run-dir", "/a b"]).unwrap();
        assert!(cli.hint("stop").ends_with(" stop --run-dir '/a b'"));
    }

    #[test]
    fn the_run_directory_goes_before_or_behind_the_verb() {
        for args in [["--run-dir", "/x", "reload"], ["reload", "--run-dir", "/x"]] {
            let run = parse(&args).unwrap().run_dir().unwrap();
            assert_eq!(run.path(), Path::new("/x"));
        }
    }

    #[test]
    fn what_start_says_arrives_at_the_master() {
        let args = "start --config /a/b.toml --listen [::1]:80 --listen 127.0.0.1:0 \
                    --admin 127.0.0.1:81 --workers 3";
        let cli = parse(
            &args
                .split(' ')
                .filter(|a| !a.is_empty())
                .collect::<Vec<_>>(),
        )
        .unwrap();
        let Verb::Start(start) = cli.verb else {
            panic!("{cli:?}");
        };
        let source = start.flags.source().unwrap();
        assert_eq!(source.overrides.listen.len(), 2);

        let args = Serve::args(&source, Path::new("/run dir"));
        let args = [vec![OsString::from("baton")], args].concat();
        let cli = Cli::try_parse_from(args).unwrap();
        assert_eq!(cli.run_dir().unwrap().path(), Path::new("/run dir"));
        let Verb::Serve(serve) = cli.verb else {
            panic!("{cli:?}");
        };
        assert_eq!(serve.flags.source().unwrap(), source);
    }
}
