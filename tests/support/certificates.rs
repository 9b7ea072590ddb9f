//! Certificates of all kinds, made for a test.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, SigningKey, date_time_ymd,
};

/// A certificate with its key.
pub struct Pair {
    pub der: Vec<u8>,
    pub key: KeyPair,
    params: CertificateParams,
}

/// What a certificate shall be like.
pub struct Wish {
    params: CertificateParams,
    v1: bool,
}

impl Wish {
    /// For a server or client with this common name, and no other names; valid from 2020 to 2099.
    pub fn new(common_name: &str) -> Wish {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2099, 1, 1);
        params.is_ca = IsCa::ExplicitNoCa;
        Wish { params, v1: false }
    }

    /// An authority of this name.
    pub fn ca(common_name: &str) -> Wish {
        let mut wish = Wish::new(common_name);
        wish.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wish.params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        wish
    }

    /// As `openssl req -x509` makes one: it is an authority, and a server shows it as its own.
    pub fn like_openssl(common_name: &str) -> Wish {
        let mut wish = Wish::new(common_name);
        wish.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wish
    }

    pub fn dns(mut self, name: &str) -> Wish {
        self.params.subject_alt_names.push(SanType::DnsName(name.try_into().expect("a name")));
        self
    }

    pub fn ip(mut self, address: &str) -> Wish {
        self.params.subject_alt_names.push(SanType::IpAddress(address.parse::<IpAddr>().expect("an address")));
        self
    }

    pub fn usage(mut self, usage: ExtendedKeyUsagePurpose) -> Wish {
        self.params.extended_key_usages.push(usage);
        self
    }

    pub fn path_length(mut self, length: u8) -> Wish {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        self
    }

    /// Valid only in these years, from January 1st to January 1st.
    pub fn years(mut self, from: i32, to: i32) -> Wish {
        (self.params.not_before, self.params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        self
    }

    pub fn serial(mut self, serial: u64) -> Wish {
        self.params.serial_number = Some(SerialNumber::from(serial));
        self
    }

    /// Without any extension, as `openssl x509 -req` makes one without an extension file.
    pub fn v1(mut self) -> Wish {
        self.v1 = true;
        self
    }

    pub fn self_signed(self) -> Pair {
        self.self_signed_with(KeyPair::generate().expect("a key"))
    }

    pub fn self_signed_with(self, key: KeyPair) -> Pair {
        let certificate = self.params.self_signed(&key).expect("a certificate");
        let der = if self.v1 { without_extensions(certificate.der(), &key) } else { certificate.der().to_vec() };
        Pair { der, key, params: self.params }
    }

    pub fn signed_by(self, issuer: &Pair) -> Pair {
        self.signed_by_with(issuer, KeyPair::generate().expect("a key"))
    }

    pub fn signed_by_with(self, issuer: &Pair, key: KeyPair) -> Pair {
        let certificate = self.params.signed_by(&key, &issuer.issuer()).expect("a certificate");
        let der = if self.v1 { without_extensions(certificate.der(), &issuer.key) } else { certificate.der().to_vec() };
        Pair { der, key, params: self.params }
    }
}

impl Pair {
    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A list of revoked serial numbers, in PEM form, valid until a year's January 1st.
    pub fn revoking(&self, serials: &[u64], until: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).expect("a list").pem().expect("PEM")
    }

    /// The certificate in PEM form.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// Writes `<name>.crt` and `<name>.key` (0600).
    pub fn write(&self, folder: &Path, name: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(folder.join(format!("{name}.crt")), self.pem()).expect("a certificate");
        let key = folder.join(format!("{name}.key"));
        std::fs::write(&key, self.key.serialize_pem()).expect("a key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    }
}

/// Bytes in PEM form.
pub fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (i, three) in der.chunks(3).enumerate() {
        if i > 0 && i % 16 == 0 {
            text.push('\n');
        }
        let number = three.iter().chain([&0, &0]).take(3).fold(0, |number, byte| number << 8 | usize::from(*byte));
        for digit in 0..4 {
            let value = number >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// The same certificate as one of X.509 version 1, signed anew.
fn without_extensions(der: &[u8], signer: &KeyPair) -> Vec<u8> {
    let outer = members(contents(der));
    let keep = |member: &&[u8]| !matches!(member[0], 0xa0 | 0xa3);
    let signed = sequence(&members(contents(outer[0])).into_iter().filter(keep).collect::<Vec<_>>().concat());
    let signature = signer.sign(&signed).expect("a signature");
    let bits = tlv(0x03, &[&[0], signature.as_slice()].concat());
    sequence(&[signed.as_slice(), outer[1], &bits].concat())
}

fn header(der: &[u8]) -> (usize, usize) {
    match der[1] {
        short @ ..0x80 => (2, usize::from(short)),
        long => {
            let digits = usize::from(long & 0x7f);
            (2 + digits, der[2..2 + digits].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
        }
    }
}

fn contents(der: &[u8]) -> &[u8] {
    let (start, length) = header(der);
    &der[start..start + length]
}

fn members(mut der: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (start, length) = header(der);
        let (member, rest) = der.split_at(start + length);
        all.push(member);
        der = rest;
    }
    all
}

fn sequence(contents: &[u8]) -> Vec<u8> {
    tlv(0x30, contents)
}

fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut der = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    der.extend(contents);
    der
}
