//! Cancels a statement in the server (PostgreSQL documentation, "Canceling Requests in Progress").
//!
//! The driver closes its connection as soon as the request is sent. A server has read the request by then. But a pooler that still has to pass it on
//! takes the closed connection as a withdrawal (seen with PgBouncer 1.18), and the statement goes on. Here, as in libpq, the connection stays open
//! until the other side closes it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::error::Cause;

/// Asks the server to cancel the statement of the token's session. Returns when the server has received the request.
pub(in crate::postgis) async fn cancel(
    token: &CancelToken,
    config: &Config,
    tls: &MakeRustlsConnect,
) -> Result<(), Cause> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts() {
        [Host::Tcp(name)] if config.get_hostaddrs().is_empty() => {
            let stream = TcpStream::connect((name.as_str(), port)).await?;
            cancel_over(token, stream, tls, name).await
        }
        #[cfg(unix)]
        [Host::Unix(folder)] => {
            let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?;
            cancel_over(token, stream, tls, "").await
        }
        // Only the driver knows which of several hosts it is connected to.
        _ => Ok(token.cancel_query(tls.clone()).await?),
    }
}

/// Sends the request over `stream`, and waits until the other side closes it.
async fn cancel_over<S>(token: &CancelToken, stream: S, tls: &MakeRustlsConnect, host: &str) -> Result<(), Cause>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut tls = tls.clone();
    let tls = MakeTlsConnect::<HeldConnection<S>>::make_tls_connect(&mut tls, host).map_err(io::Error::other)?;
    Ok(token.cancel_query_raw(HeldConnection(stream), tls).await?)
}

/// A connection that shuts down only after the other side has closed it.
struct HeldConnection<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for HeldConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HeldConnection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut bytes = [0; 64];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.0).poll_read(context, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                // The other side has closed it, or it broke.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
