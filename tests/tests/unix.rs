//! An admin listener that is a file: its permissions are all that is asked for, and it is there for as
//! long as baton is, over reloads, upgrades and deaths.

use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use harness::api::Api;
use harness::faults::Faults;
use harness::rooms::Client;
use harness::websocket::WebSocket;
use harness::{Baton, Builder, eventually, http, process, programs, socket};
use serde_json::{Value, json};

const LISTENERS: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\n\
                         [[listen]]\naddress = \"127.0.0.1:0\"\nrole = \"admin\"\n\
                         [[listen]]\naddress = \"unix:admin.sock\"\nrole = \"admin\"\n";

/// With `more` said of the unix socket, and then other parts of the configuration.
fn with_unix(builder: Builder, more: &str) -> Builder {
    builder
        .listeners_from_config()
        .config(&format!("{LISTENERS}{more}"))
}

fn started(more: &str) -> Baton {
    with_unix(Baton::builder(), more).start()
}

fn file(baton: &Baton) -> PathBuf {
    baton.config_file().with_file_name("admin.sock")
}

fn connect(file: &Path) -> TcpStream {
    socket::connect_unix(file).expect("somebody listens there")
}

/// One who has no token.
fn api(baton: &Baton) -> Api {
    Api {
        client: http::Client::over(connect(&file(baton))),
        token: None,
    }
}

fn has_process_of(baton: &Baton, file: &Path) -> bool {
    !baton.processes().is_empty() && file.exists()
}

/// Everything at once, so that the file of a socket stays.
fn kill_all(baton: &Baton) {
    eventually("all are killed", || {
        let left = baton.processes();
        left.iter().for_each(|pid| process::kill(*pid));
        left.is_empty()
    });
}

#[test]
fn everything_is_served_and_allowed_without_a_token() {
    let config = "[auth]\nanonymous = \"none\"\n[[room]]\nmatch = \"*\"\nhistory = 5\n";
    let baton = started(config);
    let mut one = api(&baton);
    assert!(
        one.client
            .get("/whoami")
            .text()
            .starts_with("handled by worker")
    );
    for path in [
        "/",
        "/operators.js",
        "/metrics",
        "/api/v1/openapi.json",
        "/healthz",
    ] {
        assert_eq!(one.client.get(path).status, 200, "{path}");
    }
    let body = json!({"room": "r", "data": "hello"});
    // The same by TCP is not allowed, with any token or none.
    let mut other = Api::connect(baton.admin);
    assert_eq!(other.post("/api/v1/publish", &body).status, 403);
    let said = one.ok("/api/v1/publish", Some(&body));
    assert_eq!(said["published"][0]["room"], "r");
    let history = one.ok("/api/v1/rooms/r/history", None);
    assert_eq!(history["messages"][0]["data"], "hello");
    // A field that nobody needs changes nothing.
    one.token = Some("wrong".to_owned());
    one.ok("/api/v1/mute", Some(&json!({"user": "u7"})));
    one.ok("/api/v1/scale", Some(&json!({"workers": 3})));
    assert_eq!(baton.status().workers.len(), 3);
    one.ok("/api/v1/reload", Some(&json!({})));

    let all = one.ok("/api/v1/connections", None);
    let mine: Vec<&Value> = all["connections"].as_array().unwrap().iter().collect();
    assert!(mine.iter().any(|c| c["address"] == "unix"), "{all}");

    // The feed, and rooms.
    let fields = [("Sec-WebSocket-Protocol", "rooms.v1.json")];
    let stream = connect(&file(&baton));
    let socket = WebSocket::over(stream, baton.admin, "/rooms", &fields).expect("a WebSocket");
    let mut operator = Client::greet(socket);
    operator.join("r");
    one.ok("/api/v1/publish", Some(&body));
    assert_eq!(operator.message()["data"], "hello");
    operator.join("$baton");
    assert_eq!(operator.message()["room"], "$baton");
}

#[test]
fn ordinary_clients_come_in() {
    let baton = started("");
    let body = r#"{"room":"r","data":1}"#;
    let path = file(&baton).display().to_string();
    let curl = Command::new("curl")
        .args(["--silent", "--fail", "--unix-socket", &path])
        .args([
            "http://baton/api/v1/publish",
            "-H",
            "Content-Type: application/json",
            "-d",
            body,
        ])
        .output()
        .expect("curl");
    let said = String::from_utf8_lossy(&curl.stdout).into_owned();
    assert!(
        curl.status.success() && said.contains("published"),
        "{said}"
    );
    let python = "import http.client,socket,sys\n\
                  c=http.client.HTTPConnection('baton')\n\
                  c.sock=socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])\n\
                  for _ in 1,2:\n\
                  \x20 c.request('POST','/api/v1/publish',sys.argv[2],{'Content-Type':'application/json'})\n\
                  \x20 r=c.getresponse(); r.read(); print(r.status)\n";
    let node = "const [,socketPath,body]=process.argv;\
                const headers={'content-type':'application/json'};\
                require('http').request({socketPath,path:'/api/v1/publish',method:'POST',headers},\
                r=>{console.log(r.statusCode);r.resume()}).end(body)";
    for (program, flag, text, expected) in [
        ("python3", "-c", python, "200\n200\n"),
        ("node", "-e", node, "200\n"),
    ] {
        let output = Command::new(program)
            .args([flag, text, &path, body])
            .output();
        // Where it is not installed, scripts/test says so.
        let Ok(output) = output else { continue };
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{program}: {output:?}"
        );
    }
}

#[test]
fn the_file_is_ours_alone_unless_something_else_is_said_and_goes_at_the_end() {
    for (more, mode) in [("", 0o600), ("mode = \"0666\"\n", 0o666)] {
        let baton = started(more);
        let path = file(&baton);
        let is = fs::metadata(&path).unwrap();
        assert!(is.file_type().is_socket());
        assert_eq!(is.permissions().mode() & 0o7777, mode);
        assert_eq!(is.uid(), nix::unistd::geteuid().as_raw());
        if nix::unistd::geteuid().is_root() {
            let temp = path.parent().unwrap();
            fs::set_permissions(temp, fs::Permissions::from_mode(0o755)).unwrap();
            let curl = Command::new("curl")
                .args(["--silent", "--unix-socket"])
                .arg(&path)
                .arg("http://baton/healthz")
                .uid(65_534)
                .output()
                .expect("curl");
            assert_eq!(curl.status.success(), mode == 0o666, "{curl:?}");
        }
        baton.expect(&["stop"], 0);
        assert!(!path.exists());
    }
}

#[test]
fn another_owner_is_given_the_file() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let baton = started("owner = \"nobody\"\ngroup = \"root\"\nmode = \"0640\"\n");
    let is = fs::metadata(file(&baton)).unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!((is.uid(), is.gid()), (nobody.uid.as_raw(), 0));
    assert_eq!(is.permissions().mode() & 0o7777, 0o640);
}

#[test]
fn a_file_that_a_dead_daemon_has_left_is_taken_over() {
    let mut baton = started("");
    let path = file(&baton);
    kill_all(&baton);
    assert!(path.exists());
    // The last of those that were killed may hold the pid file for a moment.
    eventually("it starts", || baton.try_start().status.success());
    assert_eq!(api(&baton).client.get("/healthz").status, 200);
}

#[test]
fn one_of_a_daemon_that_lives_is_not_nor_is_any_other_file() {
    let baton = started("");
    let path = file(&baton);
    let absolute = LISTENERS.replace("admin.sock", &path.display().to_string());
    let mut second = Baton::builder()
        .listeners_from_config()
        .config(&absolute)
        .prepare();
    let refused = |second: &mut Baton, why: &str| {
        let output = second.try_start();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(
            said.contains(&format!("cannot listen on unix:{}: {why}", path.display())),
            "{said}"
        );
    };
    refused(&mut second, "another program listens there");
    assert_eq!(api(&baton).client.get("/healthz").status, 200);
    baton.expect(&["stop"], 0);

    fs::write(&path, "mine").unwrap();
    refused(
        &mut second,
        "there is a file of this name that is no socket",
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    fs::remove_file(&path).unwrap();

    // Somebody else's socket, of whom nobody accepts anything.
    let other = UnixListener::bind(&path).unwrap();
    refused(&mut second, "another program listens there");
    drop(other);
    second.start();
    assert!(has_process_of(&second, &path));
    // When a start fails behind it, no file is left.
    second.expect(&["stop"], 0);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    second.write_config(&format!(
        "{absolute}[[listen]]\naddress = \"{port}\"\nrole = \"admin\"\n"
    ));
    assert!(!second.try_start().status.success());
    assert!(!path.exists());
}

/// Back ends that publish over the unix socket, each with a key, and ask again when they are cut off.
struct Publishers {
    ends: Arc<AtomicBool>,
    /// Acknowledged, and how often one was cut off.
    done: Arc<AtomicU64>,
    cut: Arc<AtomicU64>,
    threads: Vec<JoinHandle<u64>>,
    member: Client,
}

impl Publishers {
    fn start(baton: &Baton, count: u64) -> Publishers {
        let mut member = Client::connect(baton.public);
        member.join("r");
        let (ends, done, cut) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let threads = (0..count).map(|n| {
            let (path, ends, done, cut) = (file(baton), ends.clone(), done.clone(), cut.clone());
            thread::spawn(move || {
                let mut said = 0;
                let mut kept: Option<Api> = None;
                while !ends.load(Ordering::Relaxed) {
                    let body = json!({"room": "r", "data": {"by": n, "n": said}});
                    let key = format!("Idempotency-Key: {n}-{said}\r\n");
                    // One connection for some of them, then another.
                    let mut api = kept.take().unwrap_or_else(|| Api {
                        client: http::Client::over(connect(&path)),
                        token: None,
                    });
                    match api.try_ask("POST", "/api/v1/publish", &key, Some(&body)) {
                        Ok(answer) => {
                            assert_eq!(answer.status, 200, "{}", answer.json);
                            said += 1;
                            done.fetch_add(1, Ordering::Relaxed);
                            kept = (said % 7 != 0).then_some(api);
                        }
                        Err(error) => {
                            assert!(
                                socket::is_closed(&error)
                                    || error.kind() == std::io::ErrorKind::UnexpectedEof,
                                "{error}"
                            );
                            cut.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                said
            })
        });
        Publishers {
            threads: threads.collect(),
            ends,
            done,
            cut,
            member,
        }
    }

    /// Each of them has been answered some times more.
    fn go_on(&self) {
        let target = self.done.load(Ordering::Relaxed) + 20 * self.threads.len() as u64;
        eventually("publishers are answered", || {
            self.done.load(Ordering::Relaxed) >= target
        });
    }

    fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// What each has said has come to the member once, in order.
    fn stop(mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let said: Vec<u64> = self.threads.drain(..).map(|t| t.join().unwrap()).collect();
        let mut got: HashMap<u64, u64> = HashMap::new();
        for _ in 0..said.iter().sum() {
            let message = self.member.message();
            let number = |name: &str| message["data"][name].as_u64().unwrap();
            let next = got.entry(number("by")).or_default();
            assert_eq!(number("n"), *next, "{message}");
            *next += 1;
        }
        for (by, said) in said.into_iter().enumerate() {
            assert_eq!(got.get(&(by as u64)).copied().unwrap_or_default(), said);
        }
        self.member.nothing();
    }
}

#[test]
fn reloads_scaling_and_upgrades_cut_off_nobody() {
    let programs = programs::copies();
    let baton = with_unix(Baton::builder().programs(programs.path()), "").start();
    let inode = || fs::metadata(file(&baton)).unwrap().ino();
    let before = inode();
    let publishers = Publishers::start(&baton, 2);
    // In the middle of a request's head, and of its body; idle, after one.
    let mut in_head = api(&baton);
    in_head.client.send("GET /heal").unwrap();
    let mut in_body = api(&baton);
    let head = "POST /api/v1/publish HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
                Content-Length: 21\r\n\r\n";
    in_body
        .client
        .send(format!("{head}{{\"room\":\"s\""))
        .unwrap();
    let mut idle = api(&baton);
    assert_eq!(idle.client.get("/healthz").status, 200);
    publishers.go_on();
    for verb in [
        &["reload"][..],
        &["scale", "3"],
        &["upgrade"],
        &["scale", "1"],
        &["reload"],
    ] {
        baton.expect(verb, 0);
        publishers.go_on();
        assert_eq!(idle.client.get("/whoami").status, 200);
    }
    in_head
        .client
        .send("thz HTTP/1.1\r\nHost: t\r\n\r\n")
        .unwrap();
    assert_eq!(in_head.client.response().unwrap().status, 200);
    in_body.client.send(",\"data\":1}").unwrap();
    assert_eq!(in_body.client.response().unwrap().status, 200);
    // Its permissions went with it.
    idle.ok("/api/v1/unmute", Some(&json!({"user": "u1"})));
    assert_eq!(inode(), before);
    assert_eq!(publishers.cut(), 0);
    publishers.stop();
    baton.expect(&["stop"], 0);
    assert!(!file(&baton).exists());
}

/// A process dies there, again and again, while back ends publish: each message is there once, and no
/// more than who was in hand is cut off each time.
fn dies_at(points: &[&str], may_cut: u64) {
    let faults = Faults::new();
    let baton = with_unix(faults.builder(), "").start();
    let before = baton.sockets();
    let mut idle = api(&baton);
    assert_eq!(idle.client.get("/healthz").status, 200);
    let publishers = Publishers::start(&baton, 3);
    publishers.go_on();
    for point in points {
        for passes in [1, 6] {
            let cut = publishers.cut();
            faults.arm(point, passes);
            faults.wait_for(point);
            publishers.go_on();
            let cut = publishers.cut() - cut;
            assert!(cut <= may_cut, "{point}: {cut} were cut off");
        }
    }
    assert_eq!(idle.client.get("/healthz").status, 200);
    drop(idle);
    publishers.stop();
    eventually("all sockets of clients are closed", || {
        baton.sockets() == before
    });
}

#[test]
fn a_workers_brain_dies_with_one_in_hand() {
    let points = [
        "worker:read",
        "worker:step",
        "worker:publish",
        "worker:commit",
        "worker:write",
    ];
    dies_at(&points, 1);
}

#[test]
fn a_workers_brain_dies_with_nobody_in_hand() {
    dies_at(
        &[
            "worker:receive",
            "worker:take",
            "worker:ack",
            "worker:flushed",
        ],
        0,
    );
}

#[test]
fn a_masters_brain_dies() {
    let points = [
        "master:accept",
        "master:note",
        "master:give",
        "master:api-published",
        "master:heard",
    ];
    dies_at(&points, 0);
}

/// Brains die one after the other: who was in hand stays in doubt until it is closed.
#[test]
fn who_was_in_hand_is_in_doubt_for_all_brains_to_come() {
    let faults = Faults::new();
    let baton = with_unix(faults.builder().workers(1), "").start();
    let mut waits = api(&baton);
    waits.client.send("GET /heal").unwrap();
    let mut idle: Vec<Api> = (0..3).map(|_| api(&baton)).collect();
    idle.iter_mut()
        .for_each(|api| assert_eq!(api.client.get("/healthz").status, 200));
    faults.arm("worker:recover", 1);
    faults.arm("worker:read", 1);
    let mut read = api(&baton);
    read.client
        .send("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n")
        .unwrap();
    faults.wait_for("worker:recover");
    // What was read of it is not answered in part, nor twice.
    assert!(read.client.ends());
    waits
        .client
        .send("thz HTTP/1.1\r\nHost: t\r\n\r\n")
        .unwrap();
    assert_eq!(waits.client.response().unwrap().status, 200);
    idle.iter_mut()
        .for_each(|api| assert_eq!(api.client.get("/healthz").status, 200));
    baton.wait_for_log("worker-1", "connections go on");
}

/// An answer that is waited for comes, whoever dies meanwhile.
#[test]
fn who_waits_for_a_reload_is_answered() {
    let faults = Faults::new();
    let baton = with_unix(faults.builder(), "").start();
    let mut one = api(&baton);
    faults.arm("master:part", 1);
    one.send("POST", "/api/v1/reload", "", None).unwrap();
    faults.wait_for("master:part");
    let answer = one.answer().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.json);
}

#[test]
fn guards_die() {
    let baton = started("");
    let publishers = Publishers::start(&baton, 3);
    let mut idle = api(&baton);
    assert_eq!(idle.client.get("/healthz").status, 200);
    for _ in 0..3 {
        publishers.go_on();
        let status = baton.status();
        let guards = [status.master_pid, status.workers[0].guard_pid];
        for guard in guards {
            process::kill(guard);
            baton.status_when("there is another guard", |status| {
                status.ready().len() == 2
                    && status.master_pid != guard
                    && status
                        .workers
                        .iter()
                        .all(|worker| worker.guard_pid != guard)
            });
            publishers.go_on();
        }
    }
    assert_eq!(publishers.cut(), 0);
    assert_eq!(idle.client.get("/healthz").status, 200);
    publishers.stop();
    let path = file(&baton);
    assert!(has_process_of(&baton, &path));
    baton.expect(&["stop"], 0);
    assert!(!path.exists());
}
