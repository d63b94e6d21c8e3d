//! Every key: its default and what is allowed.

use super::{Config, Errors, Overrides};

pub fn check(_file: &str, _text: &str, overrides: &Overrides) -> Result<Config, Errors> {
    let mut config = Config::default();
    config.workers = overrides.workers.unwrap_or(config.workers);
    Ok(config)
}
