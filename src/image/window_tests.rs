use super::*;
use crate::storage::MemStorage;

fn window(size: Option<u64>) -> (Arc<MemStorage>, Window) {
    let storage = Arc::new(MemStorage::new((0..100).collect()));
    (Arc::clone(&storage), Window::new(storage, 10, size))
}

#[test]
fn a_window_of_a_given_size_keeps_to_it() {
    let (storage, window) = window(Some(20));
    let mut found = [1; 30];
    window.read_at(&mut found, 0).expect("read");
    assert_eq!(found[..20], (10..30).collect::<Vec<u8>>());
    assert_eq!(found[20..], [0; 10], "zeros behind the end");
    window.write_at(&[200; 5], 15).expect("it fits");
    window.zero(0, 2, ZeroMode::Write).expect("it fits");
    let full = |result: Result<()>| assert_eq!(result.expect_err("it is full").errno(), libc::ENOSPC);
    full(window.write_at(&[200; 5], 16));
    full(window.zero(20, 1, ZeroMode::Discard));
    full(window.set_len(21));
    window.set_len(5).expect("nothing happens");
    assert_eq!(window.len().ok(), Some(20));
    assert!(window.limits().fixed_len);
    let bytes = storage.to_vec();
    assert_eq!(bytes[8..14], [8, 9, 0, 0, 12, 13]);
    assert_eq!(bytes[24..32], [24, 200, 200, 200, 200, 200, 30, 31]);
    assert_eq!(bytes.len(), 100);
}

#[test]
fn a_window_up_to_the_end_grows_with_the_file() {
    let (storage, window) = window(None);
    assert_eq!(window.len().ok(), Some(90));
    assert!(!window.limits().fixed_len);
    window.write_at(&[7; 3], 89).expect("it grows");
    assert_eq!(window.len().ok(), Some(92));
    assert_eq!(storage.to_vec()[98..], [98, 7, 7, 7]);
    window.set_len(200).expect("it grows");
    assert_eq!(storage.to_vec().len(), 210);
}

#[test]
fn absurd_places_are_errors() {
    let (_, window) = window(None);
    assert_eq!(window.write_at(&[1], u64::MAX).expect_err("too far").errno(), libc::EFBIG);
    assert_eq!(window.write_at(&[1], u64::MAX - 5).expect_err("too far").errno(), libc::EFBIG);
    let mut byte = [1];
    window.read_at(&mut byte, u64::MAX - 5).expect("nothing is there");
    assert_eq!(byte, [0]);
}
