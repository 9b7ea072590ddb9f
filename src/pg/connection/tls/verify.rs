//! The judge that rustls asks about the server's certificate and its handshake.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, PeerMisbehaved, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RawPublicKeyEntity, RevocationOptions, RevocationOptionsBuilder,
    anchor_from_trusted_cert,
};

use super::x509::Certificate;
use super::{TlsError, chain, names};

/// Whom to believe, and about which host.
pub(super) struct Verifier {
    host: String,
    /// `None`: whoever it is.
    roots: Option<Vec<CertificateDer<'static>>>,
    crls: Vec<CertRevocationList<'static>>,
    /// Does the name have to fit?
    whole: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Verifier {
    pub fn new(
        host: &str,
        roots: Option<Vec<CertificateDer<'static>>>,
        crls: Vec<CertRevocationList<'static>>,
        whole: bool,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Verifier {
        Verifier { host: host.to_owned(), roots, crls, whole, algorithms }
    }

    /// Is this server's certificate believed, and is it of this host?
    pub fn judge(&self, server: &CertificateDer<'_>, others: &[CertificateDer<'_>], now: UnixTime) -> Result<(), TlsError> {
        let Some(roots) = &self.roots else { return Ok(()) };
        let certificate = Certificate::parse(server).map_err(|error| untrusted(&format!("it can't be read: {error}"), MALFORMED))?;
        self.believe(server, &certificate, others, roots, now)?;
        if self.whole && !names::fits(&certificate, &self.host) {
            return Err(TlsError::WrongName { host: self.host.clone(), names: certificate.names() });
        }
        Ok(())
    }

    fn believe(
        &self,
        server: &CertificateDer<'_>,
        certificate: &Certificate,
        others: &[CertificateDer<'_>],
        roots: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        if !certificate.is_valid_at(now) {
            return Err(out_of_time("the certificate", certificate, now));
        }
        // OpenSSL doesn't believe an expired root either.
        let (roots, expired) = valid_roots(roots, now);
        if roots.iter().any(|(root, _)| root.as_ref() == server.as_ref()) {
            return self.pinned(certificate);
        }
        let anchors: Vec<TrustAnchor<'_>> = roots.iter().filter_map(|(root, _)| anchor_from_trusted_cert(root).ok()).collect();
        let refused = match self.by_webpki(server, others, &anchors, now) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if matches!(refused, webpki::Error::CaUsedAsEndEntity | webpki::Error::UnsupportedCertVersion) {
            if !self.crls.is_empty() {
                return Err(untrusted("it is of a kind that can't be looked up in a revocation list (sslcrl)", MALFORMED));
            }
            let roots: Vec<&Certificate> = roots.iter().map(|(_, root)| root).collect();
            let others: Vec<Certificate> = others.iter().filter_map(|other| Certificate::parse(other).ok()).collect();
            return chain::judge(certificate, &others, &roots, self.algorithms.all, now);
        }
        Err(explain(&refused, certificate, expired))
    }

    /// The certificate itself stands among the roots: nobody else has to vouch for it.
    fn pinned(&self, certificate: &Certificate) -> Result<(), TlsError> {
        if !certificate.may_be_a_server {
            return Err(untrusted("it is not for servers (extended key usage)", ASK_CA));
        }
        if !self.crls.is_empty() {
            return Err(untrusted("it is itself the root, of which a revocation list (sslcrl) says nothing", "leave sslcrl out"));
        }
        Ok(())
    }

    fn by_webpki(
        &self,
        server: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        anchors: &[TrustAnchor<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        // All of the chain, and a list has to be there and to be current, as with OpenSSL's X509_V_FLAG_CRL_CHECK_ALL.
        let revocation: Option<RevocationOptions<'_>> =
            RevocationOptionsBuilder::new(&crls).ok().map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let end = EndEntityCert::try_from(server)?;
        end.verify_for_usage(self.algorithms.all, anchors, others, now, KeyUsage::server_auth(), revocation, None).map(|_| ())
    }
}

const ASK_CA: &str = "have the server's certificate made anew, or see whether this is the right server";
const MALFORMED: &str = "have the server's certificate made anew, with extensions (X.509 v3) and not as a CA's";
const NAME_ROOT: &str = "name the file of the certificate of the CA that signed it by sslrootcert (usually ~/.postgresql/root.crt), after making sure \
     that this is the right server";

pub(super) fn untrusted(reason: &str, cure: &str) -> TlsError {
    TlsError::Untrusted { reason: reason.to_owned(), cure: cure.to_owned() }
}

fn valid_roots(roots: &[CertificateDer<'static>], now: UnixTime) -> (Vec<(CertificateDer<'static>, Certificate)>, bool) {
    let read = roots.iter().filter_map(|root| Certificate::parse(root).ok().map(|parsed| (root.clone(), parsed)));
    let (valid, expired): (Vec<_>, Vec<_>) = read.partition(|(_, parsed)| parsed.is_valid_at(now));
    (valid, !expired.is_empty())
}

pub(super) fn out_of_time(what: &str, certificate: &Certificate, now: UnixTime) -> TlsError {
    let day = |time: UnixTime| i64::try_from(time.as_secs()).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    let text = |time: UnixTime| day(time).map_or_else(|| "an odd date".to_owned(), |time| time.to_string());
    if now < certificate.not_before {
        let reason = format!("{what} is not valid before {}", text(certificate.not_before));
        return untrusted(&reason, "see whether the clocks of both hosts are right");
    }
    untrusted(&format!("{what} has expired at {}", text(certificate.not_after)), "have the certificate renewed (and see this host's clock)")
}

fn explain(error: &webpki::Error, certificate: &Certificate, expired: bool) -> TlsError {
    use webpki::Error as E;
    match error {
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => {
            let own = certificate.subject == certificate.issuer;
            let who = if own { "it is self-signed" } else { "no root certificate fits" };
            let note = if expired { "; a root certificate has expired" } else { "" };
            let reason = format!("{who} (subject {:?}, issuer {:?}){note}", certificate.subject_text, certificate.issuer_text);
            untrusted(&reason, NAME_ROOT)
        }
        E::CertRevoked => untrusted("it is revoked", ASK_CA),
        E::UnknownRevocationStatus => untrusted(
            &format!("no revocation list (sslcrl) of its issuer {:?} is there", certificate.issuer_text),
            "fetch the CA's current list",
        ),
        E::CrlExpired { .. } => untrusted("the revocation list (sslcrl) is out of date", "fetch the CA's current list"),
        E::CertExpired { .. } | E::CertNotValidYet { .. } => untrusted("a certificate of its chain is out of its time", ASK_CA),
        E::RequiredEkuNotFoundContext(_) => untrusted("it is not for servers (extended key usage)", ASK_CA),
        other => untrusted(&format!("{other}"), ASK_CA),
    }
}

fn to_rustls(error: TlsError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn unreadable(error: impl std::fmt::Display) -> rustls::Error {
    to_rustls(untrusted(&format!("it can't be read: {error}"), MALFORMED))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion()).map_err(to_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = Certificate::parse(certificate).map_err(unreadable)?.public_key;
        let key = RawPublicKeyEntity::try_from(&key).map_err(unreadable)?;
        let known = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, algorithms) = known.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let good = algorithms.iter().any(|algorithm| key.verify_signature(*algorithm, message, signed.signature()).is_ok());
        if good { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = Certificate::parse(certificate).map_err(unreadable)?.public_key;
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
