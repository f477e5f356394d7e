use super::*;

#[test]
fn counts_and_fails_what_it_is_told_to() {
    let storage = FaultStorage::in_memory();
    storage.write_at(b"1", 0).unwrap();
    storage.fail(Op::Write, 2, libc::ENOSPC);
    storage.fail_from(Op::Flush, 1, libc::EIO);
    storage.write_at(b"2", 0).unwrap();
    assert_eq!(storage.write_at(b"3", 0).unwrap_err().errno(), libc::ENOSPC);
    storage.write_at(b"4", 0).unwrap();
    for _ in 0..2 {
        assert_eq!(storage.flush().unwrap_err().errno(), libc::EIO);
    }
    storage.heal();
    storage.flush().unwrap();
    assert_eq!((storage.count(Op::Write), storage.count(Op::Flush), storage.count(Op::Read)), (4, 3, 0));
    let written = |data: &[u8]| Event::Write { offset: 0, data: data.to_vec() };
    assert_eq!(storage.events(), [written(b"1"), written(b"2"), written(b"4"), Event::Flush]);
    storage.clear_events();
    storage.zero(0, 1, ZeroMode::Discard).unwrap();
    storage.set_len(9).unwrap();
    assert_eq!(storage.events(), [Event::Zero { offset: 0, len: 1, mode: ZeroMode::Discard }, Event::SetLen(9)]);
    let mut buf = [1; 2];
    storage.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf, [0; 2]);
}

#[test]
fn a_crash_keeps_what_was_flushed_and_any_part_of_the_rest() {
    let storage = FaultStorage::in_memory();
    storage.write_at(&[1; 1024], 0).unwrap();
    storage.flush().unwrap();
    storage.write_at(&[2; 1024], 0).unwrap();
    let events = storage.events();
    let crash = |at, seed| after_crash(b"", &events, at, seed).unwrap().to_vec();
    assert_eq!(crash(0, 0), b"");
    assert_eq!(crash(1, 1), b"");
    assert_eq!(crash(1, 0), [1; 1024]);
    assert_eq!(crash(2, 1), [1; 1024]);
    assert_eq!(crash(3, 1), [1; 1024]);
    assert_eq!(crash(3, 0), [2; 1024]);
    let torn = (2..50).map(|seed| crash(3, seed)).filter(|bytes| bytes[0] != bytes[512]).count();
    assert!(torn > 0, "some seeds tear the write apart");
    assert!((2..50).all(|seed| crash(3, seed)[..512] == [crash(3, seed)[0]; 512]), "sectors are whole");
}
