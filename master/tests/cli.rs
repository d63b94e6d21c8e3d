//! The command line as a program: what it says and its exit status, when no master runs.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let name = format!("baton-cli-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Status, standard output and standard error.
fn baton(run: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_baton-master"))
        .args(args)
        .env("BATON_RUN_DIR", run)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn said(status: i32, out: &str, error: &str) -> (i32, String, String) {
    (status, out.to_owned(), error.to_owned())
}

#[test]
fn what_does_not_run_is_status_3() {
    let dir = Dir::new("not-running");
    for verb in [
        &["status"] as &[&str],
        &["stop"],
        &["reload"],
        &["scale", "2"],
    ] {
        let not_running = said(3, "", "baton is not running\n");
        assert_eq!(baton(&dir.0, verb), not_running, "{verb:?}");
    }
    assert_eq!(
        baton(&dir.0, &["status", "--json"]),
        said(3, "{\"running\":false}\n", "baton is not running\n")
    );
    // A pid file that a killed master left.
    fs::write(dir.0.join("baton.pid"), "1\n").unwrap();
    assert_eq!(baton(&dir.0, &["status"]).0, 3);
}

#[test]
fn a_wrong_configuration_is_status_2_and_every_error_one_line() {
    let dir = Dir::new("configuration");
    let file = dir.0.join("b.toml");
    fs::write(&file, "workers = 0\nlisten = 3\n").unwrap();
    let file = file.to_str().unwrap();
    for verb in ["check", "start", "restart"] {
        let (status, out, error) = baton(&dir.0, &[verb, "--config", file]);
        assert_eq!((status, out.as_str()), (2, ""));
        assert_eq!(
            error,
            format!(
                "{file}:1: workers: must be a whole number from 1 to 64, not 0\n\
                 {file}:2: listen: must be tables, each [[listen]]\n"
            )
        );
    }
    let missing = "/nowhere/b.toml";
    let (status, _, error) = baton(&dir.0, &["check", "--config", missing]);
    assert_eq!(status, 2);
    assert!(
        error.starts_with("/nowhere/b.toml: No such file"),
        "{error}"
    );
}

#[test]
fn a_correct_one_is_said_to_be() {
    let dir = Dir::new("correct");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/baton.toml");
    let (status, out, error) = baton(&dir.0, &["check", "--config", example]);
    assert_eq!((status, error.as_str()), (0, ""));
    assert!(out.ends_with("scripts/baton.toml: correct\n"), "{out}");
}

#[test]
fn start_says_in_one_line_why_it_cannot() {
    let dir = Dir::new("start");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let start = ["start", "--admin", "127.0.0.1:0", "--listen", &address];
    assert_eq!(
        baton(&dir.0, &start),
        said(
            1,
            "",
            &format!("baton: cannot listen on {address}: the port is in use by another program\n")
        )
    );
    assert!(!dir.0.join("baton.pid").exists());

    let file = dir.0.join("file");
    fs::write(&file, "").unwrap();
    let (status, _, error) = baton(&file.join("run"), &["start"]);
    assert_eq!(status, 1);
    let start = format!("baton: cannot make {}/run/logs: ", file.display());
    assert!(error.starts_with(&start), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn there_may_be_no_logs() {
    let dir = Dir::new("logs");
    let (status, _, error) = baton(&dir.0, &["logs", "3"]);
    assert_eq!(status, 1);
    assert_eq!(
        error,
        format!("baton: no log at {}/logs/worker-3.log\n", dir.0.display())
    );
    fs::create_dir(dir.0.join("logs")).unwrap();
    fs::write(dir.0.join("logs/worker-3.log"), "1\n2\n3\n").unwrap();
    assert_eq!(
        baton(&dir.0, &["logs", "-n", "2", "3"]),
        said(0, "2\n3\n", "")
    );
    assert_eq!(baton(&dir.0, &["logs", "three"]).0, 1);
}
