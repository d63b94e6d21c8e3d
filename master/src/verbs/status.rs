//! `status`: a small table, or JSON.

use super::{Error, Result};
use crate::control::{Status, Worker, client};
use crate::run_dir::RunDir;

pub fn status(run: &RunDir, json: bool) -> Result {
    match client::status(run) {
        Ok(status) if json => {
            let status = serde_json::to_string(&status);
            println!("{}", status.map_err(std::io::Error::from)?);
            Ok(())
        }
        Ok(status) => {
            print!("{}", table(&status));
            Ok(())
        }
        Err(client::Error::NotRunning) => {
            if json {
                println!("{{\"running\":false}}");
            }
            Err(Error::NotRunning)
        }
        Err(error) => Err(error.into()),
    }
}

/// What people see.
fn table(status: &Status) -> String {
    let mut text = format!(
        "baton {} of {}, master pid {} (brain {}), up {}, epoch {}\n",
        status.version,
        status.built,
        status.master.pid,
        status.master.brain_pid,
        since(status.master.uptime_s),
        status.epoch
    );
    for listening in &status.listen {
        text += &format!("  {:<7} {}\n", listening.role.to_string(), listening.addr);
    }
    let heads = [
        "WORKER",
        "STATE",
        "PID",
        "GUARD",
        "LIFE",
        "CONNECTIONS",
        "ROOMS",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(status.workers.iter().map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    text.push('\n');
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate();
        // Words to the left, numbers to the right.
        let line: Vec<String> = cells
            .map(|(column, (cell, width))| match column {
                1 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    if status.moved > 0 {
        text += &format!("\nconnections moved: {}\n", status.moved);
    }
    match (&status.reload.running, &status.reload.last_result) {
        (true, _) => text += "\na reload is running\n",
        (false, Some(result)) => text += &format!("\nlast reload: {result}\n"),
        (false, None) => {}
    }
    match (&status.upgrade.running, &status.upgrade.last_result) {
        (true, _) => text += "\nan upgrade is running\n",
        (false, Some(result)) => text += &format!("\nlast upgrade: {result}\n"),
        (false, None) => {}
    }
    text
}

fn cells(worker: &Worker) -> [String; 7] {
    let pid = |pid: Option<i32>| pid.map_or("-".to_owned(), |pid| pid.to_string());
    [
        worker.worker.to_string(),
        worker.state.to_string(),
        pid(worker.pid),
        pid(worker.guard_pid),
        worker.life.to_string(),
        worker.connections.to_string(),
        worker.rooms.to_string(),
    ]
}

/// The two largest units.
fn since(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = concat!(
        r#"{"running":true,"version":"0.1.0","built":"2026-11-21T05:33:22.123Z","epoch":"e3","#,
        r#""master":{"pid":42,"brain_pid":43,"uptime_s":3720},"#,
        r#""listen":[{"role":"public","addr":"127.0.0.1:8000"},{"role":"admin","addr":"[::1]:1"}],"#,
        r#""workers":[{"worker":1,"pid":51,"guard_pid":50,"life":1,"state":"ready","connections":1200,"rooms":7},"#,
        r#"{"worker":2,"pid":null,"guard_pid":null,"life":11,"state":"given-up","connections":0,"rooms":0}],"moved":1200,"#,
        r#""reload":{"running":false,"last_result":"ok"},"#,
        r#""upgrade":{"running":false,"attempted":2,"done":1,"last_result":"no"}}"#,
    );

    #[test]
    fn json_is_as_documented() {
        let status: Status = serde_json::from_str(JSON).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), JSON);
    }

    #[test]
    fn people_see_a_table() {
        let status: Status = serde_json::from_str(JSON).unwrap();
        assert_eq!(
            table(&status),
            "\
baton 0.1.0 of 2026-11-21T05:33:22.123Z, master pid 42 (brain 43), up 1 h 2 min, epoch e3
  public  127.0.0.1:8000
  admin   [::1]:1

WORKER  STATE     PID  GUARD  LIFE  CONNECTIONS  ROOMS
     1  ready      51     50     1         1200      7
     2  given-up    -      -    11            0      0

connections moved: 1200

last reload: ok

last upgrade: no
"
        );
    }
}
