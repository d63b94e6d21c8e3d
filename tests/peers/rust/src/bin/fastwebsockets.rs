//! fastwebsockets behind hyper, as its own examples use it. Any path sends back what comes.

use std::convert::Infallible;
use std::io;

use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{FragmentCollector, OpCode, WebSocketError};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

fn main() -> io::Result<()> {
    baton_peers::run(|stream| async {
        let connection = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(serve))
            .with_upgrades();
        // Who leaves without a word does not concern us.
        let _ = connection.await;
    })
}

async fn serve(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    Ok(match upgrade(&mut request) {
        Ok((response, socket)) => {
            tokio::spawn(async {
                let _ = echo(socket).await;
            });
            response
        }
        Err(_) => {
            let mut response = Response::new(Empty::new());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    })
}

async fn echo(socket: UpgradeFut) -> Result<(), WebSocketError> {
    // A frame as it was read has its mask still; the collector's have none.
    let mut socket = FragmentCollector::new(socket.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
