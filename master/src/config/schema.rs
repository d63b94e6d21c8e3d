//! Every key of the file, what is allowed for it, and what contradicts what.

use log::LevelFilter;
use protocol::bucket::PerSecond;
use protocol::cidr::Cidr;
use protocol::pattern::Pattern;
use protocol::sanctions;
use protocol::settings::{
    Hook, Http, Listed, Options, Presence, Rates, RoomOptions, Rooms, Settings, Slow, WebSocket,
};

use super::api::api;
use super::auth::auth;
use super::filter::filters;
use super::hook::{MAX_HOOKS, hook};
use super::identity::Identity;
use super::listen::{Listening, listen, listeners_agree, put_on_top};
use super::reader::{Report, Section};
use super::units::{DAY, GIB, HOUR, KIB, MIB, MINUTE, SECOND, show_size};
use super::{Config, Errors, Format, Limits, Log, Memory, Overrides, Policy, Timeouts};
use crate::history::Rule;
use crate::state::{MAX_KEYS, MAX_USERS, USER_WORDS};

/// All that can ever be known of who is in rooms.
const MAX_USERS_BYTES: u64 = MAX_USERS as u64 * USER_WORDS as u64 * 8;

/// Checks the text of a file (named `file` in errors) with the flags on top.
pub fn check(file: &str, text: &str, overrides: &Overrides) -> Result<Config, Errors> {
    let mut report = Report::new(file, text);
    let config = read(&mut report, overrides);
    report.finish()?;
    Ok(config)
}

fn read(report: &mut Report<'_>, overrides: &Overrides) -> Config {
    let table = report.parse();
    let (mut config, listeners) = Section::top(report, &table, top);
    let listeners = put_on_top(listeners, overrides);
    listeners_agree(report, &listeners);
    config.listen = listeners.into_iter().map(|one| one.listen).collect();
    config.workers = overrides.workers.unwrap_or(config.workers);
    limits_agree(report, &config);
    config
}

fn top(s: &mut Section<'_, '_>) -> (Config, Vec<Listening>) {
    let d = Config::default();
    let config = Config {
        workers: s.workers("workers", d.workers),
        policy: s.choice("policy", d.policy, &POLICIES),
        identity: identity(s),
        listen: Vec::new(),
        ..Config::default()
    };
    let listeners = s.sections("listen", listen).unwrap_or_else(|| {
        let listening = |listen| Listening {
            listen,
            line: None,
            said: "listen.address".to_owned(),
        };
        d.listen.into_iter().map(listening).collect()
    });
    let (limits, of_limits, max_connections, short_lives) = s.section("limits", limits);
    let (timeouts, retry_spread_ms) = s.section("timeouts", timeouts);
    let (memory, of_worker) = s.section("memory", memory);
    let batch = s.choice("scheduling", Settings::default().batch, &SCHEDULING);
    let (retire_ms, hung_ms) = (timeouts.retire_ms, timeouts.hung_ms);
    let (of_rooms, listed) = s.section("rooms", rooms);
    let max_data = of_rooms.max_data;
    let rules = s.sections("room", |s| room(s, max_data));
    let rules = rules.unwrap_or_default();
    let (filters, words) = filters(s);
    let config = Config {
        limits,
        words,
        timeouts,
        memory,
        settings: Settings {
            http: s.section("http", http),
            websocket: s.section("websocket", websocket),
            rooms: of_rooms,
            auth: s.section("auth", auth),
            api: s.section("api", api),
            rates: Rates {
                per_user: of_limits.per_user,
                per_room: of_limits.per_room,
                exempt: of_limits.exempt,
                ..s.section("rates", rates)
            },
            hooks: hooks(s),
            filters,
            presence: presence(listed, &rules),
            options: options(&rules),
            max_connections,
            memory: of_worker,
            retry_spread_ms,
            retire_ms,
            hung_ms,
            batch,
            short_lives,
            ..d.settings
        },
        log: s.section("log", log),
        rooms: rules.into_iter().map(|room| room.rule).collect(),
        ..config
    };
    (config, listeners)
}

/// Users who are listed in one room at most.
const MAX_LISTED: u32 = 10_000;

/// The longest window in which what is said is held back, to be given together.
const MAX_MERGE: u64 = 200;

/// What a room may retain, if nothing else is said.
const HISTORY_BYTES: u64 = MIB;

const SCHEDULING: [(&str, bool); 2] = [("batch", true), ("normal", false)];

const POLICIES: [(&str, Policy); 4] = [
    ("round-robin", Policy::RoundRobin),
    ("least-connections", Policy::LeastConnections),
    ("two-choices", Policy::TwoChoices),
    ("ip-hash", Policy::IpHash),
];

fn identity(s: &mut Section<'_, '_>) -> Option<Identity> {
    let user = s.text("user");
    let group = s.text("group");
    match Identity::find(user.as_deref(), group.as_deref()) {
        Ok(identity) => identity,
        Err((key, message)) => {
            s.wrong(key, message);
            None
        }
    }
}

fn limits(s: &mut Section<'_, '_>) -> (Limits, Rates, u32, u32) {
    let d = Limits::default();
    let limits = Limits {
        connections: s.number("connections", d.connections, 1..=1_000_000),
        per_address: s.number("per_address", d.per_address, 0..=1_000_000),
        window: s.number("window", d.window, 1..=16_384),
        refused: s.number("refused", d.refused, 0..=5_000),
        rooms: s.number("rooms", d.rooms, 1..=1_000_000),
        rebalance: s.number("rebalance", d.rebalance, 1..=1_000_000),
        keys: s.number("keys", d.keys, 0..=MAX_KEYS - 1),
        sanctions: s.number("sanctions", d.sanctions, 0..=sanctions::MAX - 1),
    };
    let Settings {
        max_connections: per_worker,
        short_lives,
        ..
    } = Settings::default();
    let rates = Rates {
        per_user: s.number("per_user", 0, 0..=1_000_000),
        per_room: s.number("per_room", 0, 0..=1_000_000),
        exempt: s.list("exempt", Rates::default().exempt, str::parse::<Cidr>),
        ..Rates::default()
    };
    (
        limits,
        rates,
        s.number("per_worker", per_worker, 1..=60_000),
        s.number("short_lives", short_lives, 3..=1_000),
    )
}

fn rates(s: &mut Section<'_, '_>) -> Rates {
    const MOST: u64 = 1_000_000_000;
    let d = Rates::default();
    let per_second = |s: &mut Section<'_, '_>| PerSecond {
        messages: s.number("messages", 0, 0..=MOST),
        bytes: s.size("bytes", 0, 0..=16 * GIB),
    };
    let (connection, joins) = s.section("connection", |s| {
        (per_second(s), s.number("joins", 0, 0..=MOST))
    });
    let (address, connects) = s.section("address", |s| {
        (per_second(s), s.number("connections", 0, 0..=MOST))
    });
    Rates {
        connection,
        joins,
        address,
        connects,
        user: s.section("user", per_second),
        room: s.section("room", per_second),
        burst_ms: s.duration("burst", d.burst_ms, 100..=MINUTE),
        refusals: s.number("refusals", d.refusals, 10..=1_000_000),
        ..d
    }
}

fn timeouts(s: &mut Section<'_, '_>) -> (Timeouts, u64) {
    let d = Timeouts::default();
    let timeouts = Timeouts {
        ready_ms: s.duration("ready", d.ready_ms, 100..=10 * MINUTE),
        hung_ms: s.duration("hung", d.hung_ms, SECOND..=10 * MINUTE),
        stop_ms: s.duration("stop", d.stop_ms, 0..=HOUR),
        move_ms: s.duration("move", d.move_ms, 100..=HOUR),
        retire_ms: s.duration("retire", d.retire_ms, 0..=DAY),
        key_ms: s.duration("key", d.key_ms, 0..=DAY),
    };
    let spread = Settings::default().retry_spread_ms;
    (timeouts, s.duration("retry_spread", spread, 0..=HOUR))
}

fn memory(s: &mut Section<'_, '_>) -> (Memory, u64) {
    let d = Memory::default();
    let memory = Memory {
        log: s.size("log", d.log, MIB..=16 * GIB),
        ring: s.size("ring", d.ring, 64 * KIB..=GIB),
        history: s.size("history", d.history, 0..=4 * GIB),
        presence: s.size("presence", d.presence, 0..=MAX_USERS_BYTES),
    };
    for (key, bytes) in [("log", memory.log), ("ring", memory.ring)] {
        if !bytes.is_power_of_two() {
            let below = show_size(1 << bytes.ilog2());
            let above = show_size(bytes.next_power_of_two());
            let message = format!("must be a power of two, such as \"{below}\" or \"{above}\"");
            s.wrong(key, message);
        }
    }
    let worker = Settings::default().memory;
    (memory, s.size("worker", worker, 16 * MIB..=8 * GIB))
}

fn http(s: &mut Section<'_, '_>) -> Http {
    let d = Http::default();
    Http {
        max_line: s.size("max_line", d.max_line, 256..=MIB),
        max_head: s.size("max_head", d.max_head, KIB..=MIB),
        max_fields: s.number("max_fields", d.max_fields, 8..=1_000),
        max_body: s.size("max_body", d.max_body, 0..=16 * MIB),
        head_timeout_ms: s.duration("head_timeout", d.head_timeout_ms, SECOND..=HOUR),
        body_timeout_ms: s.duration("body_timeout", d.body_timeout_ms, SECOND..=HOUR),
        idle_timeout_ms: s.duration("idle_timeout", d.idle_timeout_ms, SECOND..=DAY),
        linger_ms: s.duration("linger", d.linger_ms, 100..=MINUTE),
    }
}

fn websocket(s: &mut Section<'_, '_>) -> WebSocket {
    let d = WebSocket::default();
    WebSocket {
        ping_interval_ms: s.duration("ping_interval", d.ping_interval_ms, SECOND..=DAY),
        pong_timeout_ms: s.duration("pong_timeout", d.pong_timeout_ms, SECOND..=HOUR),
        close_timeout_ms: s.duration("close_timeout", d.close_timeout_ms, 100..=HOUR),
        write_timeout_ms: s.duration("write_timeout", d.write_timeout_ms, SECOND..=HOUR),
        echo_max_message: s.size("echo_max_message", d.echo_max_message, KIB..=16 * MIB),
        max_fragments: s.number("max_fragments", d.max_fragments, 1..=10_000_000),
        max_pings: s.number("max_pings", d.max_pings, 1..=10_000_000),
        compression: s.flag("compression", d.compression),
        compress_from: s.size("compress_from", d.compress_from, 0..=16 * MIB),
        compress_level: s.number("compress_level", d.compress_level, 1..=9),
        origins: s.list("origins", d.origins, origin),
    }
}

/// `*`, or scheme, host and perhaps port, as browsers send it.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty() && !host.is_empty() && !host.contains('/')
    });
    if text == "*" || is_origin {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must hold origins such as \"https://example.org\", or \"*\" for any, not {text:?}"
        ))
    }
}

fn rooms(s: &mut Section<'_, '_>) -> (Rooms, u32) {
    let d = Rooms::default();
    let rooms = Rooms {
        max_data: s.size("max_data", d.max_data, 64..=512 * KIB),
        max_depth: s.number("max_depth", d.max_depth, 1..=128),
        max_rooms: s.number("max_rooms", d.max_rooms, 1..=10_000),
        slow_bytes: s.size("slow_bytes", d.slow_bytes, 4 * KIB..=16 * MIB),
        slow: s.choice(
            "slow",
            d.slow,
            &[("gap", Slow::Gap), ("close", Slow::Close)],
        ),
        msgpack: d.msgpack,
        moderation: d.moderation,
        releases: d.releases,
    };
    let listed = Presence::default().listed;
    (rooms, s.number("presence", listed, 0..=MAX_LISTED))
}

/// What is said of rooms of some names.
struct Room {
    /// What they retain.
    rule: Rule,
    /// Up to how many of their users are listed, if that is said.
    listed: Option<u32>,
    options: RoomOptions,
}

/// Of these rules those that count: what is behind the last that says something changes nothing.
fn to_last(rules: &[Room], says: impl Fn(&Room) -> bool) -> &[Room] {
    let last = rules.iter().rposition(says);
    &rules[..last.map_or(0, |last| last + 1)]
}

fn presence(listed: u32, rules: &[Room]) -> Presence {
    let rules = to_last(rules, |room| room.listed.is_some()).iter();
    Presence {
        listed,
        rules: rules
            .map(|room| Listed {
                rooms: room.rule.rooms.clone(),
                listed: room.listed.unwrap_or(listed),
            })
            .collect(),
    }
}

fn options(rules: &[Room]) -> Options {
    let rules = to_last(rules, |room| room.options.is_any()).iter();
    Options(rules.map(|room| room.options.clone()).collect())
}

/// `max_data`: that of all rooms.
fn room(s: &mut Section<'_, '_>, max_data: usize) -> Room {
    let rooms = s.pattern("match");
    if !s.has("match") {
        s.wrong("match", "is missing, such as \"chat.*\"");
    }
    let rule = Rule {
        rooms: rooms.unwrap_or_else(|| Pattern::new("")),
        messages: s.number("history", 0, 0..=1_000_000),
        age_ms: s.duration("history_age", 0, 0..=30 * DAY),
        bytes: s.size("history_bytes", HISTORY_BYTES, 4 * KIB..=GIB),
    };
    let listed = s.number("presence", 0, 0..=MAX_LISTED);
    let most = s.size("max_data", max_data, 1..=512 * KIB);
    if most > max_data {
        let all = show_size(max_data as u64);
        s.wrong(
            "max_data",
            format!("must not be above that of [rooms], {all}"),
        );
    }
    Room {
        options: RoomOptions {
            rooms: rule.rooms.clone(),
            merge_ms: s.duration("merge", 0, 0..=MAX_MERGE),
            budget: s.number("budget", 0, 0..=1_000_000),
            slow_ms: s.duration("slow_mode", 0, 0..=DAY),
            max_data: (most < max_data).then_some(most),
        },
        rule,
        listed: s.has("presence").then_some(listed),
    }
}

fn hooks(s: &mut Section<'_, '_>) -> Vec<Hook> {
    let hooks = s.sections("hook", hook).unwrap_or_default();
    if hooks.len() > MAX_HOOKS {
        s.wrong("hook", format!("there may be {MAX_HOOKS} of them"));
    }
    hooks.into_iter().flatten().collect()
}

fn log(s: &mut Section<'_, '_>) -> Log {
    let d = Log::default();
    let levels = [
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
    let formats = [("text", Format::Text), ("json", Format::Json)];
    Log {
        level: s.choice("level", d.level, &levels),
        format: s.choice("format", d.format, &formats),
    }
}

/// Each of these is allowed, but not with the other.
fn limits_agree(report: &mut Report<'_>, config: &Config) {
    let Settings {
        http,
        websocket,
        rooms,
        max_connections,
        memory,
        ..
    } = &config.settings;
    if http.max_line > http.max_head {
        report.wrong(
            &["http.max_line", "http.max_head"],
            "http.max_line must not be more than http.max_head, of which it is a part",
        );
    }
    if config.limits.window > *max_connections {
        report.wrong(
            &["limits.window", "limits.per_worker"],
            "limits.window must not be more than limits.per_worker",
        );
    }
    if rooms.slow_bytes < 2 * rooms.max_data {
        report.wrong(
            &["rooms.slow_bytes", "rooms.max_data"],
            "rooms.slow_bytes must be twice rooms.max_data at least",
        );
    }
    // What is read is held next to what is made of it.
    let largest = [
        ("http.max_body", http.max_body),
        ("websocket.echo_max_message", websocket.echo_max_message),
        ("rooms.slow_bytes", rooms.slow_bytes),
    ];
    for (key, bytes) in largest {
        let needed = 4 * bytes as u64;
        if *memory < needed {
            let needed = show_size(needed);
            report.wrong(
                &["memory.worker", key],
                format!("memory.worker must be four times {key} at least, \"{needed}\""),
            );
        }
    }
    for (key, bytes) in [
        ("memory.ring", config.memory.ring),
        ("memory.log", config.memory.log),
    ] {
        let needed = 4 * rooms.max_data as u64;
        if bytes < needed {
            let needed = show_size(needed);
            report.wrong(
                &[key, "rooms.max_data"],
                format!("{key} must be four times rooms.max_data at least, \"{needed}\""),
            );
        }
    }
    let history = config.memory.history;
    if config
        .rooms
        .iter()
        .any(|rule| rule.messages > 0 && rule.bytes > history)
    {
        report.wrong(
            &["room.history_bytes", "memory.history"],
            "room.history_bytes must not be more than memory.history, which is for all rooms",
        );
    }
    if config.memory.log < config.memory.ring {
        report.wrong(
            &["memory.log", "memory.ring"],
            "memory.log must not be less than memory.ring",
        );
    }
}

#[cfg(test)]
mod tests;
