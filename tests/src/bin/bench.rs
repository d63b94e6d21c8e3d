//! Measures baton, and others beside it. Run by `scripts/bench`; the subjects are in
//! `harness::bench`.

use std::env;
use std::fs;
use std::process::ExitCode;

use harness::bench::chart;
use harness::bench::cost::loads::LOADS;
use harness::bench::{Options, SUBJECTS, Subject};
use serde_json::{Map, Value};

fn usage() -> String {
    let mut text = "\
Usage: bench [OPTIONS]

  --only SUBJECT     Of these only this one (may be given more than once):
"
    .to_owned();
    for subject in &SUBJECTS {
        text += &format!(
            "                       {:<12} {}\n",
            subject.name, subject.about
        );
    }
    text += "  --against PEER     Beside baton only this one, or `none` (default: all that a subject has)
  --load LOAD        Of `cost` only this load (may be given more than once):
";
    for load in &LOADS {
        text += &format!("                       {:<14} {}\n", load.name, load.about);
    }
    text + "  --connections N    Of subjects that hold connections
  --workers N        Workers of every server (default 2)
  --rounds N         So often everything is measured (default 3)
  --seconds N        A round, of subjects that have rounds (default 5)
  --json FILE        Write the figures there, too
  --svg FILE         Draw what `cost` has measured
  --from FILE        Measure nothing; take what --json has written (may be given more than once)
  --needs            Measure nothing; say which peers are needed"
}

fn main() -> ExitCode {
    match parse(env::args().skip(1)) {
        Ok(None) => {
            println!("{}", usage());
            ExitCode::SUCCESS
        }
        Ok(Some(wanted)) if wanted.needs => needs(&wanted),
        Ok(Some(wanted)) => bench(&wanted),
        Err(reason) => {
            eprintln!("bench: {reason}\n{}", usage());
            ExitCode::from(2)
        }
    }
}

struct Wanted {
    only: Vec<String>,
    against: Vec<String>,
    json: Option<String>,
    svg: Option<String>,
    /// Figures that were written before.
    from: Vec<String>,
    /// Nothing is measured; the peers are named that would be needed.
    needs: bool,
    options: Options,
}

impl Wanted {
    fn subjects(&self) -> impl Iterator<Item = &'static Subject> {
        let is_wanted = |name| self.only.is_empty() || self.only.iter().any(|only| only == name);
        SUBJECTS
            .iter()
            .filter(move |subject| is_wanted(subject.name))
    }

    fn peers(&self, subject: &Subject) -> Vec<String> {
        let peers = subject.peers.iter().map(|peer| (*peer).to_owned());
        peers
            .filter(|peer| self.against.is_empty() || self.against.contains(peer))
            .collect()
    }
}

fn needs(wanted: &Wanted) -> ExitCode {
    if !wanted.from.is_empty() {
        return ExitCode::SUCCESS;
    }
    for peer in wanted.subjects().flat_map(|subject| wanted.peers(subject)) {
        println!("{peer}");
    }
    ExitCode::SUCCESS
}

fn bench(wanted: &Wanted) -> ExitCode {
    let figures = match wanted.from.is_empty() {
        true => measure(wanted),
        false => read(&wanted.from).map(|figures| (figures, true)),
    };
    let written = figures.and_then(|(figures, is_whole)| {
        let figures = Value::Object(figures);
        let write = |file: &Option<String>, content: String| match file {
            Some(file) => fs::write(file, content).map_err(|error| format!("{file}: {error}")),
            None => Ok(()),
        };
        write(&wanted.json, format!("{figures:#}\n"))?;
        write(&wanted.svg, chart::draw(&figures))?;
        Ok(is_whole)
    });
    match written {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// The figures, and whether they are all.
fn measure(wanted: &Wanted) -> Result<(Map<String, Value>, bool), String> {
    let mut figures = Map::new();
    let mut is_whole = true;
    for subject in wanted.subjects() {
        let options = Options {
            against: wanted.peers(subject),
            ..wanted.options.clone()
        };
        let tables = (subject.run)(&options);
        let tables = tables.map_err(|reason| format!("{}: {reason}", subject.name))?;
        for table in &tables {
            println!("{table}");
            is_whole &= table.is_whole();
        }
        let json = tables.iter().map(|table| table.json()).collect();
        figures.insert(subject.name.to_owned(), Value::Array(json));
    }
    Ok((figures, is_whole))
}

/// The tables of several runs together.
fn read(files: &[String]) -> Result<Map<String, Value>, String> {
    let mut all: Map<String, Value> = Map::new();
    for file in files {
        let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        let figures: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
        for (subject, tables) in figures {
            let known = all
                .entry(subject)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let (Value::Array(known), Value::Array(tables)) = (known, tables) {
                known.extend(tables);
            }
        }
    }
    Ok(all)
}

/// `None`: help is wanted.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Wanted>, String> {
    let mut wanted = Wanted {
        only: Vec::new(),
        against: Vec::new(),
        json: None,
        svg: None,
        from: Vec::new(),
        needs: false,
        options: Options {
            against: Vec::new(),
            loads: Vec::new(),
            connections: None,
            workers: 2,
            rounds: 3,
            seconds: 5,
            seed: 1,
        },
    };
    while let Some(arg) = args.next() {
        if arg == "--help" {
            return Ok(None);
        }
        if arg == "--needs" {
            wanted.needs = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || {
            value
                .parse::<u32>()
                .map_err(|error| format!("{arg}: {error}"))
        };
        match arg.as_str() {
            "--only" if SUBJECTS.iter().any(|subject| subject.name == value) => {
                wanted.only.push(value)
            }
            "--only" => return Err(format!("there is no subject {value}")),
            "--against" => wanted.against.push(value),
            "--load" if LOADS.iter().any(|load| load.name == value) => {
                wanted.options.loads.push(value)
            }
            "--load" => return Err(format!("there is no load {value}")),
            "--json" => wanted.json = Some(value),
            "--svg" => wanted.svg = Some(value),
            "--from" => wanted.from.push(value),
            "--connections" => wanted.options.connections = Some(number()? as usize),
            "--workers" => wanted.options.workers = number()?,
            "--rounds" => wanted.options.rounds = number()?.max(1),
            "--seconds" => wanted.options.seconds = number()?.into(),
            _ => return Err(format!("what is {arg}?")),
        }
    }
    Ok(Some(wanted))
}
