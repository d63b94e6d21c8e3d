//! One connection whose every byte is verified, while those who serve it are killed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use protocol::guard::{self, Life, Page};
use protocol::random::Random;
use protocol::truth::truth;

use super::roles::{NOBODY, Part, fd};
use super::stage::{BELL, LIFE, OWN, Stage, WORK, wait_for};

const CONSUMED: usize = OWN;
const WRITTEN: usize = OWN + 1;
/// How often the truth was another than what the state said.
const REPAIRED: usize = OWN + 2;
/// A request is 4 bytes.
const INPUT: usize = OWN + 3;
/// Its reply is those 4 and the life, 4 bytes too.
const OUTPUT: usize = OWN + 4;

/// Serves the connection from where its predecessor was.
pub fn brain(part: &Part, life: Life, naive: bool) -> ! {
    // Threads, so that the exec over itself has some to end.
    for _ in 0..2 {
        std::thread::spawn(|| {
            loop {
                std::hint::black_box(vec![0u8; 100]);
                std::thread::park_timeout(Duration::from_micros(100));
            }
        });
    }
    if !naive {
        let Some(truth) = truth(fd(WORK)).unwrap() else {
            guard::exit(0)
        };
        if (truth.consumed, truth.written) != (part.get(CONSUMED), part.get(WRITTEN)) {
            part.set(REPAIRED, part.get(REPAIRED) + 1);
            part.set(CONSUMED, truth.consumed);
            part.set(WRITTEN, truth.written);
        }
    }
    loop {
        while part.get(WRITTEN) < part.get(CONSUMED) / 4 * 8 {
            let at = (part.get(WRITTEN) % 8) as usize;
            if at == 0 {
                // Staged before it is written.
                part.set(OUTPUT, part.get(INPUT) & 0xffff_ffff | life.number << 32);
            }
            let reply = part.get(OUTPUT).to_le_bytes();
            let Ok(n) = nix::unistd::write(fd(WORK), &reply[at..]) else {
                guard::exit(0) // The client is gone.
            };
            part.set(WRITTEN, part.get(WRITTEN) + n as u64);
        }
        part.page.beat();
        part.offer(life);
        let mut fds = [fd(WORK), life.guard, fd(BELL)].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::NONE).unwrap();
        let [work, guard, bell] = fds.map(|fd| fd.any() != Some(false));
        if guard {
            part.succeed();
        }
        if bell {
            let _ = nix::unistd::read(fd(BELL), &mut [0; 8]);
        }
        if !work {
            continue;
        }
        let at = (part.get(CONSUMED) % 4) as usize;
        // SAFETY: one brain lives, and this thread alone uses these bytes.
        let input = unsafe { part.state.bytes_mut((Page::WORDS + INPUT) * 8 + at, 4 - at) };
        match nix::unistd::read(fd(WORK), input) {
            Ok(0) | Err(_) => guard::exit(0),
            Ok(n) => part.set(CONSUMED, part.get(CONSUMED) + n as u64),
        }
    }
}

/// A connection to the brain, and a guard that holds its other end.
pub fn start(role: &str) -> (Stage, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nodelay(true).unwrap();
    (Stage::start(role, &ours), client)
}

/// Asks until `stop`, checks every reply; says how many there were, or which was wrong.
fn ask(client: &mut TcpStream, stop: &AtomicBool) -> Result<u32, String> {
    for n in 0u32.. {
        if stop.load(Ordering::Relaxed) {
            return Ok(n);
        }
        let mut reply = [0; 8];
        client
            .write_all(&n.to_le_bytes())
            .and_then(|()| client.read_exact(&mut reply))
            .map_err(|e| format!("at {n}: {e}"))?;
        if reply[..4] != n.to_le_bytes() {
            return Err(format!("at {n}: {reply:?}"));
        }
    }
    unreachable!("fewer than 2^32 echoes")
}

/// Numbers that look random, the same for the same seed (xorshift64).
pub fn seeded() -> Random {
    let seed: u64 = match std::env::var("SEED") {
        Ok(seed) => seed.parse().expect("SEED is a number"),
        Err(_) => std::process::id().into(),
    };
    println!("SEED={seed}");
    Random::new(seed | 1 << 40)
}

/// Lets the client ask while `kills` happen; then ends all.
pub fn echo_through(
    stage: &mut Stage,
    mut client: TcpStream,
    kills: impl FnOnce(&mut Stage),
) -> Result<u32, String> {
    /// Also when the kills panic.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let at_the_end = Stop(&stop);
        let asking = scope.spawn(|| {
            let result = ask(&mut client, &stop);
            stop.store(true, Ordering::Relaxed);
            let _ = client.shutdown(Shutdown::Both);
            result
        });
        kills(stage);
        drop(at_the_end);
        asking.join().unwrap()
    })
}

fn kill_brains(stage: &Stage, lasting: Duration) {
    let mut random = seeded();
    let end = Instant::now() + lasting;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(random.below(1500)));
        stage.kill_brain();
    }
}

pub fn kills_of_brains() {
    let (mut stage, client) = start("echo");
    let echoes = echo_through(&mut stage, client, |stage| {
        kill_brains(stage, Duration::from_millis(2500));
    });
    let (lives, repaired) = (stage.word(LIFE), stage.word(REPAIRED));
    println!("{echoes:?} echoes exact, served by {lives} brains, {repaired} repairs");
    echoes.unwrap();
    assert!(lives > 100 && repaired > 0);
    assert_eq!(stage.end().code(), Some(0));
}

pub fn kills_of_guards_too() {
    let (mut stage, client) = start("echo");
    let mut random = seeded();
    let mut guards = 0;
    let echoes = echo_through(&mut stage, client, |stage| {
        let end = Instant::now() + Duration::from_millis(2500);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_micros(random.below(3000)));
            if random.below(2) == 0 {
                stage.kill_guard();
                guards += 1;
            } else {
                stage.kill_brain();
            }
        }
    });
    let (lives, repaired) = (stage.word(LIFE), stage.word(REPAIRED));
    println!("{echoes:?} echoes exact, {lives} brains, {guards} guards, {repaired} repairs");
    echoes.unwrap();
    assert!(guards > 20);
    assert_eq!(stage.end().code(), Some(0));
}

/// Shows that the kills hit where it hurts.
pub fn naive_control() {
    let (mut stage, client) = start("naive");
    client
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let broken = client.try_clone().unwrap();
    let result = echo_through(&mut stage, client, |stage| {
        let mut random = seeded();
        let deadline = Instant::now() + Duration::from_secs(10);
        // Until the client has given up, and so ended the connection.
        while Instant::now() < deadline && broken.peer_addr().is_ok() {
            std::thread::sleep(Duration::from_micros(random.below(1500)));
            let life = stage.wait_for_life(0);
            let _ = kill(stage.brain(), Signal::SIGKILL);
            wait_for("the next life or the end", || {
                stage.word(LIFE) > life || broken.peer_addr().is_err()
            });
        }
    });
    println!("{result:?}");
    assert!(result.is_err());
}

/// The held program can be run by who cannot read the file, and stays unprivileged.
pub fn unprivileged() {
    let (mut stage, mut client) = start("unprivileged");
    for _ in 0..3 {
        stage.kill_brain();
        stage.kill_guard();
    }
    let status = format!("/proc/{}/status", stage.guard());
    let status = std::fs::read_to_string(status).unwrap();
    assert!(status.starts_with("Name:\tguard-test\n"), "{status}");
    if nix::unistd::getuid().is_root() {
        assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}")));
        assert!(status.contains(&format!("Gid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}")));
        assert!(status.contains("NoNewPrivs:\t1"));
        let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", stage.brain()));
        assert_eq!(score.unwrap(), "100\n");
    }
    let mut reply = [0; 8];
    client.write_all(&7u32.to_le_bytes()).unwrap();
    client.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], 7u32.to_le_bytes());
    drop(client);
    assert_eq!(stage.end().code(), Some(0));
}
