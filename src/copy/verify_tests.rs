use super::*;
use crate::copy::Unwatched;
use crate::copy::testing::{FakeLayer, Part};
use crate::image::{Layer, Node};
use crate::storage::MemStorage;

fn fake(parts: &[(u64, Part)]) -> Chain {
    let layer: Box<dyn Layer> = Box::new(FakeLayer::new(parts));
    Chain::new(vec![Node::new(layer, "fake")])
}

fn raw(bytes: Vec<u8>) -> Chain {
    Chain::new(vec![Node::new(crate::format::raw::over(Arc::new(MemStorage::new(bytes))), "raw")])
}

#[test]
fn a_difference_is_found_and_named() {
    let len = 3 * WINDOW + 512;
    let chains = [fake(&[(len, Part::Data)])];
    let source = Source::new(&chains, false);
    let mut bytes: Vec<u8> = (0..len).map(FakeLayer::byte).collect();
    assert_eq!(verify(&source, &raw(bytes.clone()), &Unwatched).unwrap(), Reader::Own);
    bytes[(len - 1) as usize] ^= 1;
    let error = verify(&source, &raw(bytes), &Unwatched).unwrap_err().to_string();
    let place = format!("at byte {}, read by this program", len - 1);
    assert_eq!(error, format!("Verification failed: the target differs from the source {place}"));
}

#[test]
fn a_second_reader_that_cannot_read_gives_up() {
    let mut reader = SecondReader::start(Arc::new(MemStorage::new(vec![0xff; 1 << 20])), 1 << 20);
    assert!(!reader.read(0, &mut [0; 512]));
    assert!(!reader.read(0, &mut [0; 512]));
}

#[test]
fn a_block_that_was_not_written_is_told_from_a_wrong_one() {
    let len = 2 * WINDOW;
    let chains = [fake(&[(len, Part::Data)])];
    let mut bytes: Vec<u8> = (0..len).map(FakeLayer::byte).collect();
    bytes[3 * 4096 + 1..4 * 4096].fill(0);
    let error = verify(&Source::new(&chains, false), &raw(bytes), &Unwatched).unwrap_err().to_string();
    assert!(error.ends_with("at byte 12289, read by this program"), "{error}");
    let mut bytes: Vec<u8> = (0..len).map(FakeLayer::byte).collect();
    bytes[3 * 4096..4 * 4096].fill(0);
    let error = verify(&Source::new(&chains, false), &raw(bytes), &Unwatched).unwrap_err().to_string();
    assert!(error.ends_with("at byte 12288 (zeros instead of data), read by this program"), "{error}");
}
