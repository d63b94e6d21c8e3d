//! The servers of `tests/peers`: how they are started, restarted and ended.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use crate::temp::TempDir;
use crate::{eventually, process};

fn tests() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Node's cluster: a program that prints its port when it serves, obeys what it reads and ends when
/// there is nothing more to read.
pub struct Cluster {
    child: Child,
    pipes: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    pub address: SocketAddr,
}

impl Cluster {
    #[must_use]
    pub fn start(script: &str, workers: u32) -> Cluster {
        let mut child = Command::new("node")
            .arg(tests().join("peers").join(script))
            .arg(workers.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node runs");
        let stdin = child.stdin.take().expect("it is a pipe");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let port: u16 = line(&mut stdout).parse().expect("a port");
        Cluster {
            child,
            pipes: Mutex::new(Some((stdin, stdout))),
            address: ([127, 0, 0, 1], port).into(),
        }
    }

    /// Of the primary.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Restarts one worker after the other.
    pub fn reload(&self) {
        let mut pipes = self.pipes.lock().expect("nobody panics");
        if let Some((stdin, stdout)) = &mut *pipes {
            stdin.write_all(b"reload\n").expect("it reads");
            assert_eq!(line(stdout), "reloaded");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Ok(pipes) = self.pipes.get_mut() {
            pipes.take();
        }
        let _ = self.child.wait();
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("a line");
    line.trim().to_owned()
}

/// PM2 with a home of its own, which goes with it.
pub struct Pm2 {
    home: TempDir,
    pid: i32,
    pub address: SocketAddr,
}

impl Pm2 {
    #[must_use]
    pub fn start(workers: u32) -> Pm2 {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let mut pm2 = Pm2 {
            home: TempDir::new(),
            pid: 0,
            address: port.expect("a free port"),
        };
        let app = tests().join("peers/ws-app.mjs").display().to_string();
        let workers = workers.to_string();
        pm2.run(&[
            "start",
            &app,
            "--name",
            "app",
            "-i",
            &workers,
            "--wait-ready",
            "--no-vizion",
        ]);
        let pid = fs::read_to_string(pm2.home.path().join("pm2.pid")).unwrap_or_default();
        pm2.pid = pid.trim().parse().expect("the daemon's pid");
        pm2
    }

    /// Of the daemon, whose children the workers are.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn reload(&self) {
        self.run(&["reload", "app"]);
    }

    fn run(&self, args: &[&str]) {
        let output = Command::new(tests().join("node_modules/.bin/pm2"))
            .args(args)
            .env("PM2_HOME", self.home.path())
            .env("PM2_DISABLE_VERSION_CHECK", "true")
            .env("PORT", self.address.port().to_string())
            .stdin(Stdio::null())
            .output()
            .expect("pm2 runs");
        assert!(
            output.status.success(),
            "pm2 {args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        if self.pid > 1 {
            let all: Vec<i32> = process::children(self.pid)
                .into_iter()
                .chain([self.pid])
                .collect();
            all.iter().for_each(|pid| process::kill(*pid));
            eventually("PM2 is gone", || {
                all.iter().all(|pid| !process::is_alive(*pid))
            });
        }
    }
}
