//! What the servers have in common: `PROGRAM THREADS` prints its port when it serves, and ends when
//! there is nothing more to read.

use std::env;
use std::io;

use tokio::io::{AsyncReadExt, stdin};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// Serves each connection by a task of its own.
pub fn run<F>(serve: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let threads = env::args().nth(1).and_then(|threads| threads.parse().ok());
    let runtime = match threads {
        None | Some(1) => Builder::new_current_thread().enable_all().build()?,
        Some(threads) => Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?,
    };
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        let mut end = Vec::new();
        let mut stdin = stdin();
        tokio::select! {
            read = stdin.read_to_end(&mut end) => read.map(drop),
            accepted = accept(listener, serve) => accepted,
        }
    })
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}
