//! From the command line to ready: `scripts/baton start` with everything built, to the moment when it
//! returns, and when a request has been answered.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::gauge::{median, quantile, verdict};
use super::{Cell, Options, Subject, Table};
use crate::http::{Client, ask_whoami};
use crate::{Baton, eventually, programs};

pub const SUBJECT: Subject = Subject {
    name: "start",
    about: "from `scripts/baton start` to ready",
    peers: &[],
    run,
};

const GOAL_MS: f64 = 100.0;
/// In a round.
const STARTS: u32 = 10;

fn run(options: &Options) -> Result<Vec<Table>, String> {
    let title = format!("start: of {} starts each", STARTS * options.rounds);
    let columns = [
        "command",
        "workers",
        "returns ms",
        "p95 ms",
        "max ms",
        "answers ms",
        "goal",
    ];
    let mut table = Table::new(title, &columns);
    let ways = [
        ("scripts/baton", script(), options.workers),
        ("scripts/baton", script(), 16),
        ("baton-master", program(), options.workers),
    ];
    for (name, program, workers) in ways {
        // If something is to be built, now.
        start(&program, workers)?;
        let (mut returns, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..STARTS * options.rounds {
            let (returned, answered) = start(&program, workers)?;
            returns.push(returned);
            answers.push(answered);
        }
        table.push(vec![
            Cell::text(name),
            Cell::count(workers.into()),
            Cell::number(median(&returns), 1),
            Cell::number(quantile(&returns, 0.95), 1),
            Cell::number(quantile(&returns, 1.0), 1),
            Cell::number(median(&answers), 1),
            verdict("100 ms", median(&returns) <= GOAL_MS),
        ]);
    }
    Ok(vec![table])
}

fn script() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/baton")).to_owned()
}

fn program() -> PathBuf {
    programs::directory().join("baton-master")
}

/// Milliseconds until it returned, and until it had answered a request.
fn start(program: &Path, workers: u32) -> Result<(f64, f64), String> {
    let baton = Baton::builder().workers(workers).prepare();
    let workers = workers.to_string();
    let like = baton.command(&["start", "--workers", &workers]);
    let mut command = Command::new(program);
    command
        .args(like.get_args())
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .envs(
            like.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        // Where the script looks for what is built.
        .env("CARGO_TARGET_DIR", target())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let begin = Instant::now();
    let status = command
        .status()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let returned = begin.elapsed();
    if !status.success() {
        return Err(format!("{} start: {status}", program.display()));
    }
    let listens = baton.status().listen;
    let public = listens.iter().find(|(role, _)| role == "public");
    let (_, public) = public.ok_or("it does not listen")?;
    let asking = Instant::now();
    ask_whoami(&mut Client::connect(*public)).map_err(|error| error.to_string())?;
    let answered = returned + asking.elapsed();
    let millis = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    baton.expect(&["stop"], 0);
    eventually("it is gone", || baton.processes().is_empty());
    Ok((millis(returned), millis(answered)))
}

fn target() -> PathBuf {
    let profile = programs::directory();
    profile.parent().map_or(profile.clone(), Path::to_owned)
}
