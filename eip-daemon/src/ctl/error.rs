//! Answers that are no success: status code, what did not work, why, what to do.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::api::ErrorBody;

/// An answer that is no success. Fate: told to the client, who shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorBody {
                error: error.into(),
                cause: None,
                hint: None,
            },
        }
    }

    #[must_use]
    pub(super) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.body.cause = Some(cause.into());
        self
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.body.hint = Some(hint.into());
        self
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    /// All of it in one line.
    pub(super) fn sentence(&self) -> String {
        let ErrorBody { error, cause, hint } = &self.body;
        let mut text = error.clone();
        for more in [cause, hint].into_iter().flatten() {
            text.push_str(": ");
            text.push_str(more);
        }
        text
    }

    /// Something of ours or of the kernel's did not work.
    pub(super) fn internal(doing: &str, cause: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, doing).cause(chain(cause))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
