//! Answers that need nobody else.

use protocol::api::error;

use crate::http::Reply;

pub const JSON: &str = "application/json";

/// The status with its words.
#[must_use]
pub fn status(code: u32) -> &'static str {
    match code {
        200 => "200 OK",
        204 => "204 No Content",
        400 => "400 Bad Request",
        401 => "401 Unauthorized",
        403 => "403 Forbidden",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        409 => "409 Conflict",
        413 => "413 Content Too Large",
        415 => "415 Unsupported Media Type",
        422 => "422 Unprocessable Content",
        429 => "429 Too Many Requests",
        503 => "503 Service Unavailable",
        504 => "504 Gateway Timeout",
        _ => "500 Internal Server Error",
    }
}

/// An answer as JSON, which nobody keeps.
#[must_use]
pub fn json(code: u32, content: Vec<u8>) -> Reply {
    Reply {
        status: status(code),
        content_type: JSON,
        fields: "Cache-Control: no-store\r\n".to_owned(),
        content,
    }
}

pub fn fault(status: u32, code: &str, message: &str) -> Reply {
    json(status, error(code, message))
}

/// What is wrong with a request.
pub fn bad(message: &str) -> Reply {
    fault(400, "bad_request", message)
}

pub fn unauthorized(message: &str) -> Reply {
    let mut reply = fault(401, "unauthorized", message);
    reply.fields += "WWW-Authenticate: Bearer\r\n";
    reply
}
