use protocol::random::Random;

use super::*;
use crate::supervise::{Action, Event, Part, Patience, Supervisor};

struct Bench {
    orders: Orders,
    steps: Vec<Step>,
    /// Somebody is coming or going.
    unsettled: bool,
}

fn bench(seats: u16) -> Bench {
    Bench {
        orders: Orders::new(seats),
        steps: Vec::new(),
        unsettled: false,
    }
}

impl Bench {
    fn ask(&mut self, order: Order, ticket: Ticket) -> Vec<Step> {
        self.orders.ask(order, ticket, &mut self.steps);
        self.steps()
    }

    fn news(&mut self, news: News) -> Vec<Step> {
        self.orders.news(&news, &mut self.steps);
        self.steps()
    }

    /// With those of the next order, if it can begin.
    fn steps(&mut self) -> Vec<Step> {
        if !self.unsettled {
            self.orders.begin(&mut self.steps);
        }
        std::mem::take(&mut self.steps)
    }

    fn balanced(&mut self) -> Vec<Step> {
        self.orders.balanced(&mut self.steps);
        self.steps()
    }

    fn prepared(&mut self, result: Result<u16, String>) -> Vec<Step> {
        self.orders.prepared(result, &mut self.steps);
        self.steps()
    }

    fn upgrade(&mut self) -> Vec<Step> {
        self.orders.upgrade();
        self.steps()
    }

    fn stayed(&mut self) -> Vec<Step> {
        self.orders.stayed();
        self.steps()
    }
}

fn done(ticket: Ticket) -> Step {
    Step::Answer {
        tickets: vec![ticket],
        result: Ok(()),
    }
}

fn is_refused(steps: &[Step], ticket: Ticket) -> bool {
    matches!(steps, [Step::Answer { tickets, result: Err(_) }] if tickets == &[ticket])
}

#[test]
fn one_seat_after_the_other_new_before_old() {
    let mut b = bench(2);
    assert_eq!(b.ask(Order::Reload, 1), [Step::Prepare]);
    assert_eq!(b.prepared(Ok(2)), [Step::Relieve(Seat(1))]);
    assert_eq!(b.news(News::Seated(Seat(1))), []);
    let next = [Step::Adopt, Step::Relieve(Seat(2))];
    assert_eq!(b.news(News::Left(Seat(1))), next);
    assert_eq!(b.news(News::Seated(Seat(2))), []);
    assert!(b.orders.reloading());
    assert_eq!(b.news(News::Left(Seat(2))), [done(1)]);
    assert!(!b.orders.reloading());
}

#[test]
fn what_cannot_be_prepared_or_started_ends_the_reload() {
    let mut b = bench(2);
    b.ask(Order::Reload, 1);
    assert!(is_refused(&b.prepared(Err("line 3".into())), 1));
    b.ask(Order::Reload, 2);
    b.prepared(Ok(2));
    let why = "exit status 1".to_owned();
    let seat = Seat(1);
    assert!(is_refused(&b.news(News::ReliefFailed { seat, why }), 2));
    assert_eq!(b.ask(Order::Reload, 3), [Step::Prepare]);
}

#[test]
fn an_upgrade_comes_when_nothing_else_is_ordered() {
    let mut b = bench(1);
    assert_eq!(b.upgrade(), [Step::GiveWay]);
    // It did not happen; what was ordered meanwhile begins.
    assert_eq!(b.ask(Order::Reload, 1), []);
    assert_eq!(b.ask(Order::Scale(2), 2), []);
    assert_eq!(b.stayed(), [Step::Prepare]);
    assert_eq!(b.upgrade(), []);
    let why = "exit status 1".to_owned();
    let steps = b.prepared(Err(why));
    assert_eq!(steps[1..], [Step::Seats(2)]);
    assert_eq!(b.news(News::Seated(Seat(2))), [Step::EvenOut]);
    assert_eq!(b.balanced(), [done(2), Step::GiveWay]);
    assert_eq!(b.stayed(), []);
    assert_eq!(b.stayed(), [], "only one was asked for");
}

#[test]
fn nothing_is_upgraded_when_baton_stops() {
    let mut b = bench(1);
    b.ask(Order::Reload, 1);
    assert_eq!(b.upgrade(), []);
    b.orders.stop(&mut b.steps);
    b.steps.clear();
    assert_eq!(b.stayed(), []);
    assert_eq!(b.upgrade(), []);
}

#[test]
fn connections_that_cannot_be_moved_end_the_reload() {
    let mut b = bench(2);
    b.ask(Order::Reload, 1);
    b.prepared(Ok(2));
    b.news(News::Seated(Seat(1)));
    let why = "its connections are refused".to_owned();
    let seat = Seat(1);
    assert!(is_refused(&b.news(News::ReliefFailed { seat, why }), 1));
    assert!(!b.orders.reloading());
    assert_eq!(b.news(News::Left(Seat(1))), []);
}

#[test]
fn connections_that_have_no_place_end_the_scaling() {
    let mut b = bench(3);
    assert_eq!(b.ask(Order::Scale(1), 1), [Step::Seats(1)]);
    assert_eq!(b.news(News::Left(Seat(3))), []);
    let why = "the others are full".to_owned();
    let seat = Seat(2);
    let steps = b.news(News::Stayed { seat, why });
    assert_eq!(steps[0], Step::Seats(3));
    assert!(is_refused(&steps[1..], 1));
    assert_eq!(b.orders.wanted(), 3);
}

#[test]
fn what_was_cut_off_settles_before_the_next_order_begins() {
    let mut b = bench(2);
    b.unsettled = true;
    assert_eq!(b.ask(Order::Reload, 1), []);
    let why = "the others are full".to_owned();
    let seat = Seat(3);
    assert_eq!(b.news(News::Stayed { seat, why }), [Step::Seats(3)]);
    b.unsettled = false;
    assert_eq!(b.steps(), [Step::Prepare]);
}

#[test]
fn reloads_join_one_queued_run_and_scaling_queues_behind() {
    let mut b = bench(1);
    b.ask(Order::Reload, 1);
    assert_eq!(b.ask(Order::Reload, 2), []);
    assert_eq!(b.ask(Order::Scale(2), 3), []);
    assert_eq!(b.ask(Order::Reload, 4), []);
    b.prepared(Ok(1));
    b.news(News::Seated(Seat(1)));
    let next = [Step::Adopt, done(1), Step::Prepare];
    assert_eq!(b.news(News::Left(Seat(1))), next);
    b.prepared(Ok(1));
    b.news(News::Seated(Seat(1)));
    let joined = Step::Answer {
        tickets: vec![2, 4],
        result: Ok(()),
    };
    let next = [Step::Adopt, joined, Step::Seats(2)];
    assert_eq!(b.news(News::Left(Seat(1))), next);
    assert_eq!(b.news(News::Seated(Seat(2))), [Step::EvenOut]);
    assert_eq!(b.balanced(), [done(3)]);
}

#[test]
fn a_reload_takes_the_new_number_of_workers() {
    let mut b = bench(1);
    b.ask(Order::Reload, 1);
    b.prepared(Ok(3));
    b.news(News::Seated(Seat(1)));
    let next = [Step::Adopt, Step::Seats(3)];
    assert_eq!(b.news(News::Left(Seat(1))), next);
    assert!(b.orders.reloading());
    assert_eq!(b.news(News::Seated(Seat(3))), []);
    assert_eq!(b.news(News::Seated(Seat(2))), [Step::EvenOut]);
    assert!(b.orders.reloading());
    assert_eq!(b.balanced(), [done(1)]);
}

#[test]
fn scaling_waits_for_all_it_brings_and_all_it_sends_away() {
    let mut b = bench(1);
    assert_eq!(b.ask(Order::More, 1), [Step::Seats(2)]);
    assert_eq!(b.ask(Order::Scale(4), 2), []);
    assert!(is_refused(&b.ask(Order::More, 3), 2), "overtaken");
    assert_eq!(b.orders.wanted(), 5);
    assert_eq!(b.news(News::Seated(Seat(2))), [Step::EvenOut]);
    assert_eq!(b.balanced(), [done(1), Step::Seats(5)]);
    for seat in [3, 5] {
        assert_eq!(b.news(News::Seated(Seat(seat))), []);
    }
    assert_eq!(b.news(News::Seated(Seat(4))), [Step::EvenOut]);
    assert_eq!(b.balanced(), [done(3)]);
    assert_eq!(b.ask(Order::Scale(4), 4), [Step::Seats(4)]);
    assert_eq!(b.news(News::Left(Seat(5))), [done(4)]);
    // It may be said once more because it was cut off.
    assert_eq!(b.ask(Order::Scale(4), 5), [Step::EvenOut]);
    assert_eq!(b.balanced(), [done(5)]);
}

#[test]
fn the_last_worker_cannot_be_sent_away() {
    let mut b = bench(1);
    assert!(is_refused(&b.ask(Order::Fewer, 1), 1));
    assert!(is_refused(&b.ask(Order::Scale(0), 2), 2));
    assert!(is_refused(&b.ask(Order::Scale(MAX_WORKERS + 1), 3), 3));
}

#[test]
fn a_worker_that_cannot_boot_ends_the_scaling() {
    let mut b = bench(2);
    b.ask(Order::Scale(3), 1);
    let again = |seat| News::Again {
        seat: Seat(seat),
        delay: 100,
        why: "exit status 1".into(),
        was_ready: false,
    };
    assert_eq!(b.news(again(1)), [], "an old one's trouble");
    let steps = b.news(again(3));
    assert_eq!(steps[0], Step::Seats(2));
    assert!(is_refused(&steps[1..], 1));
}

#[test]
fn a_stop_answers_everybody() {
    let mut b = bench(2);
    b.ask(Order::Reload, 1);
    b.ask(Order::Reload, 2);
    b.ask(Order::Scale(9), 3);
    b.orders.stop(&mut b.steps);
    let [Step::Answer { tickets, result }] = &b.steps[..] else {
        panic!()
    };
    assert_eq!(tickets, &[1, 2, 3]);
    assert!(result.is_err());
    b.steps.clear();
    assert!(is_refused(&b.ask(Order::Reload, 4), 4));
    assert_eq!(b.prepared(Ok(2)), []);
}

/// With the real supervisor, and workers that come up, fail and leave at random: every order is
/// answered, there is a ready worker at every moment, and a reload that is said to be done has
/// replaced every worker.
#[test]
fn orders_of_any_kind_in_any_order_are_all_answered_and_somebody_always_serves() {
    for seed in 1..300u64 {
        let mut random = Random::new(seed);
        let mut next = move |n: u64| random.below(n);
        let patience = Patience {
            ready: 5_000,
            hung: 10_000,
            moving: 5_000,
            retire: 5_000,
        };
        let mut world = World {
            supervisor: Supervisor::new(patience),
            orders: Orders::new(0),
            asked: 0,
            answered: 0,
            booted: false,
            pending: Vec::new(),
        };
        let mut now = 0;
        world.order(now, Order::Scale(3));
        for turn in 0..600 {
            now += next(200);
            if world.booted && turn < 500 && next(20) == 0 {
                let order = match next(5) {
                    0 => Order::Scale(1 + next(6) as u16),
                    1 => Order::More,
                    2 => Order::Fewer,
                    _ => Order::Reload,
                };
                world.order(now, order);
            }
            world.supervise(now, Event::Tick);
            if world.supervisor.is_settled() {
                let mut steps = Vec::new();
                world.orders.begin(&mut steps);
                world.take(now, steps);
            }
            world.part();
            if world.pending.is_empty() {
                continue;
            }
            let index = next(world.pending.len() as u64) as usize;
            match world.pending.swap_remove(index) {
                // One in eight reliefs cannot boot.
                Pending::Boot { ring, part } if part == Part::Relief && next(8) == 0 => {
                    let why = "exit status 1".to_owned();
                    world.supervise(now, Event::Gone { ring, why });
                }
                Pending::Boot { ring, .. } => world.supervise(now, Event::Ready { ring }),
                // One in eight cannot be relieved of its connections.
                Pending::Part { ring } if next(8) == 0 => {
                    let why = "refused".to_owned();
                    world.supervise(now, Event::Stuck { ring, why });
                }
                Pending::Part { ring } => world.supervise(now, Event::Parted { ring }),
                Pending::EvenOut => {
                    let mut steps = Vec::new();
                    world.orders.balanced(&mut steps);
                    world.take(now, steps);
                }
                Pending::Leave { ring } => {
                    let why = "left".to_owned();
                    world.supervise(now, Event::Gone { ring, why });
                }
                Pending::Prepare if next(8) == 0 => {
                    let mut steps = Vec::new();
                    world.orders.prepared(Err("bad file".into()), &mut steps);
                    world.take(now, steps);
                }
                Pending::Prepare => {
                    let mut steps = Vec::new();
                    let wanted = 1 + next(4) as u16;
                    world.orders.prepared(Ok(wanted), &mut steps);
                    world.take(now, steps);
                }
            }
            world.booted |= world.supervisor.all_ready();
            if world.booted {
                let ready =
                    |w: &crate::supervise::Worker| w.phase == crate::supervise::Phase::Ready;
                assert!(world.supervisor.workers().iter().any(ready), "seed {seed}");
            }
        }
        assert_eq!(world.asked, world.answered, "seed {seed}");
        assert_eq!(
            world.supervisor.seats().len(),
            usize::from(world.orders.wanted())
        );
    }
}

enum Pending {
    Boot { ring: u16, part: Part },
    Part { ring: u16 },
    Leave { ring: u16 },
    Prepare,
    EvenOut,
}

struct World {
    supervisor: Supervisor,
    orders: Orders,
    asked: u64,
    answered: u64,
    booted: bool,
    pending: Vec<Pending>,
}

impl World {
    /// Those that are to part do so some time, or cannot.
    fn part(&mut self) {
        for worker in self.supervisor.workers() {
            let ring = worker.ring;
            let parts = matches!(worker.phase, crate::supervise::Phase::Parting { .. });
            let knows = |p: &Pending| matches!(p, Pending::Part { ring: r } if *r == ring);
            if parts && !self.pending.iter().any(knows) {
                self.pending.push(Pending::Part { ring });
            }
        }
    }

    fn order(&mut self, now: u64, order: Order) {
        let mut steps = Vec::new();
        self.asked += 1;
        self.orders.ask(order, self.asked, &mut steps);
        self.take(now, steps);
    }

    fn supervise(&mut self, now: u64, event: Event) {
        let mut actions = Vec::new();
        self.supervisor.on(now, event, &mut actions);
        for action in actions {
            match action {
                Action::Spawn { ring, part, .. } => {
                    self.pending.push(Pending::Boot { ring, part });
                }
                Action::Retire { ring, .. }
                | Action::Kill { ring, .. }
                | Action::KillBrain { ring }
                | Action::Abort { ring, .. } => self.pending.push(Pending::Leave { ring }),
                Action::Tell(news) => {
                    let mut steps = Vec::new();
                    self.orders.news(&news, &mut steps);
                    self.take(now, steps);
                }
            }
        }
    }

    fn take(&mut self, now: u64, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Prepare => self.pending.push(Pending::Prepare),
                Step::Adopt => {}
                Step::GiveWay => unreachable!("nobody has asked for it"),
                Step::EvenOut => self.pending.push(Pending::EvenOut),
                Step::Relieve(seat) => self.supervise(now, Event::Relieve(seat)),
                Step::Seats(n) => self.supervise(now, Event::Seats(n)),
                Step::Answer { tickets, .. } => self.answered += tickets.len() as u64,
            }
        }
    }
}
