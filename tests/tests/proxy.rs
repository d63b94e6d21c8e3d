//! The PROXY protocol, both versions: who the client is, as a trusted proxy says.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use harness::Baton;
use harness::http::{self, Client};
use harness::socket;

fn baton(policy: &str, trusted: &str) -> Baton {
    Baton::builder()
        .listeners_from_config()
        .workers(3)
        .config(&format!(
            "policy = \"{policy}\"\n[log]\nlevel = \"debug\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
             proxy_protocol = true\nproxy_trusted = [\"{trusted}\"]\n"
        ))
        .start()
}

fn version_1(client: IpAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let server = if client.is_ipv4() {
        "192.0.2.1"
    } else {
        "2001:db8::1"
    };
    format!("PROXY {family} {client} {server} 40000 80\r\n").into_bytes()
}

fn version_2(client: IpAddr) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match client {
        IpAddr::V4(client) => {
            bytes.extend([0x11, 0, 12]);
            bytes.extend(client.octets());
            bytes.extend([192, 0, 2, 1]);
        }
        IpAddr::V6(client) => {
            bytes.extend([0x21, 0, 36]);
            bytes.extend(client.octets());
            bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        }
    }
    bytes.extend([0x9c, 0x40, 0, 80]);
    bytes
}

/// All that stands in any worker's log.
fn logged(baton: &Baton, needle: &str) -> bool {
    (1..=3).any(|worker| baton.log(&format!("worker-{worker}")).contains(needle))
}

#[test]
fn both_versions_are_read_whole_or_byte_by_byte() {
    let baton = baton("round-robin", "127.0.0.0/8");
    for address in ["198.51.100.7", "2001:db8::7"] {
        let address: IpAddr = address.parse().unwrap();
        for header in [version_1(address), version_2(address)] {
            let mut client = Client::connect(baton.public);
            client.send(&header).unwrap();
            assert_eq!(client.get("/whoami").status, 200);

            let mut client = Client::connect(baton.public);
            for byte in &header {
                client.send([*byte]).unwrap();
            }
            assert_eq!(client.get("/whoami").status, 200);
        }
    }
    // A proxy that asks for itself (LOCAL), and one that does not know.
    let mut client = Client::connect(baton.public);
    client.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").unwrap();
    assert_eq!(client.get("/whoami").status, 200);
    let mut client = Client::connect(baton.public);
    client.send("PROXY UNKNOWN\r\n").unwrap();
    assert_eq!(client.get("/whoami").status, 200);
}

#[test]
fn a_bad_header_closes_the_connection() {
    let baton = baton("round-robin", "127.0.0.0/8");
    for bad in [
        &b"GET /whoami HTTP/1.1\r\nHost: test\r\n\r\n"[..],
        b"PROXY TCP4 198.51.100.7\r\nGET /whoami HTTP/1.1\r\nHost: test\r\n\r\n",
        b"PROXY TCP4 1.2.3.4.5 192.0.2.1 1 2\r\nGET /whoami HTTP/1.1\r\nHost: test\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c123456789012",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x041234",
    ] {
        let mut client = Client::connect(baton.public);
        client.send(bad).unwrap();
        assert!(client.ends(), "{bad:?}");
    }
    harness::eventually("the reason is logged", || {
        logged(&baton, "bad_proxy_header")
    });
}

#[test]
fn who_is_not_trusted_is_closed() {
    let baton = baton("round-robin", "10.0.0.0/8");
    let mut client = Client::over(socket::connect(baton.public).unwrap());
    let _ = client.send(version_1(Ipv4Addr::new(198, 51, 100, 7).into()));
    assert!(client.ends() || client.request("/whoami").is_err());
}

#[test]
fn ip_hash_goes_by_the_address_that_the_proxy_names() {
    let baton = baton("ip-hash", "127.0.0.0/8");
    let ask = |client: u32, header: fn(IpAddr) -> Vec<u8>| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 51, 100, 0)) + client);
        let mut connection = Client::connect(baton.public);
        connection.send(header(address.into())).unwrap();
        http::ask_whoami(&mut connection).unwrap().worker
    };
    let workers: Vec<u64> = (0..60).map(|client| ask(client, version_1)).collect();
    let distinct: BTreeSet<u64> = workers.iter().copied().collect();
    assert_eq!(
        distinct.len(),
        3,
        "one proxy, and not one worker: {workers:?}"
    );
    let again: Vec<u64> = (0..60).map(|client| ask(client, version_2)).collect();
    assert_eq!(workers, again, "an address changed its worker");
}
