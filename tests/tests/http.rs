//! HTTP/1.1 over real sockets. What each malformed request is answered is told in the worker's own
//! tests; here it is that bytes, connections and deadlines behave.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use harness::Baton;
use harness::http::{self, Client};

const GET: &str = "GET /whoami HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn routes() {
    let baton = Baton::started();
    let page = http::get(baton.public, "/");
    assert_eq!(page.status, 200);
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("<title>"), "{}", page.text());
    assert_eq!(http::get(baton.public, "/healthz").status, 200);
    assert_eq!(http::get(baton.public, "/nowhere").status, 404);
    assert_eq!(http::get(baton.admin, "/healthz").status, 200);
    // Operators have no page for clients, but rooms, for what baton says of itself.
    assert_eq!(http::get(baton.admin, "/echo").status, 404);
    assert_eq!(http::get(baton.admin, "/rooms").status, 426);

    let mut client = Client::connect(baton.public);
    client
        .send("DELETE /whoami HTTP/1.1\r\nHost: test\r\n\r\n")
        .unwrap();
    let refused = client.response().unwrap();
    assert_eq!(refused.status, 405);
    assert!(refused.field("allow").unwrap().contains("GET"));
    // The connection goes on.
    assert_eq!(client.get("/healthz").status, 200);
    assert_eq!(client.get("/rooms").status, 426);
}

#[test]
fn a_connection_is_kept_and_is_always_served_by_the_same() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    let served: BTreeSet<_> = (0..100)
        .map(|_| http::ask_whoami(&mut client).unwrap())
        .collect();
    assert_eq!(served.len(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    let mut requests = String::new();
    for number in 0..500 {
        let body = format!("body {number}");
        requests += &format!(
            "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    client.send(&requests).unwrap();
    for number in 0..500 {
        assert_eq!(client.response().unwrap().text(), format!("body {number}"));
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    let chunked = "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n";
    for byte in chunked.bytes() {
        client.send([byte]).unwrap();
    }
    assert_eq!(client.response().unwrap().text(), "hello, world");
    for byte in GET.bytes() {
        client.send([byte]).unwrap();
    }
    assert_eq!(client.response().unwrap().status, 200);
}

#[test]
fn bodies_of_every_size_come_back() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    for size in [0, 1, 4095, 4096, 4097, 65_536, 1 << 20] {
        let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        client
            .send(format!(
                "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n"
            ))
            .unwrap();
        client.send(&body).unwrap();
        let response = client.response().unwrap();
        assert_eq!(response.status, 200);
        assert!(response.body == body, "{size} bytes were altered");
    }
}

#[test]
fn a_body_is_asked_for_with_100_continue() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    client
        .send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    assert_eq!(client.response().unwrap().status, 100);
    client.send("hello").unwrap();
    assert_eq!(client.response().unwrap().text(), "hello");
}

#[test]
fn head_has_the_fields_of_get_and_no_body() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    let got = client.get("/healthz");
    client
        .send("HEAD /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
        .unwrap();
    let head = client.head_response().unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(head.field("content-length"), got.field("content-length"));
    // Were there a body, it would be taken for the next answer.
    assert_eq!(client.get("/whoami").status, 200);
}

#[test]
fn http_1_0_is_closed_unless_it_asks() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    client
        .send("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .unwrap();
    assert_eq!(client.response().unwrap().status, 200);
    client.send("GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(client.response().unwrap().status, 200);
    assert!(client.ends());
}

#[test]
fn a_client_that_has_ended_its_stream_is_still_answered() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    client.send(GET).unwrap();
    client.shutdown_write();
    assert_eq!(client.response().unwrap().status, 200);
    assert!(client.ends());
}

#[test]
fn malformed_requests_are_answered_and_closed() {
    let baton = Baton::started();
    let body = "Host: test\r\nContent-Length: 3\r\n";
    for (request, status) in [
        ("GET /\r\n\r\n".to_owned(), 400),
        (
            "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\r\n\r\n".to_owned(),
            400,
        ),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
            400,
        ),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\nHost: test\n\n".to_owned(), 400),
        (
            "GET / HTTP/1.1\r\nHost: test\r\nX: a\r\n b\r\n\r\n".to_owned(),
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: test\r\nX : a\r\n\r\n".to_owned(),
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n".to_owned(),
            400,
        ),
        ("GET / HTTP/2.0\r\nHost: test\r\n\r\n".to_owned(), 505),
        (
            format!("POST /echo HTTP/1.1\r\n{body}Content-Length: 4\r\n\r\nabcd"),
            400,
        ),
        (
            format!("POST /echo HTTP/1.1\r\n{body}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            400,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
                .to_owned(),
            501,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"
                .to_owned(),
            400,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: test\r\nExpect: wonders\r\nContent-Length: 0\r\n\r\n"
                .to_owned(),
            417,
        ),
    ] {
        let mut client = Client::connect(baton.public);
        client.send(&request).unwrap();
        let response = client
            .response()
            .unwrap_or_else(|error| panic!("{request:?}: {error}"));
        assert_eq!(response.status, status, "{request:?}");
        assert!(client.ends(), "{request:?} is not closed");
    }
}

#[test]
fn an_answer_arrives_though_the_client_goes_on_sending() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    // More than the buffers between us hold; the answer comes first, and a reset would destroy it.
    let _ = client.send("BROKEN\r\n\r\n");
    let _ = client.send(vec![b'x'; 200_000]);
    assert_eq!(client.response().unwrap().status, 400);
}

#[test]
fn limits_of_a_request() {
    let baton = Baton::builder()
        .config("[http]\nmax_line = \"1 KiB\"\nmax_head = \"4 KiB\"\nmax_fields = 20\nmax_body = \"10 KiB\"\n")
        .start();
    let long = "x".repeat(2000);
    let many: String = (0..30).map(|n| format!("X-{n}: y\r\n")).collect();
    let large = "x".repeat(1500);
    let head: String = (0..4).map(|n| format!("X-{n}: {large}\r\n")).collect();
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: test\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: test\r\n{many}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: test\r\n{head}\r\n"), 431),
        (
            "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10241\r\n\r\n".to_owned(),
            413,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2801\r\n"
                .to_owned(),
            413,
        ),
    ] {
        let mut client = Client::connect(baton.public);
        client.send(&request).unwrap();
        let response = client.response().unwrap();
        assert_eq!(response.status, status, "{}", &request[..40]);
    }
}

#[test]
fn deadlines_of_a_request() {
    let baton = Baton::builder()
        .config("[http]\nhead_timeout = \"1s\"\nbody_timeout = \"1s\"\nidle_timeout = \"1s\"\n")
        .start();
    // Half a head; half a body: said, and closed.
    for half in [
        "GET / HTT",
        "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf",
    ] {
        let mut client = Client::connect(baton.public);
        client.send(half).unwrap();
        assert_eq!(client.response().unwrap().status, 408, "{half:?}");
        assert!(client.ends());
    }
    // Nothing, or nothing more: closed without a word.
    assert!(Client::connect(baton.public).ends());
    let mut client = Client::connect(baton.public);
    assert_eq!(client.get("/healthz").status, 200);
    assert!(client.ends());
}

#[test]
fn a_slow_head_has_one_deadline_for_all_of_it() {
    let baton = Baton::builder()
        .config("[http]\nhead_timeout = \"1s\"\n")
        .start();
    let mut client = Client::connect(baton.public);
    client
        .stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    client.send("GET / HTTP/1.1\r\n").unwrap();
    let start = Instant::now();
    // A byte now and then does not put it off.
    loop {
        match client.response() {
            Ok(response) => {
                assert_eq!(response.status, 408);
                break;
            }
            Err(_) => assert!(start.elapsed() < harness::DEADLINE),
        }
        let _ = client.send("X");
    }
}

#[test]
fn who_pipelines_without_end_does_not_starve_others() {
    const REQUESTS: usize = 100_000;
    let baton = Baton::builder().workers(1).start();
    let to = baton.public;
    let mut greedy = Client::connect(to);
    let mut reader = Client::over(greedy.stream.try_clone().unwrap());
    let writer = thread::spawn(move || {
        let batch = GET.repeat(1000);
        for _ in 0..REQUESTS / 1000 {
            greedy.send(&batch).unwrap();
        }
    });
    assert_eq!(reader.response().unwrap().status, 200);
    // It is being served now; so are others.
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let start = Instant::now();
        http::whoami(to);
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    for _ in 1..REQUESTS {
        assert_eq!(reader.response().unwrap().status, 200);
    }
    writer.join().unwrap();
}

#[test]
fn a_client_that_reads_nothing_holds_little() {
    let baton = Baton::builder().workers(1).start();
    let worker = baton.status().worker(1).pid;
    let before = harness::process::resident(worker);
    let mut greedy = Client::connect(baton.public);
    greedy
        .stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    // Pages without end are asked for, and none is read: some time nothing more is taken.
    let batch = "GET / HTTP/1.1\r\nHost: test\r\n\r\n".repeat(1000);
    let mut sent = 0;
    while greedy.send(&batch).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "everything is taken");
    }
    let grown = harness::process::resident(worker).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert_eq!(http::get(baton.public, "/healthz").status, 200);
}
