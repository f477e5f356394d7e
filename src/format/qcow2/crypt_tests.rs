use super::super::header::{CryptoPointer, Purpose};
use super::*;
use crate::storage::MemStorage;

fn secrets() -> Secrets {
    let mut secrets = Secrets::default();
    secrets.insert("s", Secret::new(b"abc".to_vec()));
    secrets.insert("other", Secret::new(b"abd".to_vec()));
    secrets
}

fn create_options(text: &str) -> CreateOptions {
    let mut options = CreateOptions::default();
    for (name, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
        options.set(name, value);
    }
    options
}

fn message<T>(result: Result<T>) -> String {
    result.err().map_or_else(|| "ok".to_owned(), |error| error.to_string())
}

#[test]
fn creation_options_decide_the_method() {
    let cases = [
        ("", Ok(None)),
        ("encryption=off", Ok(None)),
        ("encryption=on,encrypt.key-secret=s", Ok(Some(1))),
        ("encrypt.format=aes,encrypt.key-secret=s", Ok(Some(1))),
        ("encrypt.format=qcow,encrypt.key-secret=s", Ok(Some(1))),
        ("encryption=off,encrypt.format=luks,encrypt.key-secret=s", Ok(Some(2))),
        ("encryption=on", Err("Parameter 'encrypt.key-secret' is required for cipher")),
        ("encrypt.format=luks", Err("Parameter 'encrypt.key-secret' is required for cipher")),
        ("encrypt.format=luks,encrypt.key-secret=no", Err("No secret with id 'no'")),
        ("encrypt.format=luks,encrypt.key-secret=no,encrypt.cipher-alg=des", Err("No secret with id 'no'")),
        ("encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=des", Err("Algorithm 'des' not supported")),
        ("encrypt.format=luks,encrypt.cipher-alg=foo", Err("Parameter 'cipher-alg' does not accept value 'foo'")),
        ("encrypt.format=foo,encrypt.key-secret=s", Err("Parameter 'format' does not accept value 'foo'")),
        ("encrypt.key-secret=s", Err("Parameter 'encrypt.format' is missing")),
        ("encryption=off,encrypt.key-secret=s", Err("Parameter 'encrypt.format' is missing")),
        ("encryption=foo", Err("Parameter 'encryption' expects 'on' or 'off'")),
        ("encrypt.format=aes,encrypt.cipher-alg=aes-128", Err("Parameter 'encrypt.cipher-alg' is unexpected")),
        ("encryption=on,encrypt.iter-time=5", Err("Parameter 'encrypt.iter-time' is unexpected")),
        (
            "encryption=on,encrypt.format=luks",
            Err("'encrypt.format' and its alias 'encryption' can't be used at the same time"),
        ),
        (
            "encrypt.format=luks,encrypt.iter-time=99999999999999999",
            Err("Parameter 'encrypt.key-secret' is required for cipher"),
        ),
        (
            "encrypt.format=luks,encrypt.iter-time=9999999999999999999",
            Err("Parameter 'encrypt.iter-time' expects integer"),
        ),
    ];
    for (text, expected) in cases {
        let found = CreateCrypt::parse(&create_options(text), &secrets());
        let found = found.map(|crypt| crypt.map(|crypt| crypt.method())).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
    }
}

/// The header and the file of a new image of which nothing but the encryption is there.
fn image(options: &str) -> (Header, Arc<dyn Storage>, Crypt) {
    let text = format!("encrypt.key-secret=s,{options}");
    let create = CreateCrypt::parse(&create_options(&text), &secrets()).unwrap().unwrap();
    let (bytes, crypt) = create.create().unwrap();
    let file = MemStorage::default();
    file.write_at(&bytes, 0x40000).unwrap();
    let mut header = Header::read(&MemStorage::new(plain_header()), Purpose::Read).unwrap();
    header.crypt_method = create.method();
    header.crypto = (create.header_len() > 0).then(|| CryptoPointer { offset: 0x40000, len: create.header_len() });
    (header, Arc::new(file), crypt)
}

/// The header of an empty image of 1 MiB.
fn plain_header() -> Vec<u8> {
    let words: [u32; 18] = [0x5146_49fb, 2, 0, 0, 0, 16, 0, 1 << 20, 0, 1, 0, 0x30000, 0, 0x10000, 1, 0, 0, 0];
    words.map(u32::to_be_bytes).concat()
}

fn run_time(json: &str) -> Options {
    serde_json::from_str(json).unwrap()
}

fn open_with(header: &Header, file: &Arc<dyn Storage>, json: &str, no_io: bool) -> Result<Option<Crypt>> {
    let context = OpenContext { secrets: secrets(), ..OpenContext::default() };
    let flags = OpenFlags { no_io, ..OpenFlags::READ };
    let mut options = run_time(json);
    let (crypt, _) = open(header, file, &mut options, flags, &context)?;
    assert!(options.is_empty(), "{options:?}");
    Ok(crypt)
}

#[test]
fn new_images_open_and_tie_sectors_to_the_right_offset() {
    for (options, by_host) in [("encrypt.format=luks,encrypt.iter-time=0", true), ("encryption=on", false)] {
        let (header, file, made) = image(options);
        let opened = open_with(&header, &file, r#"{"encrypt": {"key-secret": "s"}}"#, false).unwrap().unwrap();
        let mut data = vec![7; 4096];
        made.encrypt(0x10000, 0x50000, &mut data).unwrap();
        let stored = data.clone();
        opened.decrypt(0x10000, 0x50000, &mut data).unwrap();
        assert_eq!(data, vec![7; 4096]);
        let (guest, host) = if by_host { (0x90000, 0x50000) } else { (0x10000, 0x90000) };
        data.copy_from_slice(&stored);
        opened.decrypt(guest, host, &mut data).unwrap();
        assert_eq!(data, vec![7; 4096], "{options}");
    }
}

#[test]
fn run_time_options_are_understood_and_refused_as_the_reference_does() {
    let (luks, luks_file, _) = image("encrypt.format=luks,encrypt.iter-time=0");
    let (aes, aes_file, _) = image("encrypt.format=aes");
    let plain = Header::read(&MemStorage::new(plain_header()), Purpose::Read).unwrap();
    let required = "Parameter 'encrypt.key-secret' is required for cipher";
    let cases: &[(&str, &Header, &Arc<dyn Storage>, &str)] = &[
        ("{}", &luks, &luks_file, required),
        ("{}", &aes, &aes_file, required),
        ("{}", &plain, &aes_file, "ok"),
        (r#"{"encrypt.key-secret": "s"}"#, &luks, &luks_file, "ok"),
        (r#"{"encrypt": {"key-secret": "s", "format": "luks"}}"#, &luks, &luks_file, "ok"),
        (r#"{"encrypt": {"key-secret": "other"}}"#, &luks, &luks_file, "Invalid password, cannot unlock any keyslot"),
        // Legacy AES cannot know that a key is wrong.
        (r#"{"encrypt": {"key-secret": "other", "format": "aes"}}"#, &aes, &aes_file, "ok"),
        (r#"{"encrypt": {"key-secret": 5}}"#, &luks, &luks_file, "No secret with id '5'"),
        (r#"{"encrypt": {"key-secret": ""}}"#, &aes, &aes_file, "No secret with id ''"),
        (
            r#"{"encrypt": {"format": "aes"}}"#,
            &luks,
            &luks_file,
            "Header reported 'luks' encryption format but options specify 'aes'",
        ),
        (
            r#"{"encrypt": {"foo": "x", "format": "qcow"}}"#,
            &aes,
            &aes_file,
            "Header reported 'aes' encryption format but options specify 'qcow'",
        ),
        (r#"{"encrypt": {"foo": "x", "key-secret": "s"}}"#, &aes, &aes_file, "Parameter 'foo' is unexpected"),
        (r#"{"encrypt": {"key-secret": {"x": "s"}}}"#, &luks, &luks_file, "Parameters 'key-secret.*' are unexpected"),
        (r#"{"encrypt.key-secret.x": "s"}"#, &luks, &luks_file, "Parameters 'key-secret.*' are unexpected"),
        (r#"{"encrypt": {"foo": "x", "key-secret": "no"}}"#, &plain, &aes_file, "ok"),
        (
            r#"{"encrypt": {"format": "luks"}}"#,
            &plain,
            &aes_file,
            "No encryption in image header, but options specified format 'luks'",
        ),
    ];
    for (json, header, file, expected) in cases {
        assert_eq!(message(open_with(header, file, json, false)), *expected, "{json} {}", header.crypt_method);
    }
    let mut left = run_time(r#"{"encrypt": "x"}"#);
    let context = OpenContext::default();
    open(&plain, &aes_file, &mut left, OpenFlags::READ, &context).unwrap();
    assert_eq!(left.len(), 1, "an option that is not a group is nobody's");
}

#[test]
fn no_key_is_needed_to_look_at_metadata() {
    for options in ["encrypt.format=luks,encrypt.iter-time=0", "encrypt.format=aes"] {
        let (header, file, _) = image(options);
        for json in ["{}", r#"{"encrypt": {"key-secret": "no"}}"#] {
            assert!(open_with(&header, &file, json, true).unwrap().is_none());
        }
        assert_eq!(
            message(open_with(&header, &file, r#"{"encrypt.foo": "x"}"#, true)),
            "Parameter 'foo' is unexpected"
        );
    }
}

#[test]
fn luks_needs_its_header() {
    let (mut header, file, _) = image("encrypt.format=luks,encrypt.iter-time=0");
    header.crypto.as_mut().unwrap().len = 4096;
    let json = r#"{"encrypt.key-secret": "s"}"#;
    assert_eq!(message(open_with(&header, &file, json, false)), "Request for data outside of extension header");
    header.crypto = None;
    assert_eq!(message(open_with(&header, &file, json, false)), "Missing CRYPTO header for crypt method 2");
}
