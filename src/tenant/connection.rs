//! **A** Connections to the API server with a buffer below TLS.
//!
//! rustls reads 4 KiB at a time (`rustls-0.23.46/src/msgs/deframer/buffers.rs`, `READ_SIZE`), whatever waits in the socket:
//! of a stream of 693 MiB that is 180,000 system calls in the one task that reads it. kube's own `ClientBuilder` takes no
//! connector, so what it does for a `Config` is put together here, out of kube's parts.

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use std::io::{IoSlice, Result as IoResult};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tower::util::{MapRequestLayer, MapResponse};
use tower::{BoxError, ServiceBuilder};

use crate::source::exec_loop;

/// Bytes that one read of a socket takes at most: four records of TLS.
const READ_SIZE: usize = 64 * 1024;

/// A client of this server, with the limits and the identity of `config`. It tries nothing again, whatever
/// `config.default_retry` says: an exec must not be repeated by a layer below us, and attempts are counted above.
///
/// # Errors
/// What is wrong in `config`.
pub(super) fn client(config: &Config) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let tls = config.rustls_https_connector_with_connector(MapResponse::new(tcp, Buffered::new))?;
    let mut connector = TimeoutConnector::new(tls);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    let service = ServiceBuilder::new()
        .layer(MapRequestLayer::new(exec_loop::ask_for_v4_alone))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// A connection that is read in large pieces.
struct Buffered(TokioIo<BufReader<TcpStream>>);

impl Buffered {
    fn new(stream: TokioIo<TcpStream>) -> Self {
        Self(TokioIo::new(BufReader::with_capacity(READ_SIZE, stream.into_inner())))
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut TokioIo<BufReader<TcpStream>>> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl Connection for Buffered {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Buffered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<IoResult<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl Write for Buffered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<IoResult<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        self.inner().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<IoResult<usize>> {
        self.inner().poll_write_vectored(cx, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn whatever_waits_is_read_at_once_and_nothing_of_it_is_lost() {
        let sent: Vec<u8> = (0..60_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(&sent).await.unwrap();
        let mut waits = vec![0; sent.len()];
        while stream.peek(&mut waits).await.unwrap() < sent.len() {
            tokio::task::yield_now().await;
        }
        let mut connection = TokioIo::new(Buffered::new(TokioIo::new(stream)));
        let mut read = vec![0; 4096];
        connection.read_exact(&mut read).await.unwrap();
        assert_eq!(connection.inner().0.inner().buffer().len(), sent.len() - read.len());
        drop(server);
        connection.read_to_end(&mut read).await.unwrap();
        assert!(read == sent);
    }
}
