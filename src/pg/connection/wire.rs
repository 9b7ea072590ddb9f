//! The way to a server: a socket, TLS over it if that is wanted, and the look at how the session logs in.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::future::Ready;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, TlsConnect};
use tokio_rustls::client::TlsStream;

use super::guard::Guard;
use super::tls::{ClientTls, TlsError};
use crate::pg::conninfo::{Keepalives, RequireAuth};

/// Where to, and how. Kept for as long as the session, for requests to cancel a query.
#[derive(Clone)]
pub(super) struct Route {
    pub place: Place,
    pub tls: Encryption,
    pub require_auth: Option<RequireAuth>,
}

/// One address.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Unix { path: PathBuf, peer: Option<String> },
    Tcp { address: SocketAddr, keepalives: Keepalives },
}

/// Whether TLS is spoken.
#[derive(Clone)]
pub(super) enum Encryption {
    Never,
    /// If the server has it.
    IfOffered(Arc<ClientTls>),
    /// After the server has said that it has it.
    Asked(Arc<ClientTls>),
    /// At once.
    Direct(Arc<ClientTls>),
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the server runs as user {found}, and requirepeer={wanted} asks for another")]
    Peer { wanted: String, found: String },
}

/// "Tell whether you speak TLS": its length and the code that stands in a protocol version's place.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

impl Route {
    /// Connects, and agrees on TLS.
    pub async fn dial(&self) -> Result<Wire, WireError> {
        let guard = Guard::new(self.require_auth.clone());
        let (address, keepalives) = match &self.place {
            Place::Unix { path, peer } => {
                let stream = UnixStream::connect(path).await?;
                if let Some(wanted) = peer {
                    check_peer(&stream, wanted)?;
                }
                return Ok(Wire { link: Link::Unix(stream), guard, binding: None });
            }
            Place::Tcp { address, keepalives } => (address, keepalives),
        };
        let mut stream = TcpStream::connect(address).await?;
        set_up(&stream, keepalives)?;
        let (tls, direct) = match &self.tls {
            Encryption::Never => return Ok(Wire { link: Link::Tcp(stream), guard, binding: None }),
            Encryption::IfOffered(tls) | Encryption::Asked(tls) => {
                if !is_offered(&mut stream).await? {
                    return match self.tls {
                        Encryption::IfOffered(_) => Ok(Wire { link: Link::Tcp(stream), guard, binding: None }),
                        _ => Err(TlsError::NotOffered.into()),
                    };
                }
                (tls, false)
            }
            Encryption::Direct(tls) => (tls, true),
        };
        let secured = tls.secure(stream, direct).await?;
        Ok(Wire { link: Link::Tls(Box::new(secured.stream)), guard, binding: secured.binding })
    }
}

fn set_up(stream: &TcpStream, keepalives: &Keepalives) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if keepalives.on {
        let all = TcpKeepalive::new().with_time(keepalives.idle).with_interval(keepalives.interval).with_retries(keepalives.count);
        socket.set_tcp_keepalive(&all)?;
    }
    if let Some(timeout) = keepalives.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

/// The server answers with one byte, and nothing may follow it in clear: exactly one is read, so that bytes smuggled in
/// behind it fall to the handshake, which they break.
async fn is_offered(stream: &mut TcpStream) -> Result<bool, WireError> {
    stream.write_all(&SSL_REQUEST).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    match answer {
        [b'S'] => Ok(true),
        [b'N'] => Ok(false),
        // Its text is not to be believed: nobody has been authenticated.
        [b'E'] => Err(io::Error::other("the server answers the request for TLS with an error (see its log)").into()),
        _ => Err(io::Error::other("what answers there is no PostgreSQL server").into()),
    }
}

fn check_peer(stream: &UnixStream, wanted: &str) -> Result<(), WireError> {
    let uid = nix::unistd::Uid::from_raw(stream.peer_cred()?.uid());
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    let found = user.map_or_else(|| format!("number {uid}"), |user| user.name);
    if found == wanted { Ok(()) } else { Err(WireError::Peer { wanted: wanted.to_owned(), found }) }
}

enum Link {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A way to a server, ready for the session's first message.
pub(super) struct Wire {
    link: Link,
    guard: Guard,
    binding: Option<Vec<u8>>,
}

impl Wire {
    /// Is it encrypted?
    pub fn is_tls(&self) -> bool {
        matches!(self.link, Link::Tls(_))
    }
}

/// Does the same with whatever lies below.
macro_rules! through {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.link {
            Link::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Link::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Link::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(through!(self, stream => stream.poll_read(context, buffer)))?;
        let seen = self.guard.see(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(seen.map_err(io::Error::other))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        through!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, stream => stream.poll_shutdown(context))
    }
}

/// What tokio-postgres takes for its TLS: the wire as it is, since everything has been agreed on before.
pub(super) struct AsItIs;

impl TlsConnect<Wire> for AsItIs {
    type Stream = Wire;
    type Error = io::Error;
    type Future = Ready<io::Result<Wire>>;

    fn connect(self, stream: Wire) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}

impl tokio_postgres::tls::TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        self.binding.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}
