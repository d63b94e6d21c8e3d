//! Guards and brains as real processes. The tests exec this very binary with `role NAME`, which
//! then is a guard (see `roles`); `stage` starts and ends them.

mod echo;
mod lives;
mod roles;
mod stage;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("role") {
        roles::play(&args.next().expect("a role"));
    }
    // A guard whose brain becomes the next guard leaves an orphan; it becomes ours.
    nix::sys::prctl::set_child_subreaper(true).expect("to be a subreaper");
    let tests: &[(&'static str, fn())] = &[
        (
            "echoes_are_exact_through_kills_of_brains",
            echo::kills_of_brains,
        ),
        (
            "echoes_are_exact_through_kills_of_guards_too",
            echo::kills_of_guards_too,
        ),
        (
            "without_the_kernels_counters_echoes_go_wrong",
            echo::naive_control,
        ),
        ("an_unprivileged_brain_becomes_a_guard", echo::unprivileged),
        ("a_brain_that_is_done_ends_its_guard", lives::done),
        (
            "a_brain_that_cannot_boot_ends_its_guard",
            lives::cannot_boot,
        ),
        ("a_brain_is_a_sane_process", lives::sane),
        ("signals_are_counted_over_deaths", lives::signals),
        (
            "a_signal_to_a_brain_does_not_come_back",
            lives::signal_to_a_brain,
        ),
        ("orphans_are_reaped_and_noted", lives::orphans),
        ("deaths_without_progress_are_spaced_out", lives::back_off),
        ("deaths_with_progress_are_not", lives::no_back_off),
        (
            "a_termination_ends_a_brain_that_cannot_live",
            lives::terminated,
        ),
        ("a_panic_is_logged_by_the_next_brain", lives::panics),
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
