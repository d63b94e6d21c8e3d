//! TCP connections that tests need and ordinary programs do not make: from an address of their own,
//! with small buffers, or ended by a reset.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::wait::DEADLINE;

/// How a connection is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The client's address. All of 127.0.0.0/8 is ours: with one address there are only some
    /// 28,000 ports to connect from, and limits per address see each address by itself.
    pub from: Option<IpAddr>,
    /// Bytes of the receive buffer: small, for a reader that is slow.
    pub receive_buffer: Option<usize>,
}

/// Connects; every read and write has a deadline.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    connect_with(to, Options::default())
}

pub fn connect_with(to: SocketAddr, options: Options) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(from) = options.from {
        bind(&socket, from)?;
    }
    socket.connect_timeout(&to.into(), DEADLINE)?;
    socket.set_tcp_nodelay(true)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Connects to a unix socket. (What reads from and writes to a `TcpStream` does so to any stream: the
/// clients here need not know.)
pub fn connect_unix(to: &Path) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.connect(&SockAddr::unix(to)?)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Begins to connect, and does not wait for it.
pub fn connect_later(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    if let Some(from) = from {
        bind(&socket, from)?;
    }
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// It connects from this address.
fn bind(socket: &Socket, from: IpAddr) -> io::Result<()> {
    // The port is chosen at connect, so that many connections may share one.
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which lives over the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&SocketAddr::new(from, 0).into())
}

/// The address 127.x.y.z of the number: 0 is 127.1.0.1.
pub fn loopback(number: u32) -> IpAddr {
    let base = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    Ipv4Addr::from(base + number).into()
}

/// Bytes that have arrived and were not read.
pub fn unread(stream: &TcpStream) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int, which lives over the call.
    unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    bytes as usize
}

/// Sends a byte as urgent data.
pub fn send_urgent(stream: &TcpStream, byte: u8) -> io::Result<()> {
    // SAFETY: the byte lives over the call.
    let sent = unsafe {
        libc::send(
            stream.as_raw_fd(),
            (&raw const byte).cast(),
            1,
            libc::MSG_OOB,
        )
    };
    match sent {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes with a reset instead of a FIN.
pub fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket
        .set_linger(Some(Duration::ZERO))
        .expect("a socket lingers");
}

/// Did the peer end the connection? An error of the network counts, silence does not.
pub fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
    };
    matches!(
        error.kind(),
        ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected | UnexpectedEof
    )
}
