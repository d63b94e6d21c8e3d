//! Kills baton's processes at random instants under traffic of which every byte is verified. Run by
//! `scripts/chaos`; what is done and what is verified: `harness::chaos`.

use std::env;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::chaos::flat::Laps;
use harness::chaos::{self, Naive, Options};
use nix::sys::signal::{SigHandler, Signal, signal};

const USAGE: &str = "\
Usage: chaos [OPTIONS]

  --minutes N      So long (default 1)
  --seed S         The dice (default: any; it is printed)
  --connections N  On /echo; a fifth of that comes on top in rooms (default 2000)
  --workers N      To begin with (default 2)
  --no-kill        Nobody is killed: no command may fail
  --no-reload, --no-scale, --no-upgrade
                   These are not commanded
  --short          15 seconds, 300 connections, less that must have happened
  --aimed          Half of the deaths are between two steps that must count as one, of programs
                   that are built to die there
  --naive WHAT     The same with programs that do one thing wrong, so that all must not be well:
                   truth (they ignore the kernel's counters, and streams break) or publish (they
                   publish outside of the journal's record, and a message comes twice)
  --flat           Instead: 200 reloads and 1000 kills of workers, one after the other; does
                   anything grow?
  --keep DIR       Where the logs of a run that failed are put

Exit status: 0 all was well (with --naive: it was not, as expected), 1 it was not (or too little
happened), 2 usage.";

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn main() -> ExitCode {
    if env::args().any(|arg| arg == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("chaos: {reason}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    for number in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does nothing but to set a flag.
        let set = unsafe { signal(number, SigHandler::Handler(interrupt)) };
        set.expect("these can be handled");
    }
    match options.flat {
        Some(Laps { laps, kills }) => print!("{laps} reloads, {kills} kills behind each,"),
        None => print!("{} s", options.time.as_secs()),
    }
    println!(" with seed {}", options.seed);
    let report = chaos::run(&options, &INTERRUPTED);
    println!("{report}");
    let is_good = match options.naive {
        None => report.is_good(),
        Some(naive) => {
            // It need not be the first: three deaths at one place close the connection that was there.
            let mut kinds = report.failures.iter().map(|failure| failure.fault.kind);
            let is_shown = kinds.any(|kind| naive.is_shown_by(kind));
            println!(
                "{}",
                if is_shown {
                    "failed, as it must"
                } else {
                    "did not fail as it must"
                }
            );
            is_shown
        }
    };
    ExitCode::from(u8::from(!is_good))
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut options = Options {
        time: Duration::from_secs(60),
        seed: now.map_or(0, |now| now.as_micros() as u64 % 1_000_000),
        connections: 2_000,
        workers: 2,
        kill_every: Some(Duration::from_millis(300)),
        reload: true,
        scale: true,
        upgrade: true,
        command_every: Duration::from_millis(1500),
        min_kills: 100,
        min_reloads: 10,
        min_repairs: 1,
        aimed: false,
        naive: None,
        flat: None,
        keep: env::temp_dir(),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| {
            text.parse::<f64>()
                .map_err(|error| format!("{text}: {error}"))
        };
        match arg.as_str() {
            "--minutes" => options.time = Duration::from_secs_f64(number(value()?)? * 60.0),
            "--seed" => options.seed = number(value()?)? as u64,
            "--connections" => options.connections = number(value()?)? as usize,
            "--workers" => options.workers = number(value()?)? as u32,
            "--no-kill" => options.kill_every = None,
            "--no-reload" => options.reload = false,
            "--no-scale" => options.scale = false,
            "--no-upgrade" => options.upgrade = false,
            "--short" => {
                options.time = Duration::from_secs(15);
                options.connections = 300;
                options.min_kills = 15;
                // On a busy machine most that are commanded fail: somebody dies in the middle.
                options.min_reloads = 1;
                options.min_repairs = 0;
            }
            "--aimed" => options.aimed = true,
            "--naive" => {
                let what = value()?;
                let naive = Naive::parse(&what);
                options.naive = Some(naive.ok_or(format!("{what} is neither truth nor publish"))?);
                options.aimed = true;
            }
            "--flat" => {
                let laps = Laps {
                    laps: 200,
                    kills: 5,
                };
                options.flat = Some(laps);
                options.connections = 300;
                options.min_kills = u64::from(laps.laps * laps.kills);
                options.min_reloads = laps.laps.into();
                options.min_repairs = 0;
            }
            "--keep" => options.keep = value()?.into(),
            _ => return Err(format!("what is {arg}?")),
        }
    }
    if options.kill_every.is_none() {
        (options.min_kills, options.min_repairs) = (0, 0);
    }
    if !options.reload {
        options.min_reloads = 0;
    }
    Ok(options)
}
