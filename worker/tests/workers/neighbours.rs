//! A worker under a master of the next version, which has more words and more to say with ours.

use std::io::Write;

use crate::master::{GET, Master, UPGRADE, exchange, frame};
use protocol::ids::{Cid, Seat};
use protocol::settings::Settings;
use serde::Serialize;

/// What it says.
#[derive(Serialize)]
enum Next {
    /// With a field that is new.
    Welcome {
        version: u32,
        worker: Seat,
        settings: Box<Settings>,
        cluster: String,
    },
    Part {
        cids: Vec<Cid>,
        because: String,
    },
    Took {
        cids: Vec<Cid>,
        by: u16,
    },
    /// A word that is new.
    Applaud {
        times: u32,
    },
}

#[test]
fn a_master_of_the_next_version_is_understood() {
    let mut master = Master::start(Settings::default());
    master.add_worker();
    let client = master.connect();
    let mut settings = Settings::default();
    settings.rooms.max_rooms = 7;
    master.workers[0].send(&Next::Welcome {
        version: 2,
        worker: Seat(1),
        settings: Box::new(settings),
        cluster: "north".to_owned(),
    });
    master.workers[0].send(&Next::Applaud { times: 3 });
    exchange(&mut master, &client, GET, b")\n");
    let cid = Cid(1);
    master.workers[0].send(&Next::Part {
        cids: vec![cid],
        because: "it is late".to_owned(),
    });
    master.until("a parted connection", |m| !m.workers[0].parted.is_empty());
    master.pass_on(0, 1, cid);
    master.until("an ack", |m| m.workers[1].acked.contains(&cid));
    master.workers[0].send(&Next::Took {
        cids: vec![cid],
        by: 2,
    });
    let answer = exchange(&mut master, &client, GET, b")\n");
    assert!(answer.contains("worker 2"), "{answer}");

    // It has taken up what the settings said.
    let client = master.connect();
    let upgrade = format!("GET /rooms HTTP/1.1\r\n{UPGRADE}");
    let hello = exchange(&mut master, &client, upgrade.as_bytes(), b"}}");
    assert!(hello.contains(r#""rooms":7"#), "{hello}");
    (&client)
        .write_all(&frame(r#"{"id":1,"ping":true}"#))
        .unwrap();
    exchange(&mut master, &client, b"", b"\"id\":1");
}
