use super::mode::{CipherSpec, Sectors};
use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the reference stored in images of crypt method 1: passphrase, guest offset, first and last block of the 18th
/// sector's neighbourhood of 64 KiB of 0x5a.
#[test]
fn legacy_aes_stores_what_the_reference_stores() {
    let cases = [
        ("abc", 0, "32c4466c137502b4cd25f63c700396b3", "dd5b7aee70423dd0172ac1f1ca92296c"),
        ("abc", 7 << 40, "1ca995a56f64d5ce79ce7001dfef3c11", "f990911be98cfee2fcc769f7094cf9a1"),
        ("0123456789abcdefXYZ", 0, "f36c3bc259cfb5ab5c9fbe1a60edd965", "e0ece02bb5508de289eaf32aa8310009"),
        ("0123456789abcdefXYZ", 7 << 40, "62a742af3b7e3ae720e0987cb1c9affd", "14ef6784398cafe7936871fb75f7263b"),
    ];
    for (passphrase, offset, first, last_of_sector_17) in cases {
        let cipher = LegacyAes::new(passphrase.as_bytes()).unwrap();
        let mut data = vec![0x5a; 65536];
        cipher.encrypt(offset, &mut data).unwrap();
        assert_eq!(hex(&data[..16]), first);
        assert_eq!(hex(&data[17 * 512 + 496..18 * 512]), last_of_sector_17);
        cipher.decrypt(offset, &mut data).unwrap();
        assert!(data.iter().all(|&byte| byte == 0x5a));
    }
}

/// IEEE 1619-2007, annex B, vectors 2 and 4 (the first bytes): a data unit is a sector, its number the tweak.
#[test]
fn xts_agrees_with_the_standard() {
    let spec = CipherSpec { cipher: CipherAlg::Aes128, mode: Mode::Xts, ivgen: IvGenAlg::Plain64, ivgen_hash: None };
    let key: Vec<u8> = [[0x11; 16], [0x22; 16]].concat();
    let mut data = vec![0x44; 512];
    Sectors::new(spec, &key).unwrap().encrypt(0x33_3333_3333 * 512, &mut data).unwrap();
    assert_eq!(hex(&data[..32]), "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0");
    let key = [0x2718_2818_2845_9045_2353_6028_7471_3526_u128, 0x3141_5926_5358_9793_2384_6264_3383_2795];
    let mut data: Vec<u8> = (0..512).map(|at| at as u8).collect();
    Sectors::new(spec, &key.map(u128::to_be_bytes).concat()).unwrap().encrypt(0, &mut data).unwrap();
    assert_eq!(hex(&data[..16]), "27a7479befa1d476489f308cd4cfa6e2");
}

/// The digest of 20 sectors, the last of them beyond 2 TiB.
fn fingerprint(spec: CipherSpec) -> String {
    let key: Vec<u8> = (0..spec.mode.key_len(spec.cipher) as u8).map(|byte| byte.wrapping_mul(37) + 1).collect();
    let cipher = Sectors::new(spec, &key).unwrap();
    let plain: Vec<u8> = (0..20 * 512_u32).map(|at| (at * 13 + at / 256) as u8).collect();
    let offset = (2 << 40) - 512 * 19;
    let mut data = plain.clone();
    cipher.encrypt(offset, &mut data).unwrap();
    let digest = HashAlg::Sha256.digest(&[&data]);
    // One sector at a time gives the same, in both directions.
    let mut single = data.clone();
    for (number, sector) in single.chunks_mut(512).enumerate() {
        cipher.decrypt(offset + number as u64 * 512, sector).unwrap();
    }
    assert!(single == plain, "{spec:?}");
    cipher.decrypt(offset, &mut data).unwrap();
    assert!(data == plain, "{spec:?}");
    hex(&digest[..8])
}

/// Every cipher, mode and generator as it was when volumes of the reference of every such kind were read with it.
#[test]
fn every_combination_is_what_it_was() {
    let mut found = String::new();
    for cipher in CipherAlg::ALL {
        for mode in [Mode::Ecb, Mode::Cbc, Mode::Xts, Mode::Ctr] {
            if mode == Mode::Xts && cipher == CipherAlg::Cast5 {
                continue;
            }
            let mut row = format!("{} {}", cipher.name(), mode.name());
            for ivgen in [IvGenAlg::Plain, IvGenAlg::Plain64, IvGenAlg::Essiv] {
                if ivgen == IvGenAlg::Essiv && cipher == CipherAlg::Cast5 {
                    continue;
                }
                let spec = CipherSpec { cipher, mode, ivgen, ivgen_hash: Some(HashAlg::Md5) };
                row = format!("{row} {}", fingerprint(spec));
            }
            found = format!("{found}{row}\n");
        }
    }
    assert_eq!(found, include_str!("tests_fingerprints.txt"));
}

#[test]
fn only_whole_sectors_are_taken() {
    let cipher = LegacyAes::new(b"abc").unwrap();
    assert!(cipher.encrypt(0, &mut [0; 511]).is_err());
    assert!(cipher.decrypt(256, &mut [0; 512]).is_err());
    assert!(cipher.encrypt(0, &mut []).is_ok());
}

#[test]
fn keys_of_the_wrong_length_are_refused() {
    let spec = CipherSpec { cipher: CipherAlg::Aes128, mode: Mode::Xts, ivgen: IvGenAlg::Plain, ivgen_hash: None };
    let error = Sectors::new(spec, &[0; 16]).unwrap_err();
    assert_eq!(error.to_string(), "Cipher key length 16 should be 32");
}

#[test]
fn unlocking_names_what_is_missing() {
    let mut secrets = Secrets::default();
    secrets.insert("good", Secret::new(b"abc".to_vec()));
    secrets.insert("bytes", Secret::new(vec![0xff, 0xfe]));
    let cases = [
        (None, "Parameter 'encrypt.key-secret' is required for cipher"),
        (Some("none"), "No secret with id 'none'"),
        (Some("bytes"), "Data from secret bytes is not valid UTF-8"),
    ];
    for (key_secret, expected) in cases {
        let error = Unlock { prefix: "encrypt.", key_secret, secrets: &secrets }.passphrase().unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let unlock = Unlock { prefix: "", key_secret: Some("good"), secrets: &secrets };
    assert_eq!(unlock.passphrase().unwrap().bytes(), b"abc");
}
