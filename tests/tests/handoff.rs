//! Every accepted connection is handed to a worker that serves it, by the policy that is configured,
//! whatever becomes of the worker that it was meant for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::thread;

use harness::http::{self, Client, Who};
use harness::socket::{self, Options, loopback};
use harness::websocket::WebSocket;
use harness::{Baton, eventually, process, rooms};

/// Connects from `from` and asks who serves.
fn whoami_from(to: SocketAddr, from: IpAddr) -> (Client, Who) {
    let options = Options {
        from: Some(from),
        ..Options::default()
    };
    let mut client = Client::over(socket::connect_with(to, options).unwrap());
    let who = http::ask_whoami(&mut client).unwrap();
    (client, who)
}

fn count<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

#[test]
fn the_workers_that_answer_are_those_of_status() {
    let baton = Baton::builder().workers(4).start();
    let answered: BTreeSet<Who> = (0..100).map(|_| http::whoami(baton.public)).collect();
    let shown: BTreeSet<Who> = baton
        .status()
        .ready()
        .into_iter()
        .map(|worker| Who {
            worker: worker.worker,
            pid: worker.pid,
        })
        .collect();
    assert_eq!(shown.len(), 4);
    assert_eq!(answered, shown);
}

#[test]
fn thousands_of_clients_are_served_at_once() {
    let baton = Baton::builder().workers(2).start();
    process::raise_open_files();
    let mut clients: Vec<Client> = (0..3000).map(|_| Client::connect(baton.public)).collect();
    for client in &mut clients {
        client
            .send("GET /whoami HTTP/1.1\r\nHost: test\r\n\r\n")
            .unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.response().unwrap().status, 200);
    }
    let status = baton.status();
    let connections: u64 = status.workers.iter().map(|worker| worker.connections).sum();
    assert_eq!(connections, 3000, "{}", status.json);
    drop(clients);
    baton.status_when("all connections are gone", |status| {
        status.workers.iter().all(|worker| worker.connections == 0)
    });
}

#[test]
fn round_robin_gives_each_as_many_within_one() {
    let baton = Baton::builder()
        .workers(3)
        .config("policy = \"round-robin\"")
        .start();
    let counts = count((0..301).map(|_| http::whoami(baton.public).worker));
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    let (least, most) = (counts.values().min(), counts.values().max());
    assert!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
}

#[test]
fn least_connections_fills_the_emptiest() {
    let baton = Baton::builder()
        .workers(3)
        .config("policy = \"least-connections\"")
        .start();
    let mut held: Vec<(Client, Who)> = (0..60)
        .map(|number| whoami_from(baton.public, loopback(number)))
        .collect();
    let counts = count(held.iter().map(|(_, who)| who.worker));
    assert!(counts.values().all(|count| *count == 20), "{counts:?}");
    // Where others have left, the next ones go.
    held.retain(|(_, who)| who.worker != 2);
    baton.status_when("worker 2 is empty", |status| {
        status.worker(2).connections == 0
    });
    let more: Vec<(Client, Who)> = (0..20)
        .map(|number| whoami_from(baton.public, loopback(number)))
        .collect();
    assert!(
        more.iter().all(|(_, who)| who.worker == 2),
        "{:?}",
        count(more.iter().map(|(_, who)| who.worker))
    );
}

#[test]
fn two_choices_keeps_workers_close_to_each_other() {
    let baton = Baton::builder()
        .workers(4)
        .config("policy = \"two-choices\"")
        .start();
    let held: Vec<(Client, Who)> = (0..400)
        .map(|number| whoami_from(baton.public, loopback(number)))
        .collect();
    let counts = count(held.iter().map(|(_, who)| who.worker));
    // With pure chance, a worker would be 20 off as often as not.
    assert!(
        counts.values().all(|count| (88..=112).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn ip_hash_is_faithful_and_moves_few_on_scaling() {
    let baton = Baton::builder()
        .workers(3)
        .config("policy = \"ip-hash\"")
        .start();
    let ask = || -> Vec<u64> {
        (0..400)
            .map(|number| whoami_from(baton.public, loopback(number)).1.worker)
            .collect()
    };
    let before = ask();
    assert_eq!(before, ask(), "an address changed its worker");
    let counts = count(before.iter().copied());
    assert!(
        counts.values().all(|count| (90..=180).contains(count)),
        "{counts:?}"
    );

    baton.expect(&["scale", "4"], 0);
    let after = ask();
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after)
        .count();
    // A quarter, and 5 % of all for chance.
    assert!(moved <= 400 / 4 + 20, "{moved} of 400 moved");
    assert!(moved > 0);
    let strays = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after && **after != 4);
    assert_eq!(strays.count(), 0, "some moved between workers that stayed");
}

/// Workers that may stand still for long, with a small window.
const PATIENT: &str = "[timeouts]\nhung = \"5m\"\n[limits]\nwindow = 8\n";

/// Clients that have all asked, parted into those that are answered, `served` of them at least, and
/// those that still wait.
#[track_caller]
fn ask_all(to: SocketAddr, number: usize, served: usize) -> (Vec<Client>, Vec<Client>) {
    let mut clients: Vec<Client> = (0..number).map(|_| Client::connect(to)).collect();
    for client in &mut clients {
        client
            .send("GET /whoami HTTP/1.1\r\nHost: test\r\n\r\n")
            .unwrap();
    }
    let is_answered = |client: &Client| {
        client.stream.set_nonblocking(true).unwrap();
        let answered = client.stream.peek(&mut [0]).is_ok();
        client.stream.set_nonblocking(false).unwrap();
        answered
    };
    eventually(&format!("{served} of {number} are served"), || {
        clients.iter().filter(|client| is_answered(client)).count() >= served
    });
    clients.into_iter().partition(is_answered)
}

/// Reads the answer that has been asked for.
#[track_caller]
fn who_answers(client: &mut Client) -> Who {
    let response = client.response().expect("a client is lost");
    Who::parse(&response.text()).unwrap_or_else(|| panic!("{response:?}"))
}

#[test]
fn a_stopped_worker_is_passed_over() {
    let baton = Baton::builder().workers(2).config(PATIENT).start();
    let status = baton.status();
    let (stopped, other) = (status.worker(1), status.worker(2));
    process::stop(stopped.pid);

    // Those that were given to it wait in its channel, as many as the window holds; all others are
    // served at once.
    let (mut served, mut waiting) = ask_all(baton.public, 100, 92);
    for client in &mut served {
        assert_eq!(who_answers(client).pid, other.pid);
    }
    process::go_on(stopped.pid);
    for client in &mut waiting {
        who_answers(client);
    }
}

#[test]
fn what_a_killed_worker_had_not_taken_is_served_by_another() {
    for round in 0..3 {
        let baton = Baton::builder().workers(2).config(PATIENT).start();
        let status = baton.status();
        let victim = status.worker(1 + round % 2);
        process::stop(victim.guard_pid);
        process::stop(victim.pid);

        // All have asked; those that are not answered are in its channel, not acknowledged.
        let (_served, mut waiting) = ask_all(baton.public, 40, 32);
        assert!(!waiting.is_empty(), "it holds nothing");

        process::kill(victim.guard_pid);
        process::kill(victim.pid);
        for client in &mut waiting {
            assert_ne!(who_answers(client).pid, victim.pid);
        }
        // And the seat is taken again.
        baton.status_when("the seat has a new life", |status| {
            status.ready().iter().any(|worker| {
                worker.worker == victim.worker
                    && worker.pid != victim.pid
                    && worker.guard_pid != victim.guard_pid
            })
        });
    }
}

#[test]
fn connections_wait_while_no_worker_is_there() {
    let baton = Baton::builder().workers(1).start();
    let status = baton.status();
    let worker = status.worker(1);
    process::stop(worker.guard_pid);
    process::kill(worker.pid);
    process::kill(worker.guard_pid);
    // Asked at once; answered when there is somebody to answer.
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(baton.public)).collect();
    for client in &mut clients {
        let who = http::ask_whoami(client).expect("it is served later");
        assert_ne!(who.pid, worker.pid);
    }
}

#[test]
fn a_hundred_thousand_short_connections_are_all_answered() {
    const THREADS: u32 = 4;
    const EACH: u32 = 26_000;
    let baton = Baton::builder().workers(2).start();
    let to = baton.public;
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            thread::spawn(move || {
                let mut faults = Vec::new();
                for number in 0..EACH {
                    // Few connections from one address: closed ones keep their ports for a while.
                    let from = loopback(thread * 1000 + number / 2000);
                    if let Err(error) = short(to, from) {
                        faults.push(format!("{thread}/{number}: {error}"));
                    }
                }
                faults
            })
        })
        .collect();
    let faults: Vec<String> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    assert!(
        faults.is_empty(),
        "{} unanswered: {:?}",
        faults.len(),
        &faults[..faults.len().min(10)]
    );
}

fn short(to: SocketAddr, from: IpAddr) -> std::io::Result<()> {
    let options = Options {
        from: Some(from),
        ..Options::default()
    };
    let mut client = Client::over(socket::connect_with(to, options)?);
    client.send("GET /whoami HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let response = client.response()?;
    if Who::parse(&response.text()).is_none() || !client.ends() {
        return Err(std::io::Error::other(format!("{response:?}")));
    }
    Ok(())
}

#[test]
fn a_killed_brain_is_replaced_under_its_guard() {
    let baton = Baton::started();
    let before = baton.status();
    let victim = before.worker(1).clone();
    process::kill(victim.pid);
    let after = baton.status_when("worker 1 has a new brain", |status| {
        status
            .ready()
            .iter()
            .any(|worker| worker.worker == 1 && worker.pid != victim.pid)
    });
    assert_eq!(after.worker(1).guard_pid, victim.guard_pid);
    assert!(after.worker(1).life > victim.life, "{}", after.json);
    let pids: BTreeSet<i32> = (0..20).map(|_| http::whoami(baton.public).pid).collect();
    assert!(pids.contains(&after.worker(1).pid), "{pids:?}");
    assert!(!pids.contains(&victim.pid), "{pids:?}");
}

#[test]
fn a_killed_brain_of_the_master_is_replaced_under_its_guard() {
    let baton = Baton::started();
    let before = baton.status();
    let mut client = Client::connect(baton.public);
    assert_eq!(client.get("/healthz").status, 200);
    process::kill(before.master_brain_pid);
    // What a worker has, it serves on.
    assert_eq!(client.get("/healthz").status, 200);
    eventually("the master has a new brain", || {
        let output = baton.run(&["status", "--json"]);
        output.status.success()
            && harness::status::Status::parse(&String::from_utf8_lossy(&output.stdout))
                .master_brain_pid
                != before.master_brain_pid
    });
    assert_eq!(baton.status().master_pid, before.master_pid);
    let who: BTreeSet<u64> = (0..20).map(|_| http::whoami(baton.public).worker).collect();
    assert_eq!(who.len(), 2);
}

#[test]
fn connections_outlive_the_brain_and_the_guard_of_their_worker() {
    let baton = Baton::builder().workers(1).start();
    let mut kept = Client::connect(baton.public);
    let mut echo = WebSocket::connect(baton.public, "/echo");
    let mut member = rooms::Client::connect(baton.public);
    let start = member.join("r");
    for round in 1..=6 {
        let worker = baton.status().worker(1).clone();
        // The brain dies, then the guard, then the brain again.
        let victim = if round % 2 == 0 {
            worker.guard_pid
        } else {
            worker.pid
        };
        process::kill(victim);
        let who = http::ask_whoami(&mut kept).expect("the connection goes on");
        assert_eq!(who.worker, 1);
        echo.text("still here");
        assert_eq!(echo.receive_text(), "still here");
        let position = member.publish("r", round.into());
        assert_eq!(position.offset, start.offset + round);
        assert_eq!(member.message()["data"], round);
        baton.status_when("another has its place", |status| {
            let pids = |worker: &harness::status::Worker| [worker.pid, worker.guard_pid];
            status
                .ready()
                .iter()
                .any(|worker| !pids(worker).contains(&victim))
        });
    }
}

#[test]
fn a_room_goes_on_over_the_deaths_of_the_master() {
    let baton = Baton::builder().workers(2).start();
    let mut one = rooms::Client::on_worker(baton.public, 1);
    let mut two = rooms::Client::on_worker(baton.public, 2);
    let start = one.join("r");
    two.join("r");
    for round in 1..=6 {
        let status = baton.status();
        let victim = if round % 2 == 0 {
            status.master_pid
        } else {
            status.master_brain_pid
        };
        process::kill(victim);
        // Said while nobody is there to put it in order, or just after.
        let position = one.publish("r", round.into());
        assert_eq!(
            (&position.epoch, position.offset),
            (&start.epoch, start.offset + round)
        );
        assert_eq!(two.message()["data"], round);
        assert_eq!(one.message()["data"], round);
        // Each brain of the master begins its round anew, and one may come in between.
        let served: BTreeSet<u64> = (0..4).map(|_| http::whoami(baton.public).worker).collect();
        assert_eq!(served.len(), 2);
        // Were the next one struck while it still has to become the guard, both would be dead.
        baton.status_when("another has its place", |status| {
            ![status.master_pid, status.master_brain_pid].contains(&victim)
        });
    }
}

/// A guard that died before its brain's hello was read had a successor that the master did not know:
/// it took the next hello for a lie and killed, again and again, a pid that was gone.
#[test]
fn a_worker_may_change_twice_while_the_master_looks_away() {
    let baton = Baton::builder().workers(1).start();
    let mut kept = Client::connect(baton.public);
    let status = baton.status();
    let mut pair = (status.worker(1).guard_pid, status.worker(1).pid);
    process::stop(status.master_brain_pid);
    for _ in 0..3 {
        process::kill(pair.0);
        // The brain becomes the guard of the next.
        let next = || process::children(pair.1).first().copied();
        eventually("there is a next brain", || next().is_some());
        pair = (pair.1, next().expect("it is there"));
        // It serves, so it has said hello.
        http::ask_whoami(&mut kept).expect("the connection goes on");
    }
    process::go_on(status.master_brain_pid);
    let status = baton.status_when("the master knows them", |status| {
        let worker = &status.workers[0];
        (worker.guard_pid, worker.pid) == pair && worker.state == "ready"
    });
    assert_eq!(status.workers.len(), 1);
    http::ask_whoami(&mut kept).expect("the connection goes on");
    assert_eq!(http::whoami(baton.public).pid, pair.1);
}
