//! What baton takes of the processors over a time, and what everybody else takes; and whether a goal
//! is reached.

use std::time::{Duration, Instant};

use super::Cell;
use crate::{Baton, eventually, process};

/// Of an instant; the next one says what lies between.
pub struct Gauge {
    at: Instant,
    baton: Duration,
    all: Duration,
    /// The bench and its programs.
    ours: Duration,
}

/// What was taken between two instants.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub time: Duration,
    /// By all processes of baton, those included that have ended since.
    pub baton: Duration,
    /// By neither baton nor the bench, in percent of a core: where it is much, figures say little.
    pub others: f64,
}

impl Gauge {
    #[must_use]
    pub fn now(baton: &Baton) -> Gauge {
        let me = std::process::id() as i32;
        let mut of_baton = baton.processes();
        // The clients' processes.
        let mut mine = process::children(me);
        of_baton.retain(|pid| !mine.contains(pid));
        mine.insert(me);
        let ours = mine.into_iter().map(process::cpu_seconds);
        let ours = ours.map(|(user, system)| user + system).sum();
        Gauge {
            baton: of_baton.into_iter().map(with_ended).sum(),
            ours: Duration::from_secs_f64(ours),
            all: process::cpu_time_of_all(),
            at: Instant::now(),
        }
    }

    #[must_use]
    pub fn since(&self, before: &Gauge) -> Taken {
        let time = self.at - before.at;
        let baton = self.baton - before.baton;
        let all = self.all.saturating_sub(before.all);
        let ours = self.ours - before.ours;
        let others = all.saturating_sub(baton).saturating_sub(ours);
        Taken {
            time,
            baton,
            others: others.as_secs_f64() * 100.0 / time.as_secs_f64(),
        }
    }
}

impl Taken {
    /// Microseconds of processor time that each of so many took.
    #[must_use]
    pub fn each(&self, of: u64) -> f64 {
        self.baton.as_secs_f64() * 1e6 / of as f64
    }

    #[must_use]
    pub fn rate(&self, of: u64) -> f64 {
        of as f64 / self.time.as_secs_f64()
    }

    /// Of one core.
    #[must_use]
    pub fn percent(&self) -> f64 {
        self.baton.as_secs_f64() * 100.0 / self.time.as_secs_f64()
    }
}

/// Processor time of a process, and of all that have ended below it. Every process of baton is waited
/// for by another one: the kernel adds it to what that one has waited for.
fn with_ended(pid: i32) -> Duration {
    let (user, system) = process::cpu_seconds(pid);
    let ended = process::cpu_with_children(pid).as_secs_f64() - user - system;
    process::cpu_time(pid) + Duration::from_secs_f64(ended.max(0.0))
}

/// Waits until whoever has ended is waited for, so that its time counts.
#[track_caller]
pub fn all_are_reaped(baton: &Baton) {
    let is_dead = |pid: i32| process::state(pid) == Some('Z');
    eventually("who has ended is waited for", || {
        let children = baton.processes().into_iter().flat_map(process::children);
        !children.into_iter().any(is_dead)
    });
}

/// What is wanted, and whether it is so.
#[must_use]
pub fn verdict(goal: &str, is_met: bool) -> Cell {
    let verdict = if is_met { "met" } else { "missed" };
    Cell::text(format!("{goal}: {verdict}"))
}

#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// Of one figure of the samples.
#[must_use]
pub fn median_of<T>(samples: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    median(&samples.iter().map(figure).collect::<Vec<_>>())
}

/// Such a part of them is not greater.
#[must_use]
pub fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted() {
        let figures = [3.0, 1.0, 2.0, 5.0, 4.0];
        assert_eq!(median(&figures), 3.0);
        assert_eq!(quantile(&figures, 1.0), 5.0);
        assert_eq!(quantile(&figures, 0.0), 1.0);
        assert!(median(&[]).is_nan());
    }
}
