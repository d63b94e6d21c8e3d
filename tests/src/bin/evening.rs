//! Plays a live evening and says what viewers saw. Run by `scripts/evening`; what happens in it:
//! `harness::evening`.

use std::env;
use std::process::ExitCode;

use harness::evening::{Options, play, viewers};

const USAGE: &str = "\
Usage: evening [OPTIONS]

  --large N      Viewers of the large room (default 10000)
  --small N      Of each of the ten small ones (default 500)
  --burst N      Comments a second in a burst, in the large room (default 15)
  --workers N    (default 2)
  --short        500 viewers, 20 in each small room, and half a minute

Exit status: 0 nobody missed anything or was cut off, 1 somebody was, 2 usage.";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--help") => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Some("--viewers") => audience(&args[1..]),
        _ => match parse(&args) {
            Ok(options) => evening(options),
            Err(reason) => {
                eprintln!("evening: {reason}\n{USAGE}");
                ExitCode::from(2)
            }
        },
    }
}

fn evening(options: Options) -> ExitCode {
    match play(options) {
        Ok(evening) => {
            print!("{evening}");
            ExitCode::from(u8::from(!evening.is_good()))
        }
        Err(reason) => {
            eprintln!("evening: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// A process of viewers: where baton is, and how many are in each room.
fn audience(args: &[String]) -> ExitCode {
    let to = args.first().and_then(|to| to.parse().ok());
    let rooms: Option<Vec<usize>> = args.iter().skip(1).map(|many| many.parse().ok()).collect();
    let (Some(to), Some(rooms)) = (to, rooms) else {
        return ExitCode::from(2);
    };
    let report = viewers::run(to, &rooms).map_err(|error| error.to_string());
    match report.and_then(|report| serde_json::to_string(&report).map_err(|e| e.to_string())) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("evening: viewers: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = match args.iter().any(|arg| arg == "--short") {
        true => Options::SHORT,
        false => Options::FULL,
    };
    let mut args = args.iter().filter(|arg| *arg != "--short");
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number: u32 = value.parse().map_err(|error| format!("{value}: {error}"))?;
        match arg.as_str() {
            "--large" => options.large = number as usize,
            "--small" => options.small = number as usize,
            "--burst" => options.burst = number.max(1),
            "--workers" => options.workers = number,
            _ => return Err(format!("what is {arg}?")),
        }
    }
    Ok(options)
}
