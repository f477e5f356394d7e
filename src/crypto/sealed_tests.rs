use super::*;

#[test]
fn base64_is_read_leniently() {
    let cases: &[(&str, &[u8])] = &[
        ("", b""),
        ("YWJj", b"abc"),
        ("YWJj\n", b"abc"),
        ("YW\nJj", b"abc"),
        ("YWI=", b"ab"),
        ("YQ==", b"a"),
        ("YWJ", b""),
        ("YWJjYQ", b"abc"),
        ("YWJj====", b"abc\0"),
        ("YW=I", b"a\x08"),
        ("+/+/", b"\xfb\xff\xbf"),
    ];
    for (text, expected) in cases {
        assert_eq!(decode_base64(text.as_bytes()).unwrap().as_slice(), *expected, "{text:?}");
    }
    for text in ["YW Jj", "!!", "YWJj\r\n", "YWJ-"] {
        let error = decode_base64(text.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "Base64 data contains invalid characters", "{text:?}");
    }
}

/// Made by `openssl enc -aes-256-cbc`; the reference opens an image with it.
#[test]
fn sealed_secrets_open() {
    let key = Secret::new(vec![b'k'; 32]);
    let iv = "aWlpaWlpaWlpaWlpaWlpaQ==";
    let sealed = b"01xx/AFMmT3jfTf5c1LDjQ==";
    assert_eq!(unseal(&key, Some(iv), sealed, true).unwrap().bytes(), b"secretpw");
    let raw = decode_base64(sealed).unwrap();
    assert_eq!(unseal(&key, Some(iv), &raw, false).unwrap().bytes(), b"secretpw");
    assert_eq!(unseal(&key, Some(iv), b"", true).unwrap().bytes(), b"");

    let error = |key: &Secret, iv: Option<&str>, sealed: &[u8], base64| {
        unseal(key, iv, sealed, base64).unwrap_err().to_string()
    };
    let zeros = [b'A'; 43].iter().chain(b"=").copied().collect::<Vec<u8>>();
    let short = Secret::new(b"short".to_vec());
    assert_eq!(error(&key, None, sealed, true), "IV is required to decrypt secret");
    assert_eq!(error(&key, Some("xx"), sealed, true), "IV should be 16 bytes in length not 0");
    assert_eq!(error(&key, Some("YWJj"), sealed, true), "IV should be 16 bytes in length not 3");
    assert_eq!(error(&key, Some(iv), sealed, false), "Length 24 must be a multiple of block size 16");
    assert_eq!(error(&short, Some(iv), sealed, true), "Key should be 32 bytes in length");
    let padding = "Incorrect number of padding bytes (113) found on decrypted data";
    assert_eq!(error(&key, Some(iv), &zeros, true), padding);
}
