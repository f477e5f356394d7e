//! `convert` in scenes of several steps: targets that exist, several sources, backing files for the target, what is refused,
//! keys that change on the way.

mod common;

use common::kinds::{self, SECRET};
use common::oracle::{self, Target, Twins};
use common::{Sandbox, for_all, require_wording};

use Target::{Locked, Qcow2, Raw};

/// Scripts in which `convert` meets what is already there, several sources, or backing files for the target.
/// Each leaves `out`.
const SCENES: &[(&str, &str, Target)] = &[
    ("onto a larger raw file", "truncate -s 12M out; $Q convert -n -f qcow2 -O raw disk out", Raw),
    ("onto a smaller raw file", "truncate -s 1M out; $Q convert -n -f qcow2 -O raw disk out", Raw),
    (
        "onto a raw file full of garbage",
        "head -c 12M /dev/zero | tr '\\0' x > out; $Q convert -n -f qcow2 -O raw disk out",
        Raw,
    ),
    (
        "over a raw file full of garbage",
        "head -c 12M /dev/zero | tr '\\0' x > out; $Q convert -f qcow2 -O raw disk out",
        Raw,
    ),
    ("onto zeros as promised", "truncate -s 9438720 out; $Q convert -n --target-is-zero -f qcow2 -O raw disk out", Raw),
    ("onto a qcow2", "/usr/bin/qemu-img create -q -f qcow2 out 12M; $Q convert -n -f qcow2 -O qcow2 disk out", Qcow2),
    (
        "onto a qcow2 with content",
        "cp disk out; qemu-io -f qcow2 -c 'write -P 7 0 9M' out >/dev/null; $Q convert -n -f qcow2 -O qcow2 disk out",
        Qcow2,
    ),
    (
        "onto a compressed qcow2",
        "/usr/bin/qemu-img convert -c -O qcow2 disk out; $Q convert -n -f qcow2 -O qcow2 disk out",
        Qcow2,
    ),
    (
        "onto a larger qcow2 in use, compressed, zeros to the end",
        "truncate -s 3201000 odd; printf x | dd of=odd conv=notrunc status=none; /usr/bin/qemu-img create -q -f qcow2 out 4M; qemu-io -f qcow2 -c 'write -P 9 3201024 60k' out >/dev/null; $Q convert -c -n -f raw -O qcow2 odd out",
        Qcow2,
    ),
    (
        "onto a qcow2 in use, compressed",
        "truncate -s 3M odd; qemu-io -f raw -c 'write -P 3 1M 1M' odd >/dev/null; /usr/bin/qemu-img create -q -f qcow2 out 4M; qemu-io -f qcow2 -c 'write -P 9 1M 64k' out >/dev/null; $Q convert -c -n -m 1 -f raw -O qcow2 odd out",
        Qcow2,
    ),
    (
        "onto a data file, compressed",
        "truncate -s 3M odd; printf x | dd of=odd bs=1M seek=1 conv=notrunc status=none; /usr/bin/qemu-img create -q -f qcow2 -o data_file=out.data out 4M; $Q convert -c -n -f raw -O qcow2 odd out",
        Qcow2,
    ),
    (
        "a length that is no whole sector, onto raw files",
        "head -c 1000001 disk > odd; for n in 1000000 1000001 1000447 1000448 1000449 999936; do rm -f out; truncate -s $n out; $Q convert -n -f raw -O raw odd out; echo $?; stat -c %s out; done",
        Raw,
    ),
    (
        "onto a qcow2 with a snapshot",
        "cp disk out; /usr/bin/qemu-img snapshot -c keep out; $Q convert -n -f qcow2 -O qcow2 other out",
        Qcow2,
    ),
    (
        "onto a qcow2 with bitmaps",
        "cp disk out; /usr/bin/qemu-img bitmap --add out b; $Q convert -n -f qcow2 -O qcow2 other out",
        Qcow2,
    ),
    (
        "onto an overlay",
        "cp other base; /usr/bin/qemu-img create -q -f qcow2 -b base -F qcow2 out; $Q convert -n -f qcow2 -O qcow2 disk out",
        Qcow2,
    ),
    (
        "onto a qcow2 by options",
        "/usr/bin/qemu-img create -q -f qcow2 out 12M; $Q convert -n -f qcow2 --target-image-opts disk driver=qcow2,file.filename=out",
        Qcow2,
    ),
    (
        "onto an extended qcow2",
        "/usr/bin/qemu-img create -q -f qcow2 -o extended_l2=on out 12M; $Q convert -n -f qcow2 -O qcow2 disk out",
        Qcow2,
    ),
    ("target options without -n", "$Q convert -f qcow2 --target-image-opts disk driver=qcow2,file.filename=out", Qcow2),
    ("no target for -n", "$Q convert -n -f qcow2 -O qcow2 disk out", Qcow2),
    ("several sources", "$Q convert -f qcow2 -O qcow2 disk other disk out", Qcow2),
    ("several sources to raw", "$Q convert -f qcow2 -O raw other disk out", Raw),
    ("several sources, compressed", "$Q convert -c -f qcow2 -O qcow2 disk other out", Qcow2),
    ("several sources, one missing", "$Q convert -f qcow2 -O qcow2 disk nowhere out", Qcow2),
    ("a new backing file with -B", "cp other base; $Q convert -f qcow2 -O qcow2 -B base -F qcow2 disk out", Qcow2),
    (
        "a new backing file with -o",
        "cp other base; $Q convert -f qcow2 -O qcow2 -o backing_file=base,backing_fmt=qcow2 disk out",
        Qcow2,
    ),
    ("-B without -F", "cp other base; $Q convert -f qcow2 -O qcow2 -B base disk out", Qcow2),
    ("-B, compressed", "cp other base; $Q convert -c -f qcow2 -O qcow2 -B base -F qcow2 disk out", Qcow2),
    (
        "-B that is smaller",
        "/usr/bin/qemu-img create -q -f qcow2 base 1M; $Q convert -f qcow2 -O qcow2 -B base -F qcow2 disk out",
        Qcow2,
    ),
    ("-B that is missing", "$Q convert -f qcow2 -O qcow2 -B nowhere -F raw disk out", Qcow2),
    (
        "-o backing_file that is missing",
        "$Q convert -f qcow2 -O qcow2 -o backing_file=nowhere,backing_fmt=raw disk out",
        Qcow2,
    ),
    ("the same file twice", "$Q convert -f qcow2 -O qcow2 disk disk; cp disk out", Qcow2),
    (
        "the same file by a link",
        "ln disk hard; ln -s disk sym; for t in hard sym; do $Q convert -f qcow2 -O qcow2 disk $t; $Q convert -n -f qcow2 -O qcow2 disk $t; done",
        Qcow2,
    ),
    ("the second source as target", "$Q convert -f qcow2 -O raw disk other other; cp disk out", Qcow2),
    (
        "a backing file of the source as target",
        "/usr/bin/qemu-img create -q -f qcow2 -b disk -F qcow2 mid; /usr/bin/qemu-img create -q -f qcow2 -b mid -F qcow2 top; for t in top mid disk; do $Q convert -f qcow2 -O qcow2 top $t; $Q convert -n -f qcow2 -O qcow2 top $t; done; cp disk out",
        Qcow2,
    ),
    (
        "the data file of the source as target",
        "/usr/bin/qemu-img create -q -f qcow2 -o data_file=d s 1M; $Q convert -f qcow2 -O raw s d",
        Raw,
    ),
    ("the source as data file", "$Q convert -f qcow2 -O qcow2 -o data_file=disk disk out", Qcow2),
    ("-B is the target", "$Q convert -f qcow2 -O qcow2 -B other -F qcow2 disk other", Qcow2),
    (
        "-B lies on the target",
        "/usr/bin/qemu-img create -q -f qcow2 -b other -F qcow2 mid; ln -s other sym; $Q convert -f qcow2 -O qcow2 -B mid -F qcow2 disk sym",
        Qcow2,
    ),
    ("a file as format", "$Q convert -f qcow2 -O file disk out", Raw),
    ("a file as format, with options", "$Q convert -f qcow2 -O file -o preallocation=falloc disk out", Raw),
    ("a file as format, compressed", "$Q convert -c -f qcow2 -O file disk out", Raw),
    ("a file as format, with a backing file", "$Q convert -f qcow2 -O file -B other -F qcow2 disk out", Raw),
    ("a file as both formats", "$Q convert -f file -O file disk out", Qcow2),
    ("a file as format, existing", "truncate -s 12M out; $Q convert -n -f qcow2 -O file disk out", Raw),
    (
        "a file as format, its options",
        "$Q convert -O file -o help; $Q convert -O file -o help disk out; $Q convert -O host_device -o help",
        Raw,
    ),
    ("a device as format, which is none", "$Q convert -f qcow2 -O host_device disk out", Raw),
    ("a protocol in front of the target", "$Q convert -f qcow2 -O raw disk file:out", Raw),
    (
        "a protocol in front of all targets",
        "$Q convert -f qcow2 -O qcow2 -o data_file=file:out.data disk file:./out && $Q convert -f qcow2 -O raw disk file:no/such",
        Qcow2,
    ),
    (
        "unknown protocols",
        "for t in foo:out json:{} ./foo:out host_device:out file:; do $Q convert -f qcow2 -O raw disk $t; done",
        Raw,
    ),
    ("probing the source", "$Q convert -O raw disk out", Raw),
    (
        "a low rate, and a disk of one request",
        "yes | head -c 500k > small; timeout 5 $Q convert -f raw -O raw -r 10k small out",
        Raw,
    ),
    ("the default output format", "$Q convert disk out", Raw),
    ("options after operands", "$Q convert disk -O qcow2 -o cluster_size=4k out", Qcow2),
    ("clustered flags", "$Q convert -cqf qcow2 -Oqcow2 disk out", Qcow2),
    (
        "repeated -o",
        "$Q convert -f qcow2 -O qcow2 -o cluster_size=4k -o refcount_bits=8 -o cluster_size=8k disk out",
        Qcow2,
    ),
    ("repeated -O", "$Q convert -f qcow2 -O raw -O qcow2 disk out", Qcow2),
    ("a missing folder", "$Q convert -f qcow2 -O raw disk no/out", Raw),
    ("a folder as target", "mkdir out.d; $Q convert -f qcow2 -O raw disk out.d", Raw),
    ("a folder as source", "mkdir in.d; $Q convert -O raw in.d out", Raw),
    ("a symbolic link as target", "ln -s real out; $Q convert -f qcow2 -O qcow2 disk out", Qcow2),
    ("umask", "umask 077; $Q convert -f qcow2 -O qcow2 disk out; stat -c %a out", Qcow2),
    ("umask 022", "umask 022; $Q convert -f qcow2 -O raw disk out; stat -c %a out", Raw),
    (
        "mode of an existing target",
        "touch out; chmod 640 out; $Q convert -f qcow2 -O raw disk out; stat -c %a out",
        Raw,
    ),
    (
        "json source",
        "$Q convert -O qcow2 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"disk\"}}' out",
        Qcow2,
    ),
    (
        "a window of a file",
        "$Q convert -O raw --image-opts driver=raw,offset=65536,size=1048576,file.filename=disk out",
        Raw,
    ),
    (
        "a window of a file by json",
        "$Q convert -O raw 'json:{\"driver\":\"raw\",\"offset\":512,\"size\":100352,\"file\":{\"driver\":\"file\",\"filename\":\"disk\"}}' out",
        Raw,
    ),
    ("no space", "ulimit -f 2048; trap '' XFSZ; $Q convert -f qcow2 -O raw -S 0 disk out; echo $?; rm -f out", Raw),
    ("progress ends with a line", "$Q convert -p -f qcow2 -O qcow2 disk out | tr '\\r' '\\n' | tail -n 2", Qcow2),
    ("progress starts at zero", "$Q convert -p -f qcow2 -O raw disk out | tr '\\r' '\\n' | head -n 1", Raw),
    ("quiet progress", "$Q convert -p -q -f qcow2 -O raw disk out", Raw),
    (
        "a secret in a file",
        "printf hunter2 > key; $Q convert -f qcow2 -O qcow2 --object secret,id=s,file=key -o encrypt.format=aes,encrypt.key-secret=s disk out",
        Locked,
    ),
    (
        "a secret in base64",
        "$Q convert -f qcow2 -O qcow2 --object secret,id=s,data=aHVudGVyMg==,format=base64 -o encrypt.format=aes,encrypt.key-secret=s disk out",
        Locked,
    ),
    (
        "a secret as json",
        "$Q convert -f qcow2 -O qcow2 --object '{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"hunter2\"}' -o encrypt.format=aes,encrypt.key-secret=s disk out",
        Locked,
    ),
    (
        "a wrong secret",
        "$Q convert -f qcow2 -O qcow2 --object secret,id=s,data=hunter2 -o encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s disk locked && $Q convert --object secret,id=s,data=wrong --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=locked -O raw out",
        Raw,
    ),
    (
        "no secret",
        "$Q convert -f qcow2 -O qcow2 --object secret,id=s,data=hunter2 -o encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s disk locked && $Q convert -f qcow2 -O raw locked out",
        Raw,
    ),
    ("encryption without a key", "$Q convert -f qcow2 -O qcow2 -o encrypt.format=luks disk out", Qcow2),
    ("option help", "$Q convert -O qcow2 -o help", Raw),
    ("option help for raw", "$Q convert -O raw -o '?'", Raw),
    ("option help with operands", "$Q convert -O qcow2 -o cluster_size=4k,help disk out", Raw),
    (
        "luks variants",
        "for c in aes-128:cbc:essiv:sha1 serpent-256:xts:plain64:sha512 twofish-256:xts:plain:ripemd160; do IFS=: read a m i h <<< $c; $Q convert -f qcow2 -O qcow2 --object secret,id=s,data=hunter2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.cipher-alg=$a,encrypt.cipher-mode=$m,encrypt.ivgen-alg=$i,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=$h disk out || exit; done",
        Locked,
    ),
];

#[test]
fn convert_scenes_are_the_same() {
    require_wording();
    let disk = kinds::named("plain");
    let other = kinds::named("zeroed");
    for_all("convert, scenes", SCENES, |(name, script, target), report| {
        let twins = Twins::of(&disk);
        let mut outcomes = Vec::new();
        for (tool, sandbox) in twins.each() {
            let from = other.folder().join("disk");
            common::files::copy_sparse(&from, &sandbox.file("other")).expect("copy");
            outcomes.push(sandbox.script(tool, &format!("Q=qemu-img; {script}")));
        }
        let mut differences = oracle::differences(script, &outcomes[0], &outcomes[1], &|text| text.to_owned());
        let done = outcomes[1].ok();
        differences.extend(twins.same_names(!done));
        if done {
            differences.extend(oracle::same_target(&twins, "out", *target));
        }
        report.note(name, differences);
    });
}

/// Where ours refuses, and the reference has destroyed something by the time it fails, or does not fail: the script, the
/// file that must stay as it is, and what the message says.
const REFUSED: &[(&str, &str, &str)] = &[
    ("$Q convert -f qcow2 -O qcow2 -B other -F qcow2 disk other", "other", "Failed to get shared \"write\" lock"),
    (
        "$Q convert -f qcow2 -O qcow2 -o backing_file=other,backing_fmt=qcow2 disk ./other",
        "other",
        "Failed to get shared \"write\" lock",
    ),
    (
        "/usr/bin/qemu-img create -q -f qcow2 -b other -F qcow2 mid; ln other hard; $Q convert -f qcow2 -O qcow2 -B mid -F qcow2 disk hard",
        "other",
        "Could not open backing file: Could not open backing file: Failed to get shared \"write\" lock",
    ),
    ("$Q convert -f qcow2 -O qcow2 -B other -F qcow2 -o data_file=other disk out", "other", "lock"),
    ("$Q convert -U -f qcow2 -O qcow2 disk disk", "disk", "Failed to get \"write\" lock"),
    ("$Q convert -U -n -f qcow2 -O qcow2 disk disk", "disk", "Failed to get \"write\" lock"),
    (
        "/usr/bin/qemu-img create -q -f qcow2 -b disk -F qcow2 top; $Q convert -U -f qcow2 -O raw top disk",
        "disk",
        "Failed to get \"write\" lock",
    ),
    ("$Q convert -f qcow2 -O qcow2 -o data_file=other disk other", "other", "Failed to get shared \"resize\" lock"),
    ("$Q convert -c -f qcow2 -O qcow2 -o data_file=d disk other", "other", "byte 0: Operation not supported"),
    (
        "touch other.data; $Q convert -c -f qcow2 -O qcow2 -o data_file=d disk other.data",
        "other",
        "byte 0: Operation not supported",
    ),
    (
        "truncate -s 3M z; /usr/bin/qemu-img create -q -f qcow2 -o data_file=d out 4M; $Q convert -c -n -f raw -O qcow2 z out",
        "other",
        "byte 0: Operation not supported",
    ),
    (
        "$Q convert -n --target-is-zero -B other -F qcow2 -f qcow2 -O qcow2 disk other",
        "other",
        "Cannot use --target-is-zero when the destination image has a backing file",
    ),
];

#[test]
fn what_would_destroy_something_is_refused() {
    for_all("convert, refusals", REFUSED, |(script, kept, message), report| {
        let sandbox = kinds::named("plain").sandbox();
        let from = kinds::named("zeroed").folder().join("disk");
        common::files::copy_sparse(&from, &sandbox.file("other")).expect("copy");
        let before = std::fs::read(sandbox.file(kept)).expect("the file that is kept");
        let outcome = sandbox.script(common::run::Tool::Ours, &format!("Q=qemu-img; {script}"));
        let mut differences = Vec::new();
        if outcome.code != 1 || !outcome.stderr.contains(message) {
            differences.push(format!("{outcome}"));
        }
        if std::fs::read(sandbox.file(kept)).expect("the file that is kept") != before {
            differences.push(format!("{kept} was changed"));
        }
        report.note(script, differences);
    });
}

/// Compressed onto a larger image, from a source that ends inside a cluster: the reference gives up there; ours writes
/// that cluster as it is, with what the target has behind the source's end.
#[test]
fn a_cluster_that_is_partly_kept_is_written_whole() {
    let targets = [
        "/usr/bin/qemu-img create -q -f qcow2 out 4M",
        "/usr/bin/qemu-img create -q -f qcow2 out 4M; qemu-io -f qcow2 -c 'write -P 9 3201024 60k' out",
        "/usr/bin/qemu-img create -q -f qcow2 base 4M; qemu-io -f qcow2 -c 'write -P 9 0 4M' base; /usr/bin/qemu-img create -q -f qcow2 -b base -F qcow2 out",
        "/usr/bin/qemu-img create -q -f qcow2 base 4M; qemu-io -f qcow2 -c 'write -P 9 0 4M' base; /usr/bin/qemu-img convert -c -O qcow2 base out",
    ];
    for_all("convert, last cluster", &targets, |target, report| {
        let sandbox = Sandbox::new();
        let script = format!(
            "exec >/dev/null; set -e; truncate -s 3201000 odd; qemu-io -f raw -c 'write -P 3 3145728 20k' odd; {target}; \
             /usr/bin/qemu-img convert -O raw out expected; truncate -s 3201024 odd; \
             dd if=odd of=expected conv=notrunc bs=512; qemu-img convert -c -n -f raw -O qcow2 odd out; \
             /usr/bin/qemu-img check out; /usr/bin/qemu-img compare -f raw -F qcow2 expected out"
        );
        let outcome = sandbox.script(common::run::Tool::Ours, &script);
        report.note(target, if outcome.ok() { Vec::new() } else { vec![format!("{outcome}")] });
    });
}

/// Encrypted sources with targets of both methods, keys changed on the way.
#[test]
fn keys_change_on_the_way() {
    require_wording();
    let kinds: Vec<_> = ["aes", "luks", "luks-extended", "luks-backed"].map(kinds::named).into();
    for_all("convert, keys", &kinds, |kind, report| {
        for target in ["encrypt.format=luks,encrypt.iter-time=10", "encrypt.format=aes"] {
            let twins = Twins::of(kind);
            let line = format!(
                "convert {SECRET} --object secret,id=t,data=other --image-opts -O qcow2 -o {target},encrypt.key-secret=t {} out",
                kind.image_opts()
            );
            let (_, mut differences) = twins.run(&line);
            let back = "convert --object secret,id=t,data=other --image-opts -O raw \
                 driver=qcow2,encrypt.key-secret=t,file.filename=out out.raw";
            for (_, sandbox) in twins.each() {
                let read = sandbox.reference(back);
                if !read.ok() {
                    differences.push(format!("{back}: {read}"));
                }
            }
            differences.extend(oracle::same_target(&twins, "out.raw", Raw));
            report.note(&format!("{}: {line}", kind.name), differences);
        }
    });
}

/// Behind the end of its own backing file the source reads as zeros, whatever the new backing file holds there. (The
/// reference lets that show through.)
#[test]
fn a_longer_backing_file_changes_nothing() {
    let sandbox = Sandbox::new();
    let script = "
set -e
/usr/bin/qemu-img create -q -f qcow2 short 4M
qemu-io -f qcow2 -c 'write -P 1 1M 1M' short >/dev/null
/usr/bin/qemu-img create -q -f qcow2 -b short -F qcow2 disk 8M
qemu-io -f qcow2 -c 'write -P 2 2M 64k' -c 'write -P 3 6M 64k' disk >/dev/null
/usr/bin/qemu-img convert -O raw short long
truncate -s 8M long
qemu-io -f raw -c 'write -P 9 4M 4M' long >/dev/null
qemu-img convert -f qcow2 -O qcow2 -B long -F raw disk out
/usr/bin/qemu-img compare disk out
";
    let outcome = sandbox.script(common::run::Tool::Ours, script).expect_ok("converting");
    assert!(outcome.stdout.contains("identical"), "{outcome}");
}
