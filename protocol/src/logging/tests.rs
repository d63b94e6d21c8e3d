//! The logger without the `log` macros: one whose writer is not started is a brain that has died.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// A ring of so many bytes.
fn words(bytes: usize) -> &'static [AtomicU64] {
    Vec::leak((0..8 + bytes / 8).map(|_| AtomicU64::new(0)).collect())
}

fn logger(words: &'static [AtomicU64], file: impl Into<OwnedFd>) -> &'static Logger {
    // SAFETY: nobody closes it.
    let file = unsafe { BorrowedFd::borrow_raw(file.into().into_raw_fd()) };
    let options = Options {
        role: "worker-1".into(),
        filter: "debug".into(),
        format: Format::Text,
    };
    Logger::leak(words, file, &options).unwrap()
}

fn say(logger: &Logger, message: &str) {
    let mut record = Record::builder();
    let record = record.level(Level::Info).target("worker");
    logger.log(&record.args(format_args!("{message}")).build());
}

fn say_numbers(logger: &Logger, numbers: std::ops::Range<usize>) {
    for n in numbers {
        say(logger, &format!("line {n}"));
    }
}

fn numbers(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("line {n}")).collect()
}

/// A file that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("baton-logging-{}-{name}", std::process::id());
        Scratch(std::env::temp_dir().join(name))
    }

    fn open(&self) -> File {
        let mut options = OpenOptions::new();
        options.create(true).append(true).open(&self.0).unwrap()
    }

    fn messages(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.0).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "torn: {text:?}");
        text.lines().map(message).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A line without time, level and role; it must have them.
fn message(line: &str) -> String {
    let (head, message) = line.split_once(" worker-1 ").expect(line);
    assert!(
        head.ends_with("Z INFO ") || head.ends_with("Z WARN "),
        "{line}"
    );
    assert_eq!(head.len(), 30, "{line}");
    message.to_owned()
}

/// The number in `12 lines were lost here: …`.
fn lost(message: &str) -> Option<usize> {
    let (count, _) = message.split_once(" lines were lost here")?;
    Some(count.parse().unwrap())
}

#[test]
fn lines_arrive_in_order_round_and_round_the_ring() {
    let scratch = Scratch::new("order");
    let logger = logger(words(4096), scratch.open());
    logger.start_writer().unwrap();
    for hundred in 0..30 {
        say_numbers(logger, hundred * 50..hundred * 50 + 50);
        assert!(logger.flush(SOON));
    }
    assert_eq!(scratch.messages(), numbers(0..1500));
}

#[test]
fn threads_do_not_tear_each_others_lines() {
    let scratch = Scratch::new("threads");
    let logger = logger(words(1 << 20), scratch.open());
    logger.start_writer().unwrap();
    std::thread::scope(|scope| {
        for t in 0..4 {
            scope.spawn(move || {
                for n in 0..500 {
                    say(logger, &format!("{} {t} {n}", "x".repeat(n % 100)));
                }
            });
        }
    });
    assert!(logger.flush(SOON));
    let messages = scratch.messages();
    assert_eq!(messages.len(), 2000);
    for t in 0..4 {
        let of_t = messages.iter().filter(|m| m.contains(&format!(" {t} ")));
        assert!(of_t.enumerate().all(|(n, m)| m.ends_with(&format!(" {n}"))));
    }
}

#[test]
fn a_pipe_that_nobody_reads_blocks_nobody_and_the_loss_is_said() {
    let (reader, writer) = std::io::pipe().unwrap();
    let logger = logger(words(1 << 14), writer);
    logger.start_writer().unwrap();
    let many = 20_000;
    // Far more than pipe and ring hold; it would hang here.
    say_numbers(logger, 0..many);
    assert!(!logger.flush(Duration::ZERO));
    assert!(logger.ring.lost() > 0);
    // Once it is read again, all is there or accounted for.
    let mut next = 0;
    for line in BufReader::new(reader).lines() {
        let message = message(&line.unwrap());
        match lost(&message) {
            Some(count) => next += count,
            None => {
                assert_eq!(message, format!("line {next}"));
                next += 1;
            }
        }
        if next == many {
            break;
        }
    }
    assert!(logger.flush(SOON));
    assert_eq!(logger.ring.lost(), 0);
}

#[test]
fn a_full_disk_is_waited_out() {
    let scratch = Scratch::new("full-disk");
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let logger = logger(words(4096), full);
    logger.start_writer().unwrap();
    say_numbers(logger, 0..1000);
    assert!(!logger.flush(Duration::from_millis(20)));
    let (kept, dropped) = (1000 - logger.ring.lost(), logger.ring.lost());
    // Space, in the form of another file.
    Logging(logger).reopen(scratch.open().into());
    assert!(logger.flush(SOON));
    say(logger, "and on");
    assert!(logger.flush(SOON));
    let messages = scratch.messages();
    assert_eq!(messages[..kept as usize], numbers(0..kept as usize));
    assert_eq!(lost(&messages[kept as usize]), Some(dropped as usize));
    assert_eq!(messages[kept as usize + 1..], ["and on"]);
}

#[test]
fn the_next_brain_writes_what_is_left_and_goes_on() {
    let scratch = Scratch::new("successor");
    let words = words(1 << 16);
    for life in 0..5 {
        let logger = logger(words, scratch.open());
        say_numbers(logger, life * 10..life * 10 + 10);
    }
    let last = logger(words, scratch.open());
    last.start_writer().unwrap();
    say_numbers(last, 50..60);
    assert!(last.flush(SOON));
    assert_eq!(scratch.messages(), numbers(0..60));
}

#[test]
fn a_death_behind_a_write_doubles_no_line() {
    let scratch = Scratch::new("behind-a-write");
    let file = scratch.open();
    let words = words(1 << 16);
    for life in 0..5 {
        let logger = logger(words, file.try_clone().unwrap());
        if let Some(position) = writer::position(logger) {
            logger.ring.recover(position);
        }
        say_numbers(logger, life * 10..life * 10 + 10);
        // As the writer does it, but for the last store.
        let mut lines = [0; 200];
        let len = logger.ring.peek(&mut lines);
        assert!(len > 100);
        logger
            .ring
            .write_begins_at(writer::position(logger).unwrap());
        (&file).write_all(&lines[..len]).unwrap();
    }
    let last = logger(words, file);
    last.start_writer().unwrap();
    assert!(last.flush(SOON));
    assert_eq!(scratch.messages(), numbers(0..50));
}

/// The kernel ends a write of one that is killed at a page of the file, if at all.
#[test]
fn a_death_in_a_write_tears_no_line() {
    let scratch = Scratch::new("in-a-write");
    let file = scratch.open();
    let words = words(1 << 16);
    let first = logger(words, file.try_clone().unwrap());
    say_numbers(first, 0..200);
    let mut lines = [0; line::MAX];
    first.ring.peek(&mut lines);
    assert_ne!(lines[4095], b'\n', "the page ends in a line");
    first.ring.write_begins_at(0);
    (&file).write_all(&lines[..4096]).unwrap();
    let second = logger(words, file);
    second.start_writer().unwrap();
    assert!(second.flush(SOON));
    assert_eq!(scratch.messages(), numbers(0..200));
}

#[test]
fn what_others_write_to_the_file_costs_no_line() {
    let scratch = Scratch::new("others");
    let file = scratch.open();
    let words = words(1 << 16);
    let first = logger(words, file.try_clone().unwrap());
    say_numbers(first, 0..20);
    first.ring.write_begins_at(writer::position(first).unwrap());
    // The C library, in its last moment.
    let noise = "free(): invalid pointer\n";
    (&file).write_all(noise.as_bytes()).unwrap();
    let second = logger(words, file);
    second.start_writer().unwrap();
    assert!(second.flush(SOON));
    let text = std::fs::read_to_string(&scratch.0).unwrap();
    let lines = text.strip_prefix(noise).unwrap().lines();
    assert_eq!(lines.map(message).collect::<Vec<_>>(), numbers(0..20));
}

#[test]
fn reopening_loses_and_doubles_nothing() {
    let scratches: Vec<_> = (0..20)
        .map(|n| Scratch::new(&format!("reopen-{n}")))
        .collect();
    let logger = logger(words(1 << 20), scratches[0].open());
    logger.start_writer().unwrap();
    for (n, scratch) in scratches.iter().enumerate() {
        Logging(logger).reopen(scratch.open().into());
        say_numbers(logger, n * 100..n * 100 + 100);
    }
    assert!(logger.flush(SOON));
    let all: Vec<_> = scratches.iter().flat_map(Scratch::messages).collect();
    assert_eq!(all, numbers(0..2000));
}

#[test]
fn a_stalled_pipe_can_be_left_for_a_file() {
    let scratch = Scratch::new("stalled");
    let (reader, writer) = std::io::pipe().unwrap();
    let logger = logger(words(1 << 20), writer);
    logger.start_writer().unwrap();
    say_numbers(logger, 0..5000);
    assert!(!logger.flush(Duration::from_millis(20)));
    Logging(logger).reopen(scratch.open().into());
    assert!(logger.flush(SOON));
    // The pipe's other end is closed by the change, so this ends.
    let mut all: Vec<_> = BufReader::new(reader)
        .lines()
        .map(|line| message(&line.unwrap()))
        .collect();
    assert!(!all.is_empty());
    all.extend(scratch.messages());
    assert_eq!(all, numbers(0..5000));
}

#[test]
fn a_line_that_comes_again_is_counted() {
    let scratch = Scratch::new("again");
    let logger = logger(words(4096), scratch.open());
    say(logger, "first");
    for _ in 0..1000 {
        say(logger, "again and again");
    }
    say(logger, "last");
    say(logger, "last");
    logger.start_writer().unwrap();
    assert!(logger.flush(SOON));
    let wanted = [
        "first",
        "again and again",
        "the last line again, 999 times",
        "last",
        "the last line again, 1 time",
    ];
    assert_eq!(scratch.messages(), wanted);
}

#[test]
fn repeats_are_said_without_another_line() {
    let scratch = Scratch::new("repeats");
    let logger = logger(words(4096), scratch.open());
    logger.start_writer().unwrap();
    say(logger, "once");
    say(logger, "once");
    let deadline = Instant::now() + SOON;
    while scratch.messages().len() < 2 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(scratch.messages()[1], "the last line again, 1 time");
}

#[test]
fn a_ring_that_makes_no_sense_is_emptied() {
    let scratch = Scratch::new("nonsense");
    let words = words(4096);
    for word in &words[..8] {
        word.store(0x1234_5678_9abc_def0, std::sync::atomic::Ordering::Relaxed);
    }
    words[1].store(7, std::sync::atomic::Ordering::Relaxed);
    words[3].store(0, std::sync::atomic::Ordering::Relaxed);
    let logger = logger(words, scratch.open());
    logger.start_writer().unwrap();
    say_numbers(logger, 0..10);
    assert!(logger.flush(SOON));
    assert_eq!(scratch.messages(), numbers(0..10));
}

#[test]
fn the_filter_can_change() {
    let scratch = Scratch::new("filter");
    let logger = logger(words(4096), scratch.open());
    say(logger, "heard");
    Logging(logger).set_filter("warn");
    say(logger, "not heard");
    Logging(logger).set_filter("warn,worker=info");
    say(logger, "heard again");
    logger.start_writer().unwrap();
    assert!(logger.flush(SOON));
    assert_eq!(scratch.messages(), ["heard", "heard again"]);
}
