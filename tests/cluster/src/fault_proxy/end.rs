//! **A** One end of a connection: a socket, or TLS over it.

use super::reset;
use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What TLS on both sides of the proxy takes: a certificate to show to clients, and an authority that the server's is of.
/// Nothing but HTTP/1.1 is offered or asked for.
pub(super) struct Tls {
    shown: Arc<ServerConfig>,
    asked: Arc<ClientConfig>,
}

impl Tls {
    /// Of texts in PEM.
    pub(super) fn new(certificate: &[u8], key: &[u8], authority: &[u8]) -> Result<Tls> {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let chain =
            CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().context("no certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key).context("no key")?;
        let shown = ServerConfig::builder_with_provider(Arc::clone(&ring)).with_safe_default_protocol_versions()?;
        let shown = shown.with_no_client_auth().with_single_cert(chain, key)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority).context("no authority")?)?;
        let asked = ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions()?;
        let asked = asked.with_root_certificates(roots).with_no_client_auth();
        Ok(Tls { shown: Arc::new(shown), asked: Arc::new(asked) })
    }
}

/// One end. As with a socket, one thread may read while another one writes.
pub(super) struct End {
    socket: TcpStream,
    tls: Option<Mutex<Connection>>,
}

impl End {
    /// A socket as it is.
    pub(super) fn plain(socket: TcpStream) -> End {
        End { socket, tls: None }
    }

    /// The end of a client, to whom a certificate is shown.
    pub(super) fn of_client(socket: TcpStream, tls: &Tls) -> io::Result<End> {
        let connection = ServerConnection::new(Arc::clone(&tls.shown)).map_err(io::Error::other)?;
        End::within(socket, connection.into())
    }

    /// The end of the server at this `HOST:PORT`, whose certificate is looked at.
    pub(super) fn of_server(socket: TcpStream, tls: &Tls, address: &str) -> io::Result<End> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::clone(&tls.asked), name).map_err(io::Error::other)?;
        End::within(socket, connection.into())
    }

    fn within(mut socket: TcpStream, mut connection: Connection) -> io::Result<End> {
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(End { socket, tls: Some(Mutex::new(connection)) })
    }

    /// Says, in order, that nothing (more) comes from here, or is read.
    pub(super) fn shutdown(&self, how: Shutdown) {
        // It may have ended by itself meanwhile.
        if let Some(tls) = &self.tls {
            let mut tls = lock(tls);
            tls.send_close_notify();
            let _ = self.send(&mut tls);
        }
        let _ = self.socket.shutdown(how);
    }

    /// Ends it at once, and in no order.
    pub(super) fn reset(&self) {
        reset(&self.socket);
    }

    /// What TLS has to say.
    fn send(&self, tls: &mut Connection) -> io::Result<()> {
        while tls.wants_write() {
            tls.write_tls(&mut &self.socket)?;
        }
        Ok(())
    }
}

fn lock(tls: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Read for &End {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return (&self.socket).read(piece) };
        loop {
            match lock(tls).reader().read(piece) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            // What may take for ever is waited for without the lock: somebody else may write meanwhile.
            self.socket.peek(&mut [0])?;
            let mut tls = lock(tls);
            tls.read_tls(&mut &self.socket)?;
            let understood = tls.process_new_packets();
            self.send(&mut tls)?;
            understood.map_err(io::Error::other)?;
        }
    }
}

impl Write for &End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return (&self.socket).write(bytes) };
        let mut tls = lock(tls);
        let written = tls.writer().write(bytes)?;
        self.send(&mut tls)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
