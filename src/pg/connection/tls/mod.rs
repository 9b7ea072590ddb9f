//! TLS as libpq means it: files of certificates and keys, whom to believe, which names fit.
//!
//! The handshake is rustls'. Chains are checked by rustls-webpki; what it refuses and OpenSSL, and so libpq, accepts is
//! judged here: certificates without extensions (X.509 v1), a CA's certificate as the server's own, names in the
//! subject's common name (docs/decisions/012-tls-by-rustls.md).
//!
//! - `mod.rs`: [`ClientTls`]: settings and files made into a client
//! - `files.rs`: reads certificates, keys and revocation lists
//! - `verify.rs`: the judge that rustls asks
//! - `chain.rs`: chains that webpki can't judge
//! - `names.rs`: is this certificate of that host?
//! - `x509.rs`: what is read out of a certificate
//! - `error.rs`: [`TlsError`]

mod chain;
mod error;
mod files;
mod names;
mod verify;
mod x509;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pg::conninfo::{CertMode, SslMode, TlsSettings, TlsVersion};

pub use error::TlsError;
use verify::Verifier;

/// The protocol's name (ALPN), registered for PostgreSQL 17's direct negotiation.
const ALPN: &[u8] = b"postgresql";

/// A client for one host.
pub(super) struct ClientTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    ours: Arc<OurCertificate>,
    /// Does the server have to ask for ours?
    must_ask: bool,
}

/// A session's TLS, and what a password may be bound to.
pub(super) struct Secured {
    pub stream: TlsStream<TcpStream>,
    pub binding: Option<Vec<u8>>,
}

impl ClientTls {
    /// Reads the files, and decides what is asked of the server's certificate.
    pub fn new(settings: &TlsSettings, host: &str) -> Result<ClientTls, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = files::roots(settings)?;
        let crls = if roots.is_some() { files::revocations(settings)? } else { Vec::new() };
        let ours = Arc::new(OurCertificate { key: our_key(settings, &provider)?, asked: AtomicBool::new(false) });
        let whole = settings.mode == SslMode::VerifyFull;
        let verifier = Verifier::new(host, roots, crls, whole, provider.signature_verification_algorithms);
        let versions: &[&rustls::SupportedProtocolVersion] = match (settings.min, settings.max) {
            (TlsVersion::V12, TlsVersion::V12) => &[&rustls::version::TLS12],
            (TlsVersion::V13, _) => &[&rustls::version::TLS13],
            (TlsVersion::V12, TlsVersion::V13) => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let builder = builder.map_err(|error| TlsError::Handshake { reason: error.to_string() })?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = builder.with_client_cert_resolver(ours.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = settings.sni;
        // Resumption would save nothing, and skips the certificate that a password is bound to.
        config.resumption = rustls::client::Resumption::disabled();
        // What is no name of DNS is no SNI either; the certificate is compared with the text itself.
        let name = ServerName::try_from(host.to_owned()).unwrap_or(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()));
        Ok(ClientTls { config: Arc::new(config), name, ours, must_ask: settings.cert_mode == CertMode::Require })
    }

    /// The handshake. `direct` is without PostgreSQL's own negotiation: then the protocol's name has to be agreed on.
    pub async fn secure(&self, stream: TcpStream, direct: bool) -> Result<Secured, TlsError> {
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector.connect(self.name.clone(), stream).await.map_err(|error| TlsError::of(&error, direct))?;
        let (_, session) = stream.get_ref();
        if direct && session.alpn_protocol() != Some(ALPN) {
            return Err(TlsError::NoDirect { reason: "it does not agree on the protocol's name (ALPN)".to_owned() });
        }
        if self.must_ask && !self.ours.asked.load(Ordering::Acquire) {
            return Err(TlsError::NotAsked);
        }
        let certificate = session.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
        let binding = certificate.and_then(|certificate| x509::server_end_point(certificate));
        Ok(Secured { stream, binding })
    }
}

fn our_key(settings: &TlsSettings, provider: &CryptoProvider) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
    if settings.cert_mode == CertMode::Disable {
        return Ok(None);
    }
    let key = files::certified_key(settings, provider)?;
    if key.is_none() && settings.cert_mode == CertMode::Require {
        return Err(TlsError::NoCertificate);
    }
    Ok(key.map(Arc::new))
}

/// Our certificate, shown to a server that asks, whatever authorities it says it knows: as OpenSSL does.
struct OurCertificate {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl std::fmt::Debug for OurCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OurCertificate")
    }
}

impl ResolvesClientCert for OurCertificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Release);
        self.key.clone().filter(|key| key.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        // Asked even if there is none: whether the server asks has to be known.
        true
    }
}

/// The reason that rustls gave, below the I/O error.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
