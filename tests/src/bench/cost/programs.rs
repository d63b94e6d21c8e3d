//! How each server is started.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::dialect::Dialect;
use super::servers::{Running, Server};
use crate::bench::bare;
use crate::temp::TempDir;
use crate::{Baton, eventually, process};

pub fn baton(workers: u32) -> Server {
    let baton = Baton::builder().workers(workers).start();
    let body = |worker: &crate::status::Worker| body(worker.worker, worker.pid);
    Server {
        address: baton.public,
        bodies: baton.status().workers.iter().map(body).collect(),
        dialect: Dialect::Rooms,
        pids: baton.processes(),
        running: Running::Baton {
            _daemon: Box::new(baton),
        },
    }
}

fn body(worker: impl ToString, pid: i32) -> String {
    format!("handled by worker {} (pid {pid})\n", worker.to_string())
}

pub fn bare(workers: u32) -> Server {
    Server {
        bodies: vec![bare::BODY.to_owned()],
        dialect: Dialect::Bare,
        ..run(daemon(beside("bare")).arg(workers.to_string()))
    }
}

/// One of `tests/peers/rust`.
pub fn rust(name: &str, workers: u32) -> Server {
    run(daemon(rust_program(name)).arg(workers.to_string()))
}

/// Built by `scripts/bench`, in a directory beside that of this program.
pub fn rust_program(name: &str) -> PathBuf {
    beside("../peers/release").join(name)
}

/// One of `tests/peers`. What its workers answer tells which they are.
pub fn node(script: &str, workers: u32, dialect: Dialect) -> Server {
    let script = tests().join("peers").join(script);
    let server = run(daemon("node").arg(script).arg(workers.to_string()));
    let workers = server.pids.iter().skip(1).enumerate();
    Server {
        bodies: workers
            .map(|(before, pid)| body(before + 1, *pid))
            .collect(),
        dialect,
        ..server
    }
}

/// uWebSockets is in no registry that is used here, so somebody else has to build a server with it:
/// the program that the variable `UWS` names. It is run with the number of workers, prints the port
/// on 127.0.0.1 when it serves, and ends when its standard input does. It answers `GET /whoami` with
/// 32 bytes of its own (the body that `bare` has), and serves WebSockets: `/echo` sends back what
/// comes, `/room/N` sends it to all who are there, the sender included.
pub fn uws(workers: u32) -> Option<Server> {
    let program = env::var_os("UWS").filter(|program| !program.is_empty())?;
    Some(Server {
        bodies: vec![bare::BODY.to_owned()],
        ..run(daemon(program).arg(workers.to_string()))
    })
}

/// A program in a session of its own, as baton is and every daemon: by sessions the kernel shares the
/// processors out (sched(7), "The autogroup feature"). Who is in that of the clients is interrupted by
/// them a tenth as often, and costs up to a third less for each of many deliveries.
fn daemon(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program);
    command
}

/// A program that prints its port when it serves, and ends when there is nothing more to read.
fn run(command: &mut Command) -> Server {
    let name = command.get_args().next().map(OsStr::to_owned);
    let name = name.unwrap_or_default();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", name.display()));
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is a pipe");
    let read = BufReader::new(stdout).read_line(&mut line);
    let port: u16 = match read.map(|_| line.trim().parse()) {
        Ok(Ok(port)) => port,
        _ => panic!("{}: {line:?} is no port", name.display()),
    };
    let pid = child.id() as i32;
    Server {
        address: ([127, 0, 0, 1], port).into(),
        bodies: Vec::new(),
        dialect: Dialect::Plain,
        pids: [pid].into_iter().chain(process::children(pid)).collect(),
        running: Running::Program {
            child,
            _directory: None,
        },
    }
}

fn beside(name: &str) -> PathBuf {
    let program = env::current_exe().expect("the path of this program");
    program.with_file_name(name)
}

pub fn has(program: &str) -> bool {
    Command::new(program).arg("-v").output().is_ok()
}

pub fn nginx(workers: u32) -> Server {
    let body = bare::BODY.trim_end();
    let locations = format!("location = /whoami {{ return 200 \"{body}\\n\"; }}");
    nginx_with("nginx".as_ref(), "", &locations, workers)
}

/// Debian's, with the nginx that it was built for: `scripts/bench` unpacks both.
pub fn nchan(workers: u32) -> Server {
    let program = nchan_program();
    let module = program.with_file_name("../lib/nginx/modules/ngx_nchan_module.so");
    let load = format!("load_module {};", module.display());
    let locations = "
        location ~ ^/room/([0-9]+)$ {
            nchan_pubsub websocket;
            nchan_channel_id $1;
            nchan_message_buffer_length 1000;
            nchan_subscriber_first_message newest;
        }";
    nginx_with(&program, &load, locations, workers)
}

pub fn nchan_program() -> PathBuf {
    tests().join("tools/nchan/usr/sbin/nginx")
}

pub fn node_package(name: &str) -> PathBuf {
    tests().join("node_modules").join(name)
}

fn tests() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn nginx_with(program: &Path, load: &str, locations: &str, workers: u32) -> Server {
    let directory = TempDir::new();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = port.expect("a free port");
    let config = nginx_config(load, address, locations, workers);
    let child = daemon(program)
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
        process::children(master).len() >= workers as usize && TcpStream::connect(address).is_ok()
    });
    Server {
        address,
        bodies: vec![bare::BODY.to_owned()],
        dialect: Dialect::Plain,
        pids: [master]
            .into_iter()
            .chain(process::children(master))
            .collect(),
        running: Running::Program {
            child,
            _directory: Some(directory),
        },
    }
}

/// As for speed: a listener for each worker, no log, no limit of requests.
fn nginx_config(load: &str, address: SocketAddr, locations: &str, workers: u32) -> String {
    format!(
        r#"
{load}
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
        {locations}
    }}
}}
"#
    )
}
