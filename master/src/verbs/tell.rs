//! `reload`, `scale` and `upgrade`: ask, and wait until it is done.

use std::time::Duration;

use super::Result;
use crate::control::{Request, Upgraded, client};
use crate::run_dir::RunDir;

/// A reload of many workers that each take their time; behind it another may wait.
const WITHIN: Duration = Duration::from_secs(20 * 60);

pub fn reload(run: &RunDir) -> Result {
    client::ask(run, Request::Reload, WITHIN)?;
    println!("reloaded");
    Ok(())
}

pub fn scale(run: &RunDir, workers: u16) -> Result {
    client::ask(run, Request::Scale { workers }, WITHIN)?;
    println!(
        "{workers} {}",
        if workers == 1 { "worker" } else { "workers" }
    );
    Ok(())
}

pub fn upgrade(run: &RunDir) -> Result {
    // The old brain's answer would be lost with it: the next one is asked what became of this.
    let after = Some(client::status(run)?.upgrade.attempted);
    let done = client::ask(run, Request::Upgrade { after }, WITHIN)?;
    let Upgraded { from, to } =
        serde_json::from_value(done).map_err(client::Error::Misunderstood)?;
    println!("upgraded: baton {to} in place of {from}");
    Ok(())
}
