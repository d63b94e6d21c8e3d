//! The memory of a ring is corrupted on purpose: that costs the worker that writes it, and nothing
//! else. (What is in a worker's own state is corrupted in `worker/tests`.)

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use harness::rooms::Client;
use harness::status::Status;
use harness::{Baton, http, process};
use serde_json::json;

/// Where the head of a stream is, and how far its writer has begun to overwrite.
const HEAD: u64 = 0;
const RESERVE: u64 = 8;
const DATA: u64 = 4096;

struct Fixture {
    baton: Baton,
    /// At worker 1, which is to suffer, and at worker 2.
    lost: Client,
    kept: Client,
}

impl Fixture {
    fn new() -> Fixture {
        let baton = Baton::started();
        let mut lost = Client::on_worker(baton.public, 1);
        let mut kept = Client::on_worker(baton.public, 2);
        lost.join("r");
        kept.join("r");
        Fixture { baton, lost, kept }
    }

    /// Writes into the ring of worker 1.
    fn write(&self, before: &Status, at: u64, bytes: &[u8]) {
        let guard = before.worker(1).guard_pid;
        let fds = fs::read_dir(format!("/proc/{guard}/fd")).unwrap();
        let ring = fds.filter_map(|fd| Some(fd.ok()?.path())).find(|path| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:baton-ring"))
        });
        let file = OpenOptions::new().write(true).open(ring.unwrap()).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    /// Worker 1 is another, and worker 2 and the master are as before.
    fn costs_its_worker_alone(mut self, before: &Status) {
        assert_eq!(self.lost.close_code(), 1006);
        let after = self.baton.status_when("there is another worker 1", |now| {
            now.ready().len() == 2 && now.worker(1).guard_pid != before.worker(1).guard_pid
        });
        let life = |status: &Status| (status.worker(2).guard_pid, status.worker(2).pid);
        assert_eq!(life(&after), life(before));
        assert_eq!(after.master_brain_pid, before.master_brain_pid);
        self.kept.publish("r", json!("still here"));
        while self.kept.message()["data"] != "still here" {}
        for _ in 0..4 {
            http::whoami(self.baton.public);
        }
        let mut new = Client::on_worker(self.baton.public, 1);
        new.join("r");
        new.publish("r", json!("new"));
        assert_eq!(self.kept.message()["data"], "new");
    }
}

#[test]
fn a_head_that_cannot_be() {
    for head in [u64::MAX - 7, 1 << 40, 3] {
        let f = Fixture::new();
        let before = f.baton.status();
        f.write(&before, HEAD, &head.to_le_bytes());
        // The brain that lives knows better; the next one knows nothing else.
        process::kill(before.worker(1).pid);
        f.costs_its_worker_alone(&before);
    }
}

#[test]
fn a_reserve_that_cannot_be() {
    let mut f = Fixture::new();
    let before = f.baton.status();
    f.write(&before, RESERVE, &(1u64 << 40).to_le_bytes());
    f.lost.tell(json!({ "send": "r", "data": "never read" }));
    f.costs_its_worker_alone(&before);
}

#[test]
fn records_that_are_none() {
    let mut f = Fixture::new();
    let before = f.baton.status();
    process::stop(before.master_brain_pid);
    f.lost.tell(json!({ "send": "r", "data": "never read" }));
    // It is in the ring when what was asked behind it is answered.
    f.lost.ok(json!({ "ping": true }));
    f.write(&before, DATA, &vec![0xa5; 1 << 20]);
    process::go_on(before.master_brain_pid);
    f.costs_its_worker_alone(&before);
}
