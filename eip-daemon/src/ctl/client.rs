//! The other end of the control socket.

use std::{
    fmt::Write as _,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, task::JoinHandle, time::timeout};

use super::api::ErrorBody;

/// Longest answer to a question nobody has to wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no answer. Fate: shown to the person who asked; exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {}", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The socket is root's.
    #[error("{} is for root only", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The agent is there but says nothing.
    #[error("the agent has not answered within {} s", after.as_secs())]
    Silent {
        /// How long it was given.
        after: Duration,
    },
    /// The conversation broke off.
    #[error("talk to the agent")]
    Broken {
        /// The cause.
        #[source]
        source: hyper::Error,
    },
    /// The agent said something this version does not understand.
    #[error("understand the agent's answer ({status})")]
    Unreadable {
        /// Its status code.
        status: StatusCode,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The question cannot be put.
    #[error("form the request")]
    Request {
        /// The cause.
        #[source]
        source: hyper::http::Error,
    },
    /// The agent answered with an error.
    #[error("{}", body.error)]
    Refused {
        /// What it said.
        body: ErrorBody,
    },
}

impl ClientError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotRunning { .. } => "start `eip-daemon agent`, or name its socket with --socket",
            Self::Denied { .. } => "run eipctl as root",
            Self::Silent { .. } => "look at the agent's log; it may be stuck",
            Self::Unreadable { .. } => "use the eipctl of the agent's version",
            Self::Refused { body } => return body.hint.clone(),
            Self::Broken { .. } | Self::Request { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// Asks one agent.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the agent behind `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// `GET`.
    ///
    /// # Errors
    /// No agent, no answer, or an answer that is an error.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Bytes::new(), ANSWER_TIMEOUT)
            .await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::DELETE, path, Bytes::new(), ANSWER_TIMEOUT)
            .await
    }

    /// `POST` of something the agent may think about for `patience`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|source| ClientError::Unreadable {
            status: StatusCode::BAD_REQUEST,
            source,
        })?;
        self.ask(Method::POST, path, body.into(), ANSWER_TIMEOUT + patience)
            .await
    }

    /// `GET` of an answer without an end: `see` gets each line, and says whether it has seen enough.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn follow<T: DeserializeOwned>(
        &self,
        path: &str,
        mut see: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let request = form(Method::GET, path, Bytes::new())?;
        let (response, connection) = self.send(request).await?;
        let status = response.status();
        let unreadable = |source| ClientError::Unreadable { status, source };
        let mut body = response.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| ClientError::Broken { source })?;
            pending.extend(frame.into_data().unwrap_or_default());
            if !status.is_success() {
                continue;
            }
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let event = serde_json::from_slice(&line).map_err(unreadable)?;
                if see(event).is_break() {
                    connection.abort();
                    return Ok(());
                }
            }
        }
        connection.abort();
        if status.is_success() {
            return Ok(());
        }
        let body = serde_json::from_slice(&pending).map_err(unreadable)?;
        Err(ClientError::Refused { body })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let request = form(method, path, body)?;
        let exchange = timeout(patience, self.exchange(request)).await;
        let (status, body) = exchange.map_err(|_| ClientError::Silent { after: patience })??;
        let unreadable = |source| ClientError::Unreadable { status, source };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(unreadable);
        }
        let body = serde_json::from_slice(&body).map_err(unreadable)?;
        Err(ClientError::Refused { body })
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (response, connection) = self.send(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.map_err(|source| ClientError::Broken { source })?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, JoinHandle<Result<(), hyper::Error>>), ClientError> {
        let broken = |source| ClientError::Broken { source };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| self.unreachable(e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, connection))
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket },
            _ => ClientError::NotRunning { socket, source },
        }
    }
}

fn form(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "eip")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|source| ClientError::Request { source })
}

/// Makes any text one path segment or query value.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(byte.into());
            }
            _ => {
                let _infallible = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn any_text_becomes_one_path_segment() {
        assert_eq!(escape("203.0.113.10"), "203.0.113.10");
        assert_eq!(escape("default/web"), "default%2Fweb");
        assert_eq!(escape("2001:db8::1"), "2001%3Adb8%3A%3A1");
        assert_eq!(escape("a b?&ö"), "a%20b%3F%26%C3%B6");
    }
}
