//! `scripts/baton` finds the checkout and the programs wherever it is called from.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/baton");

/// A checkout with a space in its path, whose programs say how they were called.
struct Checkout(PathBuf);

impl Checkout {
    fn new(name: &str) -> Checkout {
        let name = format!("baton script {} {name}", std::process::id());
        let root = std::env::temp_dir().join(name);
        for dir in ["scripts", "protocol", "master", "worker", "target/release"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["Cargo.toml", "Cargo.lock"] {
            fs::write(root.join(file), "").unwrap();
        }
        let script = root.join("scripts/baton");
        fs::copy(SCRIPT, &script).unwrap();
        Checkout(root)
    }

    fn built(name: &str) -> Checkout {
        let checkout = Checkout::new(name);
        let program = "#!/bin/sh\nprintf '%s|' \"$BATON_COMMAND\" \"$BATON_RUN_DIR\" \"$@\"\n";
        for name in ["baton-master", "baton-worker"] {
            let path = checkout.0.join("target/release").join(name);
            fs::write(&path, program).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        // As the script does when it has built them.
        fs::write(checkout.0.join("target/release/baton-built"), "").unwrap();
        checkout
    }

    /// Calls the script as `script` from `dir`; there is no cargo to be found.
    fn call(&self, script: &str, dir: &Path, args: &[&str]) -> Output {
        let tools = self.0.join("tools");
        if !tools.exists() {
            fs::create_dir(&tools).unwrap();
            for tool in ["cat", "dirname", "find", "readlink"] {
                let from = ["/usr/bin", "/bin"].map(|bin| Path::new(bin).join(tool));
                let from = from.iter().find(|path| path.exists()).unwrap();
                symlink(from, tools.join(tool)).unwrap();
            }
        }
        Command::new("/bin/sh")
            .args([script])
            .args(args)
            .current_dir(dir)
            .env("PATH", tools)
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("BATON_RUN_DIR")
            .output()
            .unwrap()
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn works_from_anywhere_and_through_links() {
    let checkout = Checkout::built("anywhere");
    let root = checkout.0.canonicalize().unwrap();
    let link = root.join("a link");
    symlink(root.join("scripts/baton"), &link).unwrap();
    symlink("../a link", root.join("target/relative")).unwrap();
    let absolute = root.join("scripts/baton");
    for (script, dir) in [
        (absolute.to_str().unwrap(), Path::new("/")),
        ("scripts/baton", &root),
        ("./baton", &root.join("scripts")),
        (link.to_str().unwrap(), Path::new("/")),
        ("../a link", &root.join("scripts")),
        ("relative", &root.join("target")),
    ] {
        let output = checkout.call(script, dir, &["start", "--config", "a b.toml"]);
        let run = root.join("run");
        assert_eq!(
            text(&output.stdout),
            format!("{script}|{}|start|--config|a b.toml|", run.display()),
            "{output:?}"
        );
        assert!(output.status.success());
    }
}

#[test]
fn only_start_and_build_compile() {
    let checkout = Checkout::new("compile");
    for (verb, said) in [
        (
            "status",
            "baton: nothing is built yet: scripts/baton build\n",
        ),
        (
            "build",
            "baton: cargo is needed to build; see https://rustup.rs\n",
        ),
        (
            "start",
            "building; the first time this takes a while\n\
             baton: cargo is needed to build; see https://rustup.rs\n",
        ),
    ] {
        let output = checkout.call("scripts/baton", &checkout.0, &[verb]);
        assert_eq!(text(&output.stderr), said);
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn start_compiles_what_is_older_than_its_sources() {
    let checkout = Checkout::built("older");
    let source = checkout.0.join("worker/main.rs");
    fs::write(&source, "").unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    fs::File::open(&source)
        .unwrap()
        .set_modified(later)
        .unwrap();
    let output = checkout.call("scripts/baton", &checkout.0, &["start"]);
    assert!(text(&output.stderr).starts_with("building"), "{output:?}");
    let output = checkout.call("scripts/baton", &checkout.0, &["status"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn helps() {
    let checkout = Checkout::new("help");
    for help in [&["--help"], &["-h"], &["help"]] {
        let output = checkout.call("scripts/baton", &checkout.0, help);
        assert!(text(&output.stdout).starts_with("Usage: scripts/baton"));
        assert!(output.status.success());
    }
    let output = checkout.call("scripts/baton", &checkout.0, &[]);
    assert!(text(&output.stderr).starts_with("Usage: scripts/baton"));
    assert_eq!(output.status.code(), Some(2));
}
