//! `[[listen]]`, and the flags that stand for it.

use std::net::{IpAddr, SocketAddr};

use protocol::cidr::Cidr;
use protocol::ids::Role;

use super::identity::{group_named, user_named};
use super::reader::{Report, Section};
use super::{Address, Listen, Overrides, Rights};

/// A listener, and where it was said.
pub struct Listening {
    pub listen: Listen,
    pub line: Option<usize>,
    /// Key or flag.
    pub said: String,
}

pub fn listen(s: &mut Section<'_, '_>) -> Listening {
    let line = s.line_of("address").unwrap_or(s.line());
    let nowhere = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let example = "an address such as \"127.0.0.1:8000\", \"[::1]:8000\" or \"unix:admin.sock\"";
    let directory = s.directory();
    let address = s.parsed("address", example, |text| Address::parse(text, &directory));
    if !s.has("address") {
        s.wrong("address", "is missing, such as \"127.0.0.1:8000\"");
    }
    let d = Listen::new(address.clone().unwrap_or(nowhere), Role::Public);
    let roles = [("public", Role::Public), ("admin", Role::Admin)];
    let listen = Listen {
        address: d.address,
        role: s.choice("role", d.role, &roles),
        backlog: s.number("backlog", d.backlog, 1..=65_535),
        ipv6_only: s.flag("ipv6_only", d.ipv6_only),
        proxy_protocol: s.flag("proxy_protocol", d.proxy_protocol),
        proxy_trusted: s.list("proxy_trusted", d.proxy_trusted, str::parse::<Cidr>),
        rights: rights(s),
    };
    match &address {
        Some(Address::Unix(_)) => means_nothing(s, &TCP_ONLY, "for a unix socket"),
        _ => means_nothing(s, &UNIX_ONLY, "but for a unix socket"),
    }
    if listen.address.path().is_some() && listen.role == Role::Public {
        s.wrong(
            "address",
            "a unix socket is for role = \"admin\" only; a proxy on this machine reaches clients' \
             listeners at 127.0.0.1, with proxy_protocol",
        );
    }
    if s.has("ipv6_only")
        && listen
            .address
            .tcp()
            .is_some_and(|address| address.is_ipv4())
    {
        s.wrong("ipv6_only", "means nothing for an IPv4 address");
    }
    if listen.proxy_protocol && !s.has("proxy_trusted") {
        s.wrong(
            "proxy_protocol",
            "needs proxy_trusted, a list of the addresses that may say who a client is",
        );
    }
    if !listen.proxy_protocol && s.has("proxy_trusted") {
        s.wrong("proxy_trusted", "needs proxy_protocol = true");
    }
    Listening {
        listen,
        line: Some(line),
        said: "listen.address".to_owned(),
    }
}

const TCP_ONLY: [&str; 3] = ["ipv6_only", "proxy_protocol", "proxy_trusted"];
const UNIX_ONLY: [&str; 3] = ["mode", "owner", "group"];

fn means_nothing(s: &mut Section<'_, '_>, keys: &[&str], why: &str) {
    for key in keys {
        if s.has(key) {
            s.wrong(key, format!("means nothing {why}"));
        }
    }
}

/// What the file of a unix socket is given.
fn rights(s: &mut Section<'_, '_>) -> Rights {
    let d = Rights::default();
    let octal = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let mode = digits.then(|| u32::from_str_radix(text, 8).ok()).flatten();
        mode.filter(|mode| *mode <= 0o777)
    };
    let mode = s.parsed("mode", "octal digits such as \"0660\"", octal);
    let mut id = |key, find: &dyn Fn(&str) -> Result<u32, String>| match s.text(key) {
        None => None,
        Some(name) => find(&name).map_err(|message| s.wrong(key, message)).ok(),
    };
    Rights {
        mode: mode.unwrap_or(d.mode),
        owner: id("owner", &|name| {
            user_named(name).map(|(uid, _)| uid.as_raw())
        }),
        group: id("group", &|name| group_named(name).map(|gid| gid.as_raw())),
    }
}

/// Flags take the place of all listeners of their role.
pub fn put_on_top(listeners: Vec<Listening>, overrides: &Overrides) -> Vec<Listening> {
    let mut all = Vec::new();
    for (role, flag, addresses) in [
        (Role::Public, "--listen", &overrides.listen),
        (Role::Admin, "--admin", &overrides.admin),
    ] {
        all.extend(addresses.iter().map(|address| Listening {
            listen: Listen::new(*address, role),
            line: None,
            said: flag.to_owned(),
        }));
    }
    let stays = |one: &Listening| match one.listen.role {
        Role::Public => overrides.listen.is_empty(),
        Role::Admin => overrides.admin.is_empty(),
    };
    let mut listeners: Vec<_> = listeners.into_iter().filter(stays).collect();
    listeners.extend(all);
    listeners
}

/// One at least is public, and no two want the same port of the same address.
pub fn listeners_agree(report: &mut Report<'_>, listeners: &[Listening]) {
    if !listeners.iter().any(|one| one.listen.role == Role::Public) {
        report.wrong(&["listen"], "one listener must have role = \"public\"");
    }
    for (i, one) in listeners.iter().enumerate() {
        let before = &listeners[..i];
        if let Some(other) = before
            .iter()
            .find(|other| overlap(&one.listen, &other.listen))
        {
            let message = if one.listen.address == other.listen.address {
                format!("{} is listened on twice", one.listen.address)
            } else {
                let (this, that) = (&one.listen.address, &other.listen.address);
                format!("{this} overlaps {that}, another listener's")
            };
            report.wrong_at(one.line, &one.said, message);
        }
    }
}

/// Can the two not be listened on at once?
fn overlap(a: &Listen, b: &Listen) -> bool {
    let (Address::Tcp(at_a), Address::Tcp(at_b)) = (&a.address, &b.address) else {
        return a.address == b.address;
    };
    if at_a.port() != at_b.port() || at_a.port() == 0 {
        return false;
    }
    let all_of = |own: IpAddr, ipv6_only: bool, ip: IpAddr| match own {
        IpAddr::V4(own) => own.is_unspecified() && ip.is_ipv4(),
        IpAddr::V6(own) => own.is_unspecified() && (ip.is_ipv6() || !ipv6_only),
    };
    let (ip_a, ip_b) = (at_a.ip(), at_b.ip());
    ip_a == ip_b || all_of(ip_a, a.ipv6_only, ip_b) || all_of(ip_b, b.ipv6_only, ip_a)
}
