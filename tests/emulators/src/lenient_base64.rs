//! Base64 as clients write it.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

/// Decodes Base64 of either alphabet, padded or not, with line breaks or without: bytes in the
/// JSON of Protobuf may be all of these but broken into lines, and parts of mail are.
pub(crate) fn decode(text: &[u8]) -> Option<Bytes> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let url_safe = text.iter().any(|byte| b"-_".contains(byte));
    let alphabet = if url_safe { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, config).decode(text).ok().map(Bytes::from)
}
