//! Every kind of image the matrix knows, each made once by the reference from a few lines of shell, kept below
//! `target/tmp/kinds-*` and copied from there.
//!
//! A recipe runs in a folder of its own and leaves `disk` (and what it refers to). It may use `base` (the data disk,
//! raw), `small` (a shorter one), `Q` (qemu-img), `IO` (qemu-io), and the functions of [`PRELUDE`].

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::fingerprint;
use super::run::{program_in, reference_path};
use super::{Random, Sandbox};

/// Virtual size of the data disk: no multiple of any cluster size, or of 4 KiB.
pub const SIZE: u64 = 9 * 1024 * 1024 + 1536;

/// How an image is named on a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    Raw,
    Qcow2,
    /// qcow2 with encryption, opened with the secret `s`.
    Locked,
    /// Opening is refused by the reference.
    Broken,
}

#[derive(Clone, Debug)]
pub struct Kind {
    pub name: String,
    pub open: Open,
    pub recipe: String,
}

impl Kind {
    /// The folder with the finished image; made on first use.
    pub fn folder(&self) -> PathBuf {
        let root = cache_root();
        let folder = root.join(&self.name);
        let lock = File::create(root.join(format!(".lock-{}", self.name))).expect("lock file");
        lock.lock().expect("lock");
        let stamp = root.join(format!(".made-{}", self.name));
        let known = fs::read_to_string(&stamp).unwrap_or_default();
        if known != self.mark(&folder) {
            let _ = fs::remove_dir_all(&folder);
            self.make(&folder);
            fs::write(&stamp, self.mark(&folder)).expect("stamp");
        }
        folder
    }

    /// A sandbox with a copy of it.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::copy_of(&self.folder())
    }

    /// Recipe and content, so that a changed recipe or a damaged image is made again.
    fn mark(&self, folder: &Path) -> String {
        format!("{}\n{}\n{:?}", PRELUDE, self.recipe, fingerprint(folder))
    }

    fn make(&self, folder: &Path) {
        fs::create_dir_all(folder).expect("folder");
        let script = format!("Q={}\n{PRELUDE}{}", reference_path().display(), self.recipe);
        program_in(folder, "bash", &["-ec", &script]).expect_ok(&format!("making the image kind {}", self.name));
        for name in super::files::names(folder) {
            File::open(folder.join(name)).and_then(|file| file.sync_all()).expect("sync");
        }
    }

    /// The options and operand that name the image, for commands that take one image (`info`, `snapshot`).
    pub fn operand(&self) -> String {
        match self.open {
            Open::Raw => "-f raw disk".into(),
            Open::Qcow2 | Open::Broken => "-f qcow2 disk".into(),
            Open::Locked => format!("{SECRET} --image-opts {LOCKED}"),
        }
    }

    /// The image as one `--image-opts` string.
    pub fn image_opts(&self) -> String {
        match self.open {
            Open::Raw => "driver=raw,file.filename=disk".into(),
            Open::Qcow2 | Open::Broken => "driver=qcow2,file.filename=disk".into(),
            Open::Locked => LOCKED.into(),
        }
    }
}

pub const SECRET: &str = "--object secret,id=s,data=hunter2";
pub const LOCKED: &str = "driver=qcow2,encrypt.key-secret=s,file.filename=disk";

/// Shell functions of the recipes. Everything is read back only through the reference.
const PRELUDE: &str = r#"
base=../base.raw small=../small.raw
io() { local f=$1 img=$2; shift 2; local a=(); for c in "$@"; do a+=(-c "$c"); done; qemu-io -f $f "${a[@]}" $img >/dev/null; }
poke() { printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
be32() { od -An -tx1 -j"$2" -N4 "$1" | tr -d ' \n'; }
be64() { od -An -tx1 -j"$2" -N8 "$1" | tr -d ' \n'; }
mk() { local opts=$1; shift; $Q convert -q -f raw -O qcow2 ${opts:+-o $opts} "$@" $base disk; }
secret="--object secret,id=s,data=hunter2"
"#;

fn cache_root() -> PathBuf {
    let (major, minor) = super::reference_version();
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kinds-{major}.{minor}"));
    fs::create_dir_all(&root).expect("folder for images");
    let lock = File::create(root.join(".lock")).expect("lock file");
    lock.lock().expect("lock");
    if !root.join("base.raw").exists() {
        write_base(&root.join("base.new"), SIZE);
        write_base(&root.join("small.raw"), 5 * 1024 * 1024 + 512);
        fs::rename(root.join("base.new"), root.join("base.raw")).expect("rename");
    }
    root
}

/// The data disk: dense, compressible, lone-sector and all-zero parts, holes and stored zeros.
pub fn write_base(path: &Path, size: u64) {
    let file = File::create(path).expect("data disk");
    file.set_len(size).expect("data disk");
    let mut random = Random::new(7);
    let put = |at: u64, data: &[u8]| {
        if at < size {
            let len = (data.len() as u64).min(size - at) as usize;
            file.write_all_at(&data[..len], at).expect("data disk");
        }
    };
    let mut noise = vec![0; 512 * 1024];
    random.fill(&mut noise);
    let text = b"guest offset, host offset, cluster; ".repeat(16 * 1024);
    put(0, &noise[..65536]);
    put(446, &[0; 64]);
    put(510, &[0x55, 0xaa]);
    put(128 << 10, &text[..131_072]);
    put((256 << 10) + 4096, &noise[..512]);
    put(1 << 20, &text[..300_000]);
    for index in 0..16 {
        put((2 << 20) + index * 65536 + 512 * index, &noise[..4096]);
    }
    put((7 << 20) / 2, &noise);
    put(4 << 20, &[0; 256 * 1024]);
    put((5 << 20) - 512, &text[..512]);
    put(8 << 20, &[0xff; 65536 + 512]);
    put(size - 1024, &text[..1024]);
}

fn kind(name: impl Into<String>, open: Open, recipe: impl Into<String>) -> Kind {
    Kind { name: name.into(), open, recipe: recipe.into() }
}

/// One kind by its name.
pub fn named(name: &str) -> Kind {
    every().into_iter().find(|kind| kind.name == name).unwrap_or_else(|| panic!("no image kind {name}"))
}

/// All kinds; `ONLY=substring` keeps some.
pub fn all() -> Vec<Kind> {
    let mut kinds = every();
    if let Ok(only) = std::env::var("ONLY") {
        kinds.retain(|kind| kind.name.contains(&only));
    }
    kinds
}

fn every() -> Vec<Kind> {
    let mut kinds = Vec::new();
    geometry(&mut kinds);
    clusters(&mut kinds);
    backing(&mut kinds);
    encrypted(&mut kinds);
    features(&mut kinds);
    snapshots(&mut kinds);
    raw(&mut kinds);
    broken(&mut kinds);
    kinds
}

/// Cluster sizes, versions, refcount widths, extended L2.
fn geometry(kinds: &mut Vec<Kind>) {
    use Open::Qcow2;
    kinds.push(kind("plain", Qcow2, "mk ''"));
    for size in ["512", "1k", "2k", "4k", "8k", "16k", "32k", "128k", "256k", "512k", "1M", "2M"] {
        kinds.push(kind(format!("cluster-{size}"), Qcow2, format!("mk cluster_size={size}")));
    }
    for size in ["512", "4k", "64k", "2M"] {
        let recipe = format!("mk compat=0.10,cluster_size={size}");
        kinds.push(kind(format!("v2-cluster-{size}"), Qcow2, recipe));
    }
    for bits in [1, 2, 4, 8, 32, 64] {
        let recipe = format!("mk refcount_bits={bits},cluster_size=4k");
        kinds.push(kind(format!("refcount-{bits}"), Qcow2, recipe));
    }
    for size in ["16k", "64k", "128k", "2M"] {
        let recipe = format!(
            "mk extended_l2=on,cluster_size={size}\n\
             io qcow2 disk 'write -P 3 1000000 512' 'write -z 2100k 8k' 'write -z -u 1M 64k' 'write -P 9 6M 70k'"
        );
        kinds.push(kind(format!("extended-{size}"), Qcow2, recipe));
    }
}

/// What a cluster can be: compressed, zero, discarded, partly overwritten; preallocation.
fn clusters(kinds: &mut Vec<Kind>) {
    use Open::Qcow2;
    for (method, size) in
        [("zlib", "64k"), ("zlib", "512"), ("zlib", "2M"), ("zstd", "64k"), ("zstd", "4k"), ("zstd", "2M")]
    {
        let recipe = format!("mk compression_type={method},cluster_size={size} -c");
        kinds.push(kind(format!("{method}-{size}"), Qcow2, recipe));
    }
    kinds.push(kind("zlib-v2", Qcow2, "mk compat=0.10 -c"));
    kinds.push(kind("zlib-extended", Qcow2, "mk extended_l2=on,cluster_size=64k -c"));
    let mixed = "io qcow2 disk 'write -P 1 70000 100' 'write -z 1M 128k' 'discard 2M 512k' 'write -P 5 6M 200k'";
    kinds.push(kind("zlib-overwritten", Qcow2, format!("mk '' -c\n{mixed}")));
    kinds.push(kind("zstd-overwritten", Qcow2, format!("mk compression_type=zstd -c\n{mixed}")));
    kinds.push(kind("zeroed", Qcow2, format!("mk ''\n{mixed} 'write -z -u 3M 1M' 'write -z 7M 512k'")));
    kinds.push(kind("v2-discarded", Qcow2, "mk compat=0.10\nio qcow2 disk 'discard 1M 512k' 'write -z 0 64k'"));
    for mode in ["metadata", "falloc", "full"] {
        kinds.push(kind(format!("prealloc-{mode}"), Qcow2, format!("mk preallocation={mode}")));
        let recipe = format!("$Q create -q -f qcow2 -o preallocation={mode},cluster_size=16k disk 3M");
        kinds.push(kind(format!("prealloc-{mode}-empty"), Qcow2, recipe));
    }
    kinds.push(kind("empty", Qcow2, "$Q create -q -f qcow2 disk 1G"));
    kinds.push(kind("size-zero", Qcow2, "$Q create -q -f qcow2 disk 0"));
    kinds.push(kind("huge-empty", Qcow2, "$Q create -q -f qcow2 disk 8T"));
    kinds.push(kind(
        "sparse-tail",
        Qcow2,
        "$Q create -q -f qcow2 disk 1T\nio qcow2 disk 'write -P 7 0 64k' 'write -P 8 1099511562240 64k'",
    ));
    kinds.push(kind("resized-up", Qcow2, "mk ''\n$Q resize -q disk 20M"));
    kinds.push(kind("resized-down", Qcow2, "mk ''\n$Q resize -q --shrink disk 4M"));
}

/// Backing chains and external data files.
fn backing(kinds: &mut Vec<Kind>) {
    use Open::Qcow2;
    let write = "io qcow2 disk 'write -P 1 64k 64k' 'write -P 2 3M 100k' 'write -z 1M 64k'";
    let over = |make: &str, create: &str| format!("{make}\n$Q create -q -f qcow2 {create}\n{write}");
    kinds.push(kind("over-raw", Qcow2, over("cp $base b.raw", "-b b.raw -F raw disk")));
    kinds.push(kind("over-shorter-raw", Qcow2, over("cp $small b.raw", "-b b.raw -F raw disk 9M")));
    kinds.push(kind("over-longer-raw", Qcow2, over("cp $base b.raw", "-b b.raw -F raw disk 4M")));
    kinds.push(kind("over-qcow2", Qcow2, over("mk ''; mv disk b.qcow2", "-b b.qcow2 -F qcow2 disk")));
    kinds.push(kind("over-shorter-qcow2", Qcow2, over("$Q convert -O qcow2 $small b", "-b b -F qcow2 disk 9437696")));
    kinds.push(kind("over-zlib", Qcow2, over("mk '' -c; mv disk b", "-b b -F qcow2 -o cluster_size=4k disk")));
    kinds.push(kind(
        "over-extended",
        Qcow2,
        over("mk ''; mv disk b", "-b b -F qcow2 -o extended_l2=on,cluster_size=128k disk"),
    ));
    kinds.push(kind("over-v2", Qcow2, over("mk ''; mv disk b", "-b b -F qcow2 -o compat=0.10 disk")));
    kinds.push(kind(
        "over-unnamed-format",
        Qcow2,
        over("mk ''; mv disk b", "-b b -F qcow2 disk") + "\npoke disk 112 '\\x11\\x11\\x11\\x11'",
    ));
    kinds.push(kind("over-subfolder", Qcow2, "mkdir sub deep\n$Q convert -O qcow2 $small sub/low.qcow2\n\
        $Q create -q -f qcow2 -b low.qcow2 -F qcow2 sub/mid.qcow2 7M\nqemu-io -c 'write -P 4 2M 1M' sub/mid.qcow2 >/dev/null\n\
        $Q create -q -f qcow2 -b sub/mid.qcow2 -F qcow2 disk 9M\nio qcow2 disk 'write -P 1 64k 64k' 'write -P 2 3M 100k'"));
    kinds.push(kind(
        "over-deep",
        Qcow2,
        "cp $base 0\nf=raw\nfor i in 1 2 3 4 5 6 7 8; do $Q create -q -f qcow2 -b $((i-1)) -F $f $i; f=qcow2\n\
        io qcow2 $i \"write -P $i $((i*300))k 250k\"; done; mv 8 disk",
    ));
    kinds.push(kind("over-json", Qcow2, "cp $base b.raw\n\
        $Q create -q -f qcow2 -b 'json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"b.raw\"}}' -F raw disk 9438720\nio qcow2 disk 'write -P 1 64k 64k'"));
    kinds.push(kind("over-json-window", Qcow2, "cp $base b.raw\n\
        $Q create -q -f qcow2 -u -b 'json:{\"driver\":\"raw\",\"offset\":1048576,\"size\":2097152,\"file\":{\"driver\":\"file\",\"filename\":\"b.raw\"}}' -F raw disk 4M\nio qcow2 disk 'write -P 1 64k 64k'"));
    // Copies of the image share the backing file in this folder; nobody writes to it.
    kinds.push(kind(
        "over-absolute",
        Qcow2,
        "mk ''; mv disk b.qcow2\n$Q create -q -f qcow2 -b \"$PWD/b.qcow2\" -F qcow2 disk",
    ));
    kinds.push(kind(
        "over-file-url",
        Qcow2,
        "cp $base b.raw\n$Q create -q -f qcow2 -u -b file:b.raw -F raw disk 9438720",
    ));
    kinds.push(kind("data-file", Qcow2, "mk data_file=disk.data"));
    kinds.push(kind("data-file-raw", Qcow2, "mk data_file=disk.data,data_file_raw=on"));
    kinds.push(kind("data-file-extended", Qcow2, "mk data_file=disk.data,extended_l2=on,cluster_size=32k"));
    kinds.push(kind("data-file-backed", Qcow2, over("cp $base b", "-b b -F raw -o data_file=disk.data disk")));
    kinds.push(kind("over-data-file", Qcow2, over("mk data_file=d.data; mv disk b", "-b b -F qcow2 disk")));
}

/// Legacy AES and LUKS.
fn encrypted(kinds: &mut Vec<Kind>) {
    use Open::Locked;
    let mk = |opts: &str| format!("$Q convert -q $secret -f raw -O qcow2 -o encrypt.key-secret=s,{opts} $base disk");
    kinds.push(kind("aes", Locked, mk("encrypt.format=aes")));
    kinds.push(kind("aes-512", Locked, mk("encrypt.format=aes,cluster_size=512")));
    kinds.push(kind("aes-v2", Locked, mk("encryption=on,compat=0.10")));
    let luks = "encrypt.format=luks,encrypt.iter-time=10";
    kinds.push(kind("luks", Locked, mk(luks)));
    let variants = [
        ("aes-128", "xts", "plain64", "sha1", "64k"),
        ("aes-256", "cbc", "essiv:sha256", "sha256", "4k"),
        ("aes-128", "cbc", "plain64", "sha512", "64k"),
        ("aes-128", "ecb", "plain64", "md5", "64k"),
        ("serpent-256", "xts", "plain", "sha512", "2M"),
        ("serpent-128", "cbc", "essiv:sha256", "ripemd160", "64k"),
        ("twofish-256", "xts", "plain64", "sha384", "64k"),
        ("twofish-128", "cbc", "plain", "sha224", "1k"),
        ("cast5-128", "cbc", "plain64", "sha256", "64k"),
        ("aes-256", "ctr", "plain64", "sha256", "64k"),
    ];
    for (cipher, mode, iv, hash, cluster) in variants {
        let (iv, iv_hash) = iv.split_once(':').unwrap_or((iv, ""));
        let extra = if iv_hash.is_empty() { String::new() } else { format!(",encrypt.ivgen-hash-alg={iv_hash}") };
        let opts = format!(
            "{luks},cluster_size={cluster},encrypt.cipher-alg={cipher},encrypt.cipher-mode={mode},\
             encrypt.ivgen-alg={iv},encrypt.hash-alg={hash}{extra}"
        );
        kinds.push(kind(format!("luks-{cipher}-{mode}-{iv}-{hash}"), Locked, mk(&opts)));
    }
    kinds.push(kind("luks-extended", Locked, mk(&format!("{luks},extended_l2=on,cluster_size=64k"))));
    kinds.push(kind(
        "luks-backed",
        Locked,
        format!(
            "cp $base b\n$Q create -q $secret -f qcow2 -b b -F raw -o encrypt.key-secret=s,{luks} disk\n\
         qemu-io $secret --image-opts {LOCKED} -c 'write -P 6 1M 300k' >/dev/null",
            LOCKED = super::kinds::LOCKED
        ),
    ));
    for (name, opts) in [("aes", "encrypt.format=aes"), ("luks", luks)] {
        let recipe = format!(
            "{}\n$Q snapshot $secret -c one --image-opts {LOCKED}\n\
            qemu-io $secret --image-opts {LOCKED} -c 'write -P 6 1M 300k' >/dev/null",
            mk(opts)
        );
        kinds.push(kind(format!("{name}-snapshot"), Locked, recipe));
    }
}

/// Header flags and extensions, bitmaps, lazy refcounts.
fn features(kinds: &mut Vec<Kind>) {
    use Open::{Broken, Qcow2};
    let v3 = |name: &str, patch: &str| kind(name, Qcow2, format!("mk ''\n{patch}"));
    kinds.push(kind("lazy", Qcow2, "mk lazy_refcounts=on"));
    kinds.push(v3("dirty", "poke disk 79 '\\x01'"));
    kinds.push(kind("dirty-lazy", Qcow2, "mk lazy_refcounts=on\npoke disk 79 '\\x01'"));
    kinds.push(v3("corrupt", "poke disk 79 '\\x02'"));
    kinds.push(v3("autoclear-unknown", "poke disk 88 '\\x80'"));
    kinds.push(kind("autoclear-raw", Broken, "mk ''\npoke disk 95 '\\x02'"));
    kinds.push(v3("compatible-unknown", "poke disk 80 '\\x40'"));
    kinds.push(kind("incompatible-unknown", Broken, "mk ''\npoke disk 72 '\\x80'"));
    kinds.push(kind("incompatible-two", Broken, "mk ''\npoke disk 76 '\\x01\\x00\\x01\\x00'"));
    kinds.push(kind(
        "incompatible-named",
        Broken,
        "mk ''\npoke disk 76 '\\x00\\x00\\x00\\x20'\npoke disk 120 '\\x00\\x05A feature of tomorrow\\x00'",
    ));
    kinds.push(v3("no-extensions", "poke disk 112 '\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'"));
    kinds.push(v3("unknown-extension", "poke disk 112 '\\x12\\x34\\x56\\x78\\x00\\x00\\x00\\x0bhello world\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'"));
    kinds.push(kind("header-104", Qcow2, "$Q create -q -f qcow2 disk 3M\npoke disk 103 '\\x68'\npoke disk 104 '\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'"));
    let bitmap = "mk ''\n$Q bitmap --add disk b0\n$Q bitmap --add -g 32k --disable disk b1\n";
    kinds.push(kind("bitmaps", Qcow2, format!("{bitmap}io qcow2 disk 'write -P 1 0 1M'")));
    kinds.push(kind("bitmaps-granular", Qcow2, "mk cluster_size=4k\n$Q bitmap --add -g 512 disk tiny\n$Q bitmap --add -g 2M disk 'big one'\nio qcow2 disk 'write -P 1 512k 1M'"));
    kinds.push(kind("bitmaps-stale", Qcow2, format!("{bitmap}poke disk 95 '\\x00'")));
    kinds.push(kind(
        "bitmaps-snapshot",
        Qcow2,
        format!("{bitmap}$Q snapshot -c s disk\nio qcow2 disk 'write -P 1 0 1M'"),
    ));
    kinds.push(kind("bitmaps-backed", Qcow2, "cp $base b\n$Q create -q -f qcow2 -b b -F raw disk\n$Q bitmap --add disk top\nio qcow2 disk 'write -P 3 2M 1M'"));
}

/// Internal snapshots.
fn snapshots(kinds: &mut Vec<Kind>) {
    use Open::Qcow2;
    let three = "$Q snapshot -c first disk\nio qcow2 disk 'write -P 1 1M 200k'\n$Q snapshot -c second disk\n\
         io qcow2 disk 'write -z 1M 100k' 'write -P 2 5M 64k'\n$Q snapshot -c 3 disk\nio qcow2 disk 'write -P 3 0 70k'";
    for (name, opts) in [
        ("snapshots", ""),
        ("snapshots-v2", "compat=0.10"),
        ("snapshots-512", "cluster_size=512"),
        ("snapshots-2M", "cluster_size=2M"),
        ("snapshots-extended", "extended_l2=on,cluster_size=32k"),
        ("snapshots-refcount-2", "refcount_bits=4"),
        ("snapshots-refcount-64", "refcount_bits=64"),
        ("snapshots-lazy", "lazy_refcounts=on"),
    ] {
        kinds.push(kind(name, Qcow2, format!("mk '{opts}'\n{three}")));
    }
    kinds.push(kind("snapshots-zlib", Qcow2, format!("mk '' -c\n{three}")));
    kinds.push(kind("snapshots-zstd", Qcow2, format!("mk compression_type=zstd -c\n{three}")));
    kinds.push(kind("snapshots-backed", Qcow2, format!("cp $base b\n$Q create -q -f qcow2 -b b -F raw disk\n{three}")));
    kinds.push(kind(
        "snapshots-full-refcount",
        Qcow2,
        "mk refcount_bits=2\n$Q snapshot -c a disk\n$Q snapshot -c b disk",
    ));
    kinds.push(kind("snapshots-no-room", Qcow2, "mk refcount_bits=1"));
    kinds.push(kind(
        "snapshots-resized",
        Qcow2,
        "mk ''\n$Q snapshot -c nine disk\n$Q resize -q disk 12M\n$Q snapshot -c twelve disk\n$Q resize -q disk 30M",
    ));
    kinds.push(kind("snapshots-names", Qcow2, "mk ''\nfor n in 'with blank' 2 1 'ünicode' '' a-very-long-name-that-does-not-fit-in-any-column-of-the-table same same; do $Q snapshot -c \"$n\" disk; done"));
    // A machine state as the emulator stores it: bytes behind the end of the disk, and their size in the table.
    kinds.push(kind("snapshots-vmstate", Qcow2, "mk ''\nio qcow2 disk 'write -b -P 9 0 300k'\n$Q snapshot -c state disk\n\
        t=$((16#$(be64 disk 64)))\npoke disk $((t+32)) '\\x00\\x04\\xb0\\x00'\npoke disk $((t+40)) '\\x00\\x00\\x00\\x00\\x00\\x04\\xb0\\x00'\npoke disk $((t+24)) '\\x00\\x00\\x0e\\x10\\x77\\x35\\x94\\x00'"));
}

/// Raw images, some of which look like other things.
fn raw(kinds: &mut Vec<Kind>) {
    use Open::Raw;
    kinds.push(kind("raw", Raw, "cp --sparse=always $base disk"));
    kinds.push(kind("raw-dense", Raw, "cp --sparse=never $base disk"));
    kinds.push(kind("raw-empty", Raw, ": > disk"));
    kinds.push(kind("raw-odd", Raw, "head -c 100001 $base > disk"));
    kinds.push(kind("raw-hole", Raw, "truncate -s 3G disk"));
    kinds.push(kind("raw-one-byte", Raw, "printf x > disk"));
    kinds.push(kind("raw-qcow2-inside", Raw, "mk ''"));
    kinds.push(kind(
        "raw-falloc",
        Raw,
        "$Q create -q -f raw -o preallocation=falloc disk 4M\nio raw disk 'write -P 7 1M 64k'",
    ));
}

/// Images the reference refuses.
fn broken(kinds: &mut Vec<Kind>) {
    use Open::Broken;
    let mut bad = |name: &str, recipe: &str| kinds.push(kind(name, Broken, recipe));
    bad("bad-backing-missing", "$Q create -q -f qcow2 -u -b nowhere.qcow2 -F qcow2 disk 4M");
    bad(
        "bad-backing-format",
        "cp $base b\n$Q create -q -f qcow2 -u -b b -F nothing disk 4M || { $Q create -q -f qcow2 -b b -F raw disk; poke disk 120 'zap'; }",
    );
    bad("bad-backing-not-qcow2", "cp $base b\n$Q create -q -f qcow2 -u -b b -F qcow2 disk 4M");
    bad("bad-backing-json", "$Q create -q -f qcow2 -u -b 'json:{\"driver\":\"raw\"' -F raw disk 4M");
    bad("bad-data-file-missing", "mk data_file=disk.data\nrm disk.data");
    bad("bad-magic", "mk ''\npoke disk 0 'X'");
    bad("bad-version", "mk ''\npoke disk 7 '\\x04'");
    bad("bad-empty-file", ": > disk");
    bad("bad-short-header", "mk ''\ntruncate -s 60 disk");
}
