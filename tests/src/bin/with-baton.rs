//! Runs a program against a daemon of its own, and ends as it ended.
//!
//! ```sh
//! with-baton [--workers N] [--config FILE] [--file FILE] [--key KID] [--api FILE] PROGRAM [ARGUMENT…]
//! ```
//!
//! The program finds in its environment `BATON_URL` (`http://127.0.0.1:PORT`), `BATON_ADMIN_URL`,
//! `BATON_WORKERS` (how many there are), `BATON_RUN_DIR`, `BATON_MASTER`, the program to give
//! it orders with, and with `--key` `BATON_SECRET`, which signs tokens (HS256) of this key;
//! `--file` lays a file that the configuration names beside it;
//! with `--api` (the name of a file) `BATON_API_TOKEN`, which the HTTP API takes.

use std::env;
use std::fs;
use std::process::{Command, ExitCode};

use harness::api::TOKEN;
use harness::tokens::Key;
use harness::{Baton, programs};

fn main() -> ExitCode {
    let mut args = env::args().skip(1).peekable();
    let mut workers = 2;
    let mut builder = Baton::builder();
    let mut config = String::new();
    let mut secret = None;
    while let Some(flag) = args.next_if(|arg| arg.starts_with("--")) {
        let value = args.next().unwrap_or_default();
        match flag.as_str() {
            "--workers" => match value.parse() {
                Ok(number) => workers = number,
                Err(_) => return usage(),
            },
            "--config" | "--file" => match fs::read_to_string(&value) {
                Ok(text) if flag == "--config" => config += &text,
                Ok(text) => {
                    let name = value.rsplit('/').next().unwrap_or(&value);
                    builder = builder.file(name, &text);
                }
                Err(error) => {
                    eprintln!("with-baton: {value}: {error}");
                    return ExitCode::from(2);
                }
            },
            "--key" => {
                let key = Key::secret(1);
                config += &key.section(&value, &value);
                builder = builder.file(&value, &key.file());
                secret = Some(key.file());
            }
            "--api" => {
                config += &format!("[api]\ntokens = [{value:?}]\n");
                builder = builder.file(&value, TOKEN);
            }
            _ => return usage(),
        }
    }
    let Some(program) = args.next() else {
        return usage();
    };
    let baton = builder.workers(workers).config(&config).start();
    let status = Command::new(&program)
        .args(args)
        .envs(secret.map(|secret| ("BATON_SECRET", secret)))
        .env("BATON_URL", format!("http://{}", baton.public))
        .env("BATON_ADMIN_URL", format!("http://{}", baton.admin))
        .env("BATON_WORKERS", workers.to_string())
        .env("BATON_API_TOKEN", TOKEN)
        .env("BATON_RUN_DIR", baton.run_dir())
        .env("BATON_MASTER", programs::directory().join("baton-master"))
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("with-baton: {program}: {status}\n{}", baton.logs());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("with-baton: {program}: {error}");
            ExitCode::from(2)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: with-baton [--workers N] [--config FILE] [--file FILE] [--key KID] [--api FILE] PROGRAM [ARGUMENT...]"
    );
    ExitCode::from(2)
}
