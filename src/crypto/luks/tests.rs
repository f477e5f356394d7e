use super::header::{HEADER_LEN, HEADER_SECTORS, SECTOR};
use super::*;
use crate::crypto::{Secret, SectorCipher};
use crate::storage::MemStorage;

const CIPHERS: &[&str] = &[
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
const MODES: &[&str] = &["ecb", "cbc", "xts", "ctr"];
const IVGENS: &[&str] = &["plain", "plain64", "essiv"];
const HASHES: &[&str] = &["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"];

fn options(pairs: &[(&str, &str)]) -> Result<CreateOptions> {
    let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    Choices::parse("", |name| get(name).or((name == "iter-time").then_some("0")))?.resolve()
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn window(storage: &MemStorage) -> HeaderWindow<'_> {
    HeaderWindow { storage, offset: 0, len: u64::MAX }
}

fn volume(pairs: &[(&str, &str)]) -> (MemStorage, NewLuks) {
    let new = options(pairs).unwrap().create(&secret("abc")).unwrap();
    (MemStorage::new(new.header.clone()), new)
}

fn message(result: Result<impl Sized>) -> String {
    result.err().map_or_else(|| "ok".to_owned(), |error| error.to_string())
}

/// What one cipher encrypts the other decrypts, over a border of the batches they work in.
fn assert_same(one: &dyn SectorCipher, other: &dyn SectorCipher, what: &str) {
    let plain: Vec<u8> = (0..9 * 1024).map(|at: u32| (at * 7 + at / 512) as u8).collect();
    let mut data = plain.clone();
    one.encrypt(4096, &mut data).unwrap();
    assert_ne!(data, plain, "{what}");
    other.decrypt(4096, &mut data).unwrap();
    assert!(data == plain, "{what}");
}

#[test]
fn created_volumes_open() {
    for (row, cipher) in CIPHERS.iter().enumerate() {
        for (column, mode) in MODES.iter().enumerate() {
            // Every cipher with every mode, and in turn with every generator and hash.
            let ivgen = IVGENS[(row + column) % IVGENS.len()];
            let hash = HASHES[(row + 3 * column) % HASHES.len()];
            let what = format!("{cipher} {mode} {ivgen} {hash}");
            let pairs = [("cipher-alg", *cipher), ("cipher-mode", *mode), ("ivgen-alg", ivgen), ("hash-alg", hash)];
            if *cipher == "cast5-128" && (*mode == "xts" || ivgen == "essiv") {
                assert!(options(&pairs).is_err(), "{what}");
                continue;
            }
            let (storage, new) = volume(&pairs);
            let opened = open(window(&storage), Some(&secret("abc")), u64::MAX)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_same(&*new.cipher, &**opened.cipher.as_ref().unwrap(), &what);
            assert_eq!((opened.info.cipher_alg, opened.info.cipher_mode), (*cipher, *mode));
            assert_eq!((opened.info.ivgen_alg, opened.info.hash_alg), (ivgen, hash));
        }
    }
}

#[test]
fn every_hash_works_with_every_split() {
    for hash in HASHES {
        for cipher in ["aes-128", "aes-192"] {
            let (storage, new) = volume(&[("hash-alg", hash), ("cipher-alg", cipher), ("cipher-mode", "cbc")]);
            let opened = open(window(&storage), Some(&secret("abc")), u64::MAX).unwrap();
            assert_same(&*new.cipher, &*opened.cipher.unwrap(), hash);
        }
    }
}

#[test]
fn any_key_slot_unlocks() {
    let (storage, new) = volume(&[("cipher-alg", "aes-128")]);
    let header = storage.to_vec();
    let material = header[4096..].to_vec();
    for slot in 1..8 {
        let mut bytes = header.clone();
        let (from, to) = (208, 208 + 48 * slot);
        let mut entry: Vec<u8> = bytes[from..from + 48].to_vec();
        let offset: [u8; 4] = bytes[to + 40..to + 44].try_into().unwrap();
        entry[40..44].copy_from_slice(&offset);
        bytes[to..to + 48].copy_from_slice(&entry);
        // The first slot stays active with a key nobody has.
        bytes[from + 8] ^= 1;
        let start = u32::from_be_bytes(offset) as usize * 512;
        bytes.resize(start, 0);
        bytes.extend_from_slice(&material);
        let storage = MemStorage::new(bytes);
        let opened = open(window(&storage), Some(&secret("abc")), u64::MAX).unwrap();
        assert_same(&*new.cipher, &*opened.cipher.unwrap(), "slot");
    }
}

#[test]
fn a_wrong_passphrase_is_refused_and_none_is_needed_for_info() {
    let (storage, _) = volume(&[]);
    for text in ["abd", "", "abc "] {
        assert_eq!(
            message(open(window(&storage), Some(&secret(text)), u64::MAX)),
            "Invalid password, cannot unlock any keyslot"
        );
    }
    assert!(open(window(&storage), None, u64::MAX).unwrap().cipher.is_none());
}

#[test]
fn header_and_key_material_lie_where_the_specification_says() {
    // Cipher, offset of the second slot, offset of the payload.
    let cases = [("aes-128", 0x108, 0x808), ("aes-192", 0x180, 0xbc8), ("aes-256", 0x200, 0xfc8)];
    for (cipher, second, payload) in cases {
        let options = options(&[("cipher-alg", cipher)]).unwrap();
        assert_eq!(options.payload_offset(), payload * SECTOR, "{cipher}");
        let new = options.create(&secret("abc")).unwrap();
        assert_eq!(&new.header[256 + 40..256 + 44], (second as u32).to_be_bytes(), "{cipher}");
        assert!(new.header.len() as u64 > u64::from(HEADER_SECTORS) * SECTOR);
        assert!(new.header[HEADER_LEN..4096].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn reading_stays_within_the_window() {
    let (storage, _) = volume(&[]);
    let open_in = |len| open(HeaderWindow { storage: &storage, offset: 0, len }, Some(&secret("abc")), u64::MAX);
    let outside = "Request for data outside of extension header";
    assert_eq!(message(open_in(100)), outside);
    assert_eq!(message(open_in(4096)), outside);
    assert_eq!(message(open_in(4096 + 256_000)), "ok");
    let far = HeaderWindow { storage: &storage, offset: u64::MAX - 3, len: u64::MAX };
    assert_eq!(message(open(far, None, u64::MAX)), outside);
}

#[test]
fn damaged_headers_get_the_message_of_their_fault() {
    let (storage, _) = volume(&[("cipher-mode", "cbc"), ("ivgen-alg", "essiv")]);
    let good = storage.to_vec();
    let number = |value: u32| value.to_be_bytes().to_vec();
    let field = |text: &str| {
        let mut field = text.as_bytes().to_vec();
        field.resize(32, 0);
        field
    };
    let faults: Vec<(usize, Vec<u8>, &str)> = vec![
        (0, b"X".to_vec(), "Volume is not in LUKS format"),
        (6, vec![0, 2], "LUKS version 2 is not supported"),
        (8, vec![b'a'; 32], "LUKS header cipher name is not NUL terminated"),
        (40, vec![b'a'; 32], "LUKS header cipher mode is not NUL terminated"),
        (72, vec![b'a'; 32], "LUKS header hash spec is not NUL terminated"),
        (104, number(7), "LUKS payload is overlapping with the header"),
        (104, number(8), "Keyslot 0 is overlapping with the encrypted payload"),
        (164, number(0), "LUKS key iteration count is zero"),
        (8, field("foo"), "Algorithm 'foo' with key size 32 bytes not supported"),
        (8, field("sm4"), "Algorithm 'sm4' with key size 32 bytes not supported"),
        (40, field("cbc"), "Unexpected cipher mode string format 'cbc'"),
        (40, field(""), "Unexpected cipher mode string format ''"),
        (40, field("foo-plain"), "Cipher mode 'foo' not supported"),
        (40, field("-"), "Cipher mode '' not supported"),
        (40, field("cbc-foo"), "IV generator 'foo' not supported"),
        (40, field("cbc-plain-x"), "IV generator 'plain-x' not supported"),
        (40, field("cbc-essiv"), "Missing IV generator hash specification"),
        (40, field("cbc-essiv:"), "Hash algorithm '' not supported"),
        (40, field("foo-foo:foo"), "Hash algorithm 'foo' not supported"),
        (40, field("cbc-essiv:sha1"), "No AES cipher with key size 20 available"),
        (40, field("cbc-plain:sha1"), "ok"),
        (72, field("SHA256"), "Hash algorithm 'SHA256' not supported"),
        (108, number(0), "Algorithm 'aes' with key size 0 bytes not supported"),
        (108, number(17), "Algorithm 'aes' with key size 17 bytes not supported"),
        (108, number(33), "Keyslots 0 and 1 are overlapping in the header"),
        (108, number(u32::MAX), "Keyslot 0 is overlapping with the encrypted payload"),
        (168, vec![b'x'; 40], "ok"),
        (208, number(5), "Keyslot 0 state (active/disable) is corrupted"),
        (256, number(5), "Keyslot 1 state (active/disable) is corrupted"),
        (212, number(0), "Keyslot 0 iteration count is zero"),
        (248, number(7), "Keyslot 0 is overlapping with the LUKS header"),
        (248, number(0x900), "Keyslot 0 is overlapping with the encrypted payload"),
        (248, number(0x708), "Keyslots 0 and 7 are overlapping in the header"),
        (248, number(u32::MAX), "ok"),
        (252, number(3999), "Keyslot 0 is corrupted (stripes 3999 != 4000)"),
        (252, number(u32::MAX), "Keyslot 0 is corrupted (stripes -1 != 4000)"),
        (300, number(1), "Keyslot 1 is corrupted (stripes 1 != 4000)"),
    ];
    for (at, bytes, expected) in faults {
        let mut damaged = good.clone();
        damaged[at..at + bytes.len()].copy_from_slice(&bytes);
        let storage = MemStorage::new(damaged);
        assert_eq!(message(open(window(&storage), None, u64::MAX)), expected, "at {at}: {bytes:x?}");
        // With a passphrase it must not panic either.
        let _ = open(window(&storage), Some(&secret("abc")), u64::MAX);
    }
    // Cut short, the rest reads as zeros.
    for (len, expected) in [
        (0, "Volume is not in LUKS format"),
        (100, "LUKS payload is overlapping with the header"),
        (591, "Keyslot 7 is corrupted (stripes 3840 != 4000)"),
        (592, "ok"),
    ] {
        let storage = MemStorage::new(good[..len].to_vec());
        assert_eq!(message(open(window(&storage), None, u64::MAX)), expected, "length {len}");
    }
}

#[test]
fn options_are_refused_as_the_reference_refuses_them() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("cipher-alg", "foo"), ("cipher-mode", "foo")], "Parameter 'cipher-alg' does not accept value 'foo'"),
        (&[("cipher-mode", "foo"), ("hash-alg", "foo")], "Parameter 'cipher-mode' does not accept value 'foo'"),
        (&[("ivgen-alg", ""), ("hash-alg", "foo")], "Parameter 'ivgen-alg' does not accept value ''"),
        (&[("ivgen-hash-alg", "foo"), ("hash-alg", "foo")], "Parameter 'ivgen-hash-alg' does not accept value 'foo'"),
        (&[("hash-alg", "SHA1"), ("iter-time", "x")], "Parameter 'hash-alg' does not accept value 'SHA1'"),
        (&[("iter-time", "x")], "Parameter 'iter-time' expects a number"),
        (&[("iter-time", "")], "Parameter 'iter-time' expects a number"),
        (&[("iter-time", "5 ")], "Parameter 'iter-time' expects a number"),
        (&[("iter-time", "18446744073709551615")], "Parameter 'iter-time' expects integer"),
        (
            &[("iter-time", "99999999999999999999")],
            "Value '99999999999999999999' is too large for parameter 'iter-time'",
        ),
        (&[("iter-time", " 0x10")], "ok"),
        (&[("iter-time", "+010")], "ok"),
        (&[("cipher-alg", "des")], "Algorithm 'des' not supported"),
        (&[("cipher-alg", "3des")], "Algorithm '3des' not supported"),
        (&[("cipher-alg", "sm4")], "Algorithm 'sm4' not supported"),
        (&[("cipher-alg", "cast5-128")], "Unsupported cipher mode xts"),
        (&[("cipher-alg", "cast5-128"), ("ivgen-alg", "essiv")], "Cipher cast5-128 not supported with essiv"),
        (&[("ivgen-alg", "essiv"), ("ivgen-hash-alg", "sha512")], "No AES cipher with key size 64 available"),
        (
            &[("cipher-alg", "serpent-128"), ("ivgen-alg", "essiv"), ("ivgen-hash-alg", "sha1")],
            "No Serpent cipher with key size 20 available",
        ),
        (
            &[("cipher-alg", "twofish-128"), ("ivgen-alg", "essiv"), ("ivgen-hash-alg", "sha224")],
            "No Twofish cipher with key size 28 available",
        ),
    ];
    for (pairs, expected) in cases {
        assert_eq!(message(options(pairs)), *expected, "{pairs:?}");
    }
}

#[test]
fn volumes_that_the_reference_cannot_open_are_not_made() {
    for cipher in CIPHERS {
        for mode in MODES {
            let get = |name: &str| match name {
                "cipher-alg" => Some(*cipher),
                "cipher-mode" => Some(*mode),
                _ => None,
            };
            let refused = message(Choices::parse("", get).unwrap().check());
            let expected = match (*cipher, *mode) {
                ("cast5-128", "xts") => "Unsupported cipher mode xts".to_owned(),
                ("aes-192" | "serpent-192" | "twofish-192", "ecb" | "cbc" | "ctr") => {
                    format!("Cipher {cipher} with mode {mode} is not supported: its key material is not whole sectors")
                }
                _ => "ok".to_owned(),
            };
            assert_eq!(refused, expected);
        }
    }
}

#[test]
fn iteration_counts_follow_the_time() {
    let rounds = |millis: &str| {
        let (storage, _) = volume(&[("iter-time", millis), ("cipher-alg", "aes-128"), ("cipher-mode", "cbc")]);
        let info = open(window(&storage), None, u64::MAX).unwrap().info;
        (info.slots[0].iterations, info.master_key_iters)
    };
    assert_eq!(rounds("0"), (1000, 1000));
    let (slot, digest) = rounds("20");
    assert!(slot > 2 * digest && digest >= 1000, "{slot} {digest}");
    let too_many = options(&[("iter-time", "-1")]).unwrap().create(&secret("abc"));
    assert!(message(too_many).contains(" too large to scale: Numerical result out of range"));
    let too_many = options(&[("iter-time", "100000000000")]).unwrap().create(&secret("abc"));
    assert!(message(too_many).contains(" larger than 4294967295: Numerical result out of range"));
}

#[test]
fn info_has_the_keys_in_the_order_of_the_reference() {
    let (storage, _) = volume(&[("ivgen-alg", "essiv"), ("cipher-mode", "cbc")]);
    let info = open(window(&storage), None, u64::MAX).unwrap().info;
    let keys = |value: serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let expected = "ivgen-alg detached-header hash-alg cipher-alg uuid ivgen-hash-alg cipher-mode slots payload-offset \
                    master-key-iters";
    assert_eq!(keys(info.luks_json()).join(" "), expected);
    let with_format = expected.replace("cipher-mode", "format cipher-mode");
    assert_eq!(keys(info.qcow2_json()).join(" "), with_format);
    assert_eq!(
        info.luks_json()["slots"][0].to_string(),
        r#"{"active":true,"iters":1000,"key-offset":4096,"stripes":4000}"#
    );
    assert_eq!(info.luks_json()["slots"][1].to_string(), r#"{"active":false,"key-offset":135168}"#);
    assert_eq!(info.uuid.len(), 36);
}
