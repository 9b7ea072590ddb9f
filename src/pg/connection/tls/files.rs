//! Certificates, keys and revocation lists from files (`initialize_SSL` in fe-secure-openssl.c).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use zeroize::Zeroizing;

use super::TlsError;
use super::x509::Certificate;
use crate::pg::conninfo::file::{is_absent, read};
use crate::pg::conninfo::{NamedFile, Roots, SslMode, TlsSettings};

/// The certificates that are believed; `None` where none is asked for and none is there. As in libpq, a root that is
/// there is used in every mode; one that someone named and that isn't there is an error, since it was meant to protect.
pub(super) fn roots(settings: &TlsSettings) -> Result<Option<Vec<CertificateDer<'static>>>, TlsError> {
    let must = settings.mode >= SslMode::VerifyCa;
    let no_roots = |path: &Path| TlsError::NoRoots { path: path.to_owned(), mode: settings.mode.name() };
    match &settings.roots {
        Roots::System => system_roots().map(Some),
        Roots::None if must => Err(no_roots(Path::new("~/.postgresql/root.crt"))),
        Roots::None => Ok(None),
        Roots::File(file) => match certificates(file, "the root certificate file") {
            Ok(None) if must && !file.named => Err(no_roots(&file.path)),
            other => other,
        },
    }
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Ok(found.certs);
    }
    let reason = found.errors.first().map_or_else(|| "there is none".to_owned(), ToString::to_string);
    let cure = Some("install the package ca-certificates, or name a file by sslrootcert or SSL_CERT_FILE".to_owned());
    Err(TlsError::File { what: "certificates of the system", path: "(sslrootcert=system)".into(), reason, cure, named: true })
}

/// Lists of revoked certificates.
pub(super) fn revocations(settings: &TlsSettings) -> Result<Vec<CertRevocationList<'static>>, TlsError> {
    let mut lists = Vec::new();
    if let Some(file) = &settings.crl {
        lists.extend(revocations_in(file)?);
    }
    if let Some(folder) = &settings.crl_dir {
        let named = NamedFile { path: folder.clone(), named: true };
        let wrong = |error: io::Error| unusable("the folder of revocation lists", &named, error.to_string());
        for entry in std::fs::read_dir(folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            lists.extend(revocations_in(&NamedFile { path, named: true })?);
        }
    }
    Ok(lists)
}

fn revocations_in(file: &NamedFile) -> Result<Vec<CertRevocationList<'static>>, TlsError> {
    const WHAT: &str = "the revocation list";
    let Some((bytes, _)) = open(file, WHAT)? else { return Ok(Vec::new()) };
    let mut lists = Vec::new();
    for item in CertificateRevocationListDer::pem_slice_iter(&bytes) {
        let der = item.map_err(|error| unusable(WHAT, file, error.to_string()))?;
        let list = OwnedCertRevocationList::from_der(&der).map_err(|error| unusable(WHAT, file, error.to_string()))?;
        lists.push(CertRevocationList::from(list));
    }
    if lists.is_empty() {
        return Err(unusable(WHAT, file, "it holds no list in PEM form".to_owned()));
    }
    Ok(lists)
}

/// Our certificate with its key, if there is one. Whether it is one that the server takes is for the server to say.
pub(super) fn certified_key(settings: &TlsSettings, provider: &CryptoProvider) -> Result<Option<CertifiedKey>, TlsError> {
    let Some(cert) = &settings.cert else { return Ok(None) };
    let Some(chain) = certificates(cert, "the client certificate")? else { return Ok(None) };
    let Some(file) = &settings.key else {
        return Err(unusable("the client certificate", cert, "it is there, but not its private key (sslkey)".to_owned()));
    };
    let der = private_key(file, cert)?;
    let wrong = |reason: String| unusable("the private key", file, reason);
    let key = provider.key_provider.load_private_key(der).map_err(|error| wrong(error.to_string()))?;
    let first = chain.first().and_then(|der| Certificate::parse(der).ok());
    if let (Some(first), Some(public)) = (first, key.public_key())
        && first.public_key.as_ref() != public.as_ref()
    {
        return Err(wrong(format!("it is not the key of the certificate {}", cert.path.display())));
    }
    Ok(Some(CertifiedKey::new(chain, key)))
}

fn private_key(file: &NamedFile, cert: &NamedFile) -> Result<PrivateKeyDer<'static>, TlsError> {
    const WHAT: &str = "the private key";
    let Some((bytes, meta)) = open(file, WHAT)? else {
        let reason = format!("it does not exist, but its certificate {} does", cert.path.display());
        return Err(unusable(WHAT, file, reason));
    };
    check_permissions(file, &meta)?;
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    if holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED") {
        let cure = format!("write it without: openssl pkey -in {} -out KEY; chmod 0600 KEY; and name it by sslkey", file.path.display());
        let reason = "it is encrypted with a password, which is not supported".to_owned();
        return Err(TlsError::File { what: WHAT, path: file.path.clone(), reason, cure: Some(cure), named: file.named });
    }
    if let Ok(key) = PrivateKeyDer::from_pem_slice(&bytes) {
        return Ok(key);
    }
    // libpq takes DER as well.
    let key = PrivateKeyDer::try_from(bytes.to_vec());
    key.map_err(|_| unusable(WHAT, file, "it holds no key in PEM or DER form (PKCS #8, PKCS #1 or SEC 1)".to_owned()))
}

/// libpq's rule: nobody but the owner, or, of a file of root's, the group to read.
fn check_permissions(file: &NamedFile, meta: &Metadata) -> Result<(), TlsError> {
    let forbidden = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if meta.mode() & forbidden == 0 {
        return Ok(());
    }
    let reason = format!("its mode {:04o} lets others in", meta.mode() & 0o7777);
    let cure = format!("chmod 0600 {} (0640 will do if root owns it)", file.path.display());
    Err(TlsError::File { what: "the private key", path: file.path.clone(), reason, cure: Some(cure), named: file.named })
}

/// At least one certificate; `None` if the file isn't there and needn't be.
fn certificates(file: &NamedFile, what: &'static str) -> Result<Option<Vec<CertificateDer<'static>>>, TlsError> {
    let Some((bytes, _)) = open(file, what)? else { return Ok(None) };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = read.map_err(|error| unusable(what, file, error.to_string()))?;
    if all.is_empty() {
        return Err(unusable(what, file, "it holds no certificate in PEM form".to_owned()));
    }
    Ok(Some(all))
}

/// A file's bytes, and what the system says of it.
type Opened = (Zeroizing<Vec<u8>>, Metadata);

fn open(file: &NamedFile, what: &'static str) -> Result<Option<Opened>, TlsError> {
    match read(&file.path) {
        Ok(read) => Ok(Some(read)),
        Err(error) if is_absent(&error) && !file.named => Ok(None),
        Err(error) => Err(unusable(what, file, error.to_string())),
    }
}

fn unusable(what: &'static str, file: &NamedFile, reason: String) -> TlsError {
    TlsError::File { what, path: file.path.clone(), reason, cure: None, named: file.named }
}
