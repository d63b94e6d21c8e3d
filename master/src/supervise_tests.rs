use protocol::random::Random;

use super::*;

const PATIENCE: Patience = Patience {
    ready: 5_000,
    hung: 10_000,
    moving: 10_000,
    retire: 8_000,
};

struct Bench {
    supervisor: Supervisor,
    now: u64,
    actions: Vec<Action>,
}

impl Bench {
    /// `n` seats, all ready.
    fn ready(n: u16) -> Bench {
        let mut bench = Bench::empty();
        bench.on(Event::Seats(n));
        for ring in bench.rings() {
            bench.on(Event::Hello { ring });
            bench.on(Event::Ready { ring });
        }
        assert!(bench.supervisor.all_ready());
        bench.actions.clear();
        bench
    }

    fn empty() -> Bench {
        Bench {
            supervisor: Supervisor::new(PATIENCE),
            now: 1_000,
            actions: Vec::new(),
        }
    }

    fn on(&mut self, event: Event) {
        self.supervisor.on(self.now, event, &mut self.actions);
    }

    /// Time passes as it does in the brain: with ticks, and turns of all loops but `hung`'s.
    fn pass(&mut self, ms: u64, hung: Option<u16>) {
        let end = self.now + ms;
        while self.now < end {
            self.now = (self.now + 1_000).min(end);
            for ring in self.rings() {
                let turns = if hung == Some(ring) { 7 } else { self.now };
                self.on(Event::Turns { ring, turns });
            }
            self.on(Event::Tick);
        }
    }

    fn rings(&self) -> Vec<u16> {
        let with_process = self.supervisor.workers().iter();
        with_process
            .filter(|w| w.has_process())
            .map(|w| w.ring)
            .collect()
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    fn phase(&self, ring: u16) -> (Part, Phase) {
        let worker = self.supervisor.by_ring(ring).unwrap();
        (worker.part, worker.phase)
    }

    /// The rings of one seat's old and new worker; the old one's connections are moving.
    fn relieved() -> (Bench, u16, u16) {
        let mut bench = Bench::ready(2);
        let old = bench.rings()[0];
        bench.on(Event::Relieve(Seat(1)));
        let new = spawned(&bench.take()).unwrap();
        bench.on(Event::Ready { ring: new });
        assert_eq!(bench.take(), [Action::Tell(News::Seated(Seat(1)))]);
        (bench, old, new)
    }

    fn stuck(&mut self, ring: u16) {
        let why = "full".to_owned();
        self.on(Event::Stuck { ring, why });
    }

    fn gone(&mut self, ring: u16) {
        let why = "killed".to_owned();
        self.on(Event::Gone { ring, why });
    }
}

fn spawned(actions: &[Action]) -> Option<u16> {
    actions.iter().find_map(|action| match action {
        Action::Spawn { ring, .. } => Some(*ring),
        _ => None,
    })
}

#[test]
fn restarts_back_off_and_readiness_resets_that() {
    let mut bench = Bench::ready(1);
    let mut delays = Vec::new();
    for _ in 0..20 {
        let ring = bench.rings()[0];
        bench.gone(ring);
        let taken = bench.take();
        let [Action::Tell(News::Again { delay, .. })] = taken[..] else {
            panic!("{taken:?}")
        };
        delays.push(delay);
        bench.pass(delay - 1, None);
        assert_eq!(bench.take(), []);
        bench.pass(1, None);
        assert!(spawned(&bench.take()).is_some());
    }
    assert_eq!(delays[..4], [100, 150, 225, 337]);
    assert_eq!(delays[19], 30_000);
    let ring = bench.rings()[0];
    bench.on(Event::Ready { ring });
    bench.take();
    bench.gone(ring);
    let again = bench.take();
    assert!(matches!(
        again[0],
        Action::Tell(News::Again {
            delay: 100,
            was_ready: true,
            ..
        })
    ));
}

#[test]
fn one_that_is_not_ready_in_time_is_killed() {
    let mut bench = Bench::empty();
    bench.on(Event::Seats(1));
    let ring = spawned(&bench.take()).unwrap();
    bench.pass(PATIENCE.ready, None);
    let why = "it was not ready in time";
    assert_eq!(bench.take(), [Action::Kill { ring, why }]);
}

#[test]
fn a_hung_worker_is_aborted_and_then_killed() {
    let mut bench = Bench::ready(2);
    let ring = bench.rings()[1];
    bench.pass(PATIENCE.hung, Some(ring));
    assert_eq!(bench.take(), []);
    bench.pass(1_000, Some(ring));
    let standstill = PATIENCE.hung;
    assert_eq!(bench.take(), [Action::Abort { ring, standstill }]);
    bench.pass(1_000, Some(ring));
    assert_eq!(bench.take(), [Action::KillBrain { ring }]);
    bench.pass(PATIENCE.ready, Some(ring));
    let why = "it was not ready in time";
    assert_eq!(bench.take(), [Action::Kill { ring, why }]);
    bench.pass(1_000, Some(ring));
    let why = "it is not gone";
    assert_eq!(bench.take(), [Action::Kill { ring, why }]);
}

#[test]
fn a_brain_that_aborts_makes_way_for_the_next_brain() {
    let mut bench = Bench::ready(1);
    let ring = bench.rings()[0];
    bench.pass(PATIENCE.hung + 1_000, Some(ring));
    bench.take();
    bench.on(Event::Hello { ring });
    bench.on(Event::Ready { ring });
    bench.pass(3_000, None);
    assert_eq!(bench.take(), [Action::Tell(News::Seated(Seat(1)))]);
}

#[test]
fn a_jump_of_the_clock_is_nobodys_standstill() {
    let mut bench = Bench::ready(1);
    let ring = bench.rings()[0];
    bench.pass(4_000, Some(ring));
    bench.now += 3_600_000;
    bench.pass(9_000, Some(ring));
    assert_eq!(bench.take(), []);
}

#[test]
fn a_guard_that_dies_alone_is_not_the_worker() {
    let mut bench = Bench::ready(1);
    let ring = bench.rings()[0];
    bench.on(Event::GuardDied { ring });
    bench.pass(1_000, None);
    bench.on(Event::Hello { ring });
    bench.on(Event::Ready { ring });
    bench.pass(2 * PATIENCE.ready, None);
    assert_eq!(bench.take(), [Action::Tell(News::Seated(Seat(1)))]);
    bench.on(Event::GuardDied { ring });
    bench.pass(PATIENCE.ready, None);
    let why = "it did not replace its guard";
    assert_eq!(bench.take(), [Action::Kill { ring, why }]);
}

#[test]
fn a_relief_takes_over_when_ready_and_the_old_one_leaves() {
    let (mut bench, old, new) = Bench::relieved();
    assert_ne!(new, old);
    let until = bench.now + PATIENCE.moving;
    assert_eq!(bench.phase(old), (Part::Leaver, Phase::Parting { until }));
    assert!(!bench.supervisor.is_settled());
    bench.on(Event::Parted { ring: old });
    let within = PATIENCE.retire;
    assert_eq!(bench.take(), [Action::Retire { ring: old, within }]);
    bench.pass(1_000, None);
    bench.gone(old);
    assert_eq!(bench.take(), [Action::Tell(News::Left(Seat(1)))]);
    assert_eq!(bench.supervisor.seats(), [Seat(1), Seat(2)]);
    assert!(bench.supervisor.is_settled());
}

fn relief_failed(actions: &[Action]) -> bool {
    matches!(
        actions,
        [Action::Tell(News::ReliefFailed { seat: Seat(1), .. })]
    )
}

#[test]
fn who_cannot_be_relieved_of_all_stays_and_gets_the_rest_back() {
    for by_time in [false, true] {
        let (mut bench, old, new) = Bench::relieved();
        if by_time {
            bench.pass(PATIENCE.moving, None);
        } else {
            bench.stuck(old);
        }
        assert!(relief_failed(&bench.take()));
        assert_eq!(bench.phase(old), (Part::Holder, Phase::Ready));
        let (part, phase) = bench.phase(new);
        assert!(part == Part::Leaver && matches!(phase, Phase::Parting { .. }));
        bench.on(Event::Parted { ring: new });
        assert!(matches!(bench.take()[..], [Action::Retire { ring, .. }] if ring == new));
        bench.gone(new);
        assert_eq!(bench.take(), [Action::Tell(News::Left(Seat(1)))]);
        assert!(bench.supervisor.is_settled());
    }
}

/// The old one has its seat again while the new one hangs: that one is helped, and then gives back.
#[test]
fn a_new_worker_that_hangs_gives_back_what_it_has_once_it_is_helped() {
    let (mut bench, old, new) = Bench::relieved();
    // Its loop stood still from the last second of the move on.
    bench.pass(PATIENCE.moving - 1_000, None);
    bench.pass(1_000, Some(new));
    assert!(relief_failed(&bench.take()));
    bench.pass(PATIENCE.hung, Some(new));
    let standstill = PATIENCE.hung;
    let ring = new;
    assert_eq!(bench.take(), [Action::Abort { ring, standstill }]);
    bench.on(Event::Hello { ring });
    bench.on(Event::Ready { ring });
    bench.pass(PATIENCE.moving - 1_000, None);
    assert_eq!(bench.take(), []);
    assert_eq!(bench.phase(old), (Part::Holder, Phase::Ready));
    // If it cannot, its clients go.
    bench.pass(1_000, None);
    let actions = bench.take();
    assert!(matches!(actions[0], Action::Tell(News::LetGo { .. })));
    assert!(matches!(actions[1], Action::Retire { ring, .. } if ring == new));
}

#[test]
fn a_new_worker_that_dies_in_the_middle_leaves_the_seat_to_the_old_one() {
    let (mut bench, old, new) = Bench::relieved();
    bench.gone(new);
    assert!(relief_failed(&bench.take()));
    assert_eq!(bench.phase(old), (Part::Holder, Phase::Ready));
    assert!(bench.supervisor.is_settled());
}

#[test]
fn an_old_worker_that_dies_in_the_middle_has_left() {
    let (mut bench, old, new) = Bench::relieved();
    bench.on(Event::Hello { ring: old });
    assert!(matches!(bench.phase(old).1, Phase::Starting { .. }));
    bench.on(Event::Ready { ring: old });
    let until = bench.now + PATIENCE.moving;
    assert_eq!(bench.phase(old).1, Phase::Parting { until });
    bench.gone(old);
    assert_eq!(bench.take(), [Action::Tell(News::Left(Seat(1)))]);
    assert_eq!(bench.phase(new), (Part::Holder, Phase::Ready));
}

#[test]
fn who_cannot_be_scaled_away_stays() {
    let mut bench = Bench::ready(2);
    let ring = bench.rings()[1];
    bench.on(Event::Seats(1));
    assert_eq!(bench.take(), []);
    bench.stuck(ring);
    assert!(matches!(
        bench.take()[..],
        [Action::Tell(News::Stayed { seat: Seat(2), .. })]
    ));
    assert_eq!(bench.phase(ring), (Part::Holder, Phase::Ready));
}

#[test]
fn who_is_wanted_again_before_it_has_left_stays() {
    let mut bench = Bench::ready(3);
    let rings = bench.rings();
    bench.on(Event::Seats(1));
    bench.on(Event::Parted { ring: rings[2] });
    bench.take();
    bench.on(Event::Seats(3));
    // The third one says goodbye already.
    assert!(spawned(&bench.take()).is_some());
    assert_eq!(bench.phase(rings[1]), (Part::Holder, Phase::Ready));
    assert_eq!(bench.supervisor.seats(), [Seat(1), Seat(2), Seat(3)]);
}

#[test]
fn a_seat_whose_brains_all_die_is_given_up_until_it_is_ordered_again() {
    let mut bench = Bench::ready(2);
    let ring = bench.rings()[1];
    bench.on(Event::Evacuates { ring });
    assert_eq!(bench.take(), [Action::Tell(News::GivenUp(Seat(2)))]);
    assert!(matches!(bench.phase(ring).1, Phase::Parting { .. }));
    bench.on(Event::Parted { ring });
    bench.gone(ring);
    assert!(bench.supervisor.is_given_up(Seat(2)) && bench.supervisor.all_ready());
    bench.take();
    bench.on(Event::Resume(2));
    assert_eq!(bench.take(), [], "a new brain of the master orders nothing");
    bench.on(Event::Relieve(Seat(2)));
    let ring = spawned(&bench.take()).unwrap();
    bench.on(Event::Ready { ring });
    assert!(!bench.supervisor.is_given_up(Seat(2)));
    assert_eq!(bench.supervisor.seats(), [Seat(1), Seat(2)]);
}

#[test]
fn the_only_worker_is_evacuated_to_a_fresh_one() {
    let mut bench = Bench::ready(1);
    let old = bench.rings()[0];
    bench.on(Event::Evacuates { ring: old });
    let new = spawned(&bench.take()).unwrap();
    bench.on(Event::Ready { ring: new });
    assert_eq!(bench.phase(new), (Part::Holder, Phase::Ready));
    assert_eq!(bench.phase(old).0, Part::Leaver);
    bench.on(Event::Parted { ring: old });
    bench.gone(old);
    assert!(bench.supervisor.is_settled());
}

#[test]
fn a_new_worker_whose_brains_all_die_gives_back() {
    let (mut bench, old, new) = Bench::relieved();
    bench.on(Event::Evacuates { ring: new });
    assert!(relief_failed(&bench.take()));
    assert_eq!(bench.phase(old), (Part::Holder, Phase::Ready));
    assert!(matches!(
        bench.phase(new),
        (Part::Leaver, Phase::Parting { .. })
    ));
}

/// The next brain of the master finds both workers of a seat, in any state of a reload.
#[test]
fn what_a_brain_of_the_master_had_begun_comes_to_an_end() {
    let marks = Marks::default();
    let parts = [
        (Part::Holder, Part::Leaver),
        (Part::Holder, Part::Relief),
        (Part::Holder, Part::Holder),
        (Part::Leaver, Part::Holder),
    ];
    for (first, second) in parts {
        let mut bench = Bench::empty();
        bench.supervisor.adopt(bench.now, Seat(1), 3, first, marks);
        bench.supervisor.adopt(bench.now, Seat(1), 4, second, marks);
        bench.on(Event::Resume(1));
        for ring in [3, 4] {
            bench.on(Event::Parted { ring });
        }
        let leaver = bench.take().iter().find_map(|action| match action {
            Action::Retire { ring, .. } | Action::Kill { ring, .. } => Some(*ring),
            _ => None,
        });
        bench.gone(leaver.expect("one of the two goes"));
        assert!(bench.supervisor.is_settled() && bench.supervisor.all_ready());
    }
}

#[test]
fn a_relief_that_fails_changes_nothing() {
    let mut bench = Bench::ready(1);
    let old = bench.rings()[0];
    bench.on(Event::Relieve(Seat(1)));
    let new = spawned(&bench.take()).unwrap();
    bench.pass(PATIENCE.ready, None);
    bench.gone(new);
    let taken = bench.take();
    assert!(matches!(
        taken.last(),
        Some(Action::Tell(News::ReliefFailed { seat: Seat(1), .. }))
    ));
    assert_eq!(bench.rings(), [old]);
    assert!(bench.supervisor.all_ready());
}

#[test]
fn fewer_seats_retire_the_highest_and_the_rest_stay() {
    let mut bench = Bench::ready(4);
    bench.on(Event::Seats(2));
    for ring in bench.rings() {
        bench.on(Event::Parted { ring });
    }
    let retired = bench.take();
    assert_eq!(retired.len(), 2);
    assert_eq!(bench.supervisor.seats(), [Seat(1), Seat(2)]);
    bench.pass(PATIENCE.retire + KILL_AGAIN, None);
    let kills = bench.take();
    assert!(kills.iter().all(|a| matches!(a, Action::Kill { .. })));
    assert_eq!(kills.len(), 2);
}

#[test]
fn a_stop_lets_them_end_and_a_fast_one_does_not() {
    for fast in [false, true] {
        let mut bench = Bench::ready(2);
        bench.on(Event::Relieve(Seat(1)));
        bench.take();
        bench.on(Event::Stop { fast });
        let actions = bench.take();
        let killed = |a: &&Action| matches!(a, Action::Kill { .. });
        assert_eq!(
            actions.iter().filter(killed).count(),
            if fast { 3 } else { 1 }
        );
        for ring in bench.rings() {
            bench.gone(ring);
        }
        assert_eq!(bench.take().last(), Some(&Action::Tell(News::AllGone)));
        bench.pass(60_000, None);
        assert_eq!(bench.take(), []);
    }
}

/// Anything may happen at any time: no ring number has two owners, no seat two holders with a
/// process, and once the storm is over every wanted seat comes to be served.
#[test]
fn after_any_storm_every_seat_is_served() {
    for seed in 1..200u64 {
        let mut random = Random::new(seed);
        let mut next = move |n: u64| random.below(n);
        let mut bench = Bench::empty();
        let mut wanted = 3;
        bench.on(Event::Seats(wanted));
        for _ in 0..300 {
            let ring = next(12) as u16;
            match next(12) {
                9 => bench.on(Event::Evacuates { ring }),
                10 => bench.on(Event::Parted { ring }),
                11 => bench.stuck(ring),
                0 => bench.gone(ring),
                1 => bench.on(Event::Hello { ring }),
                2 | 3 => bench.on(Event::Ready { ring }),
                4 => bench.on(Event::GuardDied { ring }),
                5 => {
                    wanted = 1 + next(5) as u16;
                    bench.on(Event::Seats(wanted));
                }
                6 => bench.on(Event::Relieve(Seat(1 + next(u64::from(wanted)) as u16))),
                7 => bench.pass(next(3_000), None),
                _ => bench.pass(100, None),
            }
            let mut rings = bench.rings();
            rings.sort_unstable();
            let all = rings.len();
            rings.dedup();
            assert_eq!(rings.len(), all, "seed {seed}");
            for seat in bench.supervisor.seats() {
                let holders = bench.supervisor.workers().iter();
                let holders = holders.filter(|w| w.seat == seat && w.part == Part::Holder);
                assert_eq!(holders.count(), 1, "seed {seed}");
            }
        }
        // Those that were given up are wanted again.
        bench.on(Event::Seats(wanted));
        for _ in 0..100 {
            for ring in bench.rings() {
                bench.on(Event::Parted { ring });
            }
            for action in bench.take() {
                match action {
                    Action::Spawn { ring, .. } => bench.on(Event::Ready { ring }),
                    Action::Retire { ring, .. } | Action::Kill { ring, .. } => bench.gone(ring),
                    Action::Abort { .. } | Action::KillBrain { .. } | Action::Tell(_) => {}
                }
            }
            bench.pass(1_000, None);
        }
        assert!(bench.supervisor.all_ready(), "seed {seed}");
        let seats: Vec<Seat> = (1..=wanted).map(Seat).collect();
        assert_eq!(bench.supervisor.seats(), seats, "seed {seed}");
    }
}
