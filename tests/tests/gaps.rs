//! What members are not given is counted, by its reason: `/metrics` and the feed say what the members were
//! told themselves.

use harness::rooms::{Client, Position};
use harness::socket::Options;
use harness::{Baton, eventually, http, process};
use serde_json::json;

const SAID: usize = 150;

/// A member of `r`.
struct Member {
    client: Client,
    next: u64,
    /// So much it was told that it is not given.
    lost: u64,
}

impl Member {
    fn join(mut client: Client) -> Member {
        let next = client.join("r").offset + 1;
        let lost = 0;
        Member { client, next, lost }
    }

    /// Everything up to this message.
    #[track_caller]
    fn hear(&mut self, last: u64, why: &str) {
        while self.next <= last {
            let event = self.client.event();
            let gap = &event["gap"];
            if gap.is_object() {
                assert_eq!(gap["why"], why, "{event}");
                let [from, to] = ["from", "to"].map(|end| Position::parse(&gap[end]).offset);
                assert_eq!(from, self.next, "{event}");
                self.lost += to + 1 - from;
                self.next = to + 1;
            } else {
                assert_eq!(Position::parse(&event["pos"]).offset, self.next, "{event}");
                self.next += 1;
            }
        }
    }
}

/// In the end both say that so much was lost for this reason, and nothing for any other.
#[track_caller]
fn is_counted(baton: &Baton, why: &str, lost: u64) {
    let expected = ["slow", "overrun", "internal", "sampled"];
    let expected = expected.map(|reason| if reason == why { lost } else { 0 });
    let of = |text: &str, reason: &str| -> u64 {
        let label = format!("reason=\"{reason}\"");
        let lines = text
            .lines()
            .filter(|line| line.starts_with("baton_gap_messages_total{") && line.contains(&label));
        lines
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum()
    };
    let mut seen = [0; 4];
    eventually(&format!("{lost} are counted as {why}"), || {
        let text = http::get(baton.admin, "/metrics").text();
        seen = ["slow", "overrun", "internal", "sampled"].map(|reason| of(&text, reason));
        seen == expected
    });
    let mut operator = Client::connect(baton.admin);
    operator.join("$baton");
    let told = operator.message()["data"]["totals"]["gaps"].clone();
    let [slow, overrun, internal, sampled] = expected;
    let expected =
        json!({"slow": slow, "overrun": overrun, "internal": internal, "sampled": sampled});
    assert_eq!(told, expected);
}

#[test]
fn what_a_slow_member_loses() {
    let config = "[rooms]\nslow_bytes = \"128 KiB\"\n";
    let baton = Baton::builder().config(config).start();
    let options = Options {
        receive_buffer: Some(4096),
        ..Options::default()
    };
    let mut slow = Member::join(Client::connect_with(baton.public, options));
    let mut publisher = Member::join(Client::connect(baton.public));
    let data = json!("x".repeat(20_000));
    let mut last = 0;
    for _ in 0..2 * SAID {
        last = publisher.client.publish("r", data.clone()).offset;
        publisher.hear(last, "nothing");
    }
    slow.hear(last, "slow");
    assert!(slow.lost > 0, "all was kept for it");
    is_counted(&baton, "slow", slow.lost);
}

#[test]
fn what_is_lost_with_the_log() {
    let config = "[memory]\nlog = \"1 MiB\"\nring = \"256 KiB\"\n";
    let baton = Baton::builder().config(config).start();
    let mut publisher = Client::on_worker(baton.public, 2);
    let mut members = [1, 1, 2].map(|n| Member::join(Client::on_worker(baton.public, n)));
    let brain = baton.status().worker(1).pid;
    process::stop(brain);
    let data = json!("x".repeat(20_000));
    let [first, second, elsewhere] = &mut members;
    let mut last = 0;
    for _ in 0..SAID {
        last = publisher.publish("r", data.clone()).offset;
        elsewhere.hear(last, "nothing");
    }
    process::go_on(brain);
    for member in [&mut *first, &mut *second] {
        member.hear(last, "overrun");
        assert!(member.lost > 0, "the log held all of it");
    }
    is_counted(&baton, "overrun", first.lost + second.lost);
}
