//! `check`: would `start` take this configuration?

use super::Result;
use crate::cli::Flags;

pub fn check(flags: &Flags) -> Result {
    let source = flags.source()?;
    source.load()?;
    match &source.file {
        Some(file) => println!("{}: correct", file.display()),
        None => println!("the defaults, which are correct"),
    }
    Ok(())
}
