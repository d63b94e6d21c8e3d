//! Where a listener listens: at an address of TCP, or at a file.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How the name of a file begins.
const UNIX: &str = "unix:";
/// Bytes of a path that the kernel takes (`sockaddr_un`, with a zero behind it).
const MAX_PATH: usize = 107;

/// As text, `127.0.0.1:8000` or `unix:/run/baton/admin.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

/// What the file of a unix socket is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    pub mode: u32,
    /// `None`: who starts baton.
    pub owner: Option<u32>,
    pub group: Option<u32>,
}

impl Default for Rights {
    fn default() -> Self {
        Rights {
            mode: 0o600,
            owner: None,
            group: None,
        }
    }
}

impl Address {
    /// What is said in a file of this directory.
    pub fn parse(text: &str, directory: &Path) -> Option<Address> {
        let Some(path) = text.strip_prefix(UNIX) else {
            return text.parse().ok().map(Address::Tcp);
        };
        let path = std::path::absolute(directory.join(path)).ok()?;
        let fits = (1..=MAX_PATH).contains(&path.as_os_str().len()) && !text.contains('\0');
        (fits && path.file_name().is_some()).then_some(Address::Unix(path))
    }

    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::Tcp(_) => None,
            Address::Unix(path) => Some(path),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Address, D::Error> {
        let text = String::deserialize(from)?;
        Address::parse(&text, Path::new("/"))
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no address")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_files() {
        let parse = |text: &str| Address::parse(text, Path::new("/etc/baton"));
        let tcp = parse("[::1]:80").unwrap();
        assert_eq!(tcp.to_string(), "[::1]:80");
        for (text, path) in [
            ("unix:run/a.sock", "unix:/etc/baton/run/a.sock"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            let address = parse(text).unwrap();
            assert_eq!(address.to_string(), path);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }
        for wrong in ["", "80", "unix:/", "unix:a\0b", "host:80"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse(&format!("unix:/{}", "x".repeat(107))), None);
        assert!(parse(&format!("unix:/{}", "x".repeat(106))).is_some());
    }
}
