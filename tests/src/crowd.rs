//! Many connections that are idle for the most part.

use std::collections::BTreeMap;

use crate::Baton;
use crate::http::{self, Client, Who};

/// Idle connections, which ask now and then.
#[derive(Debug)]
pub struct Crowd(pub Vec<Client>);

impl Crowd {
    #[track_caller]
    pub fn gather(baton: &Baton, size: usize) -> Crowd {
        let connect = |_| Client::connect(baton.public);
        let mut crowd = Crowd((0..size).map(connect).collect());
        crowd.ask();
        crowd
    }

    /// Every one is served; by whom.
    #[track_caller]
    pub fn ask(&mut self) -> Vec<Who> {
        let ask = |client: &mut Client| http::ask_whoami(client).expect("it is still served");
        self.0.iter_mut().map(ask).collect()
    }

    /// How many each worker serves.
    #[track_caller]
    pub fn by_worker(&mut self) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for who in self.ask() {
            *counts.entry(who.worker).or_default() += 1;
        }
        counts
    }
}
