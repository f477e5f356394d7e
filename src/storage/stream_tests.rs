use std::io::{Write, pipe};
use std::os::fd::OwnedFd;

use super::*;

/// Reads a stream that arrives in these pieces through a buffer of two sectors.
fn parts(pieces: &'static [usize]) -> (Vec<StreamPart>, Vec<u8>) {
    let (reader, mut writer) = pipe().unwrap();
    let sender = std::thread::spawn(move || {
        for piece in pieces {
            writer.write_all(&vec![7; *piece]).unwrap();
        }
    });
    let stream = InputStream::new(OwnedFd::from(reader).into(), "it");
    let (mut parts, mut bytes) = (Vec::new(), Vec::new());
    loop {
        let mut buf = [1; 1024];
        let part = stream.read(&mut buf).unwrap();
        bytes.extend_from_slice(&buf[..part.len]);
        assert_eq!(stream.position(), part.start + part.len as u64);
        if part.len == 0 {
            break;
        }
        parts.push(part);
    }
    sender.join().unwrap();
    (parts, bytes)
}

#[test]
fn parts_are_full_whatever_the_pieces_are() {
    let part = |start, len| StreamPart { start, len };
    let cases: [(&[usize], Vec<StreamPart>); 5] = [
        (&[1024, 1024], vec![part(0, 1024), part(1024, 1024)]),
        (&[1, 600, 1447], vec![part(0, 1024), part(1024, 1024)]),
        (&[1], vec![part(0, 512)]),
        (&[1024, 1], vec![part(0, 1024), part(1024, 512)]),
        (&[700], vec![part(0, 1024)]),
    ];
    for (pieces, wanted) in cases {
        let (parts, bytes) = parts(pieces);
        assert_eq!(parts, wanted, "{pieces:?}");
        let len = pieces.iter().sum::<usize>();
        assert!(bytes[..len].iter().all(|byte| *byte == 7) && bytes[len..].iter().all(|byte| *byte == 0), "{pieces:?}");
    }
}

#[test]
fn nothing_at_all_is_an_error() {
    let (reader, writer) = pipe().unwrap();
    drop(writer);
    let error = InputStream::new(OwnedFd::from(reader).into(), "standard input").read(&mut [0; 512]).unwrap_err();
    assert_eq!(error.to_string(), "Could not read from standard input: there is nothing to read");
}

#[test]
fn a_reader_that_went_away_is_an_error() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let stream = OutputStream::new(OwnedFd::from(writer).into(), "standard output");
    assert_eq!(stream.write(&[1]).unwrap_err().to_string(), "Could not write to standard output: Broken pipe");
    assert_eq!(stream.write_zeros(3 << 20).unwrap_err().errno(), libc::EPIPE);
}
