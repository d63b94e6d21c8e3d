//! Short connections a second, and what each costs in master and workers: baton beside node's
//! cluster.
//!
//! A connection is opened, asks `GET /whoami` with `Connection: close`, and is read to its end. Both
//! are measured in rounds that alternate, and the best round of each counts: what else runs on the
//! machine only ever takes away. Processor time is user and system time from `/proc`, of guards and
//! brains together.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::peers::Cluster;
use super::{Cell, Options, Subject, Table};
use crate::socket::{self, loopback};
use crate::{Baton, process};

pub const SUBJECT: Subject = Subject {
    name: "handoff",
    about: "short connections a second, and what one costs",
    peers: &["node"],
    run,
};

/// Client threads.
const CLIENTS: u32 = 4;
const REQUEST: &[u8] = b"GET /whoami HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

/// A server under load.
struct Server {
    name: &'static str,
    address: SocketAddr,
    master: Vec<i32>,
    workers: Vec<i32>,
}

#[derive(Clone, Copy, Default)]
struct Figures {
    per_second: f64,
    /// Microseconds of processor time a connection.
    master: f64,
    workers: f64,
    failed: u64,
}

fn run(options: &Options) -> Result<Vec<Table>, String> {
    let baton = Baton::builder().workers(options.workers).start();
    let status = baton.status();
    let mut servers = vec![Server {
        name: "baton",
        address: baton.public,
        master: vec![status.master_pid, status.master_brain_pid],
        workers: status
            .workers
            .iter()
            .flat_map(|worker| [worker.guard_pid, worker.pid])
            .collect(),
    }];
    let node = options
        .wants("node")
        .then(|| Cluster::start("node-cluster.mjs", options.workers));
    if let Some(node) = &node {
        servers.push(Server {
            name: "node cluster",
            address: node.address,
            master: vec![node.pid()],
            workers: process::children(node.pid()).into_iter().collect(),
        });
    }
    let mut best = vec![Figures::default(); servers.len()];
    let mut failed = vec![0; servers.len()];
    for round in 1..=options.rounds {
        for (number, server) in servers.iter().enumerate() {
            let figures = measure(server, CLIENTS, Duration::from_secs(options.seconds));
            failed[number] += figures.failed;
            if figures.per_second > best[number].per_second {
                best[number] = figures;
            }
            eprintln!("round {round}: {} {:.0}/s", server.name, figures.per_second);
        }
    }
    let title = format!(
        "handoff: {} workers, {CLIENTS} client threads, best of {} rounds of {} s",
        options.workers, options.rounds, options.seconds
    );
    let columns = [
        "server",
        "connections/s",
        "master µs",
        "workers µs",
        "failed",
    ];
    let mut table = Table::new(title, &columns);
    for ((server, figures), failed) in servers.iter().zip(best).zip(failed) {
        table.push(vec![
            Cell::text(server.name),
            Cell::number(figures.per_second, 0),
            Cell::number(figures.master, 1),
            Cell::number(figures.workers, 1),
            Cell::count(failed),
        ]);
    }
    Ok(vec![table])
}

fn measure(server: &Server, clients: u32, time: Duration) -> Figures {
    let done = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicU64::new(0));
    let cpu = |pids: &[i32]| -> f64 {
        pids.iter()
            .map(|pid| process::cpu_seconds(*pid))
            .map(|(user, system)| user + system)
            .sum()
    };
    let before = (cpu(&server.master), cpu(&server.workers));
    let start = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let (done, served, failed) = (done.clone(), served.clone(), failed.clone());
            let address = server.address;
            thread::spawn(move || {
                for number in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    // Ports of closed connections are blocked for a while; there are more addresses.
                    let result = connection(address, client * 1000 + number / 5000);
                    let count = if result { &served } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(time);
    done.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("a client ends");
    }
    let elapsed = start.elapsed().as_secs_f64();
    let served = served.load(Ordering::Relaxed) as f64;
    Figures {
        per_second: served / elapsed,
        master: (cpu(&server.master) - before.0) * 1e6 / served,
        workers: (cpu(&server.workers) - before.1) * 1e6 / served,
        failed: failed.load(Ordering::Relaxed),
    }
}

/// One connection; was it answered?
fn connection(to: SocketAddr, from: u32) -> bool {
    let options = socket::Options {
        from: Some(loopback(from)),
        ..socket::Options::default()
    };
    let Ok(mut stream) = socket::connect_with(to, options) else {
        return false;
    };
    let mut answer = Vec::new();
    stream.write_all(REQUEST).is_ok()
        && stream.read_to_end(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.1 200 ")
}
