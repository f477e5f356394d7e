use super::*;

const GEOMETRY: Geometry = Geometry { cluster_bits: 16, extended_l2: false, refcount_order: 4, external_data: false };

fn bitmap(name: &str) -> Bitmap {
    Bitmap { table_offset: 0x40000, table_size: 3, in_use: false, auto: true, granularity_bits: 16, name: name.into() }
}

#[test]
fn a_directory_comes_back_as_it_was() {
    let mut bitmaps = vec![bitmap("b0"), bitmap("with eight"), bitmap(&"n".repeat(1023))];
    bitmaps[1].in_use = true;
    bitmaps[2].auto = false;
    let bytes = to_bytes(&bitmaps);
    assert_eq!(parse(&bytes, 3, GEOMETRY).expect("sound"), bitmaps);
    assert_eq!(bitmaps[1].info().flags, ["in-use", "auto"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let sound = to_bytes(&[bitmap("b0"), bitmap("b1")]);
    let damage = |at: usize, bytes: &[u8]| {
        let mut damaged = sound.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    let constraints = "Bitmap 'b0' doesn't satisfy the constraints";
    for (bytes, count, text) in [
        (sound.clone(), 1, "More bitmaps found than specified in header extension"),
        (sound.clone(), 3, "Less bitmaps found than specified in header extension"),
        (sound[..63].to_vec(), 2, "Broken bitmap directory"),
        (damage(6, &[2]), 2, constraints),
        (damage(0, &[0; 8]), 2, constraints),
        (damage(0, &[0x80]), 2, constraints),
        (damage(8, &[0; 4]), 2, constraints),
        (damage(8, &[8, 0, 0, 1]), 2, constraints),
        (damage(15, &[4]), 2, constraints),
        (damage(16, &[2]), 2, constraints),
        (damage(17, &[8]), 2, constraints),
        (damage(17, &[32]), 2, constraints),
        (damage(18, &[0, 0]), 2, "Bitmap '' doesn't satisfy the constraints"),
        (damage(18, &[4, 0]), 2, "Broken bitmap directory"),
        (damage(23, &[8]), 2, "Bitmap extra data is not supported"),
        (damage(25, b"1"), 2, "Bitmap already exists: b1"),
    ] {
        assert_eq!(parse(&bytes, count, GEOMETRY).expect_err(text).to_string(), text);
    }
}
