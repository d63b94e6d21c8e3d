//! The master of baton, and the command line that starts it and speaks to it.

use std::process::ExitCode;

use master::brain;
use master::cli::{Cli, Verb};
use master::trial;
use master::verbs::{self, Error, check, logs, start, status, stop, tell};

fn main() -> ExitCode {
    match run(&Cli::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(match error {
                Error::Failed(_) => 1,
                Error::Configuration(_) => 2,
                Error::NotRunning => 3,
            })
        }
    }
}

fn run(cli: &Cli) -> verbs::Result {
    let run = cli.run_dir()?;
    match &cli.verb {
        Verb::Start(args) => start::start(cli, &run, args),
        Verb::Stop(args) => stop::stop(&run, args.fast),
        Verb::Restart(args) => start::restart(cli, &run, args),
        Verb::Reload => tell::reload(&run),
        Verb::Status { json } => status::status(&run, *json),
        Verb::Upgrade => tell::upgrade(&run),
        Verb::Scale { workers } => tell::scale(&run, *workers),
        Verb::Logs(args) => logs::logs(&run, args),
        Verb::Check(flags) => check::check(flags),
        Verb::Serve(args) => start::serve(run, args),
        Verb::Guard {
            state,
            log,
            history,
            takes_over,
        } => brain::run_again(*state, *log, *history, *takes_over),
        Verb::Try { state, log } => trial::report(*state, *log),
    }
}
