//! AWS Signature Version 4, and S3's checksums: by hand, so that tests can make them wrong.

use sha2::{Digest, Sha256};

/// An identity's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    pub access: String,
    pub secret: String,
}

/// What is signed of a request (AWS: "Create a canonical request"). Headers and query as they are sent, not encoded.
pub struct Signed<'a> {
    pub method: &'a str,
    /// Not encoded.
    pub path: &'a str,
    pub query: &'a [(String, String)],
    /// All that shall be signed, among them `host`, `x-amz-date` and `x-amz-content-sha256`.
    pub headers: &'a [(String, String)],
    /// The value of `x-amz-content-sha256`.
    pub payload: &'a str,
    /// `20130524T000000Z`.
    pub time: &'a str,
    pub region: &'a str,
}

impl Signed<'_> {
    /// The `authorization` header.
    pub fn authorization(&self, keys: &Keys) -> String {
        let day = self.time.get(..8).expect("a time");
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let mut headers: Vec<(String, &str)> = self.headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.trim())).collect();
        headers.sort();
        let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let (path, query) = (encode_path(self.path), encode_query(self.query));
        let canonical = format!("{}\n{path}\n{query}\n{lines}\n{names}\n{}", self.method, self.payload);
        let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", self.time, sha256(canonical.as_bytes()));
        let parts = [day, self.region, "s3", "aws4_request"];
        let first = format!("AWS4{}", keys.secret).into_bytes();
        let key = parts.iter().fold(first, |key, part| hmac_sha256(&key, part.as_bytes()).to_vec());
        let signature = hex(&hmac_sha256(&key, text.as_bytes()));
        format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", keys.access)
    }
}

/// Now, as signatures write it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// A query as it is signed and sent: sorted and encoded.
pub fn encode_query(query: &[(String, String)]) -> String {
    let mut all: Vec<String> = query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    all.sort();
    all.join("&")
}

/// A path as it is signed and sent.
pub fn encode_path(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// SHA-256, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// RFC 2104.
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
}

/// Checksums by which an upload is checked, as the value of their header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha256,
}

impl Checksum {
    pub const ALL: [Checksum; 4] = [Checksum::Crc32, Checksum::Crc32c, Checksum::Crc64Nvme, Checksum::Sha256];

    /// The header, or trailer.
    pub fn header(self) -> &'static str {
        match self {
            Checksum::Crc32 => "x-amz-checksum-crc32",
            Checksum::Crc32c => "x-amz-checksum-crc32c",
            Checksum::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Checksum::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Its value for these bytes.
    pub fn of(self, bytes: &[u8]) -> String {
        match self {
            Checksum::Crc32 => base64(&(crc(bytes, 0xedb8_8320, 32) as u32).to_be_bytes()),
            Checksum::Crc32c => base64(&crc32c::crc32c(bytes).to_be_bytes()),
            Checksum::Crc64Nvme => base64(&crc(bytes, 0x9a6c_9329_ac4b_c9b5, 64).to_be_bytes()),
            Checksum::Sha256 => base64(&Sha256::digest(bytes)),
        }
    }
}

/// A reflected CRC of 32 or 64 bits, starting from ones and ending inverted.
pub fn crc(bytes: &[u8], polynomial: u64, bits: u32) -> u64 {
    let ones = u64::MAX >> (64 - bits);
    let step = |crc: u64| if crc & 1 == 1 { crc >> 1 ^ polynomial } else { crc >> 1 };
    ones ^ bytes.iter().fold(ones, |crc, byte| (0..8).fold(crc ^ u64::from(*byte), |crc, _| step(crc)))
}

/// RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().chain([&0, &0]).take(3).fold(0, |number, byte| number << 8 | usize::from(*byte));
        for digit in 0..4 {
            let value = number >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}
