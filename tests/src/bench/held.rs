//! Connections that are open and idle, held by processes of their own: one process may not have as
//! many files open as baton has connections. Each process is `src/bin/held.rs`.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::plain::Plain;
use crate::process;
use crate::socket::loopback;

/// Connections that a process holds.
const OF_A_PROCESS: usize = 12_000;
/// Connections from one address.
const OF_AN_ADDRESS: usize = 4_000;

/// So many idle WebSockets; dropped, they are closed.
pub struct Held {
    processes: Vec<Holder>,
}

struct Holder {
    child: Child,
    /// Closed before it is waited for.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    holds: usize,
}

impl Held {
    /// At `/echo`.
    pub fn connect(to: SocketAddr, connections: usize) -> io::Result<Held> {
        Held::with(to, connections, None)
    }

    /// In this room.
    pub fn members(to: SocketAddr, connections: usize, room: &str) -> io::Result<Held> {
        Held::with(to, connections, Some(room))
    }

    fn with(to: SocketAddr, connections: usize, room: Option<&str>) -> io::Result<Held> {
        let mut held = Held {
            processes: Vec::new(),
        };
        let mut first = 0;
        while first < connections {
            let some = OF_A_PROCESS.min(connections - first);
            held.processes.push(Holder::start(to, first, some, room)?);
            first += some;
        }
        held.ask()?;
        Ok(held)
    }

    /// Each of them is answered.
    pub fn ask(&mut self) -> io::Result<()> {
        for holder in &mut self.processes {
            let said = holder.stdin.as_mut().map(|stdin| stdin.write_all(b"\n"));
            said.transpose()?;
        }
        for holder in &mut self.processes {
            let mut line = String::new();
            holder.stdout.read_line(&mut line)?;
            if line.trim().parse() != Ok(holder.holds) {
                return Err(io::Error::other(format!("of {}: {line:?}", holder.holds)));
            }
        }
        Ok(())
    }
}

impl Holder {
    fn start(to: SocketAddr, first: usize, holds: usize, room: Option<&str>) -> io::Result<Holder> {
        let mut child = Command::new(env::current_exe()?.with_file_name("held"))
            .args([to.to_string(), first.to_string(), holds.to_string()])
            .args(room)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Holder {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().expect("it is a pipe")),
            child,
            holds,
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// What such a process does: connects, and for each line that it reads asks all and says how many
/// have answered.
pub fn hold(to: SocketAddr, first: usize, holds: usize, room: Option<&str>) -> io::Result<()> {
    process::raise_open_files();
    let connect = |number: usize| {
        let from = loopback((number / OF_AN_ADDRESS) as u32 + FIRST_ADDRESS);
        let path = room.map_or("/echo", |_| "/rooms");
        let mut plain = Plain::connect_from(to, path, Some(from), 512)?;
        if let Some(room) = room {
            plain.greeting()?;
            plain.ask(&format!(r#"{{"id":1,"join":"{room}"}}"#))?;
        }
        Ok(plain)
    };
    let (question, answer) = match room {
        Some(_) => (r#"{"id":1,"ping":true}"#, r#"{"id":1,"ok":"#),
        None => ("question", "question"),
    };
    let mut all = (first..first + holds)
        .map(connect)
        .collect::<io::Result<Vec<_>>>()?;
    for line in io::stdin().lines() {
        line?;
        for plain in &mut all {
            let heard = plain.ask(question)?;
            if !heard.starts_with(answer) {
                return Err(io::Error::other(heard));
            }
        }
        println!("{}", all.len());
    }
    Ok(())
}

/// Other clients of a bench have those before it.
const FIRST_ADDRESS: u32 = 1 << 20;
