//! `reload` and `scale`: ask, and wait until it is done.

use std::thread;
use std::time::Duration;

use super::{Error, Result};
use crate::control::{Request, client};
use crate::run_dir::RunDir;

/// A reload of many workers that each take their time; behind it another may wait.
const WITHIN: Duration = Duration::from_secs(20 * 60);

pub fn reload(run: &RunDir) -> Result {
    match client::ask(run, Request::Reload, WITHIN) {
        Ok(_) => {}
        Err(client::Error::Gone) => wait(run)?,
        Err(error) => return Err(error.into()),
    }
    println!("reloaded");
    Ok(())
}

/// The brain that was asked died, and the next goes on with the reload: its state tells.
fn wait(run: &RunDir) -> Result {
    loop {
        let reload = client::status(run)?.reload;
        if !reload.running {
            return match reload.last_result.as_deref() {
                Some("ok") => Ok(()),
                Some(reason) => Err(Error::Failed(reason.to_owned())),
                None => Err(Error::Failed("the reload did not begin".to_owned())),
            };
        }
        thread::sleep(Duration::from_millis(100));
    }
}

pub fn scale(run: &RunDir, workers: u16) -> Result {
    client::ask(run, Request::Scale { workers }, WITHIN)?;
    println!(
        "{workers} {}",
        if workers == 1 { "worker" } else { "workers" }
    );
    Ok(())
}
