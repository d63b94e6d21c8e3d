//! Short connections a second, and what each costs in master and workers: baton beside node's
//! cluster, under the same load, one after the other in the same run.
//!
//! ```sh
//! cargo run --release -p baton-tests --bin handoff-bench [SECONDS] [WORKERS] [CLIENTS]
//! ```
//!
//! A connection is opened, asks `GET /whoami` with `Connection: close`, and is read to its end. Both
//! are measured in rounds that alternate, and the best round of each counts: what else runs on the
//! machine only ever takes away. Processor time is user and system time from `/proc`, of guards and
//! brains together.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::socket::{self, Options, loopback};
use harness::{Baton, process};

const ROUNDS: usize = 3;
const REQUEST: &[u8] = b"GET /whoami HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

/// A server under load.
struct Subject {
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

fn main() -> ExitCode {
    let mut numbers = env::args().skip(1).map(|arg| arg.parse::<u32>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (Ok(seconds), Ok(workers), Ok(clients)) = (next(5), next(2), next(4)) else {
        eprintln!("usage: handoff-bench [SECONDS] [WORKERS] [CLIENTS]");
        return ExitCode::from(2);
    };

    let baton = Baton::builder().workers(workers).start();
    let status = baton.status();
    let (mut node, address) = start_node(workers);
    let node_pid = node.id() as i32;
    let subjects = [
        Subject {
            name: "baton",
            address: baton.public,
            master: vec![status.master_pid, status.master_brain_pid],
            workers: status
                .workers
                .iter()
                .flat_map(|worker| [worker.guard_pid, worker.pid])
                .collect(),
        },
        Subject {
            name: "node cluster",
            address,
            master: vec![node_pid],
            workers: process::children(node_pid).into_iter().collect(),
        },
    ];

    println!(
        "{seconds} s a round, {workers} workers, {clients} client threads, best of {ROUNDS} rounds"
    );
    let mut best = [Figures::default(); 2];
    let mut failed = [0; 2];
    for round in 0..ROUNDS {
        for (number, subject) in subjects.iter().enumerate() {
            let figures = measure(subject, clients, Duration::from_secs(seconds.into()));
            failed[number] += figures.failed;
            if figures.per_second > best[number].per_second {
                best[number] = figures;
            }
            eprintln!(
                "round {}: {} {:.0}/s",
                round + 1,
                subject.name,
                figures.per_second
            );
        }
    }
    println!(
        "{:14} {:>14} {:>14} {:>14} {:>10}",
        "", "connections/s", "master µs", "workers µs", "failed"
    );
    for ((subject, figures), failed) in subjects.iter().zip(best).zip(failed) {
        println!(
            "{:14} {:>14.0} {:>14.1} {:>14.1} {failed:>10}",
            subject.name, figures.per_second, figures.master, figures.workers
        );
    }
    // Its workers end with it.
    drop(node.stdin.take());
    let _ = node.wait();
    ExitCode::SUCCESS
}

fn start_node(workers: u32) -> (Child, SocketAddr) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/node-cluster.mjs");
    let mut node = Command::new("node")
        .arg(script)
        .arg(workers.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs");
    let mut line = String::new();
    let stdout = node.stdout.take().expect("it is a pipe");
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("node says its port");
    let port: u16 = line.trim().parse().expect("a port");
    (node, ([127, 0, 0, 1], port).into())
}

fn measure(subject: &Subject, clients: u32, time: Duration) -> Figures {
    let done = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicU64::new(0));
    let cpu = |pids: &[i32]| -> f64 {
        pids.iter()
            .map(|pid| process::cpu_seconds(*pid))
            .map(|(user, system)| user + system)
            .sum()
    };
    let before = (cpu(&subject.master), cpu(&subject.workers));
    let start = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let (done, served, failed) = (done.clone(), served.clone(), failed.clone());
            let address = subject.address;
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
        master: (cpu(&subject.master) - before.0) * 1e6 / served,
        workers: (cpu(&subject.workers) - before.1) * 1e6 / served,
        failed: failed.load(Ordering::Relaxed),
    }
}

/// One connection; was it answered?
fn connection(to: SocketAddr, from: u32) -> bool {
    let options = Options {
        from: Some(loopback(from)),
        ..Options::default()
    };
    let Ok(mut stream) = socket::connect_with(to, options) else {
        return false;
    };
    let mut answer = Vec::new();
    stream.write_all(REQUEST).is_ok()
        && stream.read_to_end(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.1 200 ")
}
