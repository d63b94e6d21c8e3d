//! A daemon of the test's own.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};

use crate::process::{self, Signal};
use crate::status::Status;
use crate::temp::TempDir;
use crate::wait::{self, DEADLINE};
use crate::{eventually, orphans, programs};

/// What a daemon is started with. Two workers unless said otherwise.
#[derive(Debug)]
pub struct Builder {
    workers: u32,
    config: Option<String>,
    files: Vec<(String, String)>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    listen: bool,
    programs: Option<PathBuf>,
    open_files: Option<u64>,
}

impl Builder {
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// The text of a configuration file, or more of it.
    pub fn config(mut self, text: &str) -> Self {
        let config = self.config.get_or_insert_default();
        *config += text;
        config.push('\n');
        self
    }

    /// A file beside that of the configuration.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// The listeners are those of the configuration: no flags for them.
    pub fn listeners_from_config(mut self) -> Self {
        self.listen = false;
        self
    }

    /// More flags for `start`.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// The directory of `baton-master` and `baton-worker`, for a test that breaks them.
    pub fn programs(mut self, directory: &Path) -> Self {
        self.programs = Some(directory.to_owned());
        self
    }

    /// The limit of open files, soft and hard, that every process of it has.
    pub fn open_files(mut self, limit: u64) -> Self {
        self.open_files = Some(limit);
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lays out everything, and does not start it yet.
    pub fn prepare(self) -> Baton {
        let temp = TempDir::new();
        let run = temp.path().join("run");
        let config = self
            .config
            .as_deref()
            .map(|text| temp.file("baton.toml", text));
        for (name, content) in &self.files {
            temp.file(name, content);
        }
        let mark = format!("BATON_TEST={}", temp.path().display());
        orphans::watch(&mark);
        Baton {
            mark,
            public: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            panics_expected: false,
            builder: self,
            temp,
            run,
            config,
        }
    }

    /// Starts it; panics if it does not serve.
    #[track_caller]
    pub fn start(self) -> Baton {
        let mut baton = self.prepare();
        baton.start();
        baton
    }
}

/// A daemon. Dropped, it is stopped; a process of it that is then left fails the test.
#[derive(Debug)]
pub struct Baton {
    builder: Builder,
    temp: TempDir,
    run: PathBuf,
    config: Option<PathBuf>,
    /// In the environment of every process of it: how they are known, whatever becomes of them.
    mark: String,
    /// Where clients connect.
    pub public: SocketAddr,
    pub admin: SocketAddr,
    panics_expected: bool,
}

impl Baton {
    pub fn builder() -> Builder {
        Builder {
            workers: 2,
            config: None,
            files: Vec::new(),
            flags: Vec::new(),
            environment: Vec::new(),
            listen: true,
            programs: None,
            open_files: None,
        }
    }

    /// A daemon with two workers and the default configuration.
    #[track_caller]
    pub fn started() -> Baton {
        Baton::builder().start()
    }

    /// `start` with the builder's flags, whatever comes of it.
    pub fn try_start(&mut self) -> Output {
        let workers = self.builder.workers.to_string();
        let mut args = vec!["start", "--workers", &workers];
        if self.builder.listen {
            args.extend(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        }
        let config = self.config.as_ref().map(|path| path.display().to_string());
        if let Some(config) = &config {
            args.extend(["--config", config]);
        }
        args.extend(self.builder.flags.iter().map(String::as_str));
        let output = self.run(&args);
        if output.status.success() {
            let status = self.status();
            let address = |role: &str| {
                status
                    .listen
                    .iter()
                    .find_map(|(is, address)| (is == role).then_some(*address))
            };
            self.public = address("public").unwrap_or(self.public);
            self.admin = address("admin").unwrap_or(self.admin);
        }
        output
    }

    /// `start`; panics if it does not serve.
    #[track_caller]
    pub fn start(&mut self) {
        let output = self.try_start();
        assert!(
            output.status.success(),
            "start failed ({}): {}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
    }

    /// A verb of the command line on this run directory, not run yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let directory = self.builder.programs.clone();
        let directory = directory.unwrap_or_else(programs::directory);
        let mut command = Command::new(directory.join("baton-master"));
        let (name, value) = self.mark.split_once('=').expect("NAME=VALUE");
        command
            .args(args)
            .arg("--run-dir")
            .arg(&self.run)
            .env(name, value)
            .envs(
                self.builder
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::null());
        if let Some(limit) = self.builder.open_files {
            let set = move || setrlimit(Resource::RLIMIT_NOFILE, limit, limit).map_err(Into::into);
            // SAFETY: setrlimit(2) may be called between fork and exec.
            unsafe { command.pre_exec(set) };
        }
        command
    }

    /// Runs a verb to its end. Its output is collected in files: a daemon that keeps a pipe open
    /// would hang whoever waits for its end, and that is a fault worth its own test.
    pub fn run(&self, args: &[&str]) -> Output {
        let output = TempDir::new();
        let stdout = output.file("stdout", "");
        let stderr = output.file("stderr", "");
        let open = |path: &Path| fs::File::create(path).expect("a file of ours");
        let mut command = self.command(args);
        command.stdout(open(&stdout)).stderr(open(&stderr));
        let limit = Duration::from_secs(90);
        // While this process forks, the child has our files open: one of them may be a program that
        // another test has just written.
        let mut child = wait::until("baton-master can be run", limit, || match command.spawn() {
            Ok(child) => Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
            Err(error) => panic!("baton-master does not run: {error}"),
        });
        let what = format!("`baton {}` ends", args.join(" "));
        let status = wait::until(&what, limit, || child.try_wait().expect("a child of ours"));
        Output {
            status,
            stdout: fs::read(stdout).expect("a file of ours"),
            stderr: fs::read(stderr).expect("a file of ours"),
        }
    }

    /// Runs a verb and panics unless it exits with `code`. Returns stdout and stderr.
    #[track_caller]
    pub fn expect(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(code),
            "baton {}: {text}",
            args.join(" ")
        );
        text
    }

    #[track_caller]
    pub fn status(&self) -> Status {
        let output = self.run(&["status", "--json"]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "status: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Status::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Asks for the status until it is as wanted.
    #[track_caller]
    pub fn status_when(&self, what: &str, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        wait::until(what, DEADLINE, || {
            Some(self.status()).filter(|status| wanted(status))
        })
    }

    /// `NAME=VALUE` in the environment of every process of it.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.temp.path().join("baton.toml")
    }

    /// Writes another configuration in its place.
    pub fn write_config(&self, text: &str) {
        self.temp.file("baton.toml", text);
    }

    /// Writes a file beside it.
    pub fn write_file(&self, name: &str, content: &str) {
        self.temp.file(name, content);
    }

    /// `master` or `worker-N`.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.run.join("logs").join(format!("{name}.log"))
    }

    pub fn log(&self, name: &str) -> String {
        read_log(&self.log_file(name))
    }

    /// Waits for a line that holds `needle`, and returns it.
    #[track_caller]
    pub fn wait_for_log(&self, name: &str, needle: &str) -> String {
        wait::until(&format!("{name}.log says {needle:?}"), DEADLINE, || {
            self.log(name)
                .lines()
                .find(|line| line.contains(needle))
                .map(str::to_owned)
        })
    }

    /// The end of every log, to be shown with a failure.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        let Ok(entries) = fs::read_dir(self.run.join("logs")) else {
            return all;
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        for path in paths {
            let text = read_log(&path);
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            all += &format!("--- {}\n{}\n", path.display(), tail.join("\n"));
        }
        all
    }

    /// All lines of all logs.
    pub fn log_lines(&self) -> impl Iterator<Item = String> + use<> {
        let entries = fs::read_dir(self.run.join("logs")).into_iter().flatten();
        entries.flatten().flat_map(|entry| {
            let text = read_log(&entry.path());
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines
        })
    }

    /// Sockets that each guard has open, and so its brain, master first; without those of whoever
    /// gives orders, which end a moment behind the answer.
    #[track_caller]
    pub fn sockets(&self) -> Vec<usize> {
        let status = self.status();
        let guards = status.workers.iter().map(|worker| worker.guard_pid);
        let guards = [status.master_pid].into_iter().chain(guards);
        let all = fs::read_to_string("/proc/net/unix").expect("the kernel's list");
        let ordering: BTreeSet<String> = all
            .lines()
            .filter(|line| line.ends_with("/baton.sock"))
            .filter_map(|line| line.split_whitespace().nth(6))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        let of_clients = |file: &String| file.starts_with("socket:") && !ordering.contains(file);
        let count = |pid| process::open_files(pid).into_iter().filter(of_clients);
        guards.map(|pid| count(pid).count()).collect()
    }

    /// The process of it that stands still, at a point where a test wanted it to: that it has come there is
    /// said a moment before.
    #[track_caller]
    pub fn stopped(&self) -> i32 {
        let is_stopped = |pid: &i32| process::state(*pid) == Some('T');
        wait::until("one stands still", DEADLINE, || {
            self.processes().into_iter().find(is_stopped)
        })
    }

    /// Every process of it that lives.
    pub fn processes(&self) -> Vec<i32> {
        process::with_environment(&self.mark).into_iter().collect()
    }

    /// Kills the brain of a worker; there is the next one when this returns.
    #[track_caller]
    pub fn kill_brain(&self, worker: u64) {
        let status = self.status();
        let mut workers = status.workers.iter();
        let guard = workers
            .find(|row| row.worker == worker)
            .map(|row| row.guard_pid);
        let guard = guard.unwrap_or_else(|| panic!("no worker {worker}: {}", status.json));
        let brain = process::brain_of(guard);
        process::kill(brain);
        eventually("there is the next brain", || {
            process::brain_of(guard) != brain
        });
    }

    /// Kills these brains, one after the other; all workers are ready again when this returns.
    #[track_caller]
    pub fn kill_brains(&self, brains: impl IntoIterator<Item = i32>) {
        for brain in brains {
            process::kill(brain);
            eventually("the brain is gone", || !process::is_alive(brain));
        }
        self.status_when("all are ready", |status| {
            let ready = status.ready().len();
            ready > 0 && ready == status.workers.len()
        });
    }

    /// New brains of everything.
    #[track_caller]
    pub fn kill_all_brains(&self) {
        let status = self.status();
        self.kill_brains(status.brains().into_iter().chain([status.master_brain_pid]));
    }

    /// New brains of everything, then new workers: what a test says holds before and after.
    #[track_caller]
    pub fn shake(&self) {
        self.kill_all_brains();
        self.expect(&["reload"], 0);
    }

    /// No log may tell of a panic at the end; call this in a test that causes one.
    pub fn expect_panics(&mut self) {
        self.panics_expected = true;
    }

    fn pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.run.join("baton.pid")).ok()?;
        text.trim().parse().ok()
    }

    /// Ends all processes, first by the way that is fast and orderly.
    fn end(&self) -> Result<(), String> {
        let mine = self.processes();
        for pid in mine.iter().filter(|pid| process::state(**pid) == Some('T')) {
            process::go_on(*pid);
        }
        if let Some(pid) = self.pid().filter(|pid| mine.contains(pid)) {
            process::signal(pid, Signal::SIGINT);
        }
        let start = std::time::Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            if start.elapsed() > DEADLINE {
                for pid in &left {
                    process::kill(*pid);
                }
                eventually("killed processes are gone", || self.processes().is_empty());
                return Err(format!("processes were left after INT: {left:?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What a log holds; nothing, if it is no file. (A test that puts `/dev/full` in its place would find
/// no end of it.)
fn read_log(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => {
            let bytes = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => String::new(),
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        let ended = self.end();
        orphans::forget(&self.mark);
        let logs = self.logs();
        if std::thread::panicking() {
            // Captured with the test's output, and shown as it has failed.
            println!("{logs}");
            return;
        }
        if let Err(reason) = ended {
            panic!("{reason}\n{logs}");
        }
        assert!(
            self.panics_expected || !logs.contains("panicked at"),
            "{logs}"
        );
    }
}
