//! A back end that speaks to the HTTP API.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;

use crate::http::{Client, Response};
use crate::{Baton, Builder};

/// The token of [`with_api`].
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A daemon whose API takes [`TOKEN`]; `config` is more of its configuration.
pub fn with_api(config: &str) -> Builder {
    with_api_as(Baton::builder(), config)
}

/// The same, of a daemon that is special in something.
pub fn with_api_as(builder: Builder, config: &str) -> Builder {
    builder
        .config(&format!("[api]\ntokens = [\"api.token\"]\n{config}"))
        .file("api.token", &format!("{TOKEN}\n"))
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub json: Value,
}

impl Answer {
    /// Panics unless it is this error; in how many milliseconds to ask again, if it says so.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Option<u64> {
        let error = &self.json["error"];
        let is = (self.status, error["code"].as_str());
        assert_eq!(is, (status, Some(code)), "{}", self.json);
        error["retry_after_ms"].as_u64()
    }
}

/// Who asks, over one connection.
#[derive(Debug)]
pub struct Api {
    pub client: Client,
    pub token: Option<String>,
}

impl Api {
    /// With the token.
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Api {
        Api {
            client: Client::connect(to),
            token: Some(TOKEN.to_owned()),
        }
    }

    /// Sends a request and waits for nothing.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: Option<&Value>,
    ) -> io::Result<()> {
        let token = self.token.as_ref();
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        let (body, kind) = match body {
            Some(body) => (body.to_string(), "Content-Type: application/json\r\n"),
            None => (String::new(), ""),
        };
        let len = match (method, body.len()) {
            ("GET" | "HEAD", 0) => String::new(),
            (_, len) => format!("Content-Length: {len}\r\n"),
        };
        self.client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\n{token}{kind}{len}{fields}\r\n{body}"
        ))
    }

    /// The next answer, as JSON.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let Response { status, body, .. } = self.client.response()?;
        let json = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&body).map_err(io::Error::other)?,
        };
        Ok(Answer { status, json })
    }

    pub fn try_ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: Option<&Value>,
    ) -> io::Result<Answer> {
        self.send(method, path, fields, body)?;
        self.answer()
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.try_ask("GET", path, "", None)
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    #[track_caller]
    pub fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.try_ask("POST", path, "", Some(body))
            .unwrap_or_else(|error| panic!("POST {path} {body}: {error}"))
    }

    /// The same, to be done once whenever it is asked with this key.
    #[track_caller]
    pub fn post_once(&mut self, key: &str, path: &str, body: &Value) -> Answer {
        let key = format!("Idempotency-Key: {key}\r\n");
        self.try_ask("POST", path, &key, Some(body))
            .unwrap_or_else(|error| panic!("POST {path} {body}: {error}"))
    }

    /// Panics unless it is 200; what it says.
    #[track_caller]
    pub fn ok(&mut self, path: &str, body: Option<&Value>) -> Value {
        let answer = match body {
            Some(body) => self.post(path, body),
            None => self.get(path),
        };
        assert_eq!(answer.status, 200, "{path} {body:?}: {}", answer.json);
        answer.json
    }
}
