use protocol::ids::Role;
use protocol::settings::{Event, Fail, RoomOptions, Server};

use super::*;

const EXAMPLE: &str = include_str!("../../../../scripts/baton.toml");

fn load(text: &str) -> Result<Config, Vec<String>> {
    check("b.toml", text, &Overrides::default()).map_err(|errors| errors.0)
}

/// Each text, and the one error in it.
fn refused(cases: &[(&str, &str)]) {
    for (text, error) in cases {
        assert_eq!(load(text).unwrap_err(), [*error], "{text}");
    }
}

#[test]
fn the_example_is_the_default() {
    assert_eq!(load(EXAMPLE).unwrap(), load("").unwrap());
    let default = load("").unwrap();
    assert_eq!(
        default,
        Config {
            identity: default.identity.clone(),
            ..Config::default()
        }
    );
}

#[test]
fn the_example_names_every_key() {
    let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let uncommented: Vec<_> = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(table) if table.starts_with("[[") => table,
            Some(key) if key.trim_start_matches(is_key).starts_with(" = ") => key,
            Some(table) if table.starts_with("[[") => table,
            _ => line,
        })
        .collect();
    let uncommented = uncommented.join("\n");
    let mut report = Report::new("", &uncommented);
    read(&mut report, &Overrides::default());
    for key in &report.asked {
        assert!(
            report.lines.contains_key(key),
            "{key} is not in the example"
        );
    }
}

#[test]
fn defaults_contradict_nothing() {
    assert!(load("").is_ok());
}

#[test]
fn takes_what_is_typed() {
    let config = load(
        r#"
        workers = 3
        policy = "ip-hash"
        limits.per_worker = 1_000
        [[listen]]
        address = "[::]:80"
        ipv6_only = false
        [[listen]]
        address = "10.0.0.1:0"
        role = "admin"
        proxy_protocol = true
        proxy_trusted = ["10.0.0.0/8", "::1"]
        [memory]
        ring = 1048576
        log = "128MiB"
        [rooms]
        slow = "close"
        [log]
        level = "debug"
        format = "json"
        [timeouts]
        hung = "1500ms"
        [websocket]
        origins = ["https://example.org"]
        "#,
    )
    .unwrap();
    assert_eq!(config.workers, 3);
    assert_eq!(config.policy, Policy::IpHash);
    assert_eq!(config.settings.max_connections, 1_000);
    let [first, second] = &config.listen[..] else {
        panic!("{:?}", config.listen);
    };
    assert!(!first.ipv6_only && first.role == Role::Public);
    assert!(second.proxy_protocol && second.role == Role::Admin);
    assert_eq!(second.proxy_trusted.len(), 2);
    assert_eq!(config.memory.ring, 1 << 20);
    assert_eq!(config.memory.log, 128 << 20);
    assert_eq!(config.settings.rooms.slow, Slow::Close);
    assert_eq!(config.log.level, LevelFilter::Debug);
    assert_eq!(config.log.format, Format::Json);
    assert_eq!(config.timeouts.hung_ms, 1_500);
    assert_eq!(config.settings.websocket.origins, ["https://example.org"]);
}

#[test]
fn rooms_retain_what_their_pattern_says() {
    let config = load(
        r#"
        [[room]]
        match = "chat.*"
        history = 100
        history_age = "10m"
        [[room]]
        match = "*"
        history = 1
        history_bytes = "64 KiB"
        "#,
    )
    .unwrap();
    let [chat, any] = &config.rooms[..] else {
        panic!("{:?}", config.rooms);
    };
    assert!(chat.rooms.matches(b"chat.a") && any.rooms.matches(b"a"));
    assert_eq!(
        (chat.messages, chat.age_ms, chat.bytes),
        (100, 600_000, 1 << 20)
    );
    assert_eq!((any.messages, any.age_ms, any.bytes), (1, 0, 64 << 10));
    refused(&[
        (
            "[[room]]\nhistory = 3",
            "b.toml:1: room.match: is missing, such as \"chat.*\"",
        ),
        (
            "[[room]]\nmatch = \"a\"\nhistory = 3\nhistory_bytes = \"1 GiB\"",
            "b.toml:4: room.history_bytes: room.history_bytes must not be more than \
             memory.history, which is for all rooms",
        ),
    ]);
}

#[test]
fn hooks_are_where_they_say() {
    let config = load(
        r#"
        [[hook]]
        on = ["connect", "send"]
        url = "http://localhost:9000/hook?key=x"
        timeout = "500ms"
        fail = "open"
        headers = ["X-Key: a", "X-Other: b"]
        [[hook]]
        on = ["join"]
        match = "vip.*"
        url = "unix:/run/app.sock"
        "#,
    )
    .unwrap();
    let [first, second] = &config.settings.hooks[..] else {
        panic!("{:?}", config.settings.hooks);
    };
    assert_eq!(first.on, [Event::Connect, Event::Send]);
    let Server::Tcp(address) = &first.server else {
        panic!("{first:?}");
    };
    assert!(address.ip().is_loopback() && address.port() == 9000);
    assert_eq!(
        (first.host.as_str(), first.fail),
        ("localhost:9000", Fail::Open)
    );
    assert_eq!(first.fields.bytes(), b"X-Key: a\r\nX-Other: b\r\n");
    assert_eq!(first.to_string(), "http://localhost:9000/hook");
    assert_eq!(second.to_string(), "unix:/run/app.sock:/");
    assert!(second.rooms.matches(b"vip.a") && !second.rooms.matches(b"a"));
    assert_eq!(second.fail, Fail::Closed);
}

#[test]
fn hooks_that_cannot_be() {
    let many = "[[hook]]\non = [\"send\"]\nurl = \"unix:/a\"\n".repeat(9);
    assert_eq!(
        load(&many).unwrap_err(),
        ["b.toml:1: hook: there may be 8 of them"]
    );
    refused(&[
        (
            "[[hook]]\nurl = \"unix:/a\"",
            "b.toml:1: hook.on: is missing, such as [\"send\"]",
        ),
        (
            "[[hook]]\non = [\"send\"]",
            "b.toml:1: hook.url: is missing, such as \"http://127.0.0.1:9000/hook\"",
        ),
        (
            "[[hook]]\nurl = \"unix:/a\"\non = [\"sent\"]",
            "b.toml:3: hook.on: must hold \"connect\", \"join\", \"send\", not \"sent\"",
        ),
        (
            "[[hook]]\non = [\"send\"]\nurl = \"https://127.0.0.1/\"",
            "b.toml:3: hook.url: must begin with http: or unix:; for TLS put a proxy in front of \
             the back end",
        ),
        (
            "[[hook]]\non = [\"connect\"]\nurl = \"unix:/a\"\nmatch = \"x\"",
            "b.toml:4: hook.match: means nothing for \"connect\", which is for no room",
        ),
        (
            "[[hook]]\non = [\"send\"]\nurl = \"unix:/a\"\ntimeout = \"1s\"\nwait = \"1s\"",
            "b.toml:5: hook.wait: must be less than timeout",
        ),
        (
            "[[hook]]\non = [\"send\"]\nurl = \"unix:/a\"\nheaders = [\"Host: x\"]",
            "b.toml:4: hook.headers: Host is set by baton",
        ),
        (
            "[[hook]]\non = [\"send\"]\nurl = \"unix:/a\"\nsecret = \"/nowhere\"",
            "b.toml:4: hook.secret: /nowhere: No such file or directory (os error 2)",
        ),
        (
            "[[hook]]\non = [\"send\"]\nurl = \"unix:/a\"\nfail = \"ajar\"",
            "b.toml:4: hook.fail: must be \"open\" or \"closed\", not \"ajar\"",
        ),
    ]);
}

#[test]
fn users_are_listed_in_rooms_as_their_pattern_says() {
    let presence = |text| load(text).unwrap().settings.presence;
    assert_eq!(presence(""), Default::default());
    let said = presence(
        r#"
        [rooms]
        presence = 50
        [[room]]
        match = "chat.*"
        history = 1
        [[room]]
        match = "*.big"
        presence = 0
        [[room]]
        match = "a"
        "#,
    );
    assert_eq!((said.listed, said.rules.len()), (50, 2));
    let rooms = [("chat.big", 50), ("a.big", 0), ("a", 50)];
    assert!(
        rooms
            .iter()
            .all(|(room, listed)| said.of(room.as_bytes()) == *listed)
    );
    refused(&[(
        "[rooms]\npresence = 10001",
        "b.toml:2: rooms.presence: must be a whole number from 0 to 10000, not 10001",
    )]);
}

#[test]
fn what_is_special_about_rooms_is_as_their_pattern_says() {
    let options = |text| load(text).unwrap().settings.options;
    assert!(options("").is_empty());
    let said = options(
        r#"
        [rooms]
        max_data = "1 KiB"
        [[room]]
        match = "plain.*"
        history = 1
        [[room]]
        match = "*.busy"
        merge = "50ms"
        budget = 20
        slow_mode = "30s"
        max_data = 300
        [[room]]
        match = "*"
        history = 2
        max_data = "1 KiB"
        "#,
    );
    assert_eq!(said.0.len(), 2, "{said:?}");
    let of = |room: &str| {
        let options = said.of(room.as_bytes());
        let RoomOptions {
            merge_ms,
            budget,
            slow_ms,
            max_data,
            ..
        } = options;
        (*merge_ms, *budget, *slow_ms, *max_data)
    };
    assert_eq!(of("a.busy"), (50, 20, 30_000, Some(300)));
    assert_eq!(of("plain.busy"), (0, 0, 0, None));
    assert_eq!(of("a"), (0, 0, 0, None));
    refused(&[
        (
            "[[room]]\nmatch = \"a\"\nmerge = \"201ms\"",
            "b.toml:3: room.merge: must be a duration from \"0ms\" to \"200ms\", not \"201ms\"",
        ),
        (
            "[rooms]\nmax_data = 100\n[[room]]\nmatch = \"a\"\nmax_data = 101",
            "b.toml:5: room.max_data: must not be above that of [rooms], 100 B",
        ),
    ]);
}

#[test]
fn unknown_keys() {
    refused(&[
        (
            "\nworker = 3",
            "b.toml:2: worker: unknown key; did you mean \"workers\"?",
        ),
        (
            "[http]\nmax_heads = 3",
            "b.toml:2: http.max_heads: unknown key; did you mean \"max_head\"?",
        ),
        (
            "[log]\ncolour = true",
            "b.toml:2: log.colour: unknown key; allowed here: level, format",
        ),
        (
            "[lisen]\naddress = \"127.0.0.1:1\"",
            "b.toml:1: lisen: unknown key; did you mean \"listen\"?",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\nport = 3",
            "b.toml:3: listen.port: unknown key; allowed here: address, role, backlog, ipv6_only, \
             proxy_protocol, proxy_trusted, mode, owner, group",
        ),
    ]);
}

#[test]
fn wrong_types() {
    refused(&[
        (
            "workers = \"four\"",
            "b.toml:1: workers: must be a whole number from 1 to 64, not \"four\"",
        ),
        (
            "\n\nworkers = 1.5",
            "b.toml:3: workers: must be a whole number from 1 to 64, not 1.5",
        ),
        ("http = 3", "b.toml:1: http: must be a table, [http], not 3"),
        (
            "[listen]\naddress = \"127.0.0.1:1\"",
            "b.toml:1: listen: must be tables, each [[listen]]",
        ),
        (
            "[[listen]]\naddress = \"[::1]:1\"\nipv6_only = 1",
            "b.toml:3: listen.ipv6_only: must be true or false, not 1",
        ),
        (
            "[timeouts]\nhung = 10",
            "b.toml:2: timeouts.hung: must be a duration from \"1s\" to \"10m\", not 10",
        ),
        (
            "[websocket]\norigins = \"*\"",
            "b.toml:2: websocket.origins: must be a list of texts, not \"*\"",
        ),
        (
            "[websocket]\norigins = [\n\"*\",\n3]",
            "b.toml:4: websocket.origins: must hold texts, not 3",
        ),
        (
            "user = \"\"",
            "b.toml:1: user: must be a text that is not empty, not \"\"",
        ),
    ]);
}

#[test]
fn impossible_values() {
    refused(&[
        (
            "workers = 0",
            "b.toml:1: workers: must be a whole number from 1 to 64, not 0",
        ),
        (
            "workers = 65",
            "b.toml:1: workers: must be a whole number from 1 to 64, not 65",
        ),
        (
            "workers = -1",
            "b.toml:1: workers: must be a whole number from 1 to 64, not -1",
        ),
        (
            "policy = \"random\"",
            "b.toml:1: policy: must be \"round-robin\", \"least-connections\", \"two-choices\" or \
             \"ip-hash\", not \"random\"",
        ),
        (
            "[log]\nformat = \"xml\"",
            "b.toml:2: log.format: must be \"text\" or \"json\", not \"xml\"",
        ),
        (
            "[memory]\nworker = \"1 MiB\"",
            "b.toml:2: memory.worker: must be a size from \"16 MiB\" to \"8 GiB\", not \"1 MiB\"",
        ),
        (
            "[memory]\nlog = \"65 MiB\"",
            "b.toml:2: memory.log: must be a power of two, such as \"64 MiB\" or \"128 MiB\"",
        ),
        (
            "[memory]\nring = \"1 MB\"",
            "b.toml:2: memory.ring: must be a size from \"64 KiB\" to \"1 GiB\", not \"1 MB\"",
        ),
        (
            "[websocket]\norigins = [\"example.org\"]",
            "b.toml:2: websocket.origins: must hold origins such as \"https://example.org\", or \
             \"*\" for any, not \"example.org\"",
        ),
        (
            "user = \"nobody-of-that-name\"",
            "b.toml:1: user: there is no user \"nobody-of-that-name\" on this machine",
        ),
        (
            "group = \"nobody-of-that-name\"",
            "b.toml:1: group: there is no group \"nobody-of-that-name\" on this machine",
        ),
    ]);
}

#[test]
fn listeners() {
    refused(&[
        (
            "[[listen]]\nrole = \"public\"",
            "b.toml:1: listen.address: is missing, such as \"127.0.0.1:8000\"",
        ),
        (
            "[[listen]]\naddress = \"localhost:80\"",
            "b.toml:2: listen.address: must be an address such as \"127.0.0.1:8000\", \"[::1]:8000\" or \
             \"unix:admin.sock\", not \"localhost:80\"",
        ),
        (
            "listen = []",
            "b.toml:1: listen: one listener must have role = \"public\"",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\nrole = \"admin\"",
            "b.toml:1: listen: one listener must have role = \"public\"",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"127.0.0.1:1\"",
            "b.toml:4: listen.address: 127.0.0.1:1 is listened on twice",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"0.0.0.0:1\"",
            "b.toml:4: listen.address: 0.0.0.0:1 overlaps 127.0.0.1:1, another listener's",
        ),
        (
            "[[listen]]\naddress = \"[::]:1\"\nipv6_only = false\n[[listen]]\naddress = \"0.0.0.0:1\"",
            "b.toml:5: listen.address: 0.0.0.0:1 overlaps [::]:1, another listener's",
        ),
        (
            "[[listen]]\naddress = \"0.0.0.0:1\"\nipv6_only = true",
            "b.toml:3: listen.ipv6_only: means nothing for an IPv4 address",
        ),
        (
            "[[listen]]\naddress = \"0.0.0.0:1\"\nproxy_protocol = true",
            "b.toml:3: listen.proxy_protocol: needs proxy_trusted, a list of the addresses that \
             may say who a client is",
        ),
        (
            "[[listen]]\naddress = \"0.0.0.0:1\"\nproxy_trusted = [\"::1\"]",
            "b.toml:3: listen.proxy_trusted: needs proxy_protocol = true",
        ),
        (
            "[[listen]]\naddress = \"0.0.0.0:1\"\nproxy_protocol = true\nproxy_trusted = [\"10.0.0.1/8\"]",
            "b.toml:4: listen.proxy_trusted: \"10.0.0.1/8\" has bits behind its first 8, which \
             must be 0",
        ),
    ]);
    for both in [
        "[[listen]]\naddress = \"[::]:1\"\n[[listen]]\naddress = \"0.0.0.0:1\"",
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\naddress = \"127.0.0.1:0\"",
        "[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"127.0.0.2:1\"",
    ] {
        assert_eq!(load(both).unwrap().listen.len(), 2, "{both}");
    }
}

#[test]
fn contradictions() {
    refused(&[
        (
            "[http]\nmax_line = \"64 KiB\"",
            "b.toml:2: http.max_line: http.max_line must not be more than http.max_head, of which \
             it is a part",
        ),
        (
            "[limits]\nper_worker = 10",
            "b.toml:2: limits.per_worker: limits.window must not be more than limits.per_worker",
        ),
        (
            "[rooms]\nslow_bytes = \"64 KiB\"",
            "b.toml:2: rooms.slow_bytes: rooms.slow_bytes must be twice rooms.max_data at least",
        ),
        (
            "[memory]\nworker = \"32 MiB\"",
            "b.toml:2: memory.worker: memory.worker must be four times websocket.echo_max_message \
             at least, \"64 MiB\"",
        ),
        (
            "[memory]\nring = \"64 KiB\"",
            "b.toml:2: memory.ring: memory.ring must be four times rooms.max_data at least, \"256 \
             KiB\"",
        ),
        (
            "[memory]\nlog = \"2 MiB\"",
            "b.toml:2: memory.log: memory.log must not be less than memory.ring",
        ),
    ]);
}

#[test]
fn what_is_not_toml() {
    refused(&[
        ("workers = 3\nworkers = 4", "b.toml:2: duplicate key"),
        ("\nworkers 3", "b.toml:2: key with no value, expected `=`"),
        (
            "policy = \"ip-hash",
            "b.toml:1: invalid basic string, expected `\"`",
        ),
    ]);
}

#[test]
fn all_errors_at_once_in_the_order_of_the_file() {
    let errors = load("[limits]\nwindw = 3\nrooms = 0\n[log]\nlevel = 1\n[http]\nmax_line = -1");
    let errors = errors.unwrap_err();
    let starts = [
        "b.toml:2: limits.windw: ",
        "b.toml:3: limits.rooms: ",
        "b.toml:5: log.level: ",
        "b.toml:7: http.max_line: ",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn flags_go_before_the_file() {
    let text = "workers = 3\n[[listen]]\naddress = \"127.0.0.1:1\"\n\
                [[listen]]\naddress = \"127.0.0.1:2\"\nrole = \"admin\"";
    let with = |overrides| check("b.toml", text, &overrides);
    let config = with(Overrides {
        listen: vec!["127.0.0.1:7".parse().unwrap()],
        workers: Some(5),
        ..Overrides::default()
    })
    .unwrap();
    assert_eq!(config.workers, 5);
    let addresses: Vec<_> = config
        .listen
        .iter()
        .map(|l| l.address.tcp().unwrap().port())
        .collect();
    assert_eq!(addresses, [2, 7]);

    let error = with(Overrides {
        admin: vec!["127.0.0.1:1".parse().unwrap()],
        ..Overrides::default()
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "b.toml: --admin: 127.0.0.1:1 is listened on twice"
    );
}

#[test]
fn a_configuration_survives_in_the_masters_state() {
    let config = load("").unwrap();
    let bytes = rmp_serde::to_vec_named(&config).unwrap();
    assert_eq!(rmp_serde::from_slice::<Config>(&bytes).unwrap(), config);
}

#[test]
fn a_reload_cannot_change_everything() {
    let old = load("").unwrap();
    let free = load("workers = 7\n[log]\nlevel = \"debug\"\n[limits]\nwindow = 3").unwrap();
    assert_eq!(super::super::changes(&old, &free), Ok(()));
    let new = load("[[listen]]\naddress = \"127.0.0.1:9\"\n[memory]\nlog = \"128 MiB\"").unwrap();
    assert_eq!(
        super::super::changes(&old, &new).unwrap_err(),
        [
            "listen: a reload cannot change this; use restart",
            "memory.log: a reload cannot change this; use restart",
        ]
    );
}

#[test]
fn keys_of_tokens() {
    let directory = std::env::temp_dir().join(format!("baton-keys-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("secret"), "x".repeat(40) + "\n").unwrap();
    std::fs::write(directory.join("short"), "x").unwrap();
    let name = directory.join("b.toml").display().to_string();
    let load = |text: &str| {
        let config = check(&name, text, &Overrides::default());
        config.map_err(|errors| errors.0.join("\n").replace(&name, "b.toml"))
    };
    let key = |kid: &str, algorithm: &str, file: &str| {
        format!("[[auth.key]]\nkid = {kid:?}\nalgorithm = {algorithm:?}\nfile = {file:?}\n")
    };
    let two = key("a", "HS256", "secret")
        + &key(
            "b",
            "HS256",
            &directory.join("secret").display().to_string(),
        );
    let auth = load(&two).unwrap().settings.auth;
    assert_eq!((auth.keys.len(), auth.keys[1].kid.as_str()), (2, "b"));
    assert_eq!(auth.keys[0].material.bytes().len(), 40);
    let files = directory.display().to_string();
    let refused = |text: &str| load(text).unwrap_err().replace(&files, "…");
    assert_eq!(
        refused(&(key("a", "HS256", "secret") + &key("a", "HS256", "secret"))),
        "b.toml:1: auth.key: two have the kid \"a\""
    );
    assert_eq!(
        refused(&key("a", "HS256", "short")),
        "b.toml:4: auth.key.file: …/short: must hold a secret of 32 to 512 bytes"
    );
    assert_eq!(
        refused(&key("a", "HS256", "nowhere")),
        "b.toml:4: auth.key.file: …/nowhere: No such file or directory (os error 2)"
    );
    assert_eq!(
        refused(&key("a", "ES256", "secret")),
        "b.toml:4: auth.key.file: …/secret: must hold a public key of P-256, as PEM"
    );
    assert_eq!(
        refused(&key("a", "RS256", "secret")),
        "b.toml:3: auth.key.algorithm: must be \"HS256\", \"EdDSA\" or \"ES256\", not \"RS256\""
    );
    assert_eq!(
        refused("[[auth.key]]\nkid = \"a\"\nalgorithm = \"HS256\""),
        "b.toml:1: auth.key.file: is missing"
    );
    assert_eq!(
        refused("[auth]\nrights = [\"join\", \"fly\"]\nanonymous = \"all\""),
        "b.toml:2: auth.rights: must hold \"join\", \"send\", \"presence\", \"history\", \
         \"moderate\", not \"fly\"\nb.toml:3: auth.anonymous: must be \"none\", \"read\" or \
         \"full\", not \"all\""
    );
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn who_lets_everybody_in_is_warned() {
    let warnings = |listen: &str, auth: &str| {
        let text = format!("[auth]\n{auth}\n[[listen]]\naddress = {listen:?}\n");
        load(&text).unwrap().warnings()
    };
    for local in ["127.0.0.1:80", "[::1]:80"] {
        assert_eq!(warnings(local, ""), Vec::<String>::new());
        assert_eq!(
            warnings(local, "anonymous = \"full\""),
            Vec::<String>::new()
        );
    }
    for (auth, expected) in [
        ("", "nobody may use /rooms at 0.0.0.0:80"),
        (
            "anonymous = \"none\"",
            "nobody may use /rooms at 0.0.0.0:80",
        ),
        (
            "anonymous = \"read\"",
            "everybody who can reach 0.0.0.0:80 may join and read",
        ),
        (
            "anonymous = \"full\"",
            "everybody who can reach 0.0.0.0:80 may join, read and write",
        ),
    ] {
        let said = warnings("0.0.0.0:80", auth);
        assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
    }
}

#[test]
fn unix_sockets() {
    let unix = |more: &str| {
        format!(
            "[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"unix:/r/a.sock\"\n{more}"
        )
    };
    let name = std::path::Path::new("/etc/b.toml").display().to_string();
    let text = "[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"unix:a.sock\"\n\
                role = \"admin\"\nmode = \"0660\"\ngroup = \"root\"";
    let listen = check(&name, text, &Overrides::default()).unwrap().listen;
    assert_eq!(listen[1].address.to_string(), "unix:/etc/a.sock");
    assert_eq!(
        (
            listen[1].rights.mode,
            listen[1].rights.owner,
            listen[1].rights.group
        ),
        (0o660, None, Some(0))
    );
    assert!(listen[1].is_local());
    let default = load(&unix("role = \"admin\"")).unwrap().listen;
    assert_eq!(default[1].rights.mode, 0o600);
    let admin = unix("role = \"admin\"\n");
    let error = |more: &str| load(&format!("{admin}{more}")).unwrap_err().join("; ");
    assert_eq!(
        load(&unix("")).unwrap_err(),
        [
            "b.toml:4: listen.address: a unix socket is for role = \"admin\" only; a proxy on this \
             machine reaches clients' listeners at 127.0.0.1, with proxy_protocol"
        ]
    );
    assert_eq!(
        error("ipv6_only = true"),
        "b.toml:6: listen.ipv6_only: means nothing for a unix socket"
    );
    assert_eq!(
        error("mode = \"rw\""),
        "b.toml:6: listen.mode: must be octal digits such as \"0660\", not \"rw\""
    );
    assert_eq!(
        error("mode = \"4755\""),
        "b.toml:6: listen.mode: must be octal digits such as \"0660\", not \"4755\""
    );
    assert_eq!(
        error("owner = \"nobody-of-that-name\""),
        "b.toml:6: listen.owner: there is no user \"nobody-of-that-name\" on this machine"
    );
    assert_eq!(
        error("[[listen]]\naddress = \"unix:/r/a.sock\"\nrole = \"admin\""),
        "b.toml:7: listen.address: unix:/r/a.sock is listened on twice"
    );
    refused(&[(
        "[[listen]]\naddress = \"127.0.0.1:1\"\nmode = \"0600\"",
        "b.toml:3: listen.mode: means nothing but for a unix socket",
    )]);
}
