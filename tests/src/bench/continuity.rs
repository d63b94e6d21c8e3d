//! What clients feel while baton is reloaded, scaled, upgraded and killed, beside what they feel of
//! the same in node's cluster and in PM2.
//!
//! So many clients ask for a sign of life all the time, the same number a second whoever serves. A
//! row is one event: connections that were cut, questions that were lost with them, and for each
//! client the longest that it was without an answer. Those who are cut off come again after a second
//! or so, as Socket.IO's client does; baton's never are. The first row of each is nothing at all:
//! what the machine does by itself.
//!
//! Everything happens in several rounds: what was cut and lost is added up, waits are those of all
//! rounds together, and of the times that something takes the median counts.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use mio::Events;

use super::peers::{Cluster, Pm2};
use super::pulse::{Pulse, World, come_again};
use super::{Cell, Options, Subject, Table};
use crate::chaos::family::{self, Role};
use crate::load::{Load, Manner, Random};
use crate::wait::until;
use crate::{Baton, DEADLINE, eventually, process};

pub const SUBJECT: Subject = Subject {
    name: "continuity",
    about: "what clients feel of reload, scaling, upgrade and sudden death",
    peers: &["node", "pm2"],
    run,
};

/// What happens when nothing does.
const IDLE: &str = "nothing";

/// Unless it is said otherwise.
const CONNECTIONS: usize = 1_000;
/// Questions a second, of all together.
const QUESTIONS: usize = 10_000;
/// What is measured goes on for so long behind an event.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// All are served again by then, or it is given up.
const PATIENCE: Duration = Duration::from_secs(90);

fn run(options: &Options) -> Result<Vec<Table>, String> {
    let title = format!(
        "continuity: {} connections, {} workers, {QUESTIONS} messages a second, {} rounds",
        options.connections(CONNECTIONS),
        options.workers,
        options.rounds
    );
    let columns = [
        "server",
        "event",
        "took ms",
        "cut",
        "lost",
        "wait p50 ms",
        "p99 ms",
        "max ms",
    ];
    let mut table = Table::new(title, &columns);
    baton(options, &mut table);
    if options.wants("node") {
        node(options, &mut table);
    }
    if options.wants("pm2") {
        pm2(options, &mut table);
    }
    Ok(vec![table])
}

fn baton(options: &Options, table: &mut Table) {
    let baton = Baton::builder().workers(options.workers).start();
    let mut clients = Clients::new("baton", baton.public, options);
    let (workers, more) = (
        options.workers.to_string(),
        (2 * options.workers).to_string(),
    );
    let order = |args: &[&str]| {
        let output = baton.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    };
    let is_worker = |role| matches!(role, Role::Worker { .. });
    let is_master = |role| role == Role::Master;
    for _ in 0..options.rounds {
        clients.measure(IDLE, || thread::sleep(AFTERWARDS));
        clients.measure("reload", || order(&["reload"]));
        clients.measure("scale up", || order(&["scale", &more]));
        clients.measure("scale down", || order(&["scale", &workers]));
        clients.measure("upgrade", || order(&["upgrade"]));
        clients.measure("kill -9 a worker's brain", || {
            kill(&baton, is_worker, Half::Brain);
        });
        clients.measure("kill -9 a worker's guard", || {
            kill(&baton, is_worker, Half::Guard);
        });
        clients.measure("kill -9 the master's brain", || {
            kill(&baton, is_master, Half::Brain);
        });
        clients.measure("kill -9 the master's guard", || {
            kill(&baton, is_master, Half::Guard);
        });
    }
    clients.say(table);
}

#[derive(Clone, Copy)]
enum Half {
    Brain,
    Guard,
}

/// Kills one half of a process, and returns when it is whole again.
fn kill(baton: &Baton, is_wanted: fn(Role) -> bool, half: Half) {
    let whole = || {
        let all = family::look(baton.mark());
        all.into_iter()
            .find(|process| is_wanted(process.role) && process.brain.is_some())
    };
    let process = until("it is whole", DEADLINE, whole);
    process::kill(match (half, process.brain) {
        (Half::Brain, Some(brain)) => brain,
        _ => process.guard,
    });
    eventually("it is whole again", || {
        whole().is_some_and(|now| now.role == process.role && now != process)
    });
}

fn node(options: &Options, table: &mut Table) {
    let cluster = Cluster::start("ws-cluster.mjs", options.workers);
    let mut clients = Clients::new("node cluster", cluster.address, options);
    for _ in 0..options.rounds {
        clients.measure(IDLE, || thread::sleep(AFTERWARDS));
        clients.measure("rolling restart", || cluster.reload());
        clients.measure("kill -9 a worker", || kill_child(cluster.pid()));
    }
    clients.say(table);
}

fn pm2(options: &Options, table: &mut Table) {
    let pm2 = Pm2::start(options.workers);
    let mut clients = Clients::new("PM2", pm2.address, options);
    for _ in 0..options.rounds {
        clients.measure(IDLE, || thread::sleep(AFTERWARDS));
        clients.measure("reload", || pm2.reload());
        clients.measure("kill -9 a worker", || kill_child(pm2.pid()));
    }
    clients.say(table);
}

/// Kills a worker, and returns when there is another.
fn kill_child(parent: i32) {
    let before = process::children(parent);
    let worker = *before.first().expect("a worker");
    process::kill(worker);
    eventually("there is another worker", || {
        let now = process::children(parent);
        now.len() == before.len() && !now.contains(&worker)
    });
}

/// What came of one event, in all rounds.
#[derive(Debug)]
struct Felt {
    event: &'static str,
    took: Vec<Duration>,
    cut: u64,
    lost: u64,
    /// The longest of each client in each round.
    waits: Vec<Duration>,
}

/// Clients at one server.
struct Clients {
    server: &'static str,
    load: Load<World>,
    events: Events,
    manner: Manner,
    felt: Vec<Felt>,
}

impl Clients {
    fn new(server: &'static str, to: SocketAddr, options: &Options) -> Clients {
        process::raise_open_files();
        let connections = options.connections(CONNECTIONS);
        let random = Random::of(options.seed, 1);
        let world = World::new(to, connections, Random::of(options.seed, 2));
        let manner = Manner {
            think: Duration::from_secs_f64(connections as f64 / QUESTIONS as f64),
            in_pieces: false,
            reads_slowly: None,
        };
        let mut clients = Clients {
            server,
            load: Load::new(to, random, world).expect("an epoll"),
            events: Events::with_capacity(1024),
            manner,
            felt: Vec::new(),
        };
        for number in 0..connections {
            clients.load.open(Box::new(Pulse::new(number)), manner);
            if number % 50 == 0 {
                clients.turn();
            }
        }
        clients.until(|clients| clients.load.world.all_are_served());
        // Compilers and caches warm up.
        let warm = Instant::now() + AFTERWARDS;
        clients.until(|_| Instant::now() > warm);
        clients
    }

    /// Lets it happen while the clients go on, and for a while behind it.
    fn measure(&mut self, event: &'static str, happen: impl FnOnce() + Send) {
        self.load.world.forget();
        let begin = Instant::now();
        let took = thread::scope(|scope| {
            let thread = scope.spawn(move || {
                happen();
                begin.elapsed()
            });
            self.until(|_| thread.is_finished());
            thread.join().expect("what was to happen has happened")
        });
        let end = Instant::now() + AFTERWARDS;
        self.until(|_| Instant::now() > end);
        // What was unanswered then is counted when it is answered.
        self.load.world.ask_all();
        self.until(|clients| clients.load.world.all_are_served());
        let World {
            cut, lost, wrong, ..
        } = self.load.world;
        assert_eq!(wrong, 0, "answers were wrong");
        let index = self.felt.iter().position(|felt| felt.event == event);
        let index = index.unwrap_or_else(|| {
            self.felt.push(Felt {
                event,
                took: Vec::new(),
                cut: 0,
                lost: 0,
                waits: Vec::new(),
            });
            self.felt.len() - 1
        });
        let felt = &mut self.felt[index];
        felt.took.push(took);
        felt.cut += cut;
        felt.lost += lost;
        felt.waits.extend(self.load.world.waits());
    }

    fn say(self, table: &mut Table) {
        for mut felt in self.felt {
            felt.waits.sort_unstable();
            let wait = |percent: usize| felt.waits[(felt.waits.len() - 1) * percent / 100];
            felt.took.sort_unstable();
            let took = felt.took[felt.took.len() / 2];
            table.push(vec![
                Cell::text(self.server),
                Cell::text(felt.event),
                match felt.event {
                    IDLE => Cell::none(),
                    _ => Cell::millis(took),
                },
                Cell::count(felt.cut),
                Cell::count(felt.lost),
                Cell::millis(wait(50)),
                Cell::millis(wait(99)),
                Cell::millis(wait(100)),
            ]);
        }
    }

    fn until(&mut self, is_over: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_over(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "{}: not all are served",
                self.server
            );
            self.turn();
        }
    }

    fn turn(&mut self) {
        let until = Instant::now() + Duration::from_millis(5);
        self.load
            .turn(until, &mut self.events)
            .expect("epoll works");
        come_again(&mut self.load, self.manner);
    }
}
