//! Holds idle connections for `scripts/bench`: `harness::bench::held`.
//!
//! `held ADDRESS FIRST COUNT [ROOM]` connects so many, the numbers from FIRST on, as members of the room
//! if there is one. For each line that it reads all of them ask something, and it prints how many
//! were answered. It ends with its input.

use std::env;
use std::process::ExitCode;

use harness::bench::held;

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let to = args.next().and_then(|to| to.parse().ok());
    let mut number = || args.next().and_then(|number| number.parse().ok());
    let (Some(to), Some(first), Some(count)) = (to, number(), number()) else {
        eprintln!("Usage: held ADDRESS FIRST COUNT [ROOM]");
        return ExitCode::from(2);
    };
    match held::hold(to, first, count, args.next().as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("held: {error}");
            ExitCode::FAILURE
        }
    }
}
