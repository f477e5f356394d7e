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
