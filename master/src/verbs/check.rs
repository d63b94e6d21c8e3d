//! `check`: would `start` take this configuration?

use super::Result;
use super::start::warn;
use crate::cli::Flags;

pub fn check(flags: &Flags) -> Result {
    let source = flags.source()?;
    warn(&source.load()?);
    match &source.file {
        Some(file) => println!("{}: correct", file.display()),
        None => println!("the defaults, which are correct"),
    }
    Ok(())
}
