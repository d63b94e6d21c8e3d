//! Where the daemon's programs are, and that they are there.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The directory with `baton-master` and `baton-worker`: that of this program's own profile,
/// where they are built first if they are missing or older than their sources. With
/// `BATON_PROGRAMS=DIR` they are taken from there as they are.
pub fn directory() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| match env::var_os("BATON_PROGRAMS") {
            Some(directory) => directory.into(),
            None => build(),
        })
        .clone()
}

fn build() -> PathBuf {
    // target/PROFILE/deps/TEST or target/PROFILE/PROGRAM
    let exe = env::current_exe().expect("the path of this program");
    let mut profile = exe.parent().expect("a program is in a directory");
    if profile.ends_with("deps") {
        profile = profile.parent().expect("deps is in a profile's directory");
    }
    let target = profile
        .parent()
        .expect("a profile is in the target directory");
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
        .arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "baton cannot be built: {status}");
    profile.to_owned()
}
