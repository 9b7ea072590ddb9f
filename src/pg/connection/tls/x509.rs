//! What is read out of a certificate.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::{SubjectPublicKeyInfoDer, UnixTime};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{self, Decode, Encode, Reader, SliceReader, Tag, Tagged};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const NAME_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.30");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// A certificate's parts that are asked for here. Nothing in it is verified yet.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    /// The signed part, as it came.
    pub signed: Vec<u8>,
    /// The algorithm of its signature: the contents of the `AlgorithmIdentifier`.
    pub algorithm: Vec<u8>,
    pub signature: Vec<u8>,
    /// Names in DER form, for comparing.
    pub subject: Vec<u8>,
    pub issuer: Vec<u8>,
    /// Names as people write them.
    pub subject_text: String,
    pub issuer_text: String,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    pub public_key: SubjectPublicKeyInfoDer<'static>,
    pub common_name: Option<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// `None` where it says nothing about it.
    pub is_ca: Option<bool>,
    /// How many authorities may stand below it.
    pub path_length: Option<u8>,
    pub may_sign_certificates: bool,
    pub may_be_a_server: bool,
    /// A critical extension that isn't understood, or constraints on names: nothing may be built on it.
    pub is_beyond_us: bool,
}

impl Certificate {
    pub fn parse(bytes: &[u8]) -> Result<Certificate, der::Error> {
        let parsed = x509_cert::Certificate::from_der(bytes)?;
        let tbs = parsed.tbs_certificate();
        let time = |time: &x509_cert::time::Time| UnixTime::since_unix_epoch(Duration::from_secs(time.to_unix_duration().as_secs()));
        let mut certificate = Certificate {
            signed: signed_part(bytes)?.to_vec(),
            algorithm: contents(&parsed.signature_algorithm().to_der()?)?.to_vec(),
            signature: parsed.signature().as_bytes().unwrap_or_default().to_vec(),
            subject: tbs.subject().to_der()?,
            issuer: tbs.issuer().to_der()?,
            subject_text: tbs.subject().to_string(),
            issuer_text: tbs.issuer().to_string(),
            not_before: time(&tbs.validity().not_before),
            not_after: time(&tbs.validity().not_after),
            public_key: tbs.subject_public_key_info().to_der()?.into(),
            common_name: common_name(tbs.subject()),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            is_ca: None,
            path_length: None,
            may_sign_certificates: true,
            may_be_a_server: true,
            // Both places that name the algorithm have to agree.
            is_beyond_us: tbs.signature() != parsed.signature_algorithm(),
        };
        for extension in tbs.extensions().map(Vec::as_slice).unwrap_or_default() {
            certificate.take(extension)?;
        }
        Ok(certificate)
    }

    fn take(&mut self, extension: &Extension) -> Result<(), der::Error> {
        let value = extension.extn_value.as_bytes();
        match extension.extn_id {
            ALT_NAME => {
                for name in SubjectAltName::from_der(value)?.0 {
                    match name {
                        GeneralName::DnsName(name) => self.dns_names.push(name.to_string()),
                        GeneralName::IpAddress(bytes) => self.addresses.extend(address(bytes.as_bytes())),
                        _ => {}
                    }
                }
            }
            BASIC_CONSTRAINTS => {
                let constraints = BasicConstraints::from_der(value)?;
                (self.is_ca, self.path_length) = (Some(constraints.ca), constraints.path_len_constraint);
            }
            KEY_USAGE => self.may_sign_certificates = KeyUsage::from_der(value)?.key_cert_sign(),
            EXTENDED_KEY_USAGE => {
                self.may_be_a_server = ExtendedKeyUsage::from_der(value)?.0.iter().any(|usage| [SERVER_AUTH, ANY_USAGE].contains(usage));
            }
            NAME_CONSTRAINTS => self.is_beyond_us = true,
            _ => self.is_beyond_us |= extension.critical,
        }
        Ok(())
    }

    /// Is it a time at which it counts?
    pub fn is_valid_at(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whose it is, for messages.
    pub fn names(&self) -> Vec<String> {
        let alternatives = self.dns_names.iter().cloned().chain(self.addresses.iter().map(ToString::to_string));
        let mut names: Vec<String> = alternatives.collect();
        if names.is_empty() {
            names.push(self.common_name.clone().unwrap_or_else(|| self.subject_text.clone()));
        }
        names.iter().take(5).map(|name| format!("{name:?}")).collect()
    }
}

/// What stands inside the outermost value.
fn contents(bytes: &[u8]) -> Result<&[u8], der::Error> {
    let mut reader = SliceReader::new(bytes)?;
    let header = der::Header::decode(&mut reader)?;
    reader.read_slice(header.length())
}

/// A certificate is a sequence whose first member is what its signature is over.
fn signed_part(bytes: &[u8]) -> Result<&[u8], der::Error> {
    SliceReader::new(contents(bytes)?)?.tlv_bytes()
}

/// The first common name, as libpq takes it.
fn common_name(subject: &x509_cert::name::Name) -> Option<String> {
    let attribute = subject.iter().find(|attribute| attribute.oid == COMMON_NAME)?;
    match attribute.value.tag() {
        // UTF-16, which nobody writes.
        Tag::BmpString => None,
        _ => String::from_utf8(attribute.value.value().to_vec()).ok(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    four().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// RFC 5929's `tls-server-end-point`: the certificate's hash by its signature's own algorithm, SHA-256 in place of what
/// is older. `None` where no hash belongs to the algorithm (Ed25519).
pub(super) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let algorithm = parsed.signature_algorithm();
    let hash = match algorithm.oid.to_string().as_str() {
        // RSASSA-PSS: the hash is a parameter, SHA-1 if there is none.
        "1.2.840.113549.1.1.10" => pss_hash(algorithm.parameters.as_ref()?)?,
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => {
            Hash::Sha256
        }
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Hash::Sha224,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Hash::Sha384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Hash::Sha512,
        _ => return None,
    };
    Some(match hash {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// `RSASSA-PSS-params`: the hash's identifier in its first, optional field, tagged 0 (RFC 4055).
fn pss_hash(parameters: &der::Any) -> Option<Hash> {
    let Some(field) = SliceReader::new(parameters.value()).ok()?.tlv_bytes().ok().filter(|field| field.first() == Some(&0xa0)) else {
        return Some(Hash::Sha256);
    };
    let identifier = contents(contents(field).ok()?).ok()?;
    let oid: ObjectIdentifier = ObjectIdentifier::decode(&mut SliceReader::new(identifier).ok()?).ok()?;
    Some(match oid.to_string().as_str() {
        "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Hash::Sha256,
        "2.16.840.1.101.3.4.2.2" => Hash::Sha384,
        "2.16.840.1.101.3.4.2.3" => Hash::Sha512,
        "2.16.840.1.101.3.4.2.4" => Hash::Sha224,
        _ => return None,
    })
}
