//! The floor beside which `scripts/bench` measures what serving costs: `harness::bench::bare`.
//!
//! `bare WORKERS` prints its port when it serves, and ends when there is nothing more to read.

use std::env;
use std::io::{self, Read};
use std::process::ExitCode;
use std::thread;

use harness::bench::bare;

fn main() -> ExitCode {
    let workers = env::args().nth(1).and_then(|workers| workers.parse().ok());
    let Some(workers) = workers else {
        eprintln!("Usage: bare WORKERS");
        return ExitCode::from(2);
    };
    match run(workers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(workers: u32) -> io::Result<()> {
    let (address, workers) = bare::workers(workers)?;
    for worker in workers {
        thread::spawn(|| worker.serve().expect("the kernel serves us"));
    }
    println!("{}", address.port());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
