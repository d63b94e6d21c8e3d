//! Bounds: connections in all, per worker and per address, and open files.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use harness::http::{Client, Response};
use harness::socket;
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

/// An address of this machine that is no loopback, if it has one.
fn own_address() -> Option<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    addresses
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .find(|address| !address.is_loopback())
        .map(IpAddr::V4)
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
fn a_master_without_fds_waits_and_does_not_spin() {
    // Enough to start and to serve, not enough for all who come.
    let baton = Baton::builder().workers(1).open_files(128).start();
    let status = baton.status();
    let mut clients: Vec<Client> = (0..300).map(|_| Client::connect(baton.public)).collect();
    for client in &mut clients {
        let _ = client.send("GET /whoami HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    // Those for which there are no fds wait, or are refused; nobody burns a processor on them.
    let cpu = |pid: i32| {
        let (user, system) = process::cpu_seconds(pid);
        user + system
    };
    let pids = [status.master_brain_pid, status.worker(1).pid];
    let before: Vec<f64> = pids.iter().map(|pid| cpu(*pid)).collect();
    // The time that is measured, not one that is waited for.
    std::thread::sleep(Duration::from_secs(2));
    for (pid, before) in pids.iter().zip(before) {
        let used = cpu(*pid) - before;
        assert!(used < 0.7, "{pid} used {used} s in 2 s");
    }
    drop(clients);
    eventually("it serves again", || {
        ask(baton.public).is_ok_and(|(_, response)| response.status == 200)
    });
    let after = baton.status();
    assert_eq!(after.worker(1).pid, status.worker(1).pid);
    assert_eq!(after.master_brain_pid, status.master_brain_pid);
}

#[test]
fn one_address_may_not_take_all() {
    let Some(address) = own_address() else {
        return;
    };
    let baton = Baton::builder()
        .listeners_from_config()
        .config(&format!(
            "[[listen]]\naddress = \"{address}:0\"\n[limits]\nper_address = 5\n"
        ))
        .start();
    let held: Vec<_> = (0..5).map(|_| ask(baton.public).unwrap()).collect();
    assert!(held.iter().all(|(_, response)| response.status == 200));
    let (_, response) = ask(baton.public).expect("it is told");
    assert_eq!(response.status, 503);
}
