use super::*;

#[test]
fn sizes_for_sparse_output() {
    for (text, ok) in [("0", true), ("512", true), ("513", false), ("16M", true), ("17M", false), ("-1", false)] {
        assert_eq!(parse_sparse(text).is_ok(), ok, "{text}");
    }
}
