//! What the programs that call `qemu-img` today really run: the calls of the compatibility contract that inspect,
//! convert and snapshot local raw and qcow2 files, each as that client spells it, with what it does with the output.
//!
//! Every script runs in a folder of its own with ours, and with the reference; output, exit code, files and the
//! content of the images it leaves must be equal.

mod common;

use common::oracle::{self, Target, Twins};
use common::{Report, for_all, kinds, require_wording};

use Target::{Locked, Qcow2, Raw};

struct Client {
    name: &'static str,
    script: &'static str,
    /// Images the script leaves, to be compared.
    leaves: &'static [(&'static str, Target)],
}

const fn client(name: &'static str, script: &'static str, leaves: &'static [(&'static str, Target)]) -> Client {
    Client { name, script, leaves }
}

/// In every folder: `disk` (raw), `vm.qcow2` (compressed qcow2), `over.qcow2` on top of `vm.qcow2`, `snap.qcow2`
/// with three snapshots.
const CLIENTS: &[Client] = &[
    client(
        "nova: info",
        "env LC_ALL=C LANG=C qemu-img info over.qcow2 --force-share --output=json; env LC_ALL=C LANG=C qemu-img info disk --force-share --output=json -f raw",
        &[],
    ),
    client(
        "nova: info under limits",
        "prlimit --as=2147483648 --cpu=30 -- env LC_ALL=C LANG=C qemu-img info vm.qcow2 --force-share --output=json -f qcow2",
        &[],
    ),
    client(
        "nova: convert",
        "qemu-img convert -t none -O raw -f qcow2 over.qcow2 flat.raw && qemu-img convert -t writeback -O qcow2 -f raw -c disk image.qcow2",
        &[("flat.raw", Raw), ("image.qcow2", Qcow2)],
    ),
    client(
        "nova: encrypted",
        "printf secret > key; qemu-img convert -t writeback --object secret,id=sec0,file=key -O qcow2 -f raw -o encrypt.format=luks -o encrypt.key-secret=sec0 -o encrypt.cipher-alg=aes-256 -o encrypt.cipher-mode=xts -o encrypt.hash-alg=sha256 -o encrypt.iter-time=10 -o encrypt.ivgen-alg=plain64 -o encrypt.ivgen-hash-alg=sha256 disk crypt.qcow2 && qemu-img convert -t none -O raw --object secret,id=sec0,file=key --image-opts driver=qcow2,file.driver=file,file.filename=crypt.qcow2,encrypt.key-secret=sec0 plain.raw",
        &[("plain.raw", Raw)],
    ),
    client(
        "oslo.utils: parse",
        r#"for f in disk vm.qcow2 over.qcow2 snap.qcow2; do qemu-img info --output=json $f | tr -d '\n' | sed 's/"date-sec": [0-9]*//g' | grep -Eo '"(filename|format|virtual-size|actual-size|cluster-size|backing-filename|backing-filename-format|encrypted)": [^,]*'; done"#,
        &[],
    ),
    client(
        "glance: any stderr is a failure",
        "for f in raw:disk qcow2:vm.qcow2 qcow2:snap.qcow2; do qemu-img info -f ${f%%:*} --output=json ${f#*:} 2>err; wc -c < err; done; rm err; qemu-img convert -f qcow2 -O raw vm.qcow2 out.raw 2>&1 >/dev/null",
        &[("out.raw", Raw)],
    ),
    client("glance: limits", "prlimit --as=1073741824 --cpu=2 qemu-img info -f qcow2 --output=json snap.qcow2", &[]),
    client(
        "cinder: info and convert",
        "env LC_ALL=C qemu-img info -f qcow2 --output=json --force-share vm.qcow2 && qemu-img convert -O raw -t none -f qcow2 vm.qcow2 volume && qemu-img convert -O qcow2 -t none -S 0 -f raw disk full.qcow2 && qemu-img convert -O qcow2 -c -f raw disk small.qcow2",
        &[("volume", Raw), ("full.qcow2", Qcow2), ("small.qcow2", Qcow2)],
    ),
    client(
        "cinder: no space left",
        "ulimit -f 1024; trap '' XFSZ; qemu-img convert -O raw -f qcow2 vm.qcow2 volume 2>&1 | grep -c 'File too large\\|No space left'; rm -f volume",
        &[],
    ),
    client(
        "cinder: volume of LUKS within qcow2",
        "printf key > k; qemu-img convert -O qcow2 --object secret,id=cinder_sec,file=k -o encrypt.format=luks,encrypt.key-secret=cinder_sec,encrypt.iter-time=10 -f raw disk v && qemu-img info --output=json v | grep -c '\"format\": \"luks\"'; qemu-img convert --object secret,id=cinder_sec,file=k --image-opts driver=qcow2,encrypt.key-secret=cinder_sec,file.filename=v -O raw back",
        &[("back", Raw)],
    ),
    client(
        "CDI: convert to raw",
        "qemu-img convert -t writeback -p -O raw vm.qcow2 out.raw | tr '\\r' '\\n' | grep -Eo '\\([0-9]?[0-9]\\.[0-9][0-9]/100%\\)' | head -n 1; qemu-img convert -t writeback -p -O raw -o preallocation=falloc vm.qcow2 pre.raw >/dev/null; qemu-img convert -t writeback -p -O raw -S 0 vm.qcow2 full.raw > /dev/null",
        &[("out.raw", Raw), ("pre.raw", Raw), ("full.raw", Raw)],
    ),
    client(
        "CDI: preallocation refused",
        "qemu-img convert -t writeback -p -O raw -o preallocation=metadata vm.qcow2 out",
        &[],
    ),
    client("CDI: format", r#"qemu-img info --output=json vm.qcow2 | grep -Eo '^    "format": "[a-z0-9]*"'"#, &[]),
    client(
        "libvirt: encrypted volume",
        "printf secret > k; /usr/bin/qemu-img create -q -f qcow2 --object secret,id=vol_encrypt0,file=k -o encrypt.format=luks,encrypt.key-secret=vol_encrypt0,encrypt.iter-time=10 vol 9438720 && qemu-img convert --image-opts -n --target-image-opts --object secret,id=vol_encrypt0,file=k driver=raw,file.filename=disk driver=qcow2,file.filename=vol,encrypt.key-secret=vol_encrypt0 && qemu-img convert --object secret,id=vol_encrypt0,file=k --image-opts driver=qcow2,file.filename=vol,encrypt.key-secret=vol_encrypt0 -O raw out",
        &[("out", Raw)],
    ),
    client(
        "libvirt: clone a volume",
        "umask 0022; qemu-img convert -f raw -O qcow2 -o compat=1.1,lazy_refcounts disk vol; stat -c %a vol",
        &[("vol", Qcow2)],
    ),
    client(
        "libvirt: commas in names",
        "cp disk 'a,b'; qemu-img convert -O qcow2 --image-opts driver=raw,file.filename=a,,b out",
        &[("out", Qcow2)],
    ),
    client(
        "libvirt: offline snapshots",
        "qemu-img snapshot -c first snap.qcow2 && qemu-img snapshot -c other snap.qcow2 && qemu-img snapshot -a first snap.qcow2 && qemu-img snapshot -d other snap.qcow2",
        &[("snap.qcow2", Qcow2)],
    ),
    client(
        "Proxmox: import onto a volume",
        "/usr/bin/qemu-img create -q -f qcow2 vol 12M; qemu-img convert -p -n -f raw -O qcow2 disk vol | tr '\\r' '\\n' | grep -Eo '\\(\\S+\\/100%\\)' | tail -n 1; qemu-img info --output=json vol -f qcow2 --backing-chain | grep -v 'actual-size\\|virtual-size'",
        &[("vol", Qcow2)],
    ),
    client(
        "Proxmox: clone from a snapshot",
        "qemu-img convert -p -l snapshot.name=second -T none -t none -f qcow2 -O raw snap.qcow2 vol | tail -c 1 | od -An -c; qemu-img convert -p -n -T writeback -r 100000K -f raw -O raw disk vol > /dev/null",
        &[("vol", Raw)],
    ),
    client(
        "Proxmox: discard-no-unref",
        "/usr/bin/qemu-img create -q -f qcow2 vol 12M; qemu-img convert -n --target-image-opts -f raw disk driver=qcow2,discard-no-unref=true,file.filename=vol",
        &[("vol", Qcow2)],
    ),
    client(
        "Proxmox: snapshots",
        "qemu-img snapshot -c before snap.qcow2; qemu-img snapshot -a second snap.qcow2; qemu-img snapshot -d before snap.qcow2; qemu-img snapshot -d nowhere snap.qcow2; echo $?",
        &[("snap.qcow2", Qcow2)],
    ),
    client(
        "OpenNebula: format",
        "qemu-img info vm.qcow2 | grep '^file format:' | awk '{print $3}'; LANG=C qemu-img info -U over.qcow2 | grep '^virtual size' | sed 's/.*(\\([0-9]*\\) bytes.*/\\1/'",
        &[],
    ),
    client(
        "OpenNebula: flatten",
        "qemu-img convert -m 4 -O qcow2 -U over.qcow2 flat.qcow2 && qemu-img convert -O qcow2 -q over.qcow2 quiet.qcow2",
        &[("flat.qcow2", Qcow2), ("quiet.qcow2", Qcow2)],
    ),
    client(
        "OpenNebula: bitmaps",
        r#"/usr/bin/qemu-img bitmap --add vm.qcow2 one-0-0; qemu-img info --output json vm.qcow2 | tr -d ' \n' | grep -o '"bitmaps":\[[^]]*\]'"#,
        &[],
    ),
    client(
        "vdsm: convert with bitmaps",
        "/usr/bin/qemu-img bitmap --add vm.qcow2 one; qemu-img convert -p -t none -T none -f qcow2 -O qcow2 -o compat=1.1 --bitmaps vm.qcow2 out | tr '\\r' '\\n' | grep -vxE '\\s*\\(([0-9.]+)/100%\\)\\s*'; true",
        &[("out", Qcow2)],
    ),
    client(
        "vdsm: info",
        "prlimit --as=1073741824 --cpu=30 qemu-img info --output json -f qcow2 -U --backing-chain over.qcow2",
        &[],
    ),
    client("CloudStack: human output", "qemu-img info -U over.qcow2 | grep ': ' | grep -v 'disk size'", &[]),
    client(
        "CloudStack: onto a block volume",
        "truncate -s 12M vol; qemu-img convert -n --target-is-zero -W -S 1M -O raw --image-opts driver=qcow2,file.filename=vm.qcow2 vol; qemu-img convert -O qcow2 --image-opts driver=raw,file.filename=disk out",
        &[("vol", Raw), ("out", Qcow2)],
    ),
    client(
        "CloudStack: snapshots",
        "qemu-img snapshot -c cs-1 snap.qcow2 && qemu-img convert -l snapshot.name=cs-1 -O qcow2 snap.qcow2 backup && qemu-img snapshot -d cs-1 snap.qcow2",
        &[("snap.qcow2", Qcow2), ("backup", Qcow2)],
    ),
    client(
        "Packer: compact",
        "qemu-img convert -c -O qcow2 over.qcow2 compact && mv compact over.qcow2 && qemu-img convert -O raw over.qcow2 out.raw",
        &[("over.qcow2", Qcow2), ("out.raw", Raw)],
    ),
    client(
        "Packer: a locked image",
        "qemu-io -f qcow2 -c 'sleep 1500' vm.qcow2 >/dev/null & sleep 0.4; qemu-img convert -O qcow2 disk vm.qcow2; qemu-img info vm.qcow2; qemu-img info -U --output=json vm.qcow2; qemu-img snapshot -c x vm.qcow2; wait",
        &[],
    ),
    client(
        "Incus: info under limits",
        "prlimit --cpu=2 --as=1073741824 qemu-img info -f qcow2 --output=json vm.qcow2; prlimit --cpu=2 --as=1073741824 qemu-img info -f raw --output=json disk",
        &[],
    ),
    client(
        "Incus: convert",
        "nice -n19 qemu-img convert -p -f qcow2 -O raw -t writeback -T none -t none vm.qcow2 vol >/dev/null; truncate -s 12M block; nice -n19 qemu-img convert -p -f qcow2 -O raw -t writeback -T none -t none -W -n --target-is-zero vm.qcow2 block >/dev/null",
        &[("vol", Raw), ("block", Raw)],
    ),
    client("Incus: in little memory", "prlimit --as=209715200 qemu-img info --output=json snap.qcow2", &[]),
    client(
        "Multipass: snapshots",
        r#"qemu-img info --output=json snap.qcow2 | grep -c virtual-size; qemu-img convert -p -O qcow2 disk vm.img >/dev/null; qemu-img snapshot -c suspend vm.img; qemu-img snapshot -l vm.img | grep -Eo 'suspend\s'; qemu-img snapshot -a suspend vm.img; qemu-img snapshot -d suspend vm.img; qemu-img snapshot -l vm.img"#,
        &[("vm.img", Qcow2)],
    ),
    client(
        "Lima: snapshots",
        "qemu-img info --output=json --force-share over.qcow2; qemu-img convert -O raw over.qcow2 basedisk; qemu-img snapshot -c tag snap.qcow2; qemu-img snapshot -l snap.qcow2 | head -n 1; qemu-img snapshot -a tag snap.qcow2; qemu-img snapshot -d tag snap.qcow2",
        &[("basedisk", Raw), ("snap.qcow2", Qcow2)],
    ),
    client(
        "vagrant-libvirt: awk on JSON",
        r#"qemu-img info --output=json over.qcow2 | awk '/^\s{0,4}"virtual-size"/{print $2}' | tr -d ,; qemu-img info over.qcow2 | grep 'backing file:' | cut -d: -f2; qemu-img info over.qcow2 | grep 'virtual size' | awk '{print $3;}'"#,
        &[],
    ),
    client(
        "vagrant-libvirt: package",
        "qemu-img convert -p -f qcow2 -O qcow2 -c over.qcow2 box.img | tr '\\r' '\\n' | tail -n 1; qemu-img info box.img | grep -c 'backing file:'; true",
        &[("box.img", Qcow2)],
    ),
    client(
        "libguestfs: names and formats",
        "qemu-img info -U --output json ./vm.qcow2; qemu-img info --output json ./disk | tail -n 12; qemu-img convert -f qcow2 -O raw ./vm.qcow2 ./out.raw",
        &[("out.raw", Raw)],
    ),
    client(
        "osbuild: targets",
        "qemu-img convert -O qcow2 -c -o compat=1.1 disk a.qcow2; qemu-img convert -O qcow2 -o compat=0.10 -f raw disk b.qcow2; qemu-img convert -m 8 -O qcow2 disk c.qcow2",
        &[("a.qcow2", Qcow2), ("b.qcow2", Qcow2), ("c.qcow2", Qcow2)],
    ),
    client(
        "kiwi: options between the operands",
        "qemu-img convert -f raw disk -O qcow2 -o cluster_size=4k,lazy_refcounts=on out.qcow2",
        &[("out.qcow2", Qcow2)],
    ),
    client(
        "diskimage-builder: compressed",
        "qemu-img convert -c -f raw -O qcow2 disk -o cluster_size=2M out.qcow2-new && mv out.qcow2-new out.qcow2",
        &[("out.qcow2", Qcow2)],
    ),
    client(
        "qemus: size in bytes",
        r"qemu-img info vm.qcow2 | grep '^virtual size: ' | sed 's/.*(\(.*\) bytes)/\1/'; qemu-img convert -f qcow2 -O raw -o preallocation=falloc vm.qcow2 data.img; qemu-img convert -f raw -O qcow2 -o preallocation=metadata,nocow=on disk data.qcow2",
        &[("data.img", Raw)],
    ),
    client(
        "scripts: legacy encryption",
        "qemu-img convert -f raw -O qcow2 --object secret,id=s,data=hunter2 -o encryption=on,encrypt.key-secret=s disk out; qemu-img info out | grep -A1 encrypt",
        &[("out", Locked)],
    ),
    client(
        "scripts: closed everything",
        "qemu-img convert -O qcow2 disk out <&- >&- 2>&-; env -i PATH=$PATH qemu-img info out | head -n 3",
        &[("out", Qcow2)],
    ),
];

fn check(client: &Client, report: &mut Report) {
    let twins = Twins::empty();
    let mut outcomes = Vec::new();
    for (tool, sandbox) in twins.each() {
        for (kind, from, to) in
            [("raw", "disk", "disk"), ("zlib-64k", "disk", "vm.qcow2"), ("snapshots", "disk", "snap.qcow2")]
        {
            let source = kinds::named(kind).folder().join(from);
            common::files::copy_sparse(&source, &sandbox.file(to)).expect("copy");
        }
        sandbox.reference("create -q -f qcow2 -b vm.qcow2 -F qcow2 over.qcow2").expect_ok("overlay");
        let over = ["-f", "qcow2", "-c", "write -P 5 1M 300k", "-c", "write -P 6 8M 1M", "over.qcow2"];
        common::run::program_in(sandbox.path(), "/usr/bin/qemu-io", &over).expect_ok("writing to the overlay");
        outcomes.push(sandbox.script(tool, client.script));
    }
    let mut differences = oracle::differences(client.script, &outcomes[0], &outcomes[1], &unsettled);
    differences.extend(twins.same_names(true));
    for (name, target) in client.leaves {
        if !twins.reference.file(name).exists() {
            differences.push(format!("the reference did not leave {name}: the test itself is wrong"));
        }
        differences.extend(oracle::same_target(&twins, name, *target));
    }
    report.note(client.name, differences);
}

/// Dates of new snapshots, and the disk size of files that were just written (it depends on the file system's
/// allocation, not on the program).
fn unsettled(text: &str) -> String {
    let text = oracle::without_dates(text);
    let lines: Vec<_> = text
        .lines()
        .map(|line| match ["\"actual-size\":", "disk size:"].iter().find_map(|key| line.find(key)) {
            Some(at) => &line[..at + 12],
            None => line,
        })
        .collect();
    lines.join("\n")
}

#[test]
fn clients_see_no_difference() {
    require_wording();
    let only = std::env::var("ONLY").unwrap_or_default();
    let clients: Vec<_> = CLIENTS.iter().filter(|client| client.name.contains(&only)).collect();
    for_all("clients", &clients, |client, report| check(client, report));
}
