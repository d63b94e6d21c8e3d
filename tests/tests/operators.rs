//! What a daemon's surroundings do to it: systemd passes sockets, a caller leaves files open, the
//! master hangs.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use harness::{Baton, eventually, http, process};

/// As systemd starts it with a socket unit: the socket is fd 3, the environment says so.
const ACTIVATED: &str =
    "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" --admin 127.0.0.1:0";

/// `start`, by a shell that has the socket as its standard input.
fn start(baton: &Baton, script: &str, socket: &TcpListener, listen: SocketAddr) -> Output {
    let listen = listen.to_string();
    let start = baton.command(&["start", "--workers", "2", "--listen", &listen]);
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", script])
        .arg(start.get_program())
        .args(start.get_args())
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    for (name, value) in start.get_envs() {
        shell.env(name, value.unwrap());
    }
    shell.output().unwrap()
}

fn socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// A client that has asked and not been answered yet.
fn asking(address: SocketAddr) -> http::Client {
    let mut client = http::Client::connect(address);
    client
        .send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    client
}

/// Seen: the master shut the socket down when it stopped, and the next one could not use it.
#[test]
fn a_socket_of_systemd_outlives_a_restart_and_refuses_nobody() {
    let baton = Baton::builder().prepare();
    let (socket, address) = socket();
    for _ in 0..2 {
        let mut early = asking(address);
        let started = start(&baton, ACTIVATED, &socket, address);
        assert!(started.status.success(), "{started:?}");
        let (_, listens) = &baton.status().listen[0];
        assert_eq!(*listens, address);
        assert_eq!(early.response().unwrap().status, 200);
        assert_eq!(http::get(address, "/healthz").status, 200);
        baton.expect(&["stop"], 0);
    }
}

#[test]
fn a_socket_of_systemd_without_a_listener_is_said() {
    let baton = Baton::builder().prepare();
    let (socket, address) = socket();
    let output = start(&baton, ACTIVATED, &socket, any());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!("baton: systemd listens on {address}, but no listener has this address\n")
    );
}

#[test]
fn what_the_caller_has_open_is_not_kept_open() {
    let baton = Baton::builder().prepare();
    let (socket, address) = socket();
    let script = "exec 7<&0 </dev/null; exec \"$0\" \"$@\" --admin 127.0.0.1:0";
    let started = start(&baton, script, &socket, any());
    assert!(started.status.success(), "{started:?}");
    drop(socket);
    eventually("nobody has the port", || TcpListener::bind(address).is_ok());
}

#[test]
fn a_master_that_hangs_is_stopped_all_the_same() {
    let baton = Baton::started();
    let status = baton.status();
    process::stop(status.master_brain_pid);
    process::stop(status.master_pid);
    let said = baton.expect(&["stop", "--fast"], 0);
    assert_eq!(
        said,
        "stopped\nbaton does not stop by itself and is killed\n"
    );
    assert!(baton.processes().is_empty());
    baton.expect(&["status"], 3);
}
