//! How the API server shows another one who it is.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::pki::Renewed;

/// How long a token from a file is used before the file is read again.
const REREAD: Duration = Duration::from_secs(60);

/// What is shown to the server; none of it is told in logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The certificate for the TLS connection.
    pub certificate: Option<ClientCertificate>,
    /// The bearer token.
    pub token: Option<Token>,
    /// User and password.
    pub basic: Option<(String, String)>,
}

/// A client's certificate and key.
#[derive(Clone)]
pub enum ClientCertificate {
    /// These.
    Fixed {
        /// The chain, in PEM.
        chain: Vec<u8>,
        /// The private key, in PEM.
        key: Vec<u8>,
    },
    /// This server's own, which may be another one later.
    Renewed(Arc<Renewed>),
}

/// A bearer token.
#[derive(Clone)]
pub enum Token {
    /// This one.
    Fixed(String),
    /// The one in a file, which may be another one later.
    File(Arc<TokenFile>),
}

/// A file with a token.
pub struct TokenFile {
    path: PathBuf,
    last: Mutex<Option<(Instant, String)>>,
}

impl Token {
    /// The token of a file, which is read when it is needed.
    pub fn file(path: PathBuf) -> Self {
        Token::File(Arc::new(TokenFile { path, last: Mutex::new(None) }))
    }

    async fn read(&self) -> io::Result<String> {
        let file = match self {
            Token::Fixed(token) => return Ok(token.clone()),
            Token::File(file) => file,
        };
        let now = Instant::now();
        if let Some((read, token)) = &*file.last.lock()
            && now.duration_since(*read) < REREAD
        {
            return Ok(token.clone());
        }
        let text = tokio::fs::read_to_string(&file.path).await;
        let text = text.map_err(|error| {
            let at = file.path.display();
            io::Error::new(error.kind(), format!("failed to read token file {:?}: {error}", at.to_string()))
        })?;
        let token = text.trim().to_owned();
        *file.last.lock() = Some((now, token.clone()));
        Ok(token)
    }
}

impl Credentials {
    /// The `Authorization` header, if there is to be one.
    pub(super) async fn authorization(&self) -> io::Result<Option<HeaderValue>> {
        let text = match (&self.token, &self.basic) {
            (Some(token), _) => format!("Bearer {}", token.read().await?),
            (None, Some((user, password))) => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
            (None, None) => return Ok(None),
        };
        let mut value =
            HeaderValue::from_str(&text).map_err(|_| io::Error::other("the token is no header"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed { chain, key }, Self::Fixed { chain: others, key: its }) => {
                chain == others && key == its
            }
            (Self::Renewed(own), Self::Renewed(other)) => Arc::ptr_eq(own, other),
            (Self::Fixed { .. }, Self::Renewed(_)) | (Self::Renewed(_), Self::Fixed { .. }) => false,
        }
    }
}

impl Eq for ClientCertificate {}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Fixed(_) => f.write_str("Fixed"),
            Token::File(file) => f.debug_tuple("File").field(&file.path).finish(),
        }
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Token::Fixed(own), Token::Fixed(other)) => own == other,
            (Token::File(own), Token::File(other)) => own.path == other.path,
            (Token::Fixed(_), Token::File(_)) | (Token::File(_), Token::Fixed(_)) => false,
        }
    }
}

impl Eq for Token {}
