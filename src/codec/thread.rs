//! The codec of the calling thread: zstd's tables are made once for each.

use std::cell::RefCell;

use super::{Codec, CodecError, Frame, FrameKind, Patching, StoredPage};

thread_local! {
    static CODEC: RefCell<Option<Codec>> = const { RefCell::new(None) };
}

fn with<T>(work: impl FnOnce(&mut Codec) -> Result<T, CodecError>) -> Result<T, CodecError> {
    CODEC.with_borrow_mut(|codec| match codec {
        Some(codec) => work(codec),
        None => work(codec.insert(Codec::new()?)),
    })
}

/// [`Codec::decode`] of the calling thread, for the number of a kind as it is stored.
///
/// # Errors
/// As there, and for an unknown kind.
pub fn decode(kind: u8, frame: &[u8], plain_len: u32, reference: Option<&[u8]>) -> Result<Vec<u8>, CodecError> {
    let kind = FrameKind::try_from(kind)?;
    with(|codec| codec.decode(kind, frame, plain_len as usize, reference))
}

/// [`Codec::encode_whole`] of the calling thread.
///
/// # Errors
/// As there.
pub fn encode_whole(plain: &[u8], level: i32) -> Result<Frame, CodecError> {
    with(|codec| codec.encode_whole(plain, level))
}

/// [`Codec::encode_patch`] of the calling thread.
///
/// # Errors
/// As there.
pub fn encode_patch(new: &[u8], reference: &[u8], how: Patching) -> Result<Option<Frame>, CodecError> {
    with(|codec| codec.encode_patch(new, reference, how))
}

/// [`Codec::encode_pages`] of the calling thread.
///
/// # Errors
/// As there.
pub fn encode_pages(new: &[u8], changed: &[u32], how: Patching) -> Result<Option<Frame>, CodecError> {
    with(|codec| codec.encode_pages(new, changed, how))
}

/// [`Codec::stored_pages`] of the calling thread.
///
/// # Errors
/// As there.
pub fn stored_pages(frame: &[u8], plain_len: usize) -> Result<Option<Vec<StoredPage>>, CodecError> {
    with(|codec| codec.stored_pages(frame, plain_len))
}

/// [`Codec::choose_level`] of the calling thread.
///
/// # Errors
/// As there.
pub fn choose_level(sample: &[u8]) -> Result<i32, CodecError> {
    with(|codec| codec.choose_level(sample))
}
