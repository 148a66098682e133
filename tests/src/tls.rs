//! HTTPS as Google's front ends have it, with a certificate of a private authority.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, version};

/// What one HTTP/2 connection carries at once, as Google's front ends have it.
const STREAMS: u32 = 100;

/// TLS 1.3 for 127.0.0.1 and `localhost`.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// With a certificate by an authority of its own, whose certificate goes into `file`, as PEM.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn of_private_authority(file: &Path) -> anyhow::Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose issuer has its own name for self-signed.
        authority.distinguished_name.push(DnType::CommonName, "a private authority");
        // What it asks of an authority when it is strict, as Python has it.
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        std::fs::write(file, authority.pem())
            .with_context(|| format!("{} cannot be written", file.display()))?;
        let key = KeyPair::generate()?;
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut certificate = CertificateParams::new(names)?;
        certificate.use_authority_key_identifier_extension = true;
        let certificate = certificate.signed_by(&key, &authority)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let mut config = ServerConfig::builder_with_protocol_versions(&[&version::TLS13])
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Hands what is decrypted of a connection on to a server without TLS, and back, until one of
    /// them ends it.
    pub async fn relay(&self, connection: TcpStream, server: SocketAddr) {
        let Ok(mut connection) = self.0.accept(connection).await else { return };
        let Ok(mut server) = TcpStream::connect(server).await else { return };
        drop(tokio::io::copy_bidirectional(&mut connection, &mut server).await);
    }

    /// Serves a connection until it ends, by HTTP/2 or 1.1 as the client likes. A client that
    /// breaks off is no error.
    pub async fn serve<F>(
        &self,
        connection: TcpStream,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        drop(connection.set_nodelay(true));
        let Ok(connection) = self.0.accept(connection).await else { return };
        let mut server = Builder::new(TokioExecutor::new());
        server
            .http2()
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20);
        let answer = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        drop(server.serve_connection(TokioIo::new(connection), answer).await);
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}
