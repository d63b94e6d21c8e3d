//! What the command line can do, one file each: [`start`] (and restart), [`stop`], [`tell`]
//! (reload, scale, upgrade), [`status`], [`logs`], [`check`].

pub mod check;
pub mod logs;
pub mod processes;
pub mod start;
pub mod status;
pub mod stop;
pub mod tell;

use std::io;

use crate::config;
use crate::control::client;
use crate::pid_file;

/// Of a verb.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// Why a verb was not done, as the exit status says it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("baton: {0}")]
    Failed(String),
    /// Each line says itself where it comes from.
    #[error("{0}")]
    Configuration(#[from] config::Errors),
    #[error("baton is not running")]
    NotRunning,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Failed(error.to_string())
    }
}

impl From<pid_file::Error> for Error {
    fn from(error: pid_file::Error) -> Self {
        Error::Failed(error.to_string())
    }
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::NotRunning => Error::NotRunning,
            client::Error::Configuration(errors) => {
                Error::Configuration(config::Errors(vec![errors]))
            }
            error => Error::Failed(error.to_string()),
        }
    }
}
