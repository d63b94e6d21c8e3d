//! What `status --json` says, read as any program would read it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;

#[derive(Clone, Debug)]
pub struct Status {
    /// The guard of the master: signals go to it.
    pub master_pid: i32,
    pub master_brain_pid: i32,
    pub listen: Vec<(String, SocketAddr)>,
    pub workers: Vec<Worker>,
    /// The whole of it.
    pub json: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    pub worker: u64,
    /// Of its brain; 0: none.
    pub pid: i32,
    pub guard_pid: i32,
    pub life: u64,
    pub state: String,
    pub connections: u64,
    pub rooms: u64,
}

impl Status {
    /// Panics if it is not as documented.
    #[track_caller]
    pub fn parse(text: &str) -> Status {
        let json: Value = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("status --json is no JSON ({error}): {text}"));
        assert_eq!(json["running"], true, "{text}");
        let pid = |value: &Value| value.as_i64().unwrap_or(0) as i32;
        let text_of = |value: &Value| value.as_str().expect("a text").to_owned();
        let list = |name: &str| json[name].as_array().expect("a list").clone();
        Status {
            master_pid: pid(&json["master"]["pid"]),
            master_brain_pid: pid(&json["master"]["brain_pid"]),
            listen: list("listen")
                .iter()
                .filter_map(|listener| {
                    let address = text_of(&listener["addr"]);
                    // The others are unix sockets.
                    let is_tcp = !address.starts_with("unix:");
                    let address = is_tcp.then(|| address.parse().expect("an address"))?;
                    Some((text_of(&listener["role"]), address))
                })
                .collect(),
            workers: list("workers")
                .iter()
                .map(|worker| Worker {
                    worker: worker["worker"].as_u64().expect("a number"),
                    pid: pid(&worker["pid"]),
                    guard_pid: pid(&worker["guard_pid"]),
                    life: worker["life"].as_u64().expect("a number"),
                    state: text_of(&worker["state"]),
                    connections: worker["connections"].as_u64().expect("a number"),
                    rooms: worker["rooms"].as_u64().expect("a number"),
                })
                .collect(),
            json,
        }
    }

    /// Workers that serve.
    pub fn ready(&self) -> Vec<&Worker> {
        self.workers
            .iter()
            .filter(|worker| worker.state == "ready")
            .collect()
    }

    /// The worker that serves with this number.
    #[track_caller]
    pub fn worker(&self, number: u64) -> &Worker {
        self.ready()
            .into_iter()
            .find(|worker| worker.worker == number)
            .unwrap_or_else(|| panic!("worker {number} is not ready: {}", self.json))
    }

    /// Brains of the workers that serve.
    pub fn brains(&self) -> Vec<i32> {
        self.ready().iter().map(|worker| worker.pid).collect()
    }

    /// Guards and brains of the workers that serve.
    pub fn serving(&self) -> BTreeSet<i32> {
        let pids = |worker: &Worker| [worker.pid, worker.guard_pid];
        self.ready().into_iter().flat_map(pids).collect()
    }

    /// Every pid that is named.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids = vec![self.master_pid, self.master_brain_pid];
        for worker in &self.workers {
            pids.extend([worker.guard_pid, worker.pid]);
        }
        pids.retain(|pid| *pid > 1);
        pids
    }
}
