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
    assert_eq!(error, format!("Verification failed: the target differs from the source at byte {}", len - 1));
}

#[test]
fn a_second_reader_that_cannot_read_gives_up() {
    let mut reader = SecondReader::start(Arc::new(MemStorage::new(vec![0xff; 1 << 20])), 1 << 20);
    assert!(!reader.read(0, &mut [0; 512]));
    assert!(!reader.read(0, &mut [0; 512]));
}
