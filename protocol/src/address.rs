//! A client's address. In a message it is a byte string of the IP's 4 or 16 bytes and the port's 2, in network
//! order. (serde's own form is an array of numbers, which takes several times as long.)

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::de::Error;
use serde::{Deserializer, Serializer};

/// Of who comes over a unix socket, and has none.
pub const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A client's address, for people.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NOWHERE => f.write_str("unix"),
            address => address.fmt(f),
        }
    }
}

pub fn serialize<S: Serializer>(address: &SocketAddr, to: S) -> Result<S::Ok, S::Error> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 6];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes[4..].copy_from_slice(&port);
            to.serialize_bytes(&bytes)
        }
        IpAddr::V6(v6) => {
            let mut bytes = [0; 18];
            bytes[..16].copy_from_slice(&v6.octets());
            bytes[16..].copy_from_slice(&port);
            to.serialize_bytes(&bytes)
        }
    }
}

pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let bytes: &[u8] = serde_bytes::deserialize(from)?;
    let address = bytes.split_last_chunk().and_then(|(ip, port)| {
        let ip = match ip.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
    });
    address.ok_or_else(|| D::Error::invalid_length(bytes.len(), &"6 or 18 bytes"))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct At(#[serde(with = "super")] SocketAddr);

    #[test]
    fn is_shown() {
        let address = "1.2.3.4:5".parse().unwrap();
        assert_eq!(Shown(address).to_string(), "1.2.3.4:5");
        assert_eq!(Shown(NOWHERE).to_string(), "unix");
    }

    #[test]
    fn comes_back() {
        for address in ["1.2.3.4:5", "[2001:db8::1]:65535", "[::ffff:1.2.3.4]:1"] {
            let at = At(address.parse().unwrap());
            let bytes = rmp_serde::to_vec(&at).unwrap();
            assert_eq!(rmp_serde::from_slice::<At>(&bytes).unwrap(), at);
        }
        for wrong in [&b""[..], &[1; 5], &[1; 7], &[1; 19]] {
            let bytes = rmp_serde::to_vec(serde_bytes::Bytes::new(wrong)).unwrap();
            assert!(rmp_serde::from_slice::<At>(&bytes).is_err());
        }
    }
}
