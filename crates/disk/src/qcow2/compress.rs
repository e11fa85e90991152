//! Packing and unpacking of single clusters.
//!
//! Reference: docs/interop/qcow2.txt, "compression_type": 0 is raw deflate with a 4 KiB window, 1 is zstd.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::io;

pub const ZLIB: u8 = 0;
pub const ZSTD: u8 = 1;
/// The window that readers of the format must support, as a power of two.
const WINDOW_BITS: u8 = 12;

/// Packs a cluster; `None` when the result would not be smaller.
pub fn pack(kind: u8, data: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match kind {
        ZSTD => {
            let packed = zstd::bulk::compress(data, 0)?;
            Ok((packed.len() < data.len()).then_some(packed))
        }
        _ => {
            let mut packed = vec![0; data.len() - 1];
            let mut deflate = Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS);
            let status = deflate.compress(data, &mut packed, FlushCompress::Finish).map_err(io::Error::other)?;
            packed.truncate(deflate.total_out() as usize);
            Ok((status == Status::StreamEnd).then_some(packed))
        }
    }
}

/// Unpacks a cluster into all of `data`. The packed bytes may be followed by others.
pub fn unpack(kind: u8, packed: &[u8], data: &mut [u8]) -> io::Result<()> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    if kind == ZSTD {
        let mut input = packed;
        let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut input)?.single_frame();
        return io::Read::read_exact(&mut decoder, data);
    }
    let mut inflate = Decompress::new_with_window_bits(false, WINDOW_BITS);
    inflate.decompress(packed, data, FlushDecompress::Finish).map_err(|_| broken())?;
    if inflate.total_out() as usize != data.len() { Err(broken()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_survive_both_methods() {
        let mut data = vec![0u8; 65536];
        for (i, b) in data.iter_mut().enumerate().take(30000) {
            *b = (i / 7) as u8;
        }
        for kind in [ZLIB, ZSTD] {
            let mut packed = pack(kind, &data).unwrap().expect("compressible");
            packed.extend([0xaa; 300]); // what follows in the sector
            let mut back = vec![0; data.len()];
            unpack(kind, &packed, &mut back).unwrap();
            assert_eq!(back, data);
            assert!(unpack(kind, &packed[..packed.len() / 4], &mut back).is_err());
        }
    }

    #[test]
    fn noise_is_left_alone() {
        let mut x = 1u64;
        let data: Vec<u8> = (0..4096)
            .map(|_| {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (x >> 56) as u8
            })
            .collect();
        assert!(pack(ZLIB, &data).unwrap().is_none());
        assert!(pack(ZSTD, &data).unwrap().is_none());
    }
}
