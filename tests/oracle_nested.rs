//! Writing to images that lie inside other images, and inside a part of a file: both tools do the same.

mod common;

use common::oracle::without_dates;
use common::run::{BOTH, Tool};
use common::{Report, Sandbox, for_all, require_wording};

/// `inner` is a small qcow2 image; the others hold it: as the disk of qcow2 images with room to spare, in the middle of a
/// file, at the end of one, and both at once.
const FILES: &str = "
set -e
head -c 700000 /dev/urandom > new.raw; truncate -s 8M new.raw
for at in 1 3 7; do head -c 9000 /dev/urandom | dd of=new.raw bs=1M seek=$at conv=notrunc status=none; done
qemu-img create -q -f qcow2 -o cluster_size=16k inner 8M
qemu-io -f qcow2 -c 'write -P 5 100k 300k' -c 'write -z 2M 64k' -c 'write -P 6 5M 64k' inner >/dev/null
cp inner disk; truncate -s 12M disk
for o in '' cluster_size=4k extended_l2=on,cluster_size=128k; do
    qemu-img convert -f raw -O qcow2 ${o:+-o $o} disk outer$o
done
qemu-img convert -c -f raw -O qcow2 disk packed
qemu-img create -q -f qcow2 -b packed -F qcow2 overlay
qemu-img convert -f raw -O qcow2 disk kept; qemu-img snapshot -c before kept
qemu-img create -q -f qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 locked 12M
qemu-img convert -n -f raw --object secret,id=s,data=x disk --target-image-opts driver=qcow2,encrypt.key-secret=s,file.filename=locked
head -c 1M /dev/urandom > noise
cat noise inner noise > middle; truncate -s 3M room; cat noise disk noise > spacious; cat noise inner > end
qemu-img create -q -f qcow2 nest 20M
qemu-img convert -n -f raw spacious -O qcow2 nest
rm disk room
";

/// Descriptions of the inner image.
fn places() -> Vec<String> {
    let nested = |name: &str| format!("driver=qcow2,file.driver=qcow2,file.file.filename={name}");
    let mut places = ["outer", "outercluster_size=4k", "outerextended_l2=on,cluster_size=128k", "overlay", "kept"]
        .map(|name| nested(&name.replace(',', ",,")))
        .to_vec();
    places.extend([
        "driver=qcow2,file.driver=qcow2,file.encrypt.key-secret=s,file.file.filename=locked".to_owned(),
        "driver=qcow2,file.driver=raw,file.offset=1M,file.size=12M,file.file.filename=spacious".to_owned(),
        "driver=qcow2,file.driver=raw,file.offset=1M,file.file.filename=end".to_owned(),
        "driver=qcow2,file.driver=raw,file.offset=1M,file.size=12M,file.file.driver=qcow2,file.file.file.filename=nest"
            .to_owned(),
        "driver=qcow2,file.driver=qcow2,file.file.driver=raw,file.file.file.filename=outer".to_owned(),
    ]);
    places
}

/// What is done with `$T`.
const OPERATIONS: [&str; 5] = [
    "qemu-img snapshot -c one $O $T && qemu-img snapshot -l $O $T",
    "qemu-img snapshot -c one $O $T && qemu-img convert -n -f raw new.raw $O --target-image-opts $T && \
     qemu-img snapshot -c two $O $T && qemu-img snapshot -a one $O $T && qemu-img snapshot -d two $O $T && \
     qemu-img snapshot -l $O $T",
    "qemu-img convert -n -f raw new.raw $O --target-image-opts $T",
    "qemu-img convert -n -W -m 8 -f raw new.raw $O --target-image-opts $T",
    "qemu-img convert -n -c -f raw new.raw $O --target-image-opts $T",
];

/// Runs an operation with both tools, and compares what they say, what the disk holds, what is around it, and health.
fn compare(source: &Sandbox, place: &str, operation: &str, report: &mut Report) {
    let opts = "--object secret,id=s,data=x --image-opts";
    let set = format!("O='{opts}'; T='{place}'");
    let operation = match operation.contains("--target-image-opts") {
        // There the source is a file.
        true => operation.replace("new.raw $O", "new.raw --object secret,id=s,data=x"),
        false => operation.to_owned(),
    };
    let [ours, reference] = BOTH.map(|tool| {
        let sandbox = Sandbox::new();
        sandbox.script(tool, &format!("cp -a {}/. .", source.path().display())).expect_ok("copying the files");
        let mut outcome = sandbox.script(tool, &format!("{set}; {operation}"));
        outcome.stdout = without_dates(&outcome.stdout);
        // A file whose last cluster is partly written ends earlier or later.
        let outside = "for f in middle spacious end; do head -c 1M $f | sha256sum; done; \
                       for f in middle spacious; do tail -c 1M $f | sha256sum; done";
        let look = format!(
            "{set}; qemu-img check $O $T 2>&1 | grep -v offset; for f in outer* overlay kept packed nest; do \
             qemu-img check $f 2>&1 | grep -c -v 'No errors were found' | grep -v 2 | sed \"s/^/$f /\"; done; \
             qemu-img convert -O raw $O $T all.raw && sha256sum all.raw; {outside}"
        );
        let found = sandbox.script(Tool::Reference, &look);
        (outcome, found)
    });
    let mut differences = Vec::new();
    if ours.0 != reference.0 {
        differences.push(format!("ours: {}\nreference: {}", ours.0, reference.0));
    }
    let allocation = |text: &str| -> String {
        text.lines().filter(|line| !line.contains("allocated")).map(|line| format!("{line}\n")).collect()
    };
    if allocation(&ours.1.stdout) != allocation(&reference.1.stdout) {
        differences.push(format!("ours left: {}\nreference left: {}", ours.1, reference.1));
    }
    if !ours.1.stdout.contains("No errors were found") {
        differences.push(format!("ours left an image that is not sound: {}", ours.1));
    }
    report.note(&format!("{place}: {operation}"), differences);
}

#[test]
fn images_inside_images_are_written() {
    require_wording();
    let source = Sandbox::new();
    source.script(Tool::Reference, FILES).expect_ok("preparing the files");
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut cases = Vec::new();
    for place in places().into_iter().filter(|place| place.contains(&only)) {
        // There the reference fails in the end, without a word: it tries to cut the window to its length.
        let fails = |operation: &str| operation.contains("-n -c") && place.contains("file.size");
        let operations = OPERATIONS.into_iter().filter(|operation| !fails(operation));
        let operations = operations.filter(|operation| common::taken(&place, operation));
        cases.extend(operations.map(|operation| (place.clone(), operation)));
    }
    for_all("writing to images inside images", &cases, |(place, operation), report| {
        compare(&source, place, operation, report);
    });
}

/// Where there is no room, ours refuses and leaves a sound image; the reference loses what it writes behind the end of a
/// disk (though not behind the end of a window).
#[test]
fn an_image_inside_an_image_cannot_grow() {
    require_wording();
    let source = Sandbox::new();
    source.script(Tool::Reference, FILES).expect_ok("preparing the files");
    let full = "
set -e
size=$(stat -c %s inner)
qemu-img convert -f raw -O qcow2 inner tight
for T in driver=qcow2,file.driver=qcow2,file.file.filename=tight \\
    driver=qcow2,file.driver=raw,file.offset=1M,file.size=$size,file.file.filename=middle; do
    ! qemu-img snapshot -c one --image-opts $T 2>&1
    qemu-img convert -n -f raw new.raw --target-image-opts $T 2>&1 | sed 's/byte [0-9]*/byte N/'
done
";
    let outcome = source.script(Tool::Ours, full).expect_ok("it is refused");
    let line = "qemu-img: Could not create snapshot 'one': No space left on device\n\
                qemu-img: error while writing at byte N: No space left on device\n";
    assert_eq!(outcome.stdout, line.repeat(2));
    let look = "
qemu-img check --image-opts driver=qcow2,file.driver=qcow2,file.file.filename=tight
qemu-img check tight
dd if=middle of=part bs=1M skip=1 status=none; truncate -s $(stat -c %s inner) part; qemu-img check part
tail -c 1M middle | cmp - noise && head -c 1M middle | cmp - noise
";
    let found = source.script(Tool::Reference, look).expect_ok("looking at what is left");
    assert_eq!(found.stdout.matches("No errors were found").count(), 3, "{found}");
}
