//! Which worker gets a connection: four policies, each a pure function over the worker table.
//!
//! A worker that is full, stopped or not ready is passed over by all of them. When all are, nobody
//! is chosen: the master stops accepting, and the kernel's backlog holds what comes.

use std::net::IpAddr;

use protocol::ids::Seat;

use crate::config::Policy;

/// One worker, as far as choosing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub seat: Seat,
    /// It is ready, and neither its window of unacknowledged connections nor its limit is reached.
    pub open: bool,
    /// Connections that it holds or has been given.
    pub connections: u32,
}

/// What a choice may depend on besides the table.
#[derive(Clone, Copy, Debug)]
pub struct Occasion {
    /// The seat that the last choice fell on.
    pub last: Option<Seat>,
    /// Any 64 random bits.
    pub random: u64,
    /// The client.
    pub address: IpAddr,
}

/// The index of the chosen worker in the table, which is in the order of seats.
#[must_use]
pub fn choose(policy: Policy, table: &[Candidate], occasion: &Occasion) -> Option<usize> {
    match policy {
        Policy::RoundRobin => round_robin(table, occasion.last),
        Policy::LeastConnections => least_connections(table),
        Policy::TwoChoices => two_choices(table, occasion.random),
        Policy::IpHash => ip_hash(table, occasion.address),
    }
}

/// The next open seat behind the last one, around the table.
#[must_use]
fn round_robin(table: &[Candidate], last: Option<Seat>) -> Option<usize> {
    let behind = |c: &Candidate| last.is_none_or(|last| c.seat > last);
    table
        .iter()
        .position(|c| c.open && behind(c))
        .or_else(|| table.iter().position(|c| c.open))
}

/// The open worker with the fewest connections; of several, the first.
#[must_use]
pub fn least_connections(table: &[Candidate]) -> Option<usize> {
    open(table)
        .min_by_key(|(_, c)| c.connections)
        .map(|(index, _)| index)
}

/// Of two different open workers, drawn at random, the one with fewer connections: nearly as even
/// as looking at all (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001),
/// and many that choose at once do not all run to the same one.
#[must_use]
fn two_choices(table: &[Candidate], random: u64) -> Option<usize> {
    let n = open(table).count();
    if n < 2 {
        return open(table).next().map(|(index, _)| index);
    }
    let first = (random >> 32) as usize % n;
    // One of the others: at a distance of 1 to n-1.
    let second = (first + 1 + (random & 0xffff_ffff) as usize % (n - 1)) % n;
    let (first, a) = open(table).nth(first)?;
    let (second, b) = open(table).nth(second)?;
    Some(if b.connections < a.connections {
        second
    } else {
        first
    })
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): every seat has a score for the address, the
/// highest open one wins. A seat that comes or goes moves only what it wins or had won.
#[must_use]
pub fn ip_hash(table: &[Candidate], address: IpAddr) -> Option<usize> {
    open(table)
        .max_by_key(|(_, c)| score(c.seat, address))
        .map(|(index, _)| index)
}

fn open(table: &[Candidate]) -> impl Iterator<Item = (usize, &Candidate)> {
    table.iter().enumerate().filter(|(_, c)| c.open)
}

fn score(seat: Seat, address: IpAddr) -> u64 {
    // A dual-stack listener shows IPv4 clients as ::ffff:a.b.c.d.
    let bits = match address.to_canonical() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    mix(mix(mix(bits as u64) ^ (bits >> 64) as u64) ^ u64::from(seat.0))
}

/// The finalizer of SplitMix64: every bit of the input moves half of the output's.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const POLICIES: [Policy; 4] = [
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::TwoChoices,
        Policy::IpHash,
    ];

    fn table(n: u16) -> Vec<Candidate> {
        (1..=n)
            .map(|seat| Candidate {
                seat: Seat(seat),
                open: true,
                connections: 0,
            })
            .collect()
    }

    fn address(i: u64) -> IpAddr {
        Ipv4Addr::from(mix(i) as u32).into()
    }

    /// `connections` long connections, one after the other; the table as it is then.
    fn run(policy: Policy, mut table: Vec<Candidate>, connections: u64) -> Vec<Candidate> {
        let mut last = None;
        for i in 0..connections {
            let occasion = Occasion {
                last,
                random: mix(i),
                address: address(i),
            };
            let chosen = choose(policy, &table, &occasion).unwrap();
            assert!(table[chosen].open);
            table[chosen].connections += 1;
            last = Some(table[chosen].seat);
        }
        table
    }

    fn spread(table: &[Candidate]) -> u32 {
        let open = || table.iter().filter(|c| c.open).map(|c| c.connections);
        open().max().unwrap() - open().min().unwrap()
    }

    #[test]
    fn round_robin_and_least_connections_stay_within_one() {
        for n in [1, 2, 3, 8, 64] {
            assert!(spread(&run(Policy::RoundRobin, table(n), 1001)) <= 1);
            assert!(spread(&run(Policy::LeastConnections, table(n), 1001)) <= 1);
        }
    }

    #[test]
    fn round_robin_stays_within_one_among_those_that_are_open() {
        let mut seats = table(5);
        seats[0].open = false;
        seats[3].open = false;
        let seats = run(Policy::RoundRobin, seats, 1000);
        assert!(spread(&seats) <= 1);
        assert_eq!(seats[0].connections + seats[3].connections, 0);
    }

    /// The literature: mean + log2(log2 n) + O(1), where one random choice gives far more.
    #[test]
    fn two_choices_keep_the_maximum_near_the_mean() {
        for n in [2u16, 4, 16, 64] {
            let seats = run(Policy::TwoChoices, table(n), 1000 * u64::from(n));
            let most = seats.iter().map(|c| c.connections).max().unwrap();
            assert!(most <= 1000 + 6, "{n} seats: {most}");
        }
    }

    #[test]
    fn ip_hash_is_even_enough_and_always_the_same() {
        let seats = run(Policy::IpHash, table(8), 80_000);
        for c in &seats {
            assert!((9_500..10_500).contains(&c.connections), "{c:?}");
        }
        assert_eq!(seats, run(Policy::IpHash, table(8), 80_000));
        let v4 = Ipv4Addr::new(10, 1, 2, 3);
        for n in 1..=64 {
            let mapped: Ipv6Addr = v4.to_ipv6_mapped();
            assert_eq!(
                ip_hash(&table(n), v4.into()),
                ip_hash(&table(n), mapped.into())
            );
        }
    }

    #[test]
    fn ip_hash_moves_only_what_a_new_seat_wins() {
        for n in 1..=16u16 {
            let (before, after) = (table(n), table(n + 1));
            let mut moved = 0;
            for i in 0..20_000 {
                let old = ip_hash(&before, address(i)).unwrap();
                let new = ip_hash(&after, address(i)).unwrap();
                if old != new {
                    assert_eq!(new, n as usize, "only the new seat wins anything");
                    moved += 1;
                }
            }
            let share = f64::from(moved) / 20_000.0;
            assert!(
                share <= 1.0 / f64::from(n + 1) + 0.05,
                "{n} + 1 seats: {share}"
            );
        }
    }

    #[test]
    fn all_pass_over_who_is_not_open() {
        let mut seats = table(4);
        for closed in 0..4 {
            seats[closed].open = false;
            for policy in POLICIES {
                for i in 0..200 {
                    let occasion = Occasion {
                        last: Some(Seat(1 + (i % 5) as u16)),
                        random: mix(i),
                        address: address(i),
                    };
                    let chosen = choose(policy, &seats, &occasion);
                    assert_eq!(chosen.is_none(), closed == 3);
                    assert!(chosen.is_none_or(|index| seats[index].open));
                }
            }
        }
    }
}
