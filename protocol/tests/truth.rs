//! The truth about real sockets: exact, or closed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use protocol::truth::{Truth, truth};

/// An accepted socket (ours) and the peer's end.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    setsockopt(&listener, sockopt::OobInline, &true).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, peer)
}

fn of(socket: &TcpStream) -> Option<Truth> {
    truth(socket.as_fd()).unwrap()
}

fn figures(consumed: u64, written: u64, peer_ended: bool, we_ended: bool) -> Option<Truth> {
    Some(Truth {
        consumed,
        written,
        peer_ended,
        we_ended,
    })
}

/// Waits until the truth is this one.
fn expect(socket: &TcpStream, want: Option<Truth>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while of(socket) != want {
        assert!(Instant::now() < deadline, "{:?}, not {want:?}", of(socket));
        std::thread::yield_now();
    }
}

fn read_exactly(socket: &mut TcpStream, n: usize) {
    socket.read_exact(&mut vec![0; n]).unwrap();
}

fn wait_for_unread(socket: &TcpStream) {
    socket.peek(&mut [0]).unwrap();
}

/// Writes until the socket takes nothing more, and says how much that was.
fn fill(socket: &mut TcpStream) -> u64 {
    socket.set_nonblocking(true).unwrap();
    let block = vec![3; 100_000];
    let mut written = 0;
    // What it took moves on to the peer, and then it takes more: until it is quiet.
    let mut refused_since = None;
    loop {
        match socket.write(&block) {
            Ok(n) => {
                written += n as u64;
                refused_since = None;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let since = *refused_since.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_millis(50) {
                    break;
                }
                std::thread::yield_now();
            }
            Err(e) => panic!("{e}"),
        }
    }
    socket.set_nonblocking(false).unwrap();
    written
}

#[test]
fn a_new_connection_starts_at_zero() {
    let (ours, _peer) = pair();
    assert_eq!(of(&ours), figures(0, 0, false, false));
}

#[test]
fn what_is_unread_is_not_consumed() {
    let (mut ours, mut peer) = pair();
    peer.write_all(&[1; 1000]).unwrap();
    wait_for_unread(&ours);
    assert_eq!(of(&ours), figures(0, 0, false, false));
    read_exactly(&mut ours, 400);
    assert_eq!(of(&ours), figures(400, 0, false, false));
    read_exactly(&mut ours, 600);
    assert_eq!(of(&ours), figures(1000, 0, false, false));
}

#[test]
fn what_is_written_counts_acknowledged_or_not() {
    let (mut ours, mut peer) = pair();
    ours.write_all(&[1; 3000]).unwrap();
    assert_eq!(of(&ours), figures(0, 3000, false, false));
    read_exactly(&mut peer, 3000);
    assert_eq!(of(&ours), figures(0, 3000, false, false));
}

#[test]
fn the_peers_fin_is_no_byte_unread_or_read() {
    let (mut ours, mut peer) = pair();
    peer.write_all(b"hello").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    expect(&ours, figures(0, 0, true, false));
    read_exactly(&mut ours, 3);
    assert_eq!(of(&ours), figures(3, 0, true, false));
    read_exactly(&mut ours, 2);
    assert_eq!(of(&ours), figures(5, 0, true, false));
    assert_eq!(ours.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(of(&ours), figures(5, 0, true, false));
    // The other half goes on.
    ours.write_all(b"goodbye").unwrap();
    assert_eq!(of(&ours), figures(5, 7, true, false));
    ours.shutdown(Shutdown::Write).unwrap();
    expect(&ours, None);
}

#[test]
fn our_fin_is_no_byte_unacknowledged_or_acknowledged() {
    let (mut ours, mut peer) = pair();
    ours.write_all(b"goodbye").unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    assert_eq!(of(&ours), figures(0, 7, false, true));
    peer.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(of(&ours), figures(0, 7, false, true));
    // The other half goes on.
    peer.write_all(b"and then").unwrap();
    read_exactly(&mut ours, 4);
    assert_eq!(of(&ours), figures(4, 7, false, true));
}

#[test]
fn fins_both_ways_while_ours_waits_for_the_window() {
    let (mut ours, mut peer) = pair();
    let written = fill(&mut ours);
    ours.shutdown(Shutdown::Write).unwrap();
    assert_eq!(of(&ours), figures(0, written, false, true));
    peer.write_all(b"last words").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    expect(&ours, figures(0, written, true, true));
    read_exactly(&mut ours, 4);
    assert_eq!(of(&ours), figures(4, written, true, true));
    peer.read_to_end(&mut Vec::new()).unwrap();
    expect(&ours, None);
}

#[test]
fn a_peer_that_ended_first_while_our_fin_waits_for_the_window() {
    let (mut ours, mut peer) = pair();
    let written = fill(&mut ours);
    peer.shutdown(Shutdown::Write).unwrap();
    expect(&ours, figures(0, written, true, false));
    ours.shutdown(Shutdown::Write).unwrap();
    assert_eq!(of(&ours), figures(0, written, true, true));
    peer.read_to_end(&mut Vec::new()).unwrap();
    expect(&ours, None);
}

#[test]
fn a_reset_is_closed() {
    let (mut ours, mut peer) = pair();
    ours.write_all(b"unread").unwrap();
    peer.write_all(b"unread too").unwrap();
    wait_for_unread(&ours);
    wait_for_unread(&peer);
    // Closing with bytes unread sends a reset.
    drop(peer);
    expect(&ours, None);
}

#[test]
fn an_urgent_byte_is_a_byte_like_others() {
    let (mut ours, mut peer) = pair();
    peer.write_all(b"ab").unwrap();
    send(peer.as_raw_fd(), b"cd", MsgFlags::MSG_OOB).unwrap();
    peer.write_all(b"ef").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    expect(&ours, figures(0, 0, true, false));
    let mut got = Vec::new();
    for n in 1..=6 {
        let mut byte = [0];
        ours.read_exact(&mut byte).unwrap();
        got.push(byte[0]);
        assert_eq!(of(&ours), figures(n, 0, true, false));
    }
    assert_eq!(got, b"abcdef");
}

#[test]
fn a_full_send_queue_and_no_window() {
    let (mut ours, mut peer) = pair();
    let written = fill(&mut ours);
    assert_eq!(of(&ours), figures(0, written, false, false));
    read_exactly(&mut peer, written as usize / 2);
    assert_eq!(of(&ours), figures(0, written, false, false));
    let more = fill(&mut ours);
    assert_eq!(of(&ours), figures(0, written + more, false, false));
}

#[test]
fn exact_while_the_peer_goes_on() {
    let (mut ours, mut peer) = pair();
    let mut from_peer = peer.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        // Until we close.
        while peer.write_all(&[7; 3000]).is_ok() {}
    });
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1000];
        while from_peer.read(&mut buffer).unwrap_or(0) > 0 {}
    });
    let (mut consumed, mut written) = (0, 0);
    let mut buffer = vec![0; 5000];
    for n in 0..1000 {
        consumed += ours.read(&mut buffer[..1 + n * 3 % 4000]).unwrap() as u64;
        written += ours.write(&buffer[..n * 7 % 5000]).unwrap() as u64;
        let truth = of(&ours).unwrap();
        assert_eq!((truth.consumed, truth.written), (consumed, written));
    }
    drop(ours);
    writer.join().unwrap();
    reader.join().unwrap();
}

#[test]
fn what_is_no_connection_is_an_error() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(truth(file.as_fd()).is_err());
}
