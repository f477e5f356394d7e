use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::*;
use crate::storage::{Limits, RangeKind, ZeroMode};

/// Sectors that have been written: images of many GiB with hardly anything in them.
#[derive(Debug, Default)]
struct Sparse {
    sectors: Mutex<HashMap<u64, [u8; 512]>>,
    len: Mutex<u64>,
}

impl Sparse {
    fn new(bytes: Vec<u8>) -> Self {
        let storage = Sparse::default();
        storage.write_at(&bytes, 0).unwrap();
        storage
    }
}

impl Storage for Sparse {
    fn len(&self) -> Result<u64> {
        Ok(*self.len.lock().unwrap())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let sectors = self.sectors.lock().unwrap();
        for (at, sector) in (offset / 512..).zip(buf.chunks_mut(512)) {
            let found = sectors.get(&at).unwrap_or(&[0; 512]);
            sector.copy_from_slice(&found[..sector.len()]);
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut sectors = self.sectors.lock().unwrap();
        for (at, byte) in (offset..).zip(buf) {
            sectors.entry(at / 512).or_insert([0; 512])[(at % 512) as usize] = *byte;
        }
        let mut len = self.len.lock().unwrap();
        *len = (*len).max(offset + buf.len() as u64);
        Ok(())
    }

    fn zero(&self, _offset: u64, _len: u64, _mode: ZeroMode) -> Result<()> {
        unreachable!("refcounts are never zeroed")
    }

    fn extent(&self, _offset: u64, len: u64) -> Result<(RangeKind, u64)> {
        Ok((RangeKind::Data, len))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        *self.len.lock().unwrap() = len;
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits { alignment: 1, zero_init: true, fixed_len: false }
    }
}

fn geometry(cluster_bits: u32, refcount_order: u32) -> Geometry {
    Geometry { cluster_bits, extended_l2: false, refcount_order, external_data: false }
}

/// An image of a header, a refcount table, and one refcount block that counts the three.
fn fresh(geometry: Geometry) -> Refcounts {
    let size = geometry.cluster_size();
    let mut bytes = vec![0; 3 * size as usize];
    bytes[size as usize..size as usize + 8].copy_from_slice(&(2 * size).to_be_bytes());
    for cluster in 0..3 {
        width::set(&mut bytes[2 * size as usize..], geometry.refcount_order, cluster, 1);
    }
    Refcounts::open(Arc::new(Sparse::new(bytes)), geometry, HostOffset(size), 1).unwrap()
}

/// Every refcount that is not zero must belong to `used`, a block, the table, or the header, and the other way round.
fn verify(refcounts: &mut Refcounts, used: &HashSet<u64>) {
    let bits = refcounts.geometry.cluster_bits;
    let mut expected = used.clone();
    assert!(expected.insert(0));
    for entry in refcounts.table.clone().into_iter().filter(|entry| *entry != 0) {
        assert!(expected.insert(entry >> bits), "block at {entry:#x} overlaps");
    }
    let table = refcounts.table_run();
    for run in refcounts.table_before.clone().into_iter().chain([table]) {
        for cluster in run.first..run.end() {
            assert!(expected.insert(cluster), "table overlaps");
        }
    }
    let end = expected.iter().max().unwrap() + 100;
    for cluster in 0..end {
        let count = refcounts.get(cluster).unwrap();
        assert_eq!(count, u64::from(expected.contains(&cluster)), "cluster {cluster}");
    }
}

fn reopen(refcounts: &mut Refcounts) -> Refcounts {
    refcounts.write_blocks().unwrap();
    refcounts.write_table().unwrap();
    let (at, clusters) = refcounts.table_place();
    Refcounts::open(Arc::clone(&refcounts.file), refcounts.geometry, at, clusters).unwrap()
}

#[test]
fn widths_read_back_what_was_set() {
    for order in 0..=6 {
        let max = u64::MAX >> (64 - (1 << order));
        let mut block = vec![0; 512];
        let entries = (512 * 8) >> order;
        for index in 0..entries {
            set(&mut block, order, index, (index as u64 * 7 + 3) & max);
        }
        for index in 0..entries {
            assert_eq!(width::get(&block, order, index), (index as u64 * 7 + 3) & max);
        }
        block.fill(0);
        width::add(&mut block, order, 3..9, 1, max).unwrap();
        assert_eq!(width::find(&block, order, 0..entries, true), Some(3));
        assert_eq!(width::find(&block, order, 3..entries, false), Some(9));
        assert_eq!(width::add(&mut block, order, 2..5, -1, max), Err(2));
        assert_eq!(width::equal_run(&block, order, 3..entries), 6);
        set(&mut block, order, 6, max);
        assert_eq!(width::add(&mut block, order, 3..9, 1, max), if max == 1 { Err(3) } else { Err(6) });
        assert_eq!(width::get(&block, order, 3), 1);
    }
}

fn set(block: &mut [u8], order: u32, index: usize, value: u64) {
    width::set(block, order, index, value);
}

#[test]
fn narrow_widths_start_at_the_least_significant_bit() {
    for (order, expected) in [(0, 0b10), (1, 0b0100), (2, 0x10)] {
        let mut block = [0; 8];
        width::set(&mut block, order, 1, 1);
        assert_eq!(block[0], expected);
    }
}

#[test]
fn allocation_grows_blocks_and_table_for_every_layout() {
    for cluster_bits in [9, 10, 12, 16] {
        for order in 0..=6 {
            let mut refcounts = fresh(geometry(cluster_bits, order));
            let mut used = HashSet::new();
            let rounds = if cluster_bits == 9 { 1500 } else { 300 };
            for round in 0..rounds {
                let clusters = [1, 3, 1, 64, 2][round % 5];
                let found = refcounts.allocate(clusters).unwrap().offset.0 >> cluster_bits;
                for cluster in found..found + clusters {
                    assert!(used.insert(cluster), "cluster {cluster} handed out twice");
                }
            }
            verify(&mut refcounts, &used);
            let before = refcounts.take_table_before();
            for run in before {
                refcounts.decrease(run, |_| ()).unwrap();
            }
            verify(&mut reopen(&mut refcounts), &used);
        }
    }
}

#[test]
fn a_long_run_across_many_missing_blocks() {
    for (cluster_bits, order, clusters) in [(9, 6, 20_000), (9, 4, 100_000), (12, 6, 50_000), (16, 4, 1 << 20)] {
        let mut refcounts = fresh(geometry(cluster_bits, order));
        let first = refcounts.allocate(clusters).unwrap().offset.0 >> cluster_bits;
        let used: HashSet<u64> = (first..first + clusters).collect();
        verify(&mut refcounts, &used);
        verify(&mut reopen_after_move(&mut refcounts), &used);
    }
}

fn reopen_after_move(refcounts: &mut Refcounts) -> Refcounts {
    for run in refcounts.take_table_before() {
        refcounts.decrease(run, |_| ()).unwrap();
    }
    reopen(refcounts)
}

#[test]
fn freed_clusters_are_used_again() {
    let mut refcounts = fresh(geometry(16, 4));
    let first = refcounts.allocate(10).unwrap();
    assert!(first.untouched);
    let cluster = first.offset.0 >> 16;
    let mut freed = Vec::new();
    refcounts.increase_used(Run { first: cluster + 2, clusters: 1 }).unwrap();
    refcounts.decrease(Run { first: cluster, clusters: 5 }, |run| freed.push(run)).unwrap();
    assert_eq!(freed, [Run { first: cluster, clusters: 2 }, Run { first: cluster + 3, clusters: 2 }]);
    let again = refcounts.allocate(2).unwrap();
    assert_eq!((again.offset, again.untouched), (first.offset, false));
    assert_eq!(refcounts.allocate(1).unwrap().offset.0 >> 16, cluster + 3);
}

#[test]
fn overflow_and_underflow_change_nothing() {
    for order in 0..=4 {
        let mut refcounts = fresh(geometry(9, order));
        let entries = refcounts.geometry.refcount_block_entries();
        // Two blocks, and the limit is hit in the second one only.
        let run = Run { first: refcounts.allocate(2 * entries).unwrap().offset.0 >> 9, clusters: 2 * entries };
        let last = Run { first: run.end() - 1, clusters: 1 };
        let max = refcounts.geometry.refcount_max();
        refcounts.set(last.first, max).unwrap();
        let error = refcounts.increase_used(run).unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL, "{error}");
        refcounts.set(last.first, 0).unwrap();
        assert!(refcounts.decrease(run, |_| panic!("nothing is free")).is_err());
        for cluster in run.first..run.end() - 1 {
            assert_eq!(refcounts.get(cluster).unwrap(), 1);
        }
    }
}

#[test]
fn compressed_runs_share_clusters() {
    let mut refcounts = fresh(geometry(9, 4));
    let first = refcounts.allocate_bytes(100).unwrap();
    let second = refcounts.allocate_bytes(300).unwrap();
    let third = refcounts.allocate_bytes(200).unwrap();
    assert_eq!((second.0, third.0), (first.0 + 100, first.0 + 400));
    assert_eq!(refcounts.get(first.0 >> 9).unwrap(), 3);
    assert_eq!(refcounts.get((first.0 >> 9) + 1).unwrap(), 1);
    // What was appended to is gone: the next run must not go there.
    refcounts.decrease(Run::of_bytes(refcounts.geometry, third, 200), |_| ()).unwrap();
    let fourth = refcounts.allocate_bytes(500).unwrap();
    assert_eq!(fourth.0, (first.0 & !511) + 512);
    // A cluster that cannot be counted any higher is not shared further.
    let mut narrow = fresh(geometry(9, 0));
    let first = narrow.allocate_bytes(10).unwrap();
    assert_eq!(narrow.allocate_bytes(10).unwrap().0, first.0 + 512);
}

#[test]
fn metadata_is_not_handed_out_although_its_refcount_is_zero() {
    for (cluster, name) in [(0, "qcow2_header"), (1, "refcount table"), (2, "refcount block"), (3, "active L2 table")] {
        let mut refcounts = fresh(geometry(16, 4));
        for used in 3..10 {
            refcounts.set(used, 1).unwrap();
        }
        refcounts.protect(HostOffset(3 << 16), 1 << 16, MetadataKind::ActiveL2);
        refcounts.set(cluster, 0).unwrap();
        let error = refcounts.allocate(1).unwrap_err();
        assert!(error.notices()[0].contains(name) && error.is_fatal_corruption(), "{error:?}");
    }
}

#[test]
fn metadata_on_metadata_is_not_written() {
    let geometry = geometry(16, 4);
    let kinds = [
        (1, MetadataKind::ActiveL1, "active L1 table"),
        (2, MetadataKind::SnapshotTable, "snapshot table"),
        (2, MetadataKind::ActiveL2, "active L2 table"),
    ];
    for (cluster, kind, name) in kinds {
        let mut refcounts = fresh(geometry);
        refcounts.write_blocks().unwrap();
        refcounts.protect(HostOffset(cluster << 16), 8, kind);
        // The table is at the first of these clusters, its only block at the second one.
        let result = match cluster {
            1 => {
                refcounts.table_dirty = Some(0..1);
                refcounts.write_table().map(drop)
            }
            _ => refcounts.allocate(1).map(drop),
        };
        let error = result.unwrap_err();
        assert!(error.notices()[0].contains(name) && error.is_fatal_corruption(), "{error:?}");
        refcounts.unprotect(HostOffset(cluster << 16), kind);
        refcounts.allocate(1).unwrap();
    }
}

#[test]
fn a_block_that_two_entries_name_is_not_used() {
    let geometry = geometry(16, 4);
    let mut bytes = vec![0; 4 << 16];
    for entry in 0..2 {
        bytes[(1 << 16) + entry * 8..][..8].copy_from_slice(&(2_u64 << 16).to_be_bytes());
    }
    bytes[(1 << 16) + 16..][..8].copy_from_slice(&(3_u64 << 16).to_be_bytes());
    let mut refcounts = Refcounts::open(Arc::new(Sparse::new(bytes)), geometry, HostOffset(1 << 16), 1).unwrap();
    for cluster in [0, 1 << 15] {
        let error = refcounts.get(cluster).unwrap_err();
        assert!(error.notices()[0].contains("overlaps with refcount block"), "{error:?}");
    }
    assert_eq!(refcounts.get(2 << 15).unwrap(), 0, "the other block is sound");
}

#[test]
fn an_unaligned_block_is_an_error() {
    let geometry = geometry(16, 4);
    let mut bytes = vec![0; 3 << 16];
    bytes[1 << 16..(1 << 16) + 8].copy_from_slice(&0x20200_u64.to_be_bytes());
    let mut refcounts = Refcounts::open(Arc::new(Sparse::new(bytes)), geometry, HostOffset(1 << 16), 1).unwrap();
    let error = refcounts.get(0).unwrap_err();
    assert!(error.notices()[0].contains("Refblock offset 0x20200 unaligned (reftable index: 0);"), "{error:?}");
}

#[test]
fn a_full_cache_writes_blocks_and_reads_them_again() {
    let mut refcounts = fresh(geometry(9, 6));
    let run = Run { first: refcounts.allocate(1_100_000).unwrap().offset.0 >> 9, clusters: 1_100_000 };
    refcounts.increase_used(run).unwrap();
    assert_eq!(refcounts.get_run(run.first, 5).unwrap().0, 2);
    assert_eq!(refcounts.get(run.end() - 1).unwrap(), 2);
    assert_eq!(reopen(&mut refcounts).get(run.first + 1000).unwrap(), 2);
}
