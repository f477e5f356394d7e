//! Encrypted images: each tool opens what the other made, and says the same where a key, an option or a header is wrong.

mod common;

use std::fs;

use common::run::{BOTH, Tool};
use common::{Random, Report, Sandbox, for_all, require_wording};

const SECRET: &str = "--object secret,id=s,data=abc --object secret,id=bad,data=abd";
/// Small, with data, zeros and holes inside and between clusters.
const SIZE: usize = 1 << 20;

fn disk() -> Vec<u8> {
    let mut data = vec![0; SIZE];
    let mut random = Random::new(7);
    for (from, len) in [(0, 70_000), (196_608, 512), (300_000, 3000), (SIZE - 1024, 1024)] {
        random.fill(&mut data[from..from + len]);
    }
    data
}

fn options_of_an_open_image(name: &str, more: &str) -> String {
    format!("driver=qcow2,file.filename={name},encrypt.key-secret=s{more}")
}

/// Every cipher in every mode, with generators and hashes in turn, made by us and read by the reference.
#[test]
fn the_reference_reads_every_kind_that_we_make() {
    let ciphers = [
        "aes-128",
        "aes-192",
        "aes-256",
        "cast5-128",
        "serpent-128",
        "serpent-192",
        "serpent-256",
        "twofish-128",
        "twofish-192",
        "twofish-256",
    ];
    let hashes = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"];
    let ivgens = ["plain", "plain64", "essiv"];
    let mut cases = vec!["encrypt.format=aes".to_owned(), "encryption=on,compat=v2".to_owned()];
    for (row, cipher) in ciphers.iter().enumerate() {
        for (column, mode) in ["cbc", "xts", "ecb", "ctr"].iter().enumerate() {
            let mut ivgen = ivgens[(row + column) % 3];
            if *cipher == "cast5-128" {
                ivgen = "plain64";
            }
            if *cipher == "cast5-128" && *mode == "xts" || cipher.ends_with("192") && *mode != "xts" {
                continue;
            }
            let hash = hashes[(row + 3 * column) % hashes.len()];
            cases.push(format!(
                "encrypt.format=luks,encrypt.iter-time=0,encrypt.cipher-alg={cipher},encrypt.cipher-mode={mode},\
                 encrypt.ivgen-alg={ivgen},encrypt.hash-alg={hash}"
            ));
        }
    }
    let layouts = [
        "cluster_size=512",
        "cluster_size=2M,extended_l2=on",
        "preallocation=metadata",
        "preallocation=full",
        "data_file=guest",
        "compat=v2,preallocation=metadata",
        "extended_l2=on,preallocation=falloc",
    ];
    for layout in layouts {
        cases.push(format!("encrypt.format=luks,encrypt.iter-time=0,{layout}"));
        cases.push(format!("encrypt.format=aes,{layout}"));
    }
    for_all("kinds of encryption", &cases, |options, report| {
        let sandbox = Sandbox::new();
        fs::write(sandbox.file("raw"), disk()).unwrap();
        let make = format!("convert {SECRET} -f raw -O qcow2 -o encrypt.key-secret=s,{options} raw image");
        let mut differences = Vec::new();
        let mut step = |what: &str, outcome: common::run::Outcome| {
            if !outcome.ok() {
                differences.push(format!("{what}: {outcome}"));
            }
        };
        step("create", sandbox.run(Tool::Ours, &make));
        let image = options_of_an_open_image("image", "");
        step(
            "compare",
            sandbox.reference(&format!("compare {SECRET} --image-opts driver=raw,file.filename=raw {image}")),
        );
        step("check", sandbox.reference(&format!("check {SECRET} --image-opts {image}")));
        step("read", sandbox.run(Tool::Ours, &format!("convert {SECRET} --image-opts {image} -O raw back")));
        if fs::read(sandbox.file("back")).ok() != Some(disk()) {
            differences.push("what we read back is not what we wrote".to_owned());
        }
        report.note(options, differences);
    });
}

/// What both tools leave of one call: output, exit code and files, with the parts that differ from run to run out.
fn both(sandbox: &Sandbox, line: &str, report: &mut Report) {
    let mut outcomes = BOTH.map(|tool| {
        let copy = Sandbox::copy_of(sandbox.path());
        let outcome = copy.run(tool, line);
        (outcome, common::files::names(copy.path()))
    });
    // How fast this machine is, is in a message.
    for (outcome, _) in &mut outcomes {
        if let Some(at) = outcome.stderr.find("PBKDF iterations ") {
            let digits = at + "PBKDF iterations ".len();
            let rest = outcome.stderr[digits..].trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
            outcome.stderr = format!("{}N{rest}", &outcome.stderr[..digits]);
        }
    }
    let [ours, reference] = outcomes;
    let mut differences = Vec::new();
    if ours != reference {
        differences.push(format!("ours: {} {:?}\nreference: {} {:?}", ours.0, ours.1, reference.0, reference.1));
    }
    report.note(line, differences);
}

#[test]
fn creation_is_refused_in_the_same_words() {
    require_wording();
    let sandbox = Sandbox::new();
    fs::write(sandbox.file("raw"), disk()).unwrap();
    let luks = "encrypt.format=luks,encrypt.key-secret=s";
    let cases = [
        "encryption=on".to_owned(),
        "encrypt.format=luks".into(),
        "encrypt.format=luks,encrypt.key-secret=no".into(),
        "encrypt.format=foo,encrypt.key-secret=s".into(),
        "encrypt.key-secret=s".into(),
        "encryption=on,encrypt.format=luks,encrypt.key-secret=s".into(),
        "encryption=on,encrypt.key-secret=s,encrypt.cipher-alg=aes-256".into(),
        format!("{luks},encrypt.cipher-alg=foo,encrypt.hash-alg=foo"),
        format!("{luks},encrypt.cipher-alg=des"),
        format!("{luks},encrypt.cipher-alg=sm4"),
        format!("{luks},encrypt.cipher-alg=cast5-128"),
        format!("{luks},encrypt.cipher-alg=cast5-128,encrypt.ivgen-alg=essiv"),
        format!("{luks},encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha1"),
        format!("{luks},encrypt.iter-time=x"),
        format!("{luks},encrypt.iter-time=18446744073709551615"),
        format!("{luks},encrypt.iter-time=100000000000"),
    ];
    for_all("refused creation", &cases, |options, report| {
        both(&sandbox, &format!("convert {SECRET} -f raw -O qcow2 -o {options} raw image"), report);
    });
    for_all("compression", &["encryption=on", luks], |options, report| {
        both(
            &sandbox,
            &format!("convert {SECRET} -c -f raw -O qcow2 -o encrypt.key-secret=s,{options} raw image"),
            report,
        );
    });
}

fn made_by_the_reference() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.file("raw"), disk()).unwrap();
    for (name, options) in [
        ("luks", "encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s"),
        ("aes", "encrypt.format=aes,encrypt.key-secret=s"),
        ("plain", "compat=v3"),
    ] {
        let line = format!("convert {SECRET} -f raw -O qcow2 -o {options} raw {name}");
        sandbox.reference(&line).expect_ok("making an image");
    }
    sandbox
}

#[test]
fn opening_works_or_fails_in_the_same_words() {
    require_wording();
    let sandbox = made_by_the_reference();
    let mut lines = Vec::new();
    for image in ["luks", "aes", "plain"] {
        for more in [
            "encrypt.key-secret=s",
            "encrypt.key-secret=bad",
            "encrypt.key-secret=no",
            "encrypt.key-secret=",
            "encrypt.key-secret=s,encrypt.format=luks",
            "encrypt.key-secret=s,encrypt.format=aes",
            "encrypt.key-secret=s,encrypt.foo=x",
            "encrypt.key-secret.x=s",
            "read-only=on",
        ] {
            let options = format!("driver=qcow2,file.filename={image},{more}");
            lines.push(format!("convert {SECRET} --image-opts {options} -O raw out"));
            lines.push(format!("info {SECRET} --image-opts {options}"));
        }
        lines.push(format!("convert {image} -O raw out"));
        lines.push(format!("info {image}"));
        lines.push(format!("info --output=json {image}"));
    }
    for_all("opening", &lines, |line, report| both(&sandbox, line, report));
}

#[test]
fn damaged_headers_are_refused_in_the_same_words() {
    require_wording();
    let sandbox = made_by_the_reference();
    let good = fs::read(sandbox.file("luks")).unwrap();
    let luks = u64::from_be_bytes(good[0x78..0x80].try_into().unwrap()) as usize;
    let text = |text: &str| [text.as_bytes(), &[0; 32][text.len()..]].concat();
    let number = |value: u32| value.to_be_bytes().to_vec();
    let long = |value: u64| value.to_be_bytes().to_vec();
    // Where, and what is put there.
    let faults: Vec<(usize, Vec<u8>)> = vec![
        (luks, b"X".to_vec()),
        (luks + 6, vec![0, 2]),
        (luks + 8, vec![b'a'; 32]),
        (luks + 8, text("sm4")),
        (luks + 40, text("cbc")),
        (luks + 40, text("cbc-essiv")),
        (luks + 40, text("lrw-benbi")),
        (luks + 72, text("whirlpool")),
        (luks + 104, number(7)),
        (luks + 108, number(33)),
        (luks + 164, number(0)),
        (luks + 208, number(1)),
        (luks + 212, number(0)),
        (luks + 248, number(2)),
        (luks + 252, number(1)),
        (0x20, number(1)),
        (0x20, number(3)),
        (0x70, number(0)),
        (0x74, number(8)),
        (0x78, long(0x40200)),
        (0x78, long(1 << 40)),
        (0x80, long(100)),
        (0x80, long(4096)),
    ];
    for_all("damaged headers", &faults, |(at, bytes), report| {
        let damaged = Sandbox::new();
        let mut image = good.clone();
        image[*at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(damaged.file("luks"), image).unwrap();
        both(&damaged, "info luks", report);
        let options = options_of_an_open_image("luks", "");
        both(&damaged, &format!("convert {SECRET} --image-opts {options} -O raw out"), report);
    });
}
