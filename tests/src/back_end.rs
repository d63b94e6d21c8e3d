//! A back end that baton asks: it decides as a test wants it, and remembers what it was asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use crate::wait::{self, DEADLINE};

/// The configuration of a hook on these events, with more keys.
pub fn hook(url: &str, on: &str, more: &str) -> String {
    format!("[[hook]]\nurl = \"{url}\"\non = {on}\n{more}\n")
}

/// Allows everything.
pub fn yes(_: &Value) -> Value {
    json!({ "allow": true })
}

/// One request of baton's.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn events(&self) -> Vec<Value> {
        let body: Value = serde_json::from_slice(&self.body).expect("JSON");
        body["events"].as_array().expect("events").clone()
    }

    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (is, value) = line.split_once(": ")?;
            is.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

type Respond = dyn Fn(&Request) -> Vec<u8> + Send + Sync;

/// It answers while it lives, one thread a connection.
pub struct BackEnd {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepts: Option<JoinHandle<()>>,
}

struct Shared {
    respond: Box<Respond>,
    ends: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
    requests: Mutex<Vec<Request>>,
    /// So many may still be answered; the others wait.
    tickets: Mutex<u64>,
    more: Condvar,
}

impl BackEnd {
    /// One that decides each event by itself: an object with `allow` and what else is to be said.
    pub fn start(decide: impl Fn(&Value) -> Value + Send + Sync + 'static) -> BackEnd {
        BackEnd::with(move |request| ok(&decided(request, &decide)))
    }

    /// One that answers these bytes.
    pub fn with(respond: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> BackEnd {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        BackEnd::over(listener, respond)
    }

    /// One where another was.
    pub fn at(
        address: SocketAddr,
        decide: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> BackEnd {
        let listener = wait::until("the port is free", DEADLINE, || {
            TcpListener::bind(address).ok()
        });
        BackEnd::over(listener, move |request| ok(&decided(request, &decide)))
    }

    fn over(
        listener: TcpListener,
        respond: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static,
    ) -> BackEnd {
        let shared = Arc::new(Shared {
            respond: Box::new(respond),
            ends: AtomicBool::new(false),
            connections: Mutex::new(Vec::new()),
            requests: Mutex::new(Vec::new()),
            tickets: Mutex::new(u64::MAX),
            more: Condvar::new(),
        });
        let address = listener.local_addr().expect("an address");
        let of_thread = shared.clone();
        let accepts = thread::spawn(move || {
            for stream in listener.incoming() {
                if of_thread.ends.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.expect("a connection");
                let copy = stream.try_clone().expect("a copy");
                of_thread.connections.lock().expect("no panic").push(copy);
                let shared = of_thread.clone();
                thread::spawn(move || _ = shared.serve(stream));
            }
        });
        BackEnd {
            address,
            shared,
            accepts: Some(accepts),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// From now on requests are taken and not answered.
    pub fn hold(&self) {
        *self.shared.tickets.lock().expect("no panic") = 0;
    }

    /// Answers what waits, and all that follows.
    pub fn release(&self) {
        *self.shared.tickets.lock().expect("no panic") = u64::MAX;
        self.shared.more.notify_all();
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no panic").clone()
    }

    /// All that it was asked, in the order in which it came.
    pub fn events(&self) -> Vec<Value> {
        self.requests().iter().flat_map(Request::events).collect()
    }

    /// Waits until it was asked something like this so often.
    #[track_caller]
    pub fn wait_for(&self, what: &str, times: usize, is: impl Fn(&Value) -> bool) -> Vec<Value> {
        wait::until(&format!("the back end is asked: {what}"), DEADLINE, || {
            let events: Vec<_> = self.events().into_iter().filter(&is).collect();
            (events.len() >= times).then_some(events)
        })
    }

    /// Connections that baton has opened.
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().expect("no panic").len()
    }

    /// Cuts off whoever is connected, and takes nobody any more.
    pub fn stop(mut self) -> SocketAddr {
        self.end();
        self.address
    }

    fn end(&mut self) {
        let Some(accepts) = self.accepts.take() else {
            return;
        };
        self.shared.ends.store(true, Ordering::SeqCst);
        self.release();
        let _ = TcpStream::connect(self.address);
        accepts.join().expect("no panic");
        for stream in self.shared.connections.lock().expect("no panic").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head)? == 0 {
                    return Ok(());
                }
            }
            let mut request = Request {
                head,
                body: Vec::new(),
            };
            let length = request.field("content-length").expect("a length");
            request.body.resize(length.parse().expect("a number"), 0);
            reader.read_exact(&mut request.body)?;
            self.requests
                .lock()
                .expect("no panic")
                .push(request.clone());
            let mut tickets = self.tickets.lock().expect("no panic");
            while *tickets == 0 {
                tickets = self.more.wait(tickets).expect("no panic");
            }
            drop(tickets);
            if self.ends.load(Ordering::SeqCst) {
                return Ok(());
            }
            let response = (self.respond)(&request);
            if response.is_empty() {
                return writer.shutdown(Shutdown::Both);
            }
            writer.write_all(&response)?;
        }
    }
}

/// What it decides, as it is said.
pub fn decided(request: &Request, decide: impl Fn(&Value) -> Value) -> String {
    let each = request.events().into_iter().map(|event| {
        let mut result = decide(&event);
        result["n"] = event["n"].clone();
        result
    });
    json!({ "results": each.collect::<Vec<_>>() }).to_string()
}

/// 200, with this body.
pub fn ok(body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{body}").into_bytes()
}
