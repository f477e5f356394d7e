use super::*;
use crate::copy::testing::{FakeLayer, Part};
use crate::image::{Chain, Layer, Node};

fn chain(parts: &[(u64, Part)]) -> Chain {
    let layer: Box<dyn Layer> = Box::new(FakeLayer::new(parts));
    Chain::new(vec![Node::new(layer, "fake")])
}

fn rules(cluster: u64) -> PlanRules {
    PlanRules {
        cluster,
        whole_clusters: false,
        blank_from: u64::MAX,
        zeros_are_data: false,
        salvage: false,
        everything: false,
    }
}

/// All tasks in one line each: `start+len:kind` of each item in KiB.
fn tasks(chains: &[Chain], rules: PlanRules, top_only: bool, offload: bool) -> Vec<String> {
    let source = Source::new(chains, top_only);
    let mut plan = Plan::new(&source, rules);
    let mut task = Task::default();
    let mut all = Vec::new();
    while plan.next(&mut task, |_, _| offload).unwrap() {
        assert_eq!(task.index, all.len() as u64);
        let mut at = task.start();
        let items: Vec<_> = task
            .items
            .iter()
            .map(|item| {
                assert_eq!(item.guest, at, "items follow each other");
                at = item.end();
                let kind = match item.kind {
                    ItemKind::Data { extent: Some(_), .. } => "data",
                    ItemKind::Data { extent: None, .. } => "whole",
                    ItemKind::Offload(_) => "offload",
                    ItemKind::Zero => "zero",
                    ItemKind::Blank => "blank",
                    ItemKind::Keep => "keep",
                };
                format!("{}+{}:{kind}", item.guest / 1024, item.len / 1024)
            })
            .collect();
        all.push(items.join(" "));
    }
    all
}

const K: u64 = 1024;
const M: u64 = 1024 * K;

#[test]
fn windows_lie_on_cluster_borders() {
    let chains = [chain(&[(100 * K, Part::Data), (3 * M, Part::Zero), (4 * M + 4 * K, Part::Data)])];
    assert_eq!(
        tasks(&chains, rules(64 * K), false, false),
        [
            "0+100:data 100+1948:zero",
            "2048+1124:zero 3172+924:data",
            "4096+1124:data 5220+924:data",
            "6144+1124:data 7268+4:data"
        ]
    );
}

#[test]
fn holes_cost_nothing() {
    let chains = [chain(&[(64 * K, Part::Data), (1 << 44, Part::Zero), (4 * K, Part::Data)])];
    let blank = PlanRules { blank_from: 0, ..rules(64 * K) };
    let list = tasks(&chains, blank, false, false);
    assert_eq!(list.len(), 2);
    let list = tasks(&chains, rules(64 * K), false, false);
    assert!(list.len() < 20_000, "zeros are written in long runs, not {} windows", list.len());
}

#[test]
fn zeros_behind_the_backing_file_are_there_already() {
    let chains = [chain(&[(M, Part::Data), (9 * M, Part::Zero)])];
    let backed = PlanRules { blank_from: 3 * M, ..rules(64 * K) };
    assert_eq!(tasks(&chains, backed, true, false), ["0+1024:data 1024+1024:zero", "2048+1024:zero 3072+1024:blank"]);
}

#[test]
fn what_the_backing_file_has_is_left_out() {
    let parts = [(M, Part::Nothing), (M, Part::Data), (6 * M, Part::Nothing)];
    let node = |parts: &[(u64, Part)]| Node::new(Box::new(FakeLayer::new(parts)), "fake");
    let over = [Chain::new(vec![node(&parts), node(&[(8 * M, Part::Nothing)])])];
    assert_eq!(tasks(&over, rules(64 * K), true, false), ["0+1024:keep 1024+1024:data"]);
    // A source that has no backing file reads as zeros there, whatever the target's backing file holds; and so does one
    // behind the end of its backing file.
    let chains = [chain(&parts)];
    assert_eq!(tasks(&chains, rules(64 * K), true, false), ["0+1024:zero 1024+1024:data", "2048+6144:zero"]);
    let over = [Chain::new(vec![node(&parts), node(&[(M / 2, Part::Nothing)])])];
    assert_eq!(tasks(&over, rules(64 * K), true, false), ["0+512:keep 512+512:zero 1024+1024:data", "2048+6144:zero"]);
    // Without a backing file below the target these are zeros.
    assert_eq!(tasks(&chains, rules(64 * K), false, false), ["0+1024:zero 1024+1024:data", "2048+6144:zero"]);
}

#[test]
fn compression_takes_whole_clusters() {
    let parts =
        [(60 * K, Part::Data), (8 * K, Part::Zero), (188 * K, Part::Zero), (10 * K, Part::Data), (M, Part::Zero)];
    let chains = [chain(&parts)];
    let whole = PlanRules { whole_clusters: true, ..rules(64 * K) };
    assert_eq!(tasks(&chains, whole, false, false), ["0+64:whole 64+64:whole 128+128:zero 256+64:whole 320+970:zero"]);
}

#[test]
fn nothing_is_sparse_with_size_0() {
    let chains = [chain(&[(M, Part::Zero), (M, Part::Data)])];
    let dense = PlanRules { zeros_are_data: true, ..rules(64 * K) };
    assert_eq!(tasks(&chains, dense, false, false), ["0+1024:data 1024+1024:data"]);
}

#[test]
fn extents_for_the_kernel_are_long() {
    let chains = [chain(&[(9 * M + 4 * K, Part::Data), (M, Part::Zero)])];
    assert_eq!(
        tasks(&chains, rules(64 * K), false, true),
        ["0+8192:offload", "8192+1028:offload 9220+1020:zero", "10240+4:zero"]
    );
}

#[test]
fn sources_follow_each_other() {
    let chains = [chain(&[(3 * K, Part::Data)]), chain(&[]), chain(&[(5 * K, Part::Data), (512, Part::Zero)])];
    let source = Source::new(&chains, false);
    assert_eq!(source.size(), 8 * K + 512);
    let mut bytes = vec![1; 8 * 1024 + 512];
    source.read_across(0, &mut bytes).unwrap();
    for (at, byte) in bytes.iter().enumerate() {
        let expected = match at as u64 {
            at if at < 3 * K => FakeLayer::byte(at),
            at if at < 8 * K => FakeLayer::byte(at - 3 * K),
            _ => 0,
        };
        assert_eq!(*byte, expected, "byte {at}");
    }
    assert_eq!(tasks(&chains, rules(4 * K), false, false), ["0+3:data 3+5:data 8+0:zero"]);
}

#[test]
fn salvage_reads_what_cannot_be_mapped() {
    let mut fake = FakeLayer::new(&[(64 * K, Part::Data)]);
    fake.bad_map = Some(4 * K..5 * K);
    let layer: Box<dyn Layer> = Box::new(fake);
    let chains = [Chain::new(vec![Node::new(layer, "fake")])];
    let source = Source::new(&chains, false);
    let mut task = Task::default();
    let error = loop {
        match Plan::new(&source, rules(1)).next(&mut task, |_, _| false) {
            Err(error) => break error,
            Ok(more) => assert!(more),
        }
    };
    assert!(error.to_string().starts_with("error while reading block status at offset"), "{error}");
    let mut plan = Plan::new(&source, PlanRules { salvage: true, ..rules(1) });
    let mut bytes = 0;
    while plan.next(&mut task, |_, _| false).unwrap() {
        bytes += task.payload();
    }
    assert_eq!(bytes, 64 * K);
    assert_eq!(plan.take_warnings().len(), 2, "one for each sector");
}
