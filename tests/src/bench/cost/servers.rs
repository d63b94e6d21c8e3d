//! The servers of this subject: each is started anew for every measurement.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::dialect::Dialect;
use crate::bench::bare;
use crate::process::{self, Signal};
use crate::temp::TempDir;
use crate::{Baton, eventually};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Baton,
    /// The floor.
    Bare,
    /// For HTTP only.
    Nginx,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Baton => "baton",
            Kind::Bare => "bare",
            Kind::Nginx => "nginx",
        }
    }

    pub fn start(self, workers: u32) -> Server {
        match self {
            Kind::Baton => baton(workers),
            Kind::Bare => bare(workers),
            Kind::Nginx => nginx(workers),
        }
    }
}

/// A server that serves; dropped, it ends.
pub struct Server {
    pub address: SocketAddr,
    /// The ways in which it answers `GET /whoami`.
    pub bodies: Vec<String>,
    /// How its rooms are spoken to.
    pub dialect: Dialect,
    pids: Vec<i32>,
    _running: Running,
}

impl Server {
    /// Processor time of all its processes.
    pub fn cpu_time(&self) -> Duration {
        self.pids.iter().map(|pid| process::cpu_time(*pid)).sum()
    }
}

enum Running {
    Baton {
        _daemon: Box<Baton>,
    },
    Program {
        child: Child,
        _directory: Option<TempDir>,
    },
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Running::Program { child, .. } = self {
            process::signal(child.id() as i32, Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

fn baton(workers: u32) -> Server {
    let baton = Baton::builder().workers(workers).start();
    let body = |worker: &crate::status::Worker| {
        let (number, pid) = (worker.worker, worker.pid);
        format!("handled by worker {number} (pid {pid})\n")
    };
    Server {
        address: baton.public,
        dialect: Dialect::Rooms,
        bodies: baton.status().workers.iter().map(body).collect(),
        pids: baton.processes(),
        _running: Running::Baton {
            _daemon: Box::new(baton),
        },
    }
}

fn bare(workers: u32) -> Server {
    let program = env::current_exe().expect("the path of this program");
    let mut child = Command::new(program.with_file_name("bare"))
        .arg(workers.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("bare runs");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is a pipe");
    let read = BufReader::new(stdout).read_line(&mut line);
    let port: u16 = match read {
        Ok(_) => line.trim().parse().expect("a port"),
        Err(error) => panic!("bare: {error}"),
    };
    Server {
        address: ([127, 0, 0, 1], port).into(),
        dialect: Dialect::Bare,
        bodies: vec![bare::BODY.to_owned()],
        pids: vec![child.id() as i32],
        _running: Running::Program {
            child,
            _directory: None,
        },
    }
}

pub fn has_nginx() -> bool {
    Command::new("nginx").arg("-v").output().is_ok()
}

fn nginx(workers: u32) -> Server {
    let directory = TempDir::new();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = port.expect("a free port");
    let config = nginx_config(address, workers);
    let child = Command::new("nginx")
        .arg("-p")
        .arg(directory.path())
        .arg("-c")
        .arg(directory.file("nginx.conf", &config))
        .args(["-e", "stderr"])
        .stdin(Stdio::null())
        .spawn()
        .expect("nginx runs");
    let master = child.id() as i32;
    eventually("nginx serves", || {
        process::children(master).len() == workers as usize && TcpStream::connect(address).is_ok()
    });
    Server {
        address,
        dialect: Dialect::Bare,
        bodies: vec![bare::BODY.to_owned()],
        pids: process::children(master)
            .into_iter()
            .chain([master])
            .collect(),
        _running: Running::Program {
            child,
            _directory: Some(directory),
        },
    }
}

/// As for speed: a listener for each worker, no log, no limit of requests.
fn nginx_config(address: SocketAddr, workers: u32) -> String {
    let body = bare::BODY.trim_end();
    format!(
        r#"
daemon off;
pid nginx.pid;
worker_processes {workers};
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    default_type "text/plain; charset=utf-8";
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {address} reuseport backlog=4096;
        location = /whoami {{ return 200 "{body}\n"; }}
    }}
}}
"#
    )
}
