//! tokio-tungstenite as it is used: a task for each connection, a broadcast channel for each room.
//!
//! `/echo` sends back what comes; `/room/N` sends it to all who are there. Its read buffer is 4 KiB:
//! with the 128 KiB that it has otherwise it takes much more memory and time. A member is sent all
//! that waits for it at once.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::broadcast::{self, Sender};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

/// Messages that may wait for a member.
const WAITING: usize = 4096;

type Rooms = Arc<Mutex<HashMap<String, Sender<Message>>>>;

fn main() -> io::Result<()> {
    let rooms = Rooms::default();
    baton_peers::run(move |stream| {
        let rooms = rooms.clone();
        async {
            // Who leaves without a word does not concern us.
            let _ = serve(stream, rooms).await;
        }
    })
}

async fn serve(stream: TcpStream, rooms: Rooms) -> Result<(), Error> {
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let mut path = String::new();
    #[allow(clippy::result_large_err)]
    let note = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let socket = accept_hdr_async_with_config(stream, note, Some(config)).await?;
    match path.as_str() {
        "/echo" => echo(socket).await,
        _ => member(socket, room(&rooms, path)).await,
    }
}

fn room(rooms: &Rooms, name: String) -> Sender<Message> {
    let mut rooms = rooms.lock().expect("nobody panics");
    let room = rooms.entry(name);
    room.or_insert_with(|| broadcast::channel(WAITING).0)
        .clone()
}

async fn echo(mut socket: WebSocketStream<TcpStream>) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn member(
    mut socket: WebSocketStream<TcpStream>,
    room: Sender<Message>,
) -> Result<(), Error> {
    let mut messages = room.subscribe();
    loop {
        tokio::select! {
            said = socket.next() => match said {
                Some(message) => {
                    let message = message?;
                    if message.is_text() {
                        let _ = room.send(message);
                    }
                }
                None => return Ok(()),
            },
            message = messages.recv() => {
                let Ok(message) = message else { return Ok(()) };
                socket.feed(message).await?;
                while let Ok(message) = messages.try_recv() {
                    socket.feed(message).await?;
                }
                socket.flush().await?;
            }
        }
    }
}
