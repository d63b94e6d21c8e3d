//! Bounds: connections in all, per worker and per address, and open files.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use harness::http::{Client, Response};
use harness::socket;
use harness::status::Status;
use harness::{Baton, eventually, process};

/// Asks on a connection of its own; what becomes of it.
fn ask(to: SocketAddr) -> io::Result<(Client, Response)> {
    let mut client = Client::over(socket::connect(to)?);
    let response = client.request("/whoami")?;
    Ok((client, response))
}

#[test]
fn above_the_limit_of_all_503_is_said() {
    let baton = Baton::builder()
        .config("[limits]\nconnections = 20\nwindow = 8\n")
        .start();
    let held: Vec<Client> = (0..20)
        .map(|_| ask(baton.public).unwrap())
        .map(|(client, response)| {
            assert_eq!(response.status, 200);
            client
        })
        .collect();
    for _ in 0..5 {
        let (mut client, response) = ask(baton.public).expect("it is told");
        assert_eq!(response.status, 503);
        assert!(response.field("retry-after").is_some(), "{response:?}");
        assert!(client.ends());
    }
    // Those inside are served on, and whoever leaves makes place.
    for mut client in held {
        assert_eq!(client.get("/whoami").status, 200);
    }
    eventually("there is place again", || {
        ask(baton.public).is_ok_and(|(_, response)| response.status == 200)
    });
}

#[test]
fn a_full_worker_is_passed_over() {
    let baton = Baton::builder()
        .workers(2)
        .config("policy = \"ip-hash\"\n[limits]\nper_worker = 10\nwindow = 8\n")
        .start();
    // All from one address, so one worker is meant; the other one takes what is too much for it.
    let held: Vec<_> = (0..20).map(|_| ask(baton.public).unwrap()).collect();
    assert!(held.iter().all(|(_, response)| response.status == 200));
    let status = baton.status();
    let counts: Vec<u64> = status
        .workers
        .iter()
        .map(|worker| worker.connections)
        .collect();
    assert_eq!(counts, [10, 10], "{}", status.json);
}

#[test]
fn loopback_is_exempt_from_the_limit_of_an_address() {
    // Proxies and load generators connect from there.
    let config = "[limits]\nper_address = 5\n";
    let baton = Baton::builder().config(config).start();
    let held: Vec<_> = (0..20).map(|_| ask(baton.public).unwrap()).collect();
    assert!(held.iter().all(|(_, response)| response.status == 200));
}

#[test]
fn a_low_limit_of_open_files_is_kept_to() {
    // Enough to start and to serve, not enough for all who come.
    let baton = Baton::builder().workers(1).open_files(128).start();
    let status = baton.status();
    let mut clients: Vec<Client> = (0..300).map(|_| Client::connect(baton.public)).collect();
    for client in &mut clients {
        let _ = client.send("GET /whoami HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    is_idle(&[status.master_brain_pid, status.worker(1).pid]);
    drop(clients);
    eventually("it serves again", || {
        ask(baton.public).is_ok_and(|(_, response)| response.status == 200)
    });
    let after = baton.status();
    assert_eq!(after.worker(1).pid, status.worker(1).pid);
    assert_eq!(after.master_brain_pid, status.master_brain_pid);
}

/// Nobody burns a processor on what cannot be done.
#[track_caller]
fn is_idle(pids: &[i32]) {
    let cpu = |pid: &i32| {
        let (user, system) = process::cpu_seconds(*pid);
        user + system
    };
    let before: Vec<f64> = pids.iter().map(cpu).collect();
    // The time that is measured, not one that is waited for.
    std::thread::sleep(Duration::from_secs(2));
    for (pid, before) in pids.iter().zip(before) {
        let used = cpu(pid) - before;
        assert!(used < 0.7, "{pid} used {used} s in 2 s");
    }
}

/// Clients come while this process cannot open any more files; all are served when it can.
fn without_fds(pick: fn(&Status) -> i32) {
    // Limits of a process may be changed by its own user.
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let me = me
        .ok()
        .flatten()
        .map_or("root".to_owned(), |user| user.name);
    let config = format!("user = \"{me}\"\n");
    let baton = Baton::builder().workers(1).config(&config).start();
    let status = baton.status();
    let pid = pick(&status);
    // What is open stays open; no other number is below the limit.
    let limit = process::limit_open_files(pid, 1);
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(baton.public)).collect();
    for client in &mut clients {
        client
            .send("GET /whoami HTTP/1.1\r\nHost: test\r\n\r\n")
            .unwrap();
    }
    is_idle(&[status.master_brain_pid, status.worker(1).pid]);
    // There really was no fd for the last one.
    let last = &clients[49].stream;
    last.set_nonblocking(true).unwrap();
    assert!(last.peek(&mut [0]).is_err(), "it is answered already");
    last.set_nonblocking(false).unwrap();

    process::limit_open_files(pid, limit);
    for client in &mut clients {
        assert_eq!(client.response().expect("a client is lost").status, 200);
    }
    let after = baton.status();
    assert_eq!(after.worker(1).pid, status.worker(1).pid);
    assert_eq!(after.master_brain_pid, status.master_brain_pid);
}

#[test]
fn a_master_at_its_limit_of_open_files_lets_clients_wait() {
    without_fds(|status| status.master_brain_pid);
}

#[test]
fn a_worker_at_its_limit_of_open_files_loses_nobody() {
    without_fds(|status| status.worker(1).pid);
}

#[test]
fn one_listener_serves_both_families() {
    let baton = Baton::builder()
        .listeners_from_config()
        .config("[[listen]]\naddress = \"[::]:0\"\nipv6_only = false\n")
        .start();
    let port = baton.public.port();
    for address in ["127.0.0.1", "::1"] {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        assert_eq!(ask(to).unwrap().1.status, 200, "{address}");
    }
    // The default keeps them apart, so that another may have the port of the other family.
    let baton = Baton::builder()
        .listeners_from_config()
        .config("[[listen]]\naddress = \"[::1]:0\"\n")
        .start();
    assert_eq!(ask(baton.public).unwrap().1.status, 200);
    let other = SocketAddr::new("127.0.0.1".parse().unwrap(), baton.public.port());
    assert!(ask(other).is_err());
}

/// An address for documentation (RFC 5737), which the test's own network has and no other.
const ADDRESS: &str = "192.0.2.1";

/// Were it to grow while a brain shares it with its guard, that brain would stand still meanwhile.
#[test]
fn the_table_of_open_files_has_room_before_anybody_comes() {
    let baton = Baton::builder().start();
    let wanted = process::limit_of_open_files(baton.status().master_pid).min(1 << 16);
    let has_room = |status: &Status| {
        let pids = status.pids();
        pids.len() == 6
            && pids
                .iter()
                .all(|pid| process::room_for_files(*pid) >= wanted)
    };
    assert!(has_room(&baton.status()));
    // Whose guard is dead execs, which makes it small again.
    let status = baton.status();
    process::kill(status.worker(1).guard_pid);
    process::kill(status.master_pid);
    baton.status_when("there is room again", |now| {
        now.master_pid != status.master_pid
            && now.serving().len() == 4
            && now.worker(1).guard_pid != status.worker(1).guard_pid
            && has_room(now)
    });
}

/// Loopback is exempt, so the test runs once more by itself in a network namespace with an address
/// that is none.
#[test]
fn one_address_may_not_take_all() {
    if std::env::var_os("BATON_OWN_NETWORK").is_none() {
        let network = format!(
            "ip link set lo up && ip address add {ADDRESS}/32 dev lo && \
             exec \"$0\" --exact one_address_may_not_take_all"
        );
        // Only root may make one; `scripts/test` asks for no more than that either.
        let root: &[&str] = match nix::unistd::getuid().is_root() {
            true => &["env"],
            false => &["sudo", "-n", "env"],
        };
        let output = std::process::Command::new(root[0])
            .args(&root[1..])
            .args([
                "BATON_OWN_NETWORK=1",
                "unshare",
                "--net",
                "sh",
                "-c",
                &network,
            ])
            .arg(std::env::current_exe().unwrap())
            .output()
            .expect("unshare, of util-linux");
        let said = String::from_utf8_lossy(&output.stdout);
        let passed = output.status.success() && said.contains("1 passed");
        assert!(passed, "{said}{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let baton = Baton::builder()
        .listeners_from_config()
        .config(&format!(
            "[[listen]]\naddress = \"{ADDRESS}:0\"\n[limits]\nper_address = 5\n"
        ))
        .start();
    let held: Vec<_> = (0..5).map(|_| ask(baton.public).unwrap()).collect();
    assert!(held.iter().all(|(_, response)| response.status == 200));
    let (_, response) = ask(baton.public).expect("it is told");
    assert_eq!(response.status, 503);
}

#[test]
fn a_stopped_worker_is_passed_over() {
    let baton = Baton::builder()
        .workers(2)
        .config("[timeouts]\nhung = \"60s\"\n")
        .start();
    let stopped = baton.status().worker(1).pid;
    process::stop(stopped);
    let ask = || {
        let mut stream = socket::connect(baton.public).expect("the kernel takes it");
        let request = b"GET /whoami HTTP/1.1\r\nHost: test\r\n\r\n";
        stream.write_all(request).expect("it is connected");
        stream
    };
    // Some of these are given to it before it is known to have stopped, and wait.
    let early: Vec<TcpStream> = (0..6).map(|_| ask()).collect();
    // Soon all that come are served by the other one.
    let is_served = || {
        let stream = ask();
        let patience = Some(Duration::from_millis(300));
        stream.set_read_timeout(patience).expect("a timeout");
        Client::over(stream).response().is_ok()
    };
    eventually("the stopped one is passed over", || {
        (0..10).all(|_| is_served())
    });
    process::go_on(stopped);
    for stream in early {
        let response = Client::over(stream).response();
        assert_eq!(response.expect("nobody is lost").status, 200);
    }
}
