//! The checksum that Cloud Storage reports for every object (CRC-32C,
//! Castagnoli), which the official client verifies on each read and write.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// The Castagnoli polynomial with its bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// `TABLES[k][byte]` advances a checksum over `byte` followed by `k` zero bytes,
/// so eight bytes cost eight look-ups and no shifting in between.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte as usize] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[zeros - 1][byte];
            tables[zeros][byte] = (crc >> 8) ^ tables[0][(crc & 0xFF) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// The checksum of `content`.
pub(crate) fn checksum(content: &[u8]) -> u32 {
    extend(0, content)
}

/// The checksum of a content whose beginning has the checksum `begun` (of nothing: 0),
/// and which goes on with `content`.
pub(super) fn extend(begun: u32, content: &[u8]) -> u32 {
    let (blocks, rest) = content.as_chunks::<8>();
    let mut crc = !begun;
    for block in blocks {
        let [a, b, c, d] = (crc ^ u32::from_le_bytes([block[0], block[1], block[2], block[3]]))
            .to_le_bytes()
            .map(usize::from);
        crc = TABLES[7][a]
            ^ TABLES[6][b]
            ^ TABLES[5][c]
            ^ TABLES[4][d]
            ^ TABLES[3][usize::from(block[4])]
            ^ TABLES[2][usize::from(block[5])]
            ^ TABLES[1][usize::from(block[6])]
            ^ TABLES[0][usize::from(block[7])];
    }
    for byte in rest {
        crc = (crc >> 8) ^ TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)];
    }
    !crc
}

/// A checksum as JSON and headers carry it: base64 of its four bytes, big end first.
pub(super) fn encode(checksum: u32) -> String {
    BASE64_STANDARD.encode(checksum.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_published_vectors() {
        // RFC 3720, appendix B.4.
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        assert_eq!(checksum(&[0; 32]), 0x8A91_36AA);
        assert_eq!(checksum(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(checksum(&rising), 0x46DD_794E);
        assert_eq!(checksum(&falling), 0x113F_DB5C);
        assert_eq!(checksum(b"123456789"), 0xE306_9283);
        assert_eq!(checksum(b""), 0);
    }

    #[test]
    fn parts_have_the_checksum_of_the_whole() {
        let whole: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        for cut in [0, 1, 7, 8, 9, 500, 999, 1_000] {
            let (first, second) = whole.split_at(cut);
            assert_eq!(extend(checksum(first), second), checksum(&whole), "{cut}");
        }
    }

    #[test]
    fn is_encoded_big_end_first() {
        assert_eq!(encode(checksum(b"123456789")), "4waSgw==");
    }
}
