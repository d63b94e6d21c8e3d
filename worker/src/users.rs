//! Which users this worker has in a room, as the master is told: not how many connections each of them
//! has, only whether it has any.
//!
//! All of it is this brain's own. What was told is known to the master; a new brain takes that back,
//! counts anew from the slots and passes, and says when it is through.

use rustc_hash::FxHashMap;
use std::collections::HashMap;

/// A user, in one word: the token's, by its place in the table, or who has shown none, by its
/// connection's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct User(u64);

/// The names of those that are in rooms, each once.
#[derive(Debug, Default)]
pub struct Users {
    by_name: HashMap<Box<[u8]>, u32>,
    /// With how often each is in a room.
    names: Vec<(Box<[u8]>, u32)>,
    free: Vec<u32>,
}

impl Users {
    /// By its name, which is not that of a connection. It is kept from here on, once more.
    pub fn named(&mut self, name: &[u8]) -> User {
        let place = match self.by_name.get(name) {
            Some(place) => *place,
            None => {
                let place = self.free.pop().unwrap_or(self.names.len() as u32);
                if place as usize == self.names.len() {
                    self.names.push(Default::default());
                }
                self.names[place as usize].0 = name.into();
                self.by_name.insert(name.into(), place);
                place
            }
        };
        self.names[place as usize].1 += 1;
        User(u64::from(place) << 1 | 1)
    }

    /// Nobody, but for connection `cid`.
    #[must_use]
    pub fn anonymous(cid: u64) -> User {
        User(cid << 1)
    }

    fn place(user: User) -> Option<usize> {
        (user.0 & 1 == 1).then_some((user.0 >> 1) as usize)
    }

    /// It is kept once more.
    fn keep(&mut self, user: User) {
        if let Some((_, kept)) = Users::place(user).and_then(|at| self.names.get_mut(at)) {
            *kept += 1;
        }
    }

    /// It is kept once less.
    pub fn leave(&mut self, user: User) {
        let Some(place) = Users::place(user) else {
            return;
        };
        let (name, kept) = &mut self.names[place];
        *kept -= 1;
        if *kept == 0 {
            self.by_name.remove(name);
            *name = Box::default();
            self.free.push(place as u32);
        }
    }

    fn put(&self, into: &mut Vec<u8>, user: User) {
        match Users::place(user) {
            Some(place) => protocol::names::put(into, &self.names[place].0),
            None => protocol::names::put(into, format!("c{}", user.0 >> 1).as_bytes()),
        }
    }
}

/// Of one room.
#[derive(Debug, Default)]
pub struct InRoom {
    users: FxHashMap<User, Here>,
    /// Of whom what was told may not be so any more.
    changed: Vec<User>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Here {
    connections: u32,
    /// The master knows that it is here.
    told: bool,
    changed: bool,
}

impl InRoom {
    /// A connection of the user's, for which it is kept, comes or goes. True: the master is to be told.
    pub fn comes(&mut self, users: &mut Users, user: User) -> bool {
        let here = self.users.entry(user).or_insert_with(|| {
            users.keep(user);
            Here::default()
        });
        here.connections += 1;
        self.consider(user)
    }

    pub fn goes(&mut self, users: &mut Users, user: User) -> bool {
        if let Some(here) = self.users.get_mut(&user) {
            here.connections = here.connections.saturating_sub(1);
        }
        let tell = self.consider(user);
        self.drop_if_gone(users, user);
        users.leave(user);
        tell
    }

    fn consider(&mut self, user: User) -> bool {
        let Some(here) = self.users.get_mut(&user) else {
            return false;
        };
        let differs = (here.connections > 0) != here.told;
        if differs && !here.changed {
            here.changed = true;
            self.changed.push(user);
        }
        differs
    }

    fn drop_if_gone(&mut self, users: &mut Users, user: User) {
        let is_gone = |here: &Here| here.connections == 0 && !here.told && !here.changed;
        if self.users.get(&user).is_some_and(is_gone) {
            self.users.remove(&user);
            users.leave(user);
        }
    }

    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Some of what is to be told, up to about so many bytes of names: who is here now, and who is not
    /// any more. [`told`](InRoom::told) when it is.
    #[must_use]
    pub fn to_tell(&self, users: &Users, most: usize) -> (Vec<u8>, Vec<u8>, usize) {
        let (mut came, mut gone) = (Vec::new(), Vec::new());
        let mut count = 0;
        for user in self.changed.iter().rev() {
            if came.len() + gone.len() >= most {
                break;
            }
            count += 1;
            if let Some(here) = self.users.get(user) {
                match (here.connections > 0, here.told) {
                    (true, false) => users.put(&mut came, *user),
                    (false, true) => users.put(&mut gone, *user),
                    _ => {}
                }
            }
        }
        (came, gone, count)
    }

    /// The last `count` of those that had changed have been told.
    pub fn told(&mut self, users: &mut Users, count: usize) {
        for _ in 0..count {
            let Some(user) = self.changed.pop() else {
                return;
            };
            if let Some(here) = self.users.get_mut(&user) {
                (here.told, here.changed) = (here.connections > 0, false);
            }
            self.drop_if_gone(users, user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use protocol::names::Names;
    use protocol::random::Random;

    use super::*;

    fn tell(room: &mut InRoom, users: &mut Users, known: &mut BTreeSet<String>, most: usize) {
        while room.has_changed() {
            let (came, gone, count) = room.to_tell(users, most);
            let names = |bytes| {
                let names = Names::read(bytes).unwrap().iter();
                let names: Vec<String> = names
                    .map(|name| String::from_utf8(name.to_vec()).unwrap())
                    .collect();
                names
            };
            for name in names(&came) {
                assert!(known.insert(name), "told twice");
            }
            for name in names(&gone) {
                assert!(known.remove(&name), "nobody knew of it");
            }
            room.told(users, count);
        }
    }

    /// Random coming and going against a plain list; what nobody needs is kept nowhere.
    #[test]
    fn the_master_knows_who_is_there() {
        let (mut users, mut room) = (Users::default(), InRoom::default());
        let mut there: Vec<(String, User)> = Vec::new();
        let mut known = BTreeSet::new();
        let mut random = Random::new(7);
        for turn in 0..20_000 {
            let number = random.below(50);
            if random.below(2) == 0 || there.is_empty() {
                let (name, user) = match number {
                    0..25 => (format!("c{number}"), Users::anonymous(number)),
                    _ => {
                        let name = format!("u{number}");
                        let user = users.named(name.as_bytes());
                        (name, user)
                    }
                };
                room.comes(&mut users, user);
                there.push((name, user));
            } else {
                let (_, user) = there.swap_remove(number as usize % there.len());
                room.goes(&mut users, user);
            }
            if turn % 37 == 0 {
                tell(&mut room, &mut users, &mut known, 20);
                let now: BTreeSet<String> = there.iter().map(|(name, _)| name.clone()).collect();
                assert_eq!(known, now);
            }
        }
        for (_, user) in there.drain(..) {
            room.goes(&mut users, user);
        }
        tell(&mut room, &mut users, &mut known, 20);
        assert!(known.is_empty() && room.users.is_empty() && users.by_name.is_empty());
        assert_eq!(users.free.len(), users.names.len());
    }
}
