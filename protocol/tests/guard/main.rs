//! Guards and brains as real processes. The tests exec this very binary with `role NAME`, which
//! then is a guard (see `roles`); `stage` starts and ends them.

mod echo;
mod lives;
mod roles;
mod stage;
mod takeover;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("role") {
        let role = args.next().expect("a role");
        roles::play(&role, args.next().is_some());
    }
    // A guard whose brain becomes the next guard leaves an orphan; it becomes ours.
    nix::sys::prctl::set_child_subreaper(true).expect("to be a subreaper");
    let tests: &[(&'static str, fn())] = &[
        ("echoes_exact_as_brains_are_killed", echo::kills_of_brains),
        (
            "echoes_exact_as_guards_are_killed",
            echo::kills_of_guards_too,
        ),
        ("echoes_wrong_without_the_truth", echo::naive_control),
        ("an_unprivileged_brain_becomes_guard", echo::unprivileged),
        ("echoes_exact_through_takeovers", takeover::many),
        ("echoes_exact_as_takeovers_are_killed", takeover::kills),
        ("an_exec_that_fails_changes_nothing", takeover::no_program),
        ("an_heir_that_dies_takes_nothing", takeover::dies),
        ("an_heir_that_hangs_takes_nothing", takeover::hangs),
        ("signals_outlive_takeovers", takeover::signals),
        ("a_brain_that_is_done", lives::done),
        ("a_brain_that_cannot_boot", lives::cannot_boot),
        ("a_brain_is_a_sane_process", lives::sane),
        ("a_hung_brain_is_killed", lives::hung),
        ("signals_outlive_brains", lives::signals),
        ("a_signal_to_a_brain_is_not_taken", lives::signal_to_a_brain),
        ("orphans_are_reaped_and_noted", lives::orphans),
        ("many_orphans_wait_for_room", lives::many_orphans),
        ("fruitless_deaths_are_spaced_out", lives::back_off),
        ("other_deaths_are_not", lives::no_back_off),
        ("a_termination_in_a_crash_loop", lives::terminated),
        ("panics_are_logged", lives::panics),
        ("lines_outlive_brains", lives::lines_through_kills),
    ];
    let trials = tests
        .iter()
        .map(|&(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
