//! Where the daemon's programs are, and that they are there.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use crate::temp::TempDir;

/// The directory with `baton-master` and `baton-worker`: that of this program's own profile,
/// where they are built first if they are missing or older than their sources. With
/// `BATON_PROGRAMS=DIR` they are taken from there as they are.
pub fn directory() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| match env::var_os("BATON_PROGRAMS") {
            Some(directory) => directory.into(),
            None => {
                let profile = profile();
                let release: &[&str] = match profile.ends_with("release") {
                    true => &["--release"],
                    false => &[],
                };
                build(target(&profile), release);
                profile
            }
        })
        .clone()
}

/// The directory of the two that die where a test wants it ([`faults`](crate::faults)). With
/// `BATON_FAULT_PROGRAMS=DIR` they are taken from there as they are.
pub fn faulty() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| match env::var_os("BATON_FAULT_PROGRAMS") {
            Some(directory) => directory.into(),
            None => {
                // A directory of their own: the others' programs have the same names.
                let target = target(&profile()).join("faults");
                let features = "baton-master/faults,baton-worker/faults";
                build(&target, &["--features", features]);
                target.join("debug")
            }
        })
        .clone()
}

/// Copies of the programs, which a test may break.
#[must_use]
pub fn copies() -> TempDir {
    let copies = TempDir::new();
    for name in ["baton-master", "baton-worker"] {
        let copied = fs::copy(directory().join(name), copies.path().join(name));
        copied.expect("a file of ours");
    }
    copies
}

/// Deploys a build of the master in this directory, known by its number; returns how it is shown.
pub fn deploy_master(programs: &Path, build: u64) -> String {
    // Another file in its place, as a deployment does it: the one that runs is busy.
    let new = programs.join("new");
    fs::copy(directory().join("baton-master"), &new).expect("a file of ours");
    date(&new, build);
    fs::rename(new, programs.join("baton-master")).expect("a file of ours");
    format!("2026-01-01T00:00:00.{build:03}Z")
}

/// The file was written on the first day of 2026, so many milliseconds after midnight.
fn date(file: &Path, millis: u64) {
    let time = UNIX_EPOCH + Duration::from_millis(1_767_225_600_000 + millis);
    let open = fs::File::open(file).expect("a file of ours");
    open.set_modified(time).expect("a file of ours");
}

/// From now on no worker of the programs in this directory comes up.
pub fn break_worker(programs: &Path) {
    script_worker(programs, "exit 1");
}

/// From now on workers of the programs in this directory are this shell script.
pub fn script_worker(programs: &Path, script: &str) {
    // Another file in its place, as a deployment does it: the one that runs is busy.
    let new = programs.join("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).expect("a file of ours");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    fs::rename(new, programs.join("baton-worker")).expect("a file of ours");
}

/// The directory of this program's profile.
fn profile() -> PathBuf {
    // target/PROFILE/deps/TEST or target/PROFILE/PROGRAM
    let exe = env::current_exe().expect("the path of this program");
    let mut profile = exe.parent().expect("a program is in a directory");
    if profile.ends_with("deps") {
        profile = profile.parent().expect("deps is in a profile's directory");
    }
    profile.to_owned()
}

fn target(profile: &Path) -> &Path {
    profile
        .parent()
        .expect("a profile is in the target directory")
}

fn build(target: &Path, options: &[&str]) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args([
            "build",
            "--quiet",
            "-p",
            "baton-master",
            "-p",
            "baton-worker",
        ])
        .arg("--target-dir")
        .arg(target)
        .args(options);
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "baton cannot be built: {status}");
}
