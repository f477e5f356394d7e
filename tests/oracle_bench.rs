//! `bench`: output, exit code, and what the image holds after a writing run.

mod common;

use common::oracle::{self, Target, Twins};
use common::run::program_in;
use common::{Sandbox, for_all, require_wording};

/// `q` is a qcow2 disk of 10 MiB with data, `over` lies on it, `r` is raw, `zero` has no bytes, `odd` has 1024.
const LINES: &[&str] = &[
    "",
    "q r",
    "nowhere",
    "-n nowhere",
    "-i native -w nowhere",
    "-c 100 q",
    "-c 1 q",
    "-c 0 q",
    "-c -1 q",
    "-c x q",
    "-c 1k q",
    "-c 2147483648 q",
    "-c 10 -c 20 q",
    "-c 10 -d 0 q",
    "-c 10 -d 1 q",
    "-c 10 -d 100 q",
    "-c 10 -d x q",
    "-c 10 -d 99999999999 q",
    "-c 10 -s 0 q",
    "-c 10 -s 512 q",
    "-c 10 -s 3 q",
    "-c 10 -s 1.5k q",
    "-c 10 -s 2G q",
    "-c 2 -s 11M q",
    "-c 2 -s x q",
    "-c 10 -S 0 q",
    "-c 10 -S 1 q",
    "-c 10 -S 1M q",
    "-c 10 -S 100M q",
    "-c 10 -S 2G q",
    "-c 10 -S x q",
    "-c 10 -o 1M q",
    "-c 10 -o 10M q",
    "-c 10 -o 8E q",
    "-c 10 -o x q",
    "-c 10 -o -1 q",
    "-c 3 -o 10485000 q",
    "-c 10 -t none q",
    "-c 10 -t nothing q",
    "-c 10 -t writethrough -w q",
    "-c 10 -t directsync -w q",
    "-c 10 -t unsafe -w q",
    "-c 10 -i threads q",
    "-c 10 -i native q",
    "-c 10 -i native -t none q",
    "-c 10 -i io_uring q",
    "-c 10 -i nothing q",
    "-c 10 -n q",
    "-c 10 -n -t none q",
    "-c 10 -n -i threads q",
    "-c 10 -i native -i threads q",
    "-c 10 -n r",
    "-c 10 -n --image-opts driver=qcow2,file.filename=q,file.aio=threads",
    "-c 10 -n --image-opts driver=qcow2,file.filename=q,cache.direct=on",
    "-c 10 -w q",
    "-c 10 -w --pattern 7 q",
    "-c 10 --pattern 7 q",
    "-c 10 --pattern 256 -w q",
    "-c 10 --pattern 0x10 -w q",
    "-c 10 --pattern x -w q",
    "-c 10 --flush-interval 64 q",
    "-c 10 -w --flush-interval 2 q",
    "-c 10 -w -d 4 --flush-interval 4 q",
    "-c 10 -w --flush-interval 0 q",
    "-c 10 -w --flush-interval -1 q",
    "-c 10 -w --flush-interval x q",
    "-c 100 -w --flush-interval 65 q",
    "-c 10 --no-drain q",
    "-c 10 -w --no-drain q",
    "-c 20 -w -d 4 --no-drain --flush-interval 4 --pattern 3 q",
    "-q -c 10 q",
    "-U -c 10 q",
    "-U -w -c 10 q",
    "-f raw -c 10 q",
    "-f nothing -c 10 q",
    "--image-opts -c 2 driver=qcow2,file.filename=q",
    "--image-opts -f raw -c 2 driver=qcow2,file.filename=q",
    "-c 3 zero",
    "-c 3 -w zero",
    "-c 3 odd",
    "-c 3 -s 512 -S 512 odd",
    "-w -c 3 r",
    "-w -c 3 -f raw --pattern 9 r",
    // Many writes into one cluster at a time, and writes over borders of clusters.
    "-w -c 500 -s 4k --pattern 0x5a q",
    "-w -c 500 -s 4k --pattern 0x5a over",
    "-w -c 300 -s 512 -S 1536 -d 16 --pattern 0xa5 over",
    "-w -c 100 -s 100000 -S 100000 -d 8 --pattern 1 over",
    "-w -c 200 -s 7000 -S 3500 -o 1000 --pattern 2 -f raw r",
    // Into clusters that are there already: single bytes, over borders of clusters, of subclusters, and of sectors of a cipher.
    "-w -c 300 -s 1000 -S 1300 -o 1M -d 16 --pattern 3 q",
    "-w -c 200 -s 5000 -S 9000 -o 1600000 -d 16 --pattern 4 --image-opts driver=qcow2,file.filename=fine",
    "-w -c 200 -s 100 -S 90 -o 1k -d 16 --pattern 5 --object secret,id=s,data=hunter2 --image-opts LOCKED",
    "-w -c 100 -s 4k -t none -d 16 --pattern 6 --object secret,id=s,data=hunter2 --image-opts LOCKED",
    "--object secret,id=x,data=s -c 2 q",
    "--bogus",
    "--n q",
    "--f q",
    "--p q",
    "--c q",
    "--s q",
    "--o q",
    "--i q",
    "--d q",
];

const SCENE: &str = "
qemu-img create -q -f qcow2 q 10M
qemu-io -c 'write -P 1 1M 200k' -c 'write -P 2 5M 1M' q >/dev/null
qemu-img create -q -f qcow2 -b q -F qcow2 over
qemu-img create -q -f qcow2 zero 0
qemu-img create -q -f qcow2 odd 1000
qemu-img create -q -f raw r 4M
qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k fine 10M
qemu-io -c 'write -P 9 1500k 1M' fine >/dev/null
qemu-img create -q -f qcow2 --object secret,id=s,data=hunter2 -o encrypt.format=aes,encrypt.key-secret=s locked 1M 2>/dev/null
";

const LOCKED: &str = "driver=qcow2,file.filename=locked,encrypt.key-secret=s";

/// Times differ.
fn settled(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix("Run completed in ") {
        Some(rest) => {
            let number = rest.strip_suffix(" seconds.").unwrap_or(rest);
            let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
            format!("Run completed in T seconds, with {decimals} decimals")
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn runs_are_the_same() {
    require_wording();
    let scene = Sandbox::new();
    program_in(scene.path(), "bash", &["-ec", SCENE]).expect_ok("the scene");
    for_all("bench", LINES, |line, report| {
        let twins = Twins { ours: Sandbox::copy_of(scene.path()), reference: Sandbox::copy_of(scene.path()) };
        let line = format!("bench {}", line.replace("LOCKED", LOCKED));
        let [ours, reference] = twins.each().map(|(tool, sandbox)| sandbox.run(tool, &line));
        let mut differences = oracle::differences(&line, &ours, &reference, &settled);
        differences.extend(twins.same_names(false));
        if line.contains("-w") {
            let plain = ["q", "over", "fine"].map(|name| (name, Target::Qcow2));
            for (name, target) in plain.into_iter().chain([("r", Target::Raw), ("locked", Target::Locked)]) {
                differences.extend(oracle::same_target(&twins, name, target));
            }
        }
        report.note(&line, differences);
    });
}
