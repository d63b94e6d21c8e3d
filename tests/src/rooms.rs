//! A client of `/rooms` that speaks `rooms.v1.json`, or `rooms.v1.msgpack`.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::socket::Options;
use crate::tokens;
use crate::websocket::{Message, WebSocket};

pub const SUBPROTOCOL: &str = "rooms.v1.json";
pub const MSGPACK: &str = "rooms.v1.msgpack";

/// A value as MessagePack, by a library that the server does not use for that.
#[must_use]
pub fn packed(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("whatever is JSON can be packed")
}

/// One MessagePack value, without `bin`; `None`: it is none, or more than one.
#[must_use]
pub fn try_unpacked(mut bytes: &[u8]) -> Option<Value> {
    let value = Value::deserialize(&mut rmp_serde::Deserializer::new(&mut bytes)).ok();
    value.filter(|_| bytes.is_empty())
}

#[track_caller]
#[must_use]
pub fn unpacked(bytes: &[u8]) -> Value {
    let shown = &bytes[..bytes.len().min(200)];
    try_unpacked(bytes).unwrap_or_else(|| panic!("no MessagePack: {shown:x?}"))
}

/// A place in a room's sequence: `e3:1051`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub epoch: String,
    pub offset: u64,
}

impl Position {
    #[track_caller]
    pub fn parse(value: &Value) -> Position {
        let parsed = value.as_str().and_then(|text| {
            let (epoch, offset) = text.split_once(':')?;
            Some(Position {
                epoch: epoch.to_owned(),
                offset: offset.parse().ok()?,
            })
        });
        parsed.unwrap_or_else(|| panic!("no position: {value}"))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

/// One connection, greeted.
#[derive(Debug)]
pub struct Client {
    pub socket: WebSocket,
    /// What the server said at the beginning: the object in `hello`.
    pub hello: Value,
    speaks_msgpack: bool,
    next_id: u64,
    /// Read while a reply was waited for.
    inbox: VecDeque<Value>,
}

impl Client {
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Client {
        Client::connect_with(to, Options::default())
    }

    #[track_caller]
    pub fn connect_with(to: SocketAddr, options: Options) -> Client {
        Client::open(to, "/rooms", SUBPROTOCOL, options)
    }

    /// One that speaks MessagePack.
    #[track_caller]
    pub fn msgpack(to: SocketAddr) -> Client {
        Client::open(to, "/rooms", MSGPACK, Options::default())
    }

    #[track_caller]
    pub fn open(to: SocketAddr, path: &str, subprotocol: &str, options: Options) -> Client {
        let fields = [("Sec-WebSocket-Protocol", subprotocol)];
        let socket = WebSocket::try_connect(to, path, &fields, options)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        Client::greet(socket)
    }

    /// One whose messages are compressed, both ways.
    #[track_caller]
    pub fn deflated(to: SocketAddr) -> Client {
        Client::deflated_with(to, Options::default())
    }

    #[track_caller]
    pub fn deflated_with(to: SocketAddr, options: Options) -> Client {
        let fields = [("Sec-WebSocket-Protocol", SUBPROTOCOL)];
        Client::greet(WebSocket::deflated(to, "/rooms", &fields, options))
    }

    /// One that has shown this token.
    #[track_caller]
    pub fn with_token(to: SocketAddr, token: &str) -> Client {
        Client::connect(to).shown(token)
    }

    /// A user who may do this in all rooms, for a daemon of [`tokens::with_key`].
    #[track_caller]
    pub fn with_rights(to: SocketAddr, user: &str, rights: &[&str]) -> Client {
        let rooms = json!({ "*": rights });
        Client::with_token(to, &tokens::with_rights(user, rooms))
    }

    /// It shows this token now.
    #[track_caller]
    pub fn shown(mut self, token: &str) -> Client {
        self.ok(json!({ "auth": token }));
        self
    }

    /// One that is served by this worker; others are opened until one is.
    #[track_caller]
    pub fn on_worker(to: SocketAddr, worker: u64) -> Client {
        Client::opened_on(worker, || Client::connect(to))
    }

    /// The same, of those that are opened like this.
    #[track_caller]
    pub fn opened_on(worker: u64, open: impl Fn() -> Client) -> Client {
        for _ in 0..100 {
            let client = open();
            if client.worker() == worker {
                return client;
            }
        }
        panic!("none of 100 connections is served by worker {worker}");
    }

    #[track_caller]
    pub fn greet(mut socket: WebSocket) -> Client {
        let spoken = socket.response.headers().get("sec-websocket-protocol");
        let speaks_msgpack = spoken.is_some_and(|name| name == MSGPACK);
        let first = read(&mut socket, speaks_msgpack);
        let hello = first["hello"].clone();
        assert!(hello.is_object(), "no hello: {first}");
        Client {
            socket,
            hello,
            speaks_msgpack,
            next_id: 1,
            inbox: VecDeque::new(),
        }
    }

    pub fn cid(&self) -> &str {
        self.hello["cid"].as_str().expect("hello names the cid")
    }

    /// Who serves it, as hello says.
    pub fn worker(&self) -> u64 {
        self.hello["worker"]
            .as_u64()
            .expect("hello names the worker")
    }

    /// Sends an object and waits for nothing.
    #[track_caller]
    pub fn tell(&mut self, object: Value) {
        match self.speaks_msgpack {
            true => self.socket.binary(packed(&object)),
            false => self.socket.text(&object.to_string()),
        }
    }

    /// Sends an object with an id, and returns the reply to it.
    #[track_caller]
    pub fn ask(&mut self, mut object: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        object["id"] = id.into();
        self.tell(object);
        self.reply(&id.into())
    }

    /// The reply with this id; what comes before it is kept.
    #[track_caller]
    pub fn reply(&mut self, id: &Value) -> Value {
        if let Some(at) = self.inbox.iter().position(|object| object["id"] == *id) {
            return self.inbox.remove(at).expect("it is there");
        }
        loop {
            let object = self.read();
            if object["id"] == *id {
                return object;
            }
            self.inbox.push_back(object);
        }
    }

    /// Panics unless it is `ok`, whose object it returns.
    #[track_caller]
    pub fn ok(&mut self, object: Value) -> Value {
        let reply = self.ask(object.clone());
        assert!(reply["ok"].is_object(), "{object}: {reply}");
        reply["ok"].clone()
    }

    /// Panics unless it is an error, whose code it returns.
    #[track_caller]
    pub fn error(&mut self, object: Value) -> String {
        let reply = self.ask(object.clone());
        let code = reply["error"]["code"].as_str();
        code.unwrap_or_else(|| panic!("{object}: {reply}"))
            .to_owned()
    }

    /// Joins; the position behind which messages come.
    #[track_caller]
    pub fn join(&mut self, room: &str) -> Position {
        Position::parse(&self.ok(json!({ "join": room }))["pos"])
    }

    /// Sends and waits for the ack: the message's position.
    #[track_caller]
    pub fn publish(&mut self, room: &str, data: Value) -> Position {
        Position::parse(&self.ok(json!({ "send": room, "data": data }))["pos"])
    }

    /// The next object that is not a reply, be it a message, presence, a gap or a goodbye.
    #[track_caller]
    pub fn event(&mut self) -> Value {
        if let Some(at) = self
            .inbox
            .iter()
            .position(|object| object.get("id").is_none())
        {
            return self.inbox.remove(at).expect("it is there");
        }
        loop {
            let object = self.read();
            if object.get("id").is_none() {
                return object;
            }
            self.inbox.push_back(object);
        }
    }

    /// The next message of any room.
    #[track_caller]
    pub fn message(&mut self) -> Value {
        let object = self.event();
        assert!(object.get("data").is_some(), "no message: {object}");
        object
    }

    /// Proves that nothing waits for it: a ping is answered, and nothing came before the answer.
    #[track_caller]
    pub fn nothing(&mut self) {
        self.ok(json!({ "ping": true }));
        assert!(self.inbox.is_empty(), "unexpected: {:?}", self.inbox);
    }

    /// The next object from the network.
    #[track_caller]
    pub fn read(&mut self) -> Value {
        read(&mut self.socket, self.speaks_msgpack)
    }

    /// Reads on until the Close frame; its code.
    #[track_caller]
    pub fn close_code(&mut self) -> u16 {
        self.socket.close_code()
    }
}

#[track_caller]
fn read(socket: &mut WebSocket, speaks_msgpack: bool) -> Value {
    match (socket.receive(), speaks_msgpack) {
        (Ok(Message::Text(text)), false) => {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
        }
        (Ok(Message::Binary(bytes)), true) => unpacked(&bytes),
        (other, _) => panic!("no object: {other:?}"),
    }
}
