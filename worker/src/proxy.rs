use std::net::SocketAddr;
pub const MAX_HEADER: usize = 536;
pub enum Parsed {
    Incomplete,
    Header {
        len: usize,
        source: Option<SocketAddr>,
    },
}
pub struct Bad;
pub fn parse(_: &[u8]) -> Result<Parsed, Bad> {
    Err(Bad)
}
