use super::*;

fn connection(peer: &str) -> Connection {
    let fd = dev_null().into_raw_fd();
    Connection {
        cid: Cid(0),
        cookie: 77,
        holder: Holder::Nobody,
        fd: Some(fd),
        role: Role::Public,
        proxy: Proxy::None,
        refuse: false,
        remote: true,
        unix: false,
        from: None,
        lived: false,
        peer: peer.parse().unwrap(),
    }
}

fn bench() -> (State, Connections) {
    let state = State::create(4096, 1).unwrap();
    let connections = Connections::recover(&state);
    (state, connections)
}

/// What is counted here is what the state says.
fn check(state: &State, connections: &Connections) {
    let fresh = Connections::recover(state);
    let slots = |c: &Connections| c.slots().collect::<BTreeSet<_>>();
    assert_eq!(slots(&fresh), slots(connections));
    assert_eq!(fresh.loads, connections.loads);
    assert_eq!(fresh.by_address, connections.by_address);
    let counts = |c: &Connections| (c.public, c.refusing, c.waiting.len(), c.moving.clone());
    assert_eq!(counts(&fresh), counts(connections));
}

#[test]
fn a_connection_of_any_kind_comes_back_as_it_was() {
    let (state, mut connections) = bench();
    for peer in ["1.2.3.4:5", "[2001:db8::1]:65535", "[::ffff:1.2.3.4]:1"] {
        for proxy in [Proxy::None, Proxy::Read, Proxy::ReadAndReturn] {
            for (role, refuse) in [(Role::Admin, false), (Role::Public, true)] {
                let mut c = connection(peer);
                (c.proxy, c.role, c.refuse) = (proxy, role, refuse);
                (c.from, c.lived) = (Some(127), refuse);
                let slot = connections.add(&state, c).unwrap();
                c.cid = Cid(u64::from(slot) + 1);
                assert_eq!(connections.get(&state, slot), Some(c));
                (c.proxy, c.unix) = (Proxy::None, true);
                let slot = connections.add(&state, c).unwrap();
                c.cid = Cid(u64::from(slot) + 1);
                assert_eq!(connections.get(&state, slot), Some(c));
            }
        }
    }
    check(&state, &connections);
}

#[test]
fn given_acknowledged_closed() {
    let (state, mut connections) = bench();
    let slot = connections.add(&state, connection("1.2.3.4:5")).unwrap();
    assert_eq!(connections.first_waiting(), Some(slot));
    connections.give(&state, slot, 3);
    assert_eq!(connections.load(3), load(1, 0, 0));
    check(&state, &connections);
    assert!(connections.acknowledged(&state, Cid(1), 4).is_none());
    assert!(connections.acknowledged(&state, Cid(1), 3).is_some());
    assert!(connections.acknowledged(&state, Cid(1), 3).is_none());
    assert_eq!(connections.load(3), load(0, 1, 0));
    assert_eq!(connections.of_address([1, 2, 3, 4].into()), 1);
    check(&state, &connections);
    assert!(connections.remove(&state, slot).is_none());
    assert!(connections.is_empty());
    assert_eq!(connections.of_address([1, 2, 3, 4].into()), 0);
    check(&state, &connections);
}

#[test]
fn what_is_taken_back_waits_again_and_numbers_are_never_used_twice() {
    let (state, mut connections) = bench();
    let slots: Vec<u32> = (0..3)
        .map(|_| connections.add(&state, connection("1.2.3.4:5")).unwrap())
        .collect();
    for slot in &slots {
        connections.give(&state, *slot, 0);
    }
    assert_eq!(
        connections.those(&state, |c| c.holder == Holder::Given { ring: 0 }),
        slots
    );
    connections.take_back(&state, slots[1]);
    assert_eq!(connections.first_waiting(), Some(slots[1]));
    assert!(connections.remove(&state, slots[1]).is_some());
    let again = connections.add(&state, connection("1.2.3.4:5")).unwrap();
    assert_eq!(again, slots[1]);
    assert_eq!(connections.get(&state, again).unwrap().cid, Cid(4));
    check(&state, &connections);
}

/// On its way from worker 3, which had it, its fd and its past, to worker 5.
fn moving() -> (State, Connections, u32) {
    let (state, mut connections) = bench();
    let slot = connections.add(&state, connection("1.2.3.4:5")).unwrap();
    connections.give(&state, slot, 3);
    connections.acknowledged(&state, Cid(1), 3);
    let peer = "1.2.3.4:5".parse().unwrap();
    assert!(!connections.parting(&state, Cid(1), 4, peer));
    assert!(connections.parting(&state, Cid(1), 3, peer));
    assert_eq!(connections.get(&state, slot).unwrap().word(), None);
    check(&state, &connections);
    connections.returned(&state, slot, dev_null());
    assert_eq!(connections.moving(), [slot]);
    assert_eq!(connections.first_waiting(), None);
    assert_eq!(connections.load(3), load(0, 0, 1));
    check(&state, &connections);
    connections.give(&state, slot, 5);
    assert_eq!(connections.get(&state, slot).unwrap().word(), None);
    check(&state, &connections);
    (state, connections, slot)
}

#[test]
fn the_giver_is_told_when_it_is_decided_and_not_before() {
    let (state, mut connections, slot) = moving();
    assert!(connections.acknowledged(&state, Cid(1), 5).is_some());
    assert_eq!(
        (connections.load(3), connections.load(5)),
        (load(0, 0, 0), load(0, 1, 0))
    );
    let word = |c: &Connections| c.get(&state, slot).unwrap().word();
    assert_eq!(word(&connections), Some(Word::Took));
    check(&state, &connections);
    connections.told(&state, &[slot], 3);
    assert_eq!(word(&connections), None);
    check(&state, &connections);
}

#[test]
fn what_nobody_takes_is_kept_by_its_giver() {
    let (state, mut connections, slot) = moving();
    connections.take_back(&state, slot);
    assert_eq!(connections.moving(), [slot]);
    assert!(connections.keep(&state, slot).is_some());
    assert_eq!(connections.load(3), load(0, 1, 0));
    let got = connections.get(&state, slot).unwrap();
    assert_eq!((got.fd, got.word()), (None, Some(Word::Keep)));
    check(&state, &connections);
    // It may be closed before its giver is told: nothing is left to be said then.
    assert!(connections.remove(&state, slot).is_none());
    assert!(connections.is_empty());
    check(&state, &connections);
}

#[test]
fn one_that_is_closed_has_its_slot_until_its_giver_is_told() {
    let (state, mut connections, slot) = moving();
    connections.acknowledged(&state, Cid(1), 5);
    assert!(connections.remove(&state, slot).is_none());
    let got = connections.get(&state, slot).unwrap();
    assert_eq!((got.holder, got.word()), (Holder::Closed, Some(Word::Took)));
    assert_eq!(
        (connections.public(), connections.load(5)),
        (0, load(0, 0, 0))
    );
    check(&state, &connections);
    connections.told(&state, &[slot], 3);
    assert!(connections.is_empty());
    check(&state, &connections);
}

#[test]
fn a_second_fd_of_a_connection_is_closed() {
    let (state, mut connections, slot) = moving();
    let fd = connections.get(&state, slot).unwrap().fd;
    connections.returned(&state, slot, dev_null());
    assert_eq!(connections.get(&state, slot).unwrap().fd, fd);
    check(&state, &connections);
}

fn load(given: u32, held: u32, leaving: u32) -> Load {
    Load {
        given,
        held,
        leaving,
    }
}

fn dev_null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn what_nobody_uses_at_the_end_is_given_back() {
    let (state, mut connections) = bench();
    let slots: Vec<u32> = (0..2000)
        .map(|_| connections.add(&state, connection("1.2.3.4:5")).unwrap())
        .collect();
    connections.rest(&state);
    for slot in slots.iter().filter(|slot| **slot != 700) {
        drop(connections.remove(&state, *slot));
    }
    connections.rest(&state);
    check(&state, &connections);
    assert_eq!(used(&state), 701);
    assert_eq!(connections.find(&state, Cid(701)), Some(700));
    assert_eq!(state.get(state::connection(1900, 1)), 0);
    let next = connections.add(&state, connection("1.2.3.4:5"));
    assert_eq!(next, Some(0));
    check(&state, &connections);
}
