use super::*;

fn states(initial: &[Vec<u8>], recorders: &[&FaultStorage]) -> Vec<(usize, Vec<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut replay = Replay::new(initial, recorders);
    replay.budget = 64;
    let count = replay.each(|state| found.push((state.at, state.files.clone())));
    assert_eq!(count, found.len());
    found
}

#[test]
fn what_was_flushed_is_there_and_any_part_of_the_rest() {
    let storage = FaultStorage::in_memory();
    storage.write_at(&[1; 1024], 0).unwrap();
    storage.flush().unwrap();
    storage.write_at(&[2; 1024], 0).unwrap();
    storage.write_at(&[3; 512], 1024).unwrap();
    let found = states(&[Vec::new()], &[&storage]);
    let has = |first: &[(u8, usize)]| {
        let wanted: Vec<u8> = first.iter().flat_map(|(byte, count)| vec![*byte; *count]).collect();
        found.iter().filter(|(_, files)| files[0] == wanted).count()
    };
    assert_eq!(has(&[]), 1);
    for whole in [&[(1, 1024)][..], &[(2, 1024)], &[(2, 1024), (3, 512)], &[(1, 1024), (3, 512)]] {
        assert_eq!(has(whole), 1, "{whole:?}");
    }
    for torn in [&[(1, 512), (2, 512)][..], &[(2, 512), (1, 512)], &[(2, 512), (1, 512), (3, 512)]] {
        assert_eq!(has(torn), 1, "{torn:?}");
    }
    // Before the flush also a half of the first write; never one without it afterwards.
    assert!(found.iter().filter(|(at, _)| *at > 1).all(|(_, files)| files[0].len() >= 1024));
}

#[test]
fn each_file_has_its_own_flushes() {
    let (one, two) = (FaultStorage::in_memory(), FaultStorage::in_memory());
    one.write_at(b"1", 0).unwrap();
    two.write_at(b"2", 0).unwrap();
    one.flush().unwrap();
    one.set_len(0).unwrap();
    two.flush().unwrap();
    let found = states(&[Vec::new(), Vec::new()], &[&one, &two]);
    let has = |first: &[u8], second: &[u8]| found.iter().any(|(_, files)| files[0] == first && files[1] == second);
    for (first, second) in [(b"" as &[u8], b"" as &[u8]), (b"1", b""), (b"", b"2"), (b"1", b"2")] {
        assert!(has(first, second), "{first:?} {second:?}");
    }
}
