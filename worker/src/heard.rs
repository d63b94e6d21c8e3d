//! What a connection that lags is owed of who comes and goes: of each room one event, however many
//! there were. So what waits for one that reads slowly is bounded by who is there, not by how long it
//! takes.

use std::collections::BTreeSet;

use protocol::names::{self, Names};
use protocol::record::{Down, Who};

use crate::client::ToClient;
use crate::rooms::RoomIx;

type Set = BTreeSet<Box<[u8]>>;

/// Of some rooms, each once.
#[derive(Debug, Default)]
pub struct Heard(Vec<(RoomIx, Said)>);

#[derive(Debug)]
struct Said {
    total: u32,
    distinct: Option<u32>,
    users: Users,
}

#[derive(Debug)]
enum Users {
    /// Their names are not told.
    Numbers,
    Changed {
        came: Set,
        gone: Set,
    },
    List(Set),
}

fn set(names: Names<'_>) -> Set {
    names.iter().map(Box::from).collect()
}

fn packed(set: &Set) -> Vec<u8> {
    let mut bytes = Vec::new();
    set.iter().for_each(|name| names::put(&mut bytes, name));
    bytes
}

impl Heard {
    /// A record that tells something of the room follows what has been told.
    pub fn add(&mut self, room: RoomIx, down: &Down<'_>) {
        let (total, distinct, users) = match *down {
            Down::List { who, .. } => {
                let users = who.users.map(set);
                let users = users.map_or(Users::Numbers, Users::List);
                (who.total, who.distinct, users)
            }
            Down::Changes {
                total,
                distinct,
                names,
                ..
            } => {
                let users = names.map_or(Users::Numbers, |[came, gone]| Users::Changed {
                    came: set(came),
                    gone: set(gone),
                });
                (total, distinct, users)
            }
            _ => return,
        };
        match self.0.iter_mut().find(|(other, _)| *other == room) {
            Some((_, said)) => {
                (said.total, said.distinct) = (total, distinct);
                said.users.then(users);
            }
            None => self.0.push((
                room,
                Said {
                    total,
                    distinct,
                    users,
                },
            )),
        }
    }

    /// Calls `put` with what is to be said of each room, whose names `name` knows.
    pub fn each(self, name: impl Fn(RoomIx) -> Vec<u8>, mut put: impl FnMut(ToClient<'_>)) {
        for (room, said) in self.0 {
            let room = &name(room);
            let read = |bytes| Names::read(bytes).unwrap_or_default();
            let Said {
                total, distinct, ..
            } = said;
            match &said.users {
                Users::Numbers => put(ToClient::Changes {
                    room,
                    total,
                    distinct,
                    names: None,
                }),
                Users::Changed { came, gone } => {
                    let (came, gone) = (packed(came), packed(gone));
                    put(ToClient::Changes {
                        room,
                        total,
                        distinct,
                        names: Some([read(&came), read(&gone)]),
                    });
                }
                Users::List(all) => {
                    let all = packed(all);
                    let who = Who {
                        total,
                        distinct,
                        users: Some(read(&all)),
                    };
                    put(ToClient::List { room, who });
                }
            }
        }
    }
}

impl Users {
    fn then(&mut self, next: Users) {
        match (&mut *self, next) {
            // Who came and went, or went and came, is where it was.
            (
                Users::Changed { came, gone },
                Users::Changed {
                    came: comes,
                    gone: goes,
                },
            ) => {
                for name in comes {
                    if !gone.remove(&name) {
                        came.insert(name);
                    }
                }
                for name in goes {
                    if !came.remove(&name) {
                        gone.insert(name);
                    }
                }
            }
            (Users::List(all), Users::Changed { came, gone }) => {
                all.extend(came);
                gone.iter().for_each(|name| _ = all.remove(name));
            }
            // There is no list to which it would apply.
            (Users::Numbers, Users::Changed { .. }) => {}
            (_, next) => *self = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::random::Random;

    use super::*;

    const NUMBERS: usize = 2000;

    /// Who hears all at once knows as much as who has heard it one after the other.
    #[test]
    fn together_they_say_the_same() {
        let mut random = Random::new(5);
        let mut below = |n: u64| random.below(n);
        let room = RoomIx::default();
        for _ in 0..NUMBERS {
            let mut there: Set = Set::new();
            let (mut knows, mut large) = (Some(there.clone()), false);
            let mut begin = knows.clone();
            let mut heard = Heard::default();
            for step in 0..10 {
                let before = there.clone();
                for _ in 0..below(4) {
                    let name: Box<[u8]> = [b'a' + below(8) as u8].into();
                    if !there.remove(&name) {
                        there.insert(name);
                    }
                }
                let was_large = std::mem::replace(&mut large, below(5) == 0);
                let all = packed(&there);
                let [came, gone] = [
                    packed(&there.difference(&before).cloned().collect()),
                    packed(&before.difference(&there).cloned().collect()),
                ];
                let read = |bytes| Names::read(bytes).unwrap();
                let distinct = Some(there.len() as u32);
                let down = if !large && was_large {
                    let users = Some(read(&all));
                    let who = Who {
                        total: step,
                        distinct,
                        users,
                    };
                    Down::List { room: 0, who }
                } else {
                    Down::Changes {
                        room: 0,
                        total: step,
                        distinct,
                        names: (!large).then(|| [read(&came), read(&gone)]),
                    }
                };
                knows = (!large).then(|| there.clone());
                // The first are told at once.
                if step < 3 {
                    begin.clone_from(&knows);
                } else {
                    heard.add(room, &down);
                }
            }
            let mut count = 0;
            heard.each(
                |_| b"r".to_vec(),
                |said| {
                    count += 1;
                    match said {
                        ToClient::List { who, .. } => begin = who.users.map(set),
                        ToClient::Changes {
                            total,
                            names: Some([came, gone]),
                            ..
                        } => {
                            let users = begin.as_mut().expect("a list");
                            assert_eq!(total, 9);
                            assert!(came.iter().all(|name| users.insert(name.into())));
                            assert!(gone.iter().all(|name| users.remove(name)));
                        }
                        _ => begin = None,
                    }
                },
            );
            assert_eq!((begin, count), (knows, 1));
        }
    }
}
