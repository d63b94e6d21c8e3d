//! A live evening: one large room and ten small ones, comments in bursts, a moderator, two deploys and a
//! crash in the middle; and what viewers saw of it.
//!
//! Nobody of the audience ever reconnects. Who said what when is in the messages, so that every viewer
//! measures how long each took; offsets tell what is missing. [`viewers`]: the audience, in processes
//! of its own; [`figures`]: what it has seen.

pub mod figures;
pub mod viewers;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::rooms::{Client, Position};
use crate::tokens::{Key, claims};
use crate::{Baton, eventually, process};
use figures::{Seen, Wrong};
use viewers::Report;

/// Beside the large one.
const SMALL_ROOMS: usize = 10;
/// Viewers of one process: it needs a file for each.
const PER_PROCESS: usize = 4_000;
/// Between two comments in a room, when there is no burst.
const PAUSE: Duration = Duration::from_millis(250);
/// Viewers and workers share the machine: it may take its time.
const MOVES: &str = "[timeouts]\nmove = \"60s\"\n";
/// Comments that the moderator deletes.
const DELETIONS: usize = 5;

/// How large the evening is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub large: usize,
    pub small: usize,
    /// Of each part.
    pub part: Duration,
    /// Comments a second in the large room, in a burst.
    pub burst: u32,
    pub workers: u32,
}

impl Options {
    pub const FULL: Options = Options {
        large: 10_000,
        small: 500,
        part: Duration::from_secs(12),
        burst: 15,
        workers: 2,
    };
    pub const SHORT: Options = Options {
        large: 500,
        small: 20,
        part: Duration::from_secs(3),
        burst: 40,
        workers: 2,
    };
}

/// What the room that has this number is called; 0 is the large one.
#[must_use]
pub fn room_name(room: usize) -> String {
    match room {
        0 => "stage".to_owned(),
        _ => format!("hall-{room}"),
    }
}

/// The time that all processes share.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    Nothing,
    Deploy,
    Crash,
    Moderation,
}

const PARTS: [(&str, bool, Happens); 7] = [
    ("it begins", false, Happens::Nothing),
    ("a burst", true, Happens::Nothing),
    ("a deploy: reload", false, Happens::Deploy),
    ("a crash: kill -9 of a worker", false, Happens::Crash),
    ("a moderator deletes and mutes", false, Happens::Moderation),
    ("a burst, and another deploy in it", true, Happens::Deploy),
    ("it ends", false, Happens::Nothing),
];

/// What came of it.
#[derive(Debug)]
pub struct Evening {
    options: Options,
    /// Of each part: what was said, and what was seen of it.
    parts: Vec<(u64, Seen)>,
    wrong: Wrong,
    /// What was said and not acknowledged, and the like.
    complaints: Vec<String>,
    moderated: bool,
}

impl Evening {
    /// Nothing was lost, nothing came twice, nobody was cut off.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let Wrong {
            lost, twice, cut, ..
        } = self.wrong;
        lost + twice + cut == 0 && self.complaints.is_empty()
    }
}

/// Plays it.
pub fn play(options: Options) -> Result<Evening, String> {
    process::raise_open_files();
    let key = Key::secret(1);
    let baton = Baton::builder()
        .workers(options.workers)
        .config(&format!("{MOVES}{}", key.section("evening", "evening.key")))
        .file("evening.key", &key.file())
        .start();
    let mut audience = Audience::enter(&baton, options)?;
    let mut speakers: Vec<Speaker> = (0..=SMALL_ROOMS)
        .map(|room| Speaker::new(&baton, room))
        .collect();
    let mut parts = Vec::new();
    let mut done = Done::default();
    for (number, (_, is_burst, happens)) in PARTS.into_iter().enumerate() {
        audience.tell(&format!("part {number}"))?;
        let before: u64 = speakers.iter().map(|speaker| speaker.said).sum();
        let recent = speakers[0]
            .positions
            .iter()
            .rev()
            .take(DELETIONS)
            .cloned()
            .collect::<Vec<_>>();
        let end = Instant::now() + options.part;
        thread::scope(|scope| {
            let (baton, key) = (&baton, &key);
            // In the middle of it.
            let event = scope.spawn(move || {
                thread::sleep(options.part / 4);
                happen(baton, happens, key, &recent)
            });
            while Instant::now() < end || !event.is_finished() {
                for speaker in &mut speakers {
                    let pause = match (is_burst, speaker.room) {
                        (true, 0) => Duration::from_secs(1) / options.burst,
                        _ => PAUSE,
                    };
                    speaker.speak_if_due(pause);
                }
                thread::sleep(Duration::from_millis(2));
            }
            match event.join() {
                Ok(Some(more)) => done.add(more),
                Ok(None) => {}
                Err(_) => done
                    .complaints
                    .push(format!("what was to happen has not: {happens:?}")),
            }
        });
        for speaker in &mut speakers {
            speaker.hear();
        }
        let said: u64 = speakers.iter().map(|speaker| speaker.said).sum();
        parts.push(said - before);
    }
    let last: Vec<String> = speakers
        .iter()
        .map(|speaker| speaker.last.to_string())
        .collect();
    audience.tell(&format!("end {}", last.join(" ")))?;
    let (seen, wrong) = audience.leave()?;
    let mut complaints = done.complaints;
    let told = seen.iter().map(|seen| seen.deleted).sum::<u64>();
    if done.deleted * options.large as u64 > told {
        complaints.push(format!("of {} deletions, {told} were told", done.deleted));
    }
    Ok(Evening {
        options,
        parts: parts.into_iter().zip(seen).collect(),
        wrong,
        complaints,
        moderated: done.deleted > 0,
    })
}

/// What has been done, and what was not as it should.
#[derive(Debug, Default)]
struct Done {
    deleted: u64,
    complaints: Vec<String>,
}

impl Done {
    fn add(&mut self, other: Done) {
        self.deleted += other.deleted;
        self.complaints.extend(other.complaints);
    }
}

fn happen(baton: &Baton, what: Happens, key: &Key, recent: &[Value]) -> Option<Done> {
    match what {
        Happens::Nothing => {}
        Happens::Deploy => {
            let output = baton.run(&["reload"]);
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Some(Done {
                    deleted: 0,
                    complaints: vec![said],
                });
            }
        }
        Happens::Crash => {
            let brain = baton.status().workers[0].pid;
            process::kill(brain);
            eventually("another brain went on", || {
                let now = baton.status().workers[0].pid;
                now != 0 && now != brain
            });
        }
        Happens::Moderation => return Some(moderate(baton, key, recent)),
    }
    None
}

/// Deletes what was said last, and mutes somebody, whose next comment must be refused.
fn moderate(baton: &Baton, key: &Key, recent: &[Value]) -> Done {
    let mut done = Done::default();
    let stage = room_name(0);
    let mut token = claims("moderator", 600);
    token["rooms"] = json!({ "*": ["join", "send", "moderate"] });
    let mut moderator = Client::with_token(baton.public, &key.token("evening", &token));
    let mut troll = Client::with_token(baton.public, &key.token("evening", &claims("troll", 600)));
    for position in recent {
        let reply = moderator.ask(json!({ "delete": position, "room": stage }));
        match reply["ok"].is_object() {
            true => done.deleted += 1,
            false => done.complaints.push(format!("delete: {reply}")),
        }
    }
    moderator.ok(json!({ "mute": "troll", "room": stage, "for_ms": 60_000 }));
    let code = troll.error(json!({ "send": stage, "data": { "at": 0 } }));
    if code != "forbidden" {
        done.complaints.push(format!("who was muted heard {code}"));
    }
    moderator.ok(json!({ "unmute": "troll", "room": stage }));
    done
}

/// Who speaks in a room; the acknowledgements are read later.
struct Speaker {
    room: usize,
    client: Client,
    said: u64,
    acknowledged: u64,
    due: Instant,
    /// Of what was acknowledged.
    positions: Vec<Value>,
    last: u64,
}

impl Speaker {
    fn new(baton: &Baton, room: usize) -> Speaker {
        Speaker {
            room,
            client: Client::connect(baton.public),
            said: 0,
            acknowledged: 0,
            due: Instant::now() + PAUSE * room as u32 / SMALL_ROOMS as u32,
            positions: Vec::new(),
            last: 0,
        }
    }

    fn speak_if_due(&mut self, pause: Duration) {
        if self.due > Instant::now() {
            return;
        }
        self.due = (self.due + pause).max(Instant::now());
        self.said += 1;
        self.client.tell(json!({
            "id": self.said,
            "send": room_name(self.room),
            "data": { "at": now_us(), "text": "what a song, and what an evening", "color": "#ffe14d" },
        }));
    }

    /// Every comment must have been acknowledged.
    fn hear(&mut self) {
        while self.acknowledged < self.said {
            self.acknowledged += 1;
            let reply = self.client.reply(&self.acknowledged.into());
            let position = &reply["ok"]["pos"];
            self.last = Position::parse(position).offset;
            self.positions.push(position.clone());
        }
    }
}

/// All processes of viewers.
struct Audience {
    processes: Vec<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

impl Audience {
    /// Returns when all are in their rooms.
    fn enter(baton: &Baton, options: Options) -> Result<Audience, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
        let all = options.large + SMALL_ROOMS * options.small;
        let many = all.div_ceil(PER_PROCESS).max(2);
        let share =
            |viewers: usize, number: usize| viewers / many + usize::from(number < viewers % many);
        let mut processes = Vec::new();
        for number in 0..many {
            let rooms = (0..=SMALL_ROOMS).map(|room| match room {
                0 => share(options.large, number),
                _ => share(options.small, number),
            });
            let mut child = Command::new(&program)
                .arg("--viewers")
                .arg(baton.public.to_string())
                .args(rooms.map(|many| many.to_string()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| format!("viewers: {error}"))?;
            let stdin = child.stdin.take().ok_or("a pipe")?;
            let stdout = child.stdout.take().ok_or("a pipe")?;
            processes.push((child, stdin, BufReader::new(stdout)));
        }
        let mut audience = Audience { processes };
        for line in audience.lines()? {
            if line.trim() != "joined" {
                return Err(format!("viewers could not join: {line}"));
            }
        }
        Ok(audience)
    }

    fn tell(&mut self, line: &str) -> Result<(), String> {
        for (_, stdin, _) in &mut self.processes {
            writeln!(stdin, "{line}").map_err(|error| format!("viewers are gone: {error}"))?;
        }
        Ok(())
    }

    /// One of each.
    fn lines(&mut self) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        for (_, _, stdout) in &mut self.processes {
            let mut line = String::new();
            stdout
                .read_line(&mut line)
                .map_err(|error| format!("viewers are gone: {error}"))?;
            lines.push(line);
        }
        Ok(lines)
    }

    fn leave(mut self) -> Result<(Vec<Seen>, Wrong), String> {
        let mut parts = vec![Seen::default(); PARTS.len()];
        let mut wrong = Wrong::default();
        for line in self.lines()? {
            let report: Report =
                serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
            for (all, one) in parts.iter_mut().zip(&report.parts) {
                all.add(one);
            }
            wrong.add(report.wrong);
        }
        for (child, ..) in &mut self.processes {
            child.wait().map_err(|error| format!("viewers: {error}"))?;
        }
        Ok((parts, wrong))
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        for (child, ..) in &mut self.processes {
            // Those that have ended are not there to be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl std::fmt::Display for Evening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Options {
            large,
            small,
            workers,
            ..
        } = self.options;
        writeln!(
            f,
            "{large} viewers of one room, {SMALL_ROOMS} rooms of {small}, {workers} workers; a comment every {} ms in each\n",
            PAUSE.as_millis()
        )?;
        let mut table = String::new();
        let _ = writeln!(
            table,
            "{:<36} {:>7} {:>11} {:>9} {:>9} {:>9} {:>11}",
            "", "said", "deliveries", "50 % ms", "99 % ms", "all ms", "silence ms"
        );
        let ms = |us: u64| format!("{:.1}", us as f64 / 1000.0);
        for ((name, ..), (said, seen)) in PARTS.iter().zip(&self.parts) {
            let _ = writeln!(
                table,
                "{name:<36} {said:>7} {:>11} {:>9} {:>9} {:>9} {:>11}",
                seen.deliveries,
                ms(seen.quantile_us(0.5)),
                ms(seen.quantile_us(0.99)),
                ms(seen.longest_us),
                ms(seen.silence_us),
            );
        }
        write!(f, "{table}")?;
        let Wrong {
            lost,
            twice,
            cut,
            why,
        } = &self.wrong;
        writeln!(
            f,
            "\nlost {lost}, twice or out of order {twice}, disconnected {cut}"
        )?;
        if self.moderated {
            writeln!(f, "every viewer of the room heard of every deletion")?;
        }
        for complaint in why.iter().chain(&self.complaints) {
            writeln!(f, "not well: {complaint}")?;
        }
        Ok(())
    }
}
