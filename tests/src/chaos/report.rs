//! What came of a run.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Options;
use super::flat::Figures;
use super::monkey::{Deeds, Shared};
use super::operator::Done;
use super::world::{Counts, World};
use crate::load::{Failure, Load};

/// Failures that are printed; all are in the file.
const SHOWN: usize = 10;

pub struct Report {
    pub seed: u64,
    pub failures: Vec<Failure>,
    /// What was done to baton just before the first failure.
    pub diary: Vec<String>,
    /// Where the logs are.
    pub kept: Option<PathBuf>,
    /// Before and after, of a run that looked for growth.
    pub figures: Option<(Figures, Figures)>,
    options: Options,
    counts: Counts,
    kills: u64,
    reloads: u64,
    deeds: Deeds,
    done: Done,
    waits: Vec<Duration>,
    /// Of the workers' logs: connections that a new brain went on with, and those that it had to
    /// bring up to what the kernel said.
    adopted: u64,
    repaired: u64,
    /// From worker to worker.
    pub moved: u64,
}

impl Report {
    pub fn new(
        options: &Options,
        load: &Load<World>,
        shared: &Shared,
        deeds: Deeds,
        done: Done,
    ) -> Report {
        Report {
            seed: options.seed,
            failures: load.failures.clone(),
            diary: Vec::new(),
            kept: None,
            figures: None,
            options: options.clone(),
            counts: load.world.counts,
            kills: shared.kills.load(Ordering::Relaxed),
            reloads: shared.reloads.load(Ordering::Relaxed),
            deeds,
            done,
            waits: load.waits(),
            adopted: 0,
            repaired: 0,
            moved: 0,
        }
    }

    /// Adds up what the workers say of themselves.
    pub fn read_logs(&mut self, lines: impl Iterator<Item = String>) {
        for line in lines {
            self.adopted += number_before(&line, " connections go on, ");
            self.repaired += number_before(&line, " of them repaired");
        }
    }

    /// Why it was no test, though nothing went wrong.
    fn shortcomings(&self) -> Vec<String> {
        let options = &self.options;
        let Counts {
            sampled,
            retried,
            decided,
            refused,
            pages,
            ..
        } = self.counts;
        let special = u64::from(options.flat.is_none());
        [
            ("decisions", decided, special),
            ("refused", refused, special),
            ("pages of what is retained", pages, special),
            ("requests made again", retried, special),
            ("told as sampled", sampled, special),
            ("kills", self.kills, options.min_kills),
            ("reloads", self.reloads, options.min_reloads),
            ("repairs", self.repaired, options.min_repairs),
        ]
        .into_iter()
        .filter(|(_, number, least)| number < least)
        .map(|(what, number, least)| format!("{number} {what}, {least} are the least"))
        .chain(self.has_grown().then(|| "something has grown".to_owned()))
        .collect()
    }

    fn has_grown(&self) -> bool {
        let grown = |(before, after): (Figures, Figures)| !after.is_flat(before);
        self.figures.is_some_and(grown)
    }

    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failures.is_empty() && self.shortcomings().is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            opened,
            closed_in_order,
            echoes,
            posts,
            visits,
            bytes_verified,
            published,
            delivered,
            converted,
            joins,
            leaves,
            changes,
            inflated,
            gaps,
            sampled,
            posted,
            retried,
            decided,
            refused,
            pages,
        } = self.counts;
        writeln!(f, "seed                 {}", self.seed)?;
        writeln!(
            f,
            "connections          {opened} ({closed_in_order} WebSockets closed in order, {visits} visits)"
        )?;
        writeln!(
            f,
            "verified             {:.1} MB: {echoes} echoes, {posts} posts; {inflated} messages compressed",
            bytes_verified as f64 / 1e6
        )?;
        writeln!(
            f,
            "rooms                {published} published, {delivered} delivered ({converted} in another format), {joins} joins, {leaves} leaves, {changes} changes told, {gaps} told as gaps"
        )?;
        writeln!(
            f,
            "moderation           {decided} decisions, {refused} refused, {pages} pages of what is retained"
        )?;
        writeln!(
            f,
            "API                  {posted} published, {retried} asked again; {sampled} told as sampled"
        )?;
        if self.figures.is_some() {
            writeln!(f, "kills                {}", self.kills)?;
            writeln!(f, "reloads              {}", self.reloads)?;
        } else {
            let kinds = self.deeds.report();
            writeln!(f, "kills                {}: {kinds}", self.kills)?;
            writeln!(f, "commands             {}", self.done.report())?;
        }
        writeln!(
            f,
            "went on              {} connections after a death, {} of them repaired",
            self.adopted, self.repaired
        )?;
        writeln!(
            f,
            "handovers            {} connections went from one worker to another",
            self.moved
        )?;
        let wait = |percent: usize| {
            let last = self.waits.len().saturating_sub(1);
            self.waits
                .get(last * percent / 100)
                .copied()
                .unwrap_or_default()
        };
        writeln!(
            f,
            "longest wait         {:.1?} (of half of all connections at most {:.1?}, of 99 % {:.1?})",
            wait(100),
            wait(50),
            wait(99)
        )?;
        if let Some((before, after)) = self.figures {
            for (when, figures) in [("before", before), ("after", after)] {
                let Figures {
                    processes,
                    files,
                    segments,
                    memory,
                } = figures;
                writeln!(
                    f,
                    "{when:<20} {processes} processes, {files} open files, {segments} segments, {:.1} MiB",
                    memory as f64 / f64::from(1 << 20)
                )?;
            }
        }
        for failure in self.failures.iter().take(SHOWN) {
            writeln!(f, "FAILED {failure}")?;
        }
        if self.failures.len() > SHOWN {
            writeln!(f, "and {} more", self.failures.len() - SHOWN)?;
        }
        if !self.diary.is_empty() {
            writeln!(f, "before the first:\n  {}", self.diary.join("\n  "))?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "logs and diary are in {}", kept.display())?;
        }
        for shortcoming in self.shortcomings() {
            writeln!(f, "FAILED {shortcoming}")?;
        }
        write!(f, "{}", if self.is_good() { "good" } else { "FAILED" })
    }
}

/// The number that stands before these words.
fn number_before(line: &str, words: &str) -> u64 {
    line.split_once(words)
        .and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}
