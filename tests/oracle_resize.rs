//! `resize` of every image kind by sequences of new sizes, and command lines right and wrong: messages, exit codes,
//! content, health, description and the space taken.

mod common;

use common::files::allocated;
use common::kinds::{self, Kind, Open};
use common::oracle::{Target, Twins, differences, same_target};
use common::run::{TIMEOUT, Tool};
use common::{Report, Sandbox, for_all, require_wording, taken};

/// Each is tried on a fresh copy of every kind. `@` names the image.
const SEQUENCES: &[&[&str]] = &[
    &["@ +3M", "@ --shrink 2M", "@ +1536"],
    &["@ --shrink 1234432", "@ 10M"],
    &["@ --preallocation=metadata +2M", "@ --shrink -1M"],
    &["@ --preallocation=falloc +1M", "@ --preallocation=full +700000", "@ --preallocation=full +699904"],
    &["@ +513", "@ +0", "@ 7E", "@ -1M", "@ --preallocation=off --shrink -512"],
];

/// Where what a former, larger disk left in its last cluster shows again in the reference, and is zero in ours.
fn grows_again(sequence: &[&str]) -> bool {
    let shrinks = sequence.iter().position(|line| line.contains("--shrink"));
    shrinks.is_some_and(|at| sequence[at..].len() > 1)
}

/// A kind with leaks from the start, and with bitmaps that a program left behind which knows none.
const STALE: &str = "bitmaps-stale";

/// What only ours says of such an image, which still has the bitmaps.
const LACKING: &str = "stderr:\n  < qemu-img: warning: a program lacking bitmap support modified this file, \
    so all bitmaps are now considered inconsistent\n  \
    < Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.\n";

/// Where the reference's clusters that are reserved read as noise through the key, take the place of the cluster in
/// which the disk ended, whose data is lost, or lie over what bitmaps left, which shows.
fn is_lost(kind: &Kind) -> bool {
    kind.open == Open::Locked || ["zlib-extended", "data-file-backed", STALE].contains(&&*kind.name)
}

/// The reference visits every cluster of a disk that shrinks, which takes minutes. `SHARE=1` waits for it.
fn is_slow(kind: &Kind, sequence: &[&str]) -> bool {
    common::share_taken() > 1 && kind.name == "huge-empty" && sequence.iter().any(|line| line.contains("--shrink"))
}

fn target(kind: &Kind) -> Target {
    match kind.open {
        Open::Raw => Target::Raw,
        Open::Locked => Target::Locked,
        Open::Qcow2 | Open::Broken => Target::Qcow2,
    }
}

fn run(twins: &Twins, line: &str) -> (i32, Vec<String>) {
    let ours = twins.ours.run(Tool::Ours, line);
    let reference = twins.reference.run(Tool::Reference, line);
    (reference.code, differences(line, &ours, &reference, &|text| text.to_owned()))
}

fn check(kind: &Kind, report: &mut Report) {
    for sequence in SEQUENCES {
        let name = sequence.join("; ");
        if !taken(&kind.name, &name) || is_slow(kind, sequence) {
            continue;
        }
        let twins = Twins::of(kind);
        let (mut found, mut refused) = (Vec::new(), false);
        for line in *sequence {
            let operand = kind.operand();
            let line = match line.strip_prefix("@ ") {
                Some(rest) if rest.starts_with("--") => {
                    let (options, size) = rest.rsplit_once(' ').expect("a size");
                    format!("resize {options} {operand} {size}")
                }
                rest => format!("resize {operand} {}", rest.expect("an image")),
            };
            let (code, differences) = run(&twins, &line);
            refused |= code != 0;
            if code == TIMEOUT {
                // The reference visits every cluster of an empty disk.
                break;
            }
            found.extend(differences);
            if kind.open != Open::Broken {
                let reserves = sequence.iter().any(|line| line.contains("--preallocation="));
                let differs = grows_again(sequence) || (reserves && is_lost(kind));
                found.extend(compare(&twins, kind, differs));
            }
            if refused && kind.name == STALE {
                // The reference drops stale bitmaps as it opens an image, ours when it changes the image.
                found.retain(|text| !text.ends_with(LACKING));
            }
            if !found.is_empty() {
                break;
            }
        }
        report.note(&format!("{}: {name}", kind.name), found);
    }
}

fn compare(twins: &Twins, kind: &Kind, stale: bool) -> Vec<String> {
    let mut found = same_target(twins, "disk", target(kind));
    if stale {
        found.retain(|text| !text.starts_with("content of disk differs"));
    }
    if kind.name == STALE {
        // It has leaks from the start.
        found.retain(|text| !text.starts_with("check disk"));
    }
    // What lies below is not for a resize to change.
    for name in common::files::names(twins.ours.path()) {
        if name != "disk" && name != "disk.data" {
            let files = [twins.ours.file(&name), twins.reference.file(&name)];
            if common::files::hash_file(&files[0]) != common::files::hash_file(&files[1]) {
                found.push(format!("{name} differs"));
            }
        }
    }
    let [ours, reference] = [&twins.ours, &twins.reference].map(|folder| {
        let file = folder.file("disk");
        (allocated(&file), file.metadata().map_or(0, |data| data.len()))
    });
    if kind.open != Open::Raw && ours.1 > reference.1 + reference.1 / 8 + (4 << 20) {
        found.push(format!("the file is {} bytes long, the reference's {}", ours.1, reference.1));
    }
    found
}

#[test]
fn every_kind_is_resized_as_by_the_reference() {
    require_wording();
    for_all("resize", &kinds::all(), check);
}

/// What was there is there afterwards, and what is new is zero, also where the reference is not to be compared with.
#[test]
fn guest_data_stays() {
    // With neither a flag for zeros nor plain text, reserved clusters are noise; and one image has leaks from the start.
    let sound = |kind: &Kind| kind.open != Open::Broken && !["aes-v2", STALE].contains(&&*kind.name);
    let kinds: Vec<_> = kinds::all().into_iter().filter(sound).collect();
    for_all("data", &kinds, |kind, report| {
        for mode in ["off", "metadata", "falloc", "full"] {
            if !taken(&kind.name, mode) {
                continue;
            }
            let sandbox = kind.sandbox();
            let convert = format!("convert -O raw {} --image-opts {} ", kinds::SECRET, kind.image_opts());
            sandbox.reference(&format!("{convert} before")).expect_ok("reading the image");
            let resized =
                sandbox.run(Tool::Ours, &format!("resize --preallocation={mode} {} +1234432", kind.operand()));
            if !resized.ok() {
                continue;
            }
            sandbox.reference(&format!("{convert} after")).expect_ok("reading the image");
            let same = sandbox.reference("compare -f raw -F raw before after");
            let health = if kind.open == Open::Raw {
                Vec::new()
            } else {
                common::oracle::unhealthy(&sandbox, "disk", target(kind))
            };
            let wrong = if same.ok() { Vec::new() } else { vec![same.to_string()] };
            report.note(&format!("{} {mode}", kind.name), [wrong, health].concat());
        }
    });
}

/// Lines on one image; `disk` is qcow2 with a snapshot and a bitmap, `old` the same in version 2, `plain` raw.
const LINES: &[&str] = &[
    "resize",
    "resize disk",
    "resize 10M",
    "resize disk 20M 30M",
    "resize disk 20M",
    "resize disk +1M",
    "resize disk -1M",
    "resize --shrink disk -1M",
    "resize disk --shrink -1M",
    "resize disk -1M --shrink",
    "resize disk -1M -1M",
    "resize --shrink disk -- -1M",
    "resize -- disk -1M",
    "resize -1M disk",
    "resize disk -11G",
    "resize disk 0",
    "resize --shrink disk 0",
    "resize disk x",
    "resize disk +x",
    "resize disk -x",
    "resize disk --1M",
    "resize disk -+1M",
    "resize disk +-1M",
    "resize disk ''",
    "resize disk ' 11M'",
    "resize disk 0x1000000",
    "resize disk 1.5G",
    "resize disk +512",
    "resize disk +1",
    "resize disk +511",
    "resize disk 16E",
    "resize disk 8E",
    "resize disk +8E",
    "resize disk 7E",
    "resize disk 9223372036854775807",
    "resize -q disk +1M",
    "resize --quiet disk +1M",
    "resize -q disk -1M",
    "resize -U disk +1M",
    "resize missing 1M",
    "resize -f raw missing 1M",
    "resize -f nothing disk 1M",
    "resize --image-opts driver=qcow2,file.filename=disk +1M",
    "resize --image-opts -f qcow2 driver=qcow2,file.filename=disk +1M",
    "resize 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"disk\"}}' +1M",
    "resize --object secret,id=s,data=x disk +1M",
    "resize --object secret disk +1M",
    "resize --preallocation disk +1M",
    "resize --preallocation=some disk +1M",
    "resize --preallocation=full disk -1M",
    "resize --preallocation=full --shrink disk -1M",
    "resize --preallocation=metadata disk +0",
    "resize --preallocation=metadata disk +1M",
    "resize --preallocation=falloc disk +1M",
    "resize --preallocation=off disk +1M",
    "resize --s disk +1M",
    "resize --p=off disk +1M",
    "resize old +1M",
    "resize old +1",
    "resize --shrink old 1M",
    "resize old +0",
    "resize broken +1M",
    "resize broken +0",
    "resize plain +1M",
    "resize -f raw plain +1M",
    "resize -f raw plain +1",
    "resize -f raw plain 513",
    "resize --shrink -f raw plain 513",
    "resize -f raw --shrink plain -1k",
    "resize -f raw --preallocation=metadata plain +1M",
    "resize -f raw --preallocation=falloc plain +1M",
    "resize -f raw --preallocation=full plain +1M",
    "resize -f raw plain 7E",
    "resize -f raw plain 9223372035781033985",
    "resize --image-opts driver=raw,offset=512,file.filename=plain +1M",
    "resize --image-opts driver=raw,size=512,file.filename=plain +1M",
    "resize --image-opts driver=raw,offset=512,file.filename=plain 9223372035781033984",
    "resize over +1M",
    "resize over2 +1M",
    "resize --preallocation=metadata over2 +1M",
    "resize --preallocation=falloc over2 +1M",
    "resize --preallocation=metadata over +1M",
    "resize --preallocation=full over +1M",
    "resize fat +100k",
    "resize --preallocation=metadata fat +1000k",
    "resize --preallocation=falloc fat +1000k",
];

const SCENE: &str = "Q=qemu-img\n$Q create -q -f qcow2 disk 10M; qemu-io -c 'write -P 3 0 10M' disk >/dev/null\n\
    $Q snapshot -c one disk; $Q bitmap --add disk b; $Q bitmap --add -g 512 disk c\n\
    qemu-io -c 'write -P 4 9M 1M' disk >/dev/null\n\
    $Q create -q -f qcow2 -o compat=0.10 old 10M; $Q snapshot -c one old\n\
    $Q create -q -f qcow2 broken 10M; $Q bitmap --add broken z\n\
    (qemu-io -c 'write 0 1M' -c abort broken >/dev/null 2>&1) 2>/dev/null\n\
    $Q create -q plain 1M; qemu-io -f raw -c 'write -P 9 0 1M' plain >/dev/null\n\
    $Q create -q base 30M; qemu-io -f raw -c 'write -P 8 0 30M' base >/dev/null\n\
    $Q create -q -f qcow2 -b base -F raw over 1000000\n\
    $Q create -q -f qcow2 -o compat=0.10 -b base -F raw over2 1M\n\
    $Q create -q -f qcow2 -o extended_l2=on -b base -F raw fat 1000000; true";

#[test]
fn lines_right_and_wrong() {
    require_wording();
    let scene = Sandbox::new();
    scene.script(Tool::Reference, SCENE).expect_ok("the scene");
    for_all("lines", LINES, |line, report| {
        let twins = Twins { ours: Sandbox::copy_of(scene.path()), reference: Sandbox::copy_of(scene.path()) };
        let (code, mut found) = run(&twins, line);
        for name in ["disk", "over", "over2", "fat"].iter().filter(|_| code == 0) {
            found.extend(same_target(&twins, name, Target::Qcow2));
            if *name == "fat" {
                // The reference copies all of the cluster in which the disk ended, ours what has to be.
                continue;
            }
            let map = format!("map --output=json -f qcow2 {name}");
            let [ours, reference] = [&twins.ours, &twins.reference].map(|folder| folder.reference(&map));
            found.extend(differences(&map, &ours, &reference, &without_places));
            let list = format!("snapshot -l {name}");
            let [ours, reference] = [&twins.ours, &twins.reference].map(|folder| folder.reference(&list));
            found.extend(differences(&list, &ours, &reference, &common::oracle::without_dates));
        }
        report.note(line, found);
    });
}

/// Host offsets depend on where free clusters were; lines that only they divide become one.
fn without_places(map: &str) -> String {
    let mut lines: Vec<(u64, String)> = Vec::new();
    for line in map.lines() {
        let mut fields: Vec<_> = line.trim_matches(&['[', ']', '{', '}', ',', ' '][..]).split(", ").collect();
        let stored = fields.contains(&"\"data\": true");
        fields.retain(|field| !(field.starts_with("\"offset\"") || stored && field.starts_with("\"zero\"")));
        let len = fields[1].rsplit(' ').next().and_then(|len| len.parse().ok()).unwrap_or(0);
        let kind = fields[2..].join(",");
        match lines.last_mut() {
            Some((sum, last)) if *last == kind => *sum += len,
            _ => lines.push((len, kind)),
        }
    }
    lines.iter().map(|(len, kind)| format!("{len} {kind}\n")).collect()
}

/// A cluster in which the disk ended holds nothing of a former disk when it grows again.
#[test]
fn nothing_of_a_former_disk_shows() {
    let kinds = ["", "-o extended_l2=on", "-o compat=0.10,cluster_size=2M", "-o cluster_size=4k"];
    for options in kinds {
        let sandbox = Sandbox::new();
        let make =
            format!("qemu-img create -q -f qcow2 {options} disk 5M && qemu-io -c 'write -P 7 0 5M' disk >/dev/null");
        sandbox.script(Tool::Reference, &make).expect_ok("making the image");
        for line in ["resize -q --shrink disk 102912", "resize -q disk 4M"] {
            sandbox.run(Tool::Ours, line).expect_ok(line);
        }
        let read = "qemu-io -r -c 'read -P 7 0 102912' -c 'read -P 0 102912 4091392' disk";
        let out = sandbox.script(Tool::Reference, read).expect_ok("reading");
        assert!(!out.stdout.contains("verification failed"), "{options}: {out}");
        sandbox.reference("check disk").expect_ok("check");
    }
}
