//! Chains of a server's certificate that webpki doesn't judge: it is of X.509 version 1 (what `openssl x509 -req` makes
//! without an extension file, as in PostgreSQL's documentation), or says of itself that it is a CA (`openssl req -x509`).
//!
//! Everything above it is judged as strictly as webpki would: an authority says that it is one, or is a root itself; it
//! may sign certificates; its time, its path length and the signature are right; whatever isn't understood refuses.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use rustls::pki_types::{SignatureVerificationAlgorithm, UnixTime};
use webpki::RawPublicKeyEntity;

use super::TlsError;
use super::verify::{out_of_time, untrusted};
use super::x509::Certificate;

type Algorithms = [&'static dyn SignatureVerificationAlgorithm];

/// Authorities between the server's certificate and the root, at most.
const LONGEST: usize = 6;
/// Signatures that are checked at most: a server may send any number of certificates.
const SIGNATURES: usize = 100;

const CURE: &str = "name the file of the certificate of the CA that signed it by sslrootcert";

/// Does a chain lead from the server's certificate to a root?
pub(super) fn judge(
    server: &Certificate,
    others: &[Certificate],
    roots: &[&Certificate],
    algorithms: &Algorithms,
    now: UnixTime,
) -> Result<(), TlsError> {
    if !server.is_valid_at(now) {
        return Err(out_of_time("the certificate", server, now));
    }
    if server.is_beyond_us || !server.may_be_a_server {
        return Err(untrusted("it has extensions that are not understood, or is not for servers", CURE));
    }
    let mut search = Search { others, roots, algorithms, now, signatures: SIGNATURES };
    if search.leads_to_root(server, 0) {
        return Ok(());
    }
    let reason = format!("no root certificate fits (subject {:?}, issuer {:?})", server.subject_text, server.issuer_text);
    Err(untrusted(&reason, CURE))
}

struct Search<'a> {
    others: &'a [Certificate],
    roots: &'a [&'a Certificate],
    algorithms: &'a Algorithms,
    now: UnixTime,
    signatures: usize,
}

impl Search<'_> {
    /// `below` authorities stand between it and the server's certificate, itself included.
    fn leads_to_root(&mut self, certificate: &Certificate, below: usize) -> bool {
        let (roots, others) = (self.roots, self.others);
        let by_root = roots.iter().any(|root| root.is_ca != Some(false) && self.is_above(root, certificate, below));
        by_root
            || below < LONGEST
                && others.iter().any(|authority| {
                    authority.is_ca == Some(true)
                        && self.is_above(authority, certificate, below)
                        && self.leads_to_root(authority, below + 1)
                })
    }

    /// May this authority sign, and has it signed that certificate?
    fn is_above(&mut self, authority: &Certificate, certificate: &Certificate, below: usize) -> bool {
        authority.subject == certificate.issuer
            && authority.may_sign_certificates
            // As in webpki: if usages are named, serving has to be among them.
            && authority.may_be_a_server
            && !authority.is_beyond_us
            && authority.path_length.is_none_or(|longest| below <= usize::from(longest))
            && authority.is_valid_at(self.now)
            && self.has_signed(authority, certificate)
    }

    fn has_signed(&mut self, authority: &Certificate, certificate: &Certificate) -> bool {
        let Some(left) = self.signatures.checked_sub(1) else { return false };
        self.signatures = left;
        let Ok(key) = RawPublicKeyEntity::try_from(&authority.public_key) else { return false };
        let fitting = self.algorithms.iter().filter(|algorithm| algorithm.signature_alg_id().as_ref() == certificate.algorithm.as_slice());
        fitting.into_iter().any(|algorithm| key.verify_signature(*algorithm, &certificate.signed, &certificate.signature).is_ok())
    }
}
