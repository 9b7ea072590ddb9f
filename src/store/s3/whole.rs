//! Is the answer to a listing whole? The SDK's reader takes XML that breaks off, or in which a flipped bit has made a tag another
//! one, for the end of the list: whoever lists would see less than there is, without an error.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use xmlparser::{ElementEnd, Token, Tokenizer};

use super::attempt::Trouble;

/// What a listing is called (S3's API, `ListObjectsV2` and `ListObjectVersions`).
const ROOTS: [&str; 2] = ["ListBucketResult", "ListVersionsResult"];
/// How deep a listing's elements lie in each other, and some more.
const DEPTH: usize = 16;

/// Takes down whether an answer is a whole listing.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole(Arc<AtomicBool>);

impl Whole {
    /// # Errors
    /// If the answer was none: it is asked again.
    pub(super) fn check(&self) -> Result<(), Trouble> {
        match self.0.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Trouble::Passing { why: "a listing that is no whole XML document".to_owned(), too_much: false }),
        }
    }
}

impl Intercept for Whole {
    fn name(&self) -> &'static str {
        "whole listing"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(context.response().body().bytes().is_some_and(is_whole), Ordering::Relaxed);
        Ok(())
    }
}

/// Is it one document with such a root, in which every element is closed by its own name?
fn is_whole(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).ok().and_then(closed_root).is_some_and(|root| ROOTS.contains(&root))
}

fn closed_root(text: &str) -> Option<&str> {
    let mut open: Vec<&str> = Vec::new();
    let mut root = None;
    for token in Tokenizer::from(text) {
        match token.ok()? {
            Token::ElementStart { local, .. } if open.len() < DEPTH => open.push(local.as_str()),
            Token::ElementStart { .. } => return None,
            Token::ElementEnd { end: ElementEnd::Open, .. } => {}
            Token::ElementEnd { end: ElementEnd::Empty, .. } => root = open.pop(),
            Token::ElementEnd { end: ElementEnd::Close(_, local), .. } => {
                root = open.pop();
                if root != Some(local.as_str()) {
                    return None;
                }
            }
            _ => {}
        }
    }
    root.filter(|_| open.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
        <Name>b</Name><Prefix>pg/</Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>\
        <Contents><Key>pg/log/0</Key><ETag>&quot;9b2cf&quot;</ETag><Size>434</Size><Owner><ID>x</ID></Owner></Contents>\
        <Contents><Key>pg/pgcairn</Key><Size>72</Size></Contents></ListBucketResult>";

    #[test]
    fn a_listing_is_whole_and_no_part_of_one_is() {
        assert!(is_whole(LISTING.as_bytes()));
        assert!(is_whole(b"<ListVersionsResult></ListVersionsResult>") && is_whole(b"<ListBucketResult/>"));
        (0..LISTING.len()).for_each(|end| assert!(!is_whole(&LISTING.as_bytes()[..end]), "{}", &LISTING[..end]));
        for other in ["", "{}", "<html><body>Log in</body></html>", "<Error><Code>SlowDown</Code></Error>", "<ListBucketResult/>junk"] {
            assert!(!is_whole(other.as_bytes()), "{other}");
        }
        assert!(!is_whole(format!("<ListBucketResult>{}{}</ListBucketResult>", "<a>".repeat(20), "</a>".repeat(20)).as_bytes()));
    }

    #[test]
    fn a_flipped_bit_in_a_tag_is_seen() {
        let bytes = LISTING.as_bytes();
        let from = LISTING.find("<Name>").unwrap();
        let mut in_tag = false;
        for at in from..bytes.len() {
            in_tag |= bytes[at] == b'<';
            for bit in (0..8).filter(|_| in_tag) {
                let mut other = bytes.to_vec();
                other[at] ^= 1 << bit;
                assert!(!is_whole(&other), "bit {bit} of byte {at}: {}", String::from_utf8_lossy(&other[at.saturating_sub(20)..]));
            }
            in_tag &= bytes[at] != b'>';
        }
    }
}
