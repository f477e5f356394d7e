//! The drivers `null-co`, `null-aio` and `blkdebug`: option names, descriptions, and what becomes of conversions while
//! requests fail.

mod common;

use common::holder::Holder;
use common::oracle::{self, Target, Twins};
use common::run::{BOTH, program_in};
use common::{Sandbox, for_all, require_wording};

/// Nodes, each looked at with `info` and `map`.
const NODES: &[&str] = &[
    "driver=null-co",
    "driver=null-aio,size=1M",
    "driver=null-co,size=1M,read-zeroes=on",
    "driver=null-co,latency-ns=-1",
    "driver=null-co,latency-ns=1000",
    "driver=null-co,size=9E",
    "driver=null-co,size=1000",
    "driver=null-co,bogus=1",
    "driver=null-co,filename=x",
    "driver=null-co,file.filename=q",
    "driver=null-co,read-only=on,node-name=n",
    "driver=null-co,size=1M,offset=3",
    "driver=raw,file.driver=null-co,file.size=1M",
    "driver=raw,file.driver=null-co,file.size=1M,file.read-zeroes=on",
    "driver=raw,file.driver=null-co,size=1M",
    "driver=qcow2,file.driver=null-co",
    "file.driver=null-aio,file.size=1M",
    "driver=blkdebug",
    "driver=blkdebug,image=x",
    "driver=blkdebug,x-image=q",
    "driver=blkdebug,image.filename=q",
    "driver=blkdebug,image.filename=q,bogus=1",
    "driver=blkdebug,image.filename=q,node-name=n",
    "driver=blkdebug,config=nowhere",
    "driver=blkdebug,config=conf,inject-error.0.event=read_aio",
    "driver=blkdebug,config=conf,x-image=q,read-only=on",
    "driver=blkdebug,image.driver=raw,image.file.filename=q",
    "driver=qcow2,file.driver=blkdebug,file.image.filename=q",
    "driver=blkdebug,image.driver=qcow2,image.file.filename=q",
    "driver=blkdebug,image.driver=null-co",
    "driver=blkdebug,image.driver=blkdebug,image.image.driver=qcow2,image.image.file.filename=q",
    "driver=qcow2,file.driver=blkdebug,file.image.filename=q,file.config=conf",
    "driver=raw,file.driver=blkdebug,file.image.driver=blkdebug,file.image.image.filename=r",
    "driver=raw,file.driver=blkdebug,file.image.driver=null-co",
];

/// Names, each looked at with `info`.
const NAMES: &[&str] = &[
    "null-co://",
    "null-aio://",
    "null-co://x",
    "null-co:",
    "null-co:x",
    "-f raw null-co://",
    "-f null-co null-co://",
    "-f null-co x",
    "json:{\"driver\":\"null-co\",\"size\":4096}",
    "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"null-co\",\"size\":4096,\"read-zeroes\":true}}",
    "blkdebug::q",
    "--output=json blkdebug::q",
    "--output=json null-co://",
    "blkdebug:conf:q",
    "blkdebug:states:q",
    "blkdebug:nowhere:q",
    "blkdebug:q",
    "blkdebug:",
    "blkdebug::",
    "blkdebug::nowhere",
    "blkdebug:bad-event:q",
    "blkdebug:bad-key:q",
    "blkdebug:bad-group:q",
    "blkdebug:now:q",
    "blkdebug:bad-id:q",
    "-f blkdebug q",
    "-f blkdebug blkdebug::q",
    "-f raw blkdebug::q",
    "--backing-chain over",
];

/// Options of `blkdebug`, below raw and below qcow2: the description, and a conversion.
const OPTIONS: &[&str] = &[
    "inject-error.0.event=read_aio",
    "inject-error.event=read_aio",
    "inject-error.0.event=read_aio,inject-error.0.errno=28",
    "inject-error.0.event=read_aio,inject-error.0.errno=0",
    "inject-error.0.event=read_aio,inject-error.0.errno=100000",
    "inject-error.0.event=read_aio,inject-error.0.errno=x",
    "inject-error.0.event=read_aio,inject-error.0.bogus=x",
    "inject-error.0.event=read_aio,inject-error.0.sector=-1",
    "inject-error.0.event=read_aio,inject-error.0.sector=99999999",
    "inject-error.0.event=read_aio,inject-error.0.once=maybe",
    "inject-error.0.event=read_aio,inject-error.0.iotype=bogus",
    "inject-error.0.event=read_aio,inject-error.0.iotype=read",
    "inject-error.0.event=read_aio,inject-error.0.iotype=write",
    "inject-error.0.event=read_aio,inject-error.0.immediately=on",
    "inject-error.0.event=bogus",
    "inject-error.0.errno=5",
    "inject-error.1.event=read_aio",
    "inject-error.x.event=none",
    "inject-error=x",
    "inject-error.0.event=none,inject-error.0.state=3",
    "inject-error.0.errno=5,inject-error.0.event=none",
    "inject-error.0.event=pwritev,inject-error.0.errno=28",
    "inject-error.0.event=l2_load",
    "set-state.0.event=read_aio",
    "set-state.0.event=read_aio,set-state.0.new_state=2",
    "set-state.0.event=read_aio,set-state.0.new-state=2",
    "align=0",
    "align=512",
    "align=4096",
    "align=3",
    "align=2G",
    "align=x",
    "max-transfer=4096",
    "max-transfer=4096,align=8192",
    "max-transfer=700,align=512",
    "opt-write-zero=700,align=512",
    "max-write-zero=4096",
    "max-write-zero=700,align=512",
    "opt-discard=512",
    "opt-discard=700,align=512",
    "max-discard=700,align=512",
];

/// `take-child-perms` and `unshare-child-perms` of `blkdebug`.
const PERMISSIONS: &[&str] = &[
    "take-child-perms.0=write",
    "take-child-perms.0=write-unchanged",
    "take-child-perms.0=resize",
    "take-child-perms.0=resize,file.take-child-perms.1=consistent-read",
    "take-child-perms.0=resize,file.take-child-perms.1=write",
    "take-child-perms.0=graph-mod",
    "take-child-perms.0=bogus",
    "take-child-perms.0=",
    "take-child-perms=write",
    "take-child-perms.x=write",
    "take-child-perms.0.x=write",
    "take-child-perms.=write",
    "take-child-perms.1=write",
    "take-child-perms.-1=write",
    "take-child-perms.00=write",
    "take-child-perms.0=write,file.take-child-perms.2=write",
    "take-child-perms.0=write,file.take-child-perms.x=write",
    "take-child-perms.0=write,file.take-child-perms.0.x=write",
    "take-child-perms.0=bogus,file.unshare-child-perms.0=other",
    "unshare-child-perms.0=write",
    "unshare-child-perms.0=write,file.unshare-child-perms.1=consistent-read",
    "unshare-child-perms.0=write,file.unshare-child-perms.1=bogus",
    "unshare-child-perms=write",
    // What is looked at first.
    "take-child-perms.0=bogus,file.align=3",
    "take-child-perms.0=write,file.align=3",
    "take-child-perms.0=bogus,file.align=x",
    "take-child-perms.0=bogus,file.bogus=1",
    "take-child-perms.0=write,file.bogus=1",
    "take-child-perms.0=bogus,file.config=nowhere",
    "take-child-perms.0=bogus,file.inject-error.0.event=bogus",
    "take-child-perms.0=bogus,file.x-image=nowhere",
    "take-child-perms.0=write,file.x-image=nowhere",
];

/// The same in JSON.
const PERMISSIONS_JSON: &[&str] = &[
    "[\"write\"]",
    "[\"resize\",\"resize\"]",
    "[]",
    "[1]",
    "[true]",
    "[null]",
    "[\"bogus\",1]",
    "[[\"write\"]]",
    "[{\"a\":\"write\"}]",
    "{\"0\":\"resize\"}",
    "{\"a\":\"resize\"}",
    "\"write\"",
    "1",
    "null",
];

/// Other lines. `FAULT(image,event,more)` stands for a qcow2 image whose requests fail with ENOSPC or as `more` says.
const LINES: &[&str] = &[
    "convert -O qcow2 json:{\"driver\":\"null-co\",\"size\":\"1M\",\"read-zeroes\":true} out",
    "convert -n -O raw q json:{\"driver\":\"null-co\",\"size\":\"10M\"}",
    "convert -n --target-image-opts q driver=null-co,size=10M",
    "convert -n --target-image-opts q driver=raw,file.driver=null-co,file.size=10M",
    "convert -n --target-image-opts q driver=null-co,size=1M",
    "convert -O null-co q out",
    "compare --image-opts driver=null-co,size=1M driver=null-co,size=2M",
    "compare --image-opts driver=null-co,size=1M,read-zeroes=on driver=null-aio,size=1M,read-zeroes=on",
    "check --image-opts driver=null-co",
    "snapshot -l --image-opts driver=null-co",
    "measure --image-opts driver=null-co,size=1M,read-zeroes=on -O qcow2",
    "create -f null-co x 1M",
    "create -f blkdebug x 1M",
    "create -f raw null-co:// 1M",
    "create -f qcow2 null-co:// 1M",
    "create -f qcow2 -b null-co:// -F raw x",
    "create -f qcow2 -b null-co:// -F raw x 1M",
    "check --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=q",
    "info --output=json --image-opts driver=raw,file.driver=blkdebug,file.image.driver=qcow2,file.image.file.filename=q",
    "map --output=json blkdebug::q",
    "map blkdebug::q",
    "map -f raw --output=json blkdebug::r",
    // Reading fails at one place: the message names it; with --salvage everything else arrives.
    "convert -O raw -f raw blkdebug:place:r out",
    "convert -O raw --salvage -f raw blkdebug:place:r out",
    "convert -O qcow2 --salvage -f raw blkdebug:place:r out",
    "convert -O raw --salvage --image-opts FAULT(q,none,inject-error.0.sector=700) out",
    "compare -f raw -F raw r blkdebug:place:r",
    "compare -f raw -F raw blkdebug:place:r r",
    // States: nothing fails before the first L2 table has been read, or never.
    "convert -O raw --image-opts driver=qcow2,file.driver=blkdebug,file.config=states,file.image.filename=q out",
    "convert -O raw --image-opts STATES(1,l2_load,2,2) out",
    "convert -O raw --image-opts STATES(0,l2_load,2,2) out",
    "convert -O raw --image-opts STATES(1,l2_load,2,3) out",
    "convert -O raw --image-opts STATES(2,l2_load,3,3) out",
    "convert -O raw --image-opts STATES(1,l2_load,2,1) out",
    // Writing fails. What was there before stays as it was, or has changed in part, and is sound.
    "convert -n -W -m 1 -f raw --target-image-opts r FAULT(t,write_aio,)",
    "convert -n -f raw --target-image-opts r FAULT(t,write_aio,inject-error.0.errno=5)",
    "snapshot -c x --image-opts FAULT(q,none,inject-error.0.iotype=write)",
    "snapshot -c x --image-opts FAULT(q,none,inject-error.0.iotype=read)",
    "map --image-opts FAULT(q,l2_load,inject-error.0.errno=5)",
    "resize --image-opts FAULT(q,none,inject-error.0.iotype=write) 12M",
];

const SCENE: &str = r#"
qemu-img create -q -f qcow2 q 10M
qemu-io -c 'write -P 1 1M 200k' -c 'write -P 2 5M 1M' q >/dev/null
qemu-img create -q -f raw r 2M
qemu-io -f raw -c 'write -P 1 0 512k' -c 'write -P 3 1M 256k' r >/dev/null
qemu-img create -q -f qcow2 t 2M
qemu-io -c 'write -P 4 0 64k' t >/dev/null
qemu-img create -q -f qcow2 -b null-co:// -F raw over 1M
printf '[inject-error]\nevent = "read_aio"\nerrno = "5"\nonce = "on"\n' > conf
printf '[set-state]\nstate = "1"\nevent = "l2_load"\nnew_state = "2"\n[inject-error]\nstate = "2"\nevent = "read_aio"\n' > states
printf '[inject-error]\nevent = "bogus"\n' > bad-event
printf '[inject-error]\nevent = "read_aio"\nbogus = "1"\n' > bad-key
printf '[bogus]\nevent = "read_aio"\n' > bad-group
printf '[inject-error]\nevent = "none"\nstate = "1"\n' > now
printf '[inject-error "no id"]\nevent = "none"\n' > bad-id
printf '[inject-error "place"]\nevent = "none"\nsector = "2100"\n' > place
"#;

/// `STATES(from,event,to,bad)` stands for a qcow2 image that an event brings from one state to another, and whose reading
/// fails in a third.
fn states(line: &str) -> Option<String> {
    let (before, rest) = line.split_once("STATES(")?;
    let (inner, after) = rest.split_once(')')?;
    let parts: Vec<_> = inner.split(',').collect();
    let [from, event, to, bad] = parts[..] else { panic!("four parts: {inner}") };
    let change =
        format!("file.set-state.0.state={from},file.set-state.0.event={event},file.set-state.0.new_state={to}");
    let fault = format!("file.inject-error.0.event=read_aio,file.inject-error.0.state={bad}");
    Some(format!("{before}driver=qcow2,file.driver=blkdebug,file.image.filename=q,{change},{fault}{after}"))
}

fn expand(line: &str) -> String {
    if let Some(line) = states(line) {
        return line;
    }
    let Some((before, rest)) = line.split_once("FAULT(") else { return line.to_owned() };
    let (inner, after) = rest.split_once(')').expect("a closing bracket");
    let parts: Vec<_> = inner.splitn(3, ',').collect();
    let [image, event, more] = parts[..] else { panic!("three parts: {inner}") };
    let errno = if more.contains("errno") { String::new() } else { ",file.inject-error.0.errno=28".into() };
    let more = if more.is_empty() { String::new() } else { format!(",file.{more}") };
    let rule = format!("file.inject-error.0.event={event}{errno}{more}");
    format!("{before}driver=qcow2,file.driver=blkdebug,file.image.filename={image},{rule}{after}")
}

/// The reference's requests fail several at a time, and some more while it closes the image; ours stops at the first.
fn settled(text: &str) -> String {
    let mut seen = false;
    let lines = text.lines().filter(|line| {
        let reading = line.starts_with("qemu-img: error while reading at byte");
        let again = reading && std::mem::replace(&mut seen, true);
        !again && !line.starts_with("qemu-img: Failed to flush the ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// All lines.
fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    for node in NODES {
        lines.push(format!("info --image-opts {node}"));
        lines.push(format!("map --output=json --image-opts {node}"));
    }
    lines.extend(NAMES.iter().map(|name| format!("info {name}")));
    for options in OPTIONS {
        let options = options.replace(',', ",file.");
        for (format, image) in [("raw", "r"), ("qcow2", "q")] {
            let node = format!("driver={format},file.driver=blkdebug,file.image.filename={image},file.{options}");
            lines.push(format!("info --image-opts {node}"));
            lines.push(format!("convert -O raw --image-opts {node} out"));
        }
    }
    for options in PERMISSIONS {
        let image = if options.contains("x-image") { "" } else { ",file.image.filename=q" };
        let node = format!("driver=qcow2,file.driver=blkdebug{image},file.{options}");
        lines.push(format!("info --output=json --image-opts {node}"));
        lines.push(format!("snapshot -c x --image-opts {node}"));
    }
    for list in PERMISSIONS_JSON {
        let image = r#""driver":"blkdebug","image":{"driver":"file","filename":"r"}"#;
        lines.push(format!(r#"info --output=json json:{{{image},"take-child-perms":{list}}}"#));
    }
    lines.extend(LINES.iter().map(|line| expand(line)));
    lines
}

#[test]
fn nodes_and_faults_are_the_same() {
    require_wording();
    let scene = Sandbox::new();
    program_in(scene.path(), "bash", &["-ec", SCENE]).expect_ok("the scene");
    for_all("faults", &lines(), |line, report| {
        let twins = Twins { ours: Sandbox::copy_of(scene.path()), reference: Sandbox::copy_of(scene.path()) };
        let [ours, reference] = twins.each().map(|(tool, sandbox)| sandbox.run(tool, line));
        let mut differences = oracle::differences(line, &ours, &reference, &settled);
        if line.contains("-n ") || line.contains("snapshot") {
            differences
                .extend(["q", "t"].into_iter().flat_map(|name| oracle::unhealthy(&twins.ours, name, Target::Qcow2)));
        }
        if line.starts_with("convert") && reference.ok() && twins.reference.file("out").exists() {
            let target = if line.contains("-O raw") { Target::Raw } else { Target::Qcow2 };
            differences.extend(oracle::same_target(&twins, "out", target));
        }
        report.note(line, differences);
    });
}

/// What `bench` does, with which permissions: each on a raw and on a qcow2 image, below the format and as a node that passes
/// on what an image of that format shows.
const LOCKED: &[(&str, &str)] = &[
    ("-w -S 0", "take-child-perms.0=resize"),
    ("-w -S 0", "take-child-perms.0=write-unchanged,@unshare-child-perms.0=resize"),
    ("-w -S 0", "unshare-child-perms.0=write,@unshare-child-perms.1=consistent-read"),
    ("", "take-child-perms.0=resize"),
    ("", "unshare-child-perms.0=write,@unshare-child-perms.1=write-unchanged"),
    ("-U", "take-child-perms.0=resize,@unshare-child-perms.0=write"),
];

/// Which bytes of the image are locked shows what a node uses and what it refuses.
#[test]
fn permissions_become_locks() {
    require_wording();
    let mut cases = Vec::new();
    for (flags, options) in LOCKED {
        for (format, image) in [("raw", "r"), ("qcow2", "q")] {
            let below = format!("driver={format},file.driver=blkdebug,file.image.filename={image},file.{options}");
            let above = format!("driver=blkdebug,image.driver={format},image.file.filename={image},{options}");
            let nodes = [below.replace('@', "file."), above.replace('@', "")];
            cases.extend(nodes.map(|node| (format!("bench -c 100000000 -d 1 {flags} --image-opts {node}"), image)));
        }
    }
    let scene = Sandbox::new();
    program_in(scene.path(), "bash", &["-ec", SCENE]).expect_ok("the scene");
    for_all("permissions", &cases, |(line, image), report| {
        let [ours, reference] = BOTH.map(|tool| {
            let sandbox = Sandbox::copy_of(scene.path());
            Holder::start_tool(&sandbox, tool, line, &[*image]).locked(&sandbox.file(image))
        });
        let differs = ours != reference || ours.is_empty();
        let differences = differs.then(|| format!("locked are {ours:?}, and {reference:?} in the reference"));
        report.note(line, differences.into_iter().collect());
    });
}
