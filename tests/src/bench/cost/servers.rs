//! The servers of this subject: each is started anew for every measurement.

use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use super::dialect::Dialect;
use super::programs;
use crate::process::{self, Signal};
use crate::temp::TempDir;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Baton,
    /// The floor.
    Bare,
    Nginx,
    /// Rooms for nginx.
    Nchan,
    /// tokio-tungstenite with a read buffer of 4 KiB.
    Tungstenite,
    FastWebSockets,
    /// The program that `UWS` names; without, it is absent.
    UWebSockets,
    /// Node's cluster with its own HTTP.
    Node,
    /// One process.
    Ws,
    /// Node's cluster.
    WsCluster,
    /// Sticky sessions, and the adapter for node's cluster.
    SocketIo,
}

/// What a server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Can {
    Http,
    Echo,
    Rooms,
}

pub const KINDS: [Kind; 11] = [
    Kind::Baton,
    Kind::Bare,
    Kind::Nginx,
    Kind::Nchan,
    Kind::Tungstenite,
    Kind::FastWebSockets,
    Kind::UWebSockets,
    Kind::Node,
    Kind::Ws,
    Kind::WsCluster,
    Kind::SocketIo,
];

/// All but baton itself.
pub const PEERS: [&str; KINDS.len() - 1] = {
    let mut names = [""; KINDS.len() - 1];
    let mut number = 0;
    while number < names.len() {
        names[number] = KINDS[number + 1].name();
        number += 1;
    }
    names
};

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Baton => "baton",
            Kind::Bare => "bare",
            Kind::Nginx => "nginx",
            Kind::Nchan => "nchan",
            Kind::Tungstenite => "tungstenite",
            Kind::FastWebSockets => "fastwebsockets",
            Kind::UWebSockets => "uws",
            Kind::Node => "node",
            Kind::Ws => "ws",
            Kind::WsCluster => "ws-cluster",
            Kind::SocketIo => "socket.io",
        }
    }

    /// Can it do this, with so many workers? Who has several takes part only where there are more.
    pub fn can(self, what: Can, workers: u32) -> bool {
        match self {
            Kind::Baton | Kind::Bare | Kind::UWebSockets => true,
            Kind::Nginx | Kind::Node => what == Can::Http,
            Kind::Nchan => what == Can::Rooms,
            Kind::Tungstenite | Kind::Ws => matches!(what, Can::Echo | Can::Rooms),
            Kind::FastWebSockets => what == Can::Echo,
            Kind::WsCluster => matches!(what, Can::Echo | Can::Rooms) && workers > 1,
            Kind::SocketIo => what == Can::Rooms,
        }
    }

    /// Has it been installed? What cannot be installed is absent when it is started.
    pub fn is_there(self) -> bool {
        match self {
            Kind::Baton | Kind::Bare | Kind::UWebSockets => true,
            Kind::Nginx => programs::has("nginx"),
            Kind::Nchan => programs::nchan_program().exists(),
            Kind::Tungstenite | Kind::FastWebSockets => {
                programs::rust_program(self.name()).exists()
            }
            Kind::Node | Kind::Ws | Kind::WsCluster => programs::has("node"),
            Kind::SocketIo => programs::node_package("socket.io").exists(),
        }
    }

    /// `None`: it is absent.
    pub fn start(self, workers: u32) -> Option<Server> {
        Some(match self {
            Kind::Baton => programs::baton(workers),
            Kind::Bare => programs::bare(workers),
            Kind::Nginx => programs::nginx(workers),
            Kind::Nchan => programs::nchan(workers),
            Kind::Tungstenite | Kind::FastWebSockets => programs::rust(self.name(), workers),
            Kind::UWebSockets => return programs::uws(workers),
            Kind::Node => programs::node("node-cluster.mjs", workers, Dialect::Plain),
            Kind::Ws => programs::node("ws-rooms.mjs", 1, Dialect::Plain),
            Kind::WsCluster => programs::node("ws-rooms.mjs", workers, Dialect::Plain),
            Kind::SocketIo => programs::node("socket-io.mjs", workers, Dialect::SocketIo),
        })
    }
}

/// A server that serves; dropped, it ends.
pub struct Server {
    pub address: SocketAddr,
    /// The ways in which it answers `GET /whoami`.
    pub bodies: Vec<String>,
    /// How its rooms are spoken to.
    pub dialect: Dialect,
    pub pids: Vec<i32>,
    pub running: Running,
}

impl Server {
    /// Processor time of all its processes.
    pub fn cpu_time(&self) -> Duration {
        self.pids.iter().map(|pid| process::cpu_time(*pid)).sum()
    }

    /// Of that, seconds outside of the kernel.
    pub fn user_time(&self) -> f64 {
        let pids = self.pids.iter();
        pids.map(|pid| process::cpu_seconds(*pid).0).sum()
    }

    /// Memory of all its processes, in bytes; what they share counts once.
    pub fn memory(&self) -> u64 {
        let pids = self.pids.iter();
        pids.map(|pid| process::proportional(*pid)).sum()
    }
}

/// What ends it.
pub enum Running {
    Baton {
        _daemon: Box<crate::Baton>,
    },
    Program {
        child: Child,
        _directory: Option<TempDir>,
    },
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Running::Program { child, .. } = self {
            // Who reads it ends with it, in an orderly way, and takes its workers along.
            match child.stdin.take() {
                Some(stdin) => drop(stdin),
                None => process::signal(child.id() as i32, Signal::SIGTERM),
            }
            let _ = child.wait();
        }
    }
}
