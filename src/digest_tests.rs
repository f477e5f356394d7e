use super::*;

fn content(len: u64) -> Vec<u8> {
    let mut state = 1_u32;
    (0..len)
        .map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Every third MiB is a hole.
            if at / MIB % 3 == 1 { 0 } else { (state >> 24) as u8 }
        })
        .collect()
}

fn plain(algorithm: Algorithm, bytes: &[u8]) -> String {
    match algorithm {
        Algorithm::Sha256 => Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        Algorithm::Blake3 => blake3::hash(bytes).to_hex().to_string(),
    }
}

/// Adds pieces of work of so many windows each, several threads at a time.
fn digest(algorithm: Algorithm, bytes: &[u8], windows: u64) -> String {
    let digest = Digest::new(algorithm);
    let work: Vec<&[u8]> = bytes.chunks((windows * PIECE) as usize).collect();
    std::thread::scope(|scope| {
        for first in 0..3 {
            let (digest, work) = (&digest, &work);
            scope.spawn(move || {
                for (index, bytes) in work.iter().enumerate().skip(first).step_by(3) {
                    let mut feed = |sink: &mut dyn Sink| {
                        // In odd lengths, and zeros as such.
                        for part in bytes.chunks(700_001) {
                            if part.iter().all(|byte| *byte == 0) {
                                sink.zeros(part.len() as u64);
                            } else {
                                sink.bytes(part);
                            }
                        }
                        Ok(())
                    };
                    digest.add(index as u64, index as u64 * windows * PIECE, &mut feed).unwrap();
                }
            });
        }
    });
    digest.finish()
}

#[test]
fn pieces_give_the_plain_digest_whatever_the_length() {
    let sizes = [
        0,
        1,
        1024,
        1025,
        PIECE - 1,
        PIECE,
        PIECE + 1,
        2 * PIECE,
        3 * PIECE,
        3 * PIECE + 700,
        7 * PIECE + 5,
        8 * PIECE,
    ];
    for size in sizes {
        let bytes = content(size);
        for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
            for windows in [1, 3] {
                assert_eq!(
                    digest(algorithm, &bytes, windows),
                    plain(algorithm, &bytes),
                    "{algorithm:?} {size} {windows}"
                );
            }
        }
    }
}

#[test]
fn who_is_stopped_does_not_wait() {
    for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
        let digest = Digest::new(algorithm);
        digest.stop();
        assert!(digest.is_stopped());
        digest.add(5, 5 * PIECE, &mut |_| Ok(())).unwrap();
    }
}
