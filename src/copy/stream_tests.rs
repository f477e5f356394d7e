use super::*;
use crate::copy::Unwatched;
use crate::copy::testing::{FakeLayer, Part};
use crate::image::{Chain, Layer, Node, push_range};

const K: u64 = 1024;
const M: u64 = 1024 * K;
const GRANULE: u64 = 64 * K;

/// An image that keeps what it gets, and looks at the order in which it gets it.
#[derive(Default)]
struct FakeImage {
    announced: Vec<Range>,
    /// Announcements from here on are not taken notice of.
    deaf_from: Option<u64>,
    /// Writing from here on fails.
    full_from: Option<u64>,
    state: Mutex<(u64, Vec<u8>)>,
}

impl StreamImage for FakeImage {
    fn granule(&self) -> u64 {
        GRANULE
    }

    fn is_laid_out(&self) -> bool {
        true
    }

    fn announce(&mut self, layout: &Layout) {
        for range in &layout.write {
            assert!(self.announced.last().is_none_or(|last| last.end() <= range.guest), "in order");
            if self.deaf_from.is_none_or(|from| range.guest < from) {
                push_range(&mut self.announced, range.guest, range.len);
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn places(&self, range: Range) -> Vec<Range> {
        self.announced.iter().filter_map(|place| place.intersection(range.guest, range.len)).collect()
    }

    fn encode(&self, guest: u64, bytes: &mut [u8]) -> Result<()> {
        assert!(guest.is_multiple_of(GRANULE) && (bytes.len() as u64).is_multiple_of(GRANULE), "whole granules");
        bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
        Ok(())
    }

    fn write(&self, guest: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        assert!(guest >= state.0, "in order");
        if self.full_from.is_some_and(|from| guest >= from) {
            return Err(Error::os(libc::EPIPE));
        }
        state.0 = guest + bytes.len() as u64;
        let end = state.0 as usize;
        state.1.resize(end, 0x55);
        state.1[guest as usize..].copy_from_slice(bytes);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// Warnings, counted.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Monitor for Warnings {
    fn warn(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

fn parts() -> Vec<(u64, Part)> {
    vec![(5 * M + 512, Part::Data), (9 * M, Part::Zero), (700 * K, Part::Data), (M, Part::Nothing), (6 * M, Part::Data)]
}

fn expected() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (len, part) in parts() {
        let start = bytes.len() as u64;
        bytes.extend((start..start + len).map(|at| if part == Part::Data { FakeLayer::byte(at) } else { 0 }));
    }
    bytes
}

fn plain<'a>(source: &'a Source<'a>) -> StreamJob<'a> {
    StreamJob {
        source,
        backing: None,
        workers: 4,
        sparse: None,
        salvage: false,
        rate: None,
        monitor: &Unwatched,
        digest: None,
    }
}

/// Copies; returns what the image shows then.
fn copy(layer: FakeLayer, image: &mut FakeImage, change: impl FnOnce(&mut StreamJob<'_>)) -> Result<Vec<u8>> {
    let layer: Box<dyn Layer> = Box::new(layer);
    let chains = [Chain::new(vec![Node::new(layer, "fake")])];
    let source = Source::new(&chains, false);
    let mut job = plain(&source);
    change(&mut job);
    run(&job, image)?;
    let state = image.state.lock().unwrap();
    let mut bytes = vec![0; source.size() as usize];
    for place in &image.announced {
        let range = place.guest as usize..place.end() as usize;
        bytes[range.clone()].iter_mut().zip(&state.1[range]).for_each(|(to, from)| *to = from ^ 0x55);
    }
    Ok(bytes)
}

#[test]
fn the_image_gets_the_disk_in_order() {
    let wanted = expected();
    for workers in [1, 5] {
        // The last sector of the first part is zeros, which only looking at them tells.
        for (sparse, granules) in [(None, 189), (Some(0), 347), (Some(4096), 188)] {
            let mut image = FakeImage::default();
            let bytes = copy(FakeLayer::new(&parts()), &mut image, |job| {
                (job.workers, job.sparse) = (workers, sparse);
            });
            assert!(bytes.unwrap() == wanted, "{workers} {sparse:?}");
            let placed: u64 = image.announced.iter().map(|place| place.len.div_ceil(GRANULE)).sum();
            assert_eq!(placed, granules, "{workers} {sparse:?}");
        }
    }
}

#[test]
fn data_that_was_not_announced_means_that_the_source_has_changed() {
    let mut image = FakeImage { deaf_from: Some(18 * M), ..FakeImage::default() };
    let error = copy(FakeLayer::new(&parts()), &mut image, |_| ()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("The source has changed at byte ") && text.ends_with(" while it was read"), "{text}");
}

#[test]
fn the_first_error_ends_it() {
    for workers in [1, 5] {
        let mut image = FakeImage { full_from: Some(4 * M), ..FakeImage::default() };
        let error = copy(FakeLayer::new(&parts()), &mut image, |job| job.workers = workers).unwrap_err();
        assert_eq!(error.errno(), libc::EPIPE);
        let mut layer = FakeLayer::new(&parts());
        layer.bad_read = Some(4 * M + 100..4 * M + 101);
        let error = copy(layer, &mut FakeImage::default(), |job| job.workers = workers).unwrap_err();
        assert_eq!(error.to_string(), "error while reading at byte 4194304: Input/output error");
    }
}

#[test]
fn what_cannot_be_read_is_zero_with_salvage_and_told_once() {
    let mut layer = FakeLayer::new(&parts());
    layer.bad_read = Some(4 * M..4 * M + 700);
    layer.bad_map = Some(20 * M..20 * M + 1);
    let warnings = Warnings::default();
    let chains = [Chain::new(vec![Node::new(Box::new(layer) as Box<dyn Layer>, "fake")])];
    let source = Source::new(&chains, false);
    let job = StreamJob { workers: 3, sparse: Some(4096), salvage: true, monitor: &warnings, ..plain(&source) };
    run(&job, &mut FakeImage::default()).unwrap();
    let mut texts = warnings.0.into_inner().unwrap();
    texts.sort();
    texts.retain(|text| !text.starts_with("error while reading block status"));
    assert_eq!(
        texts,
        [20_971_520, 4_194_304, 4_194_816].map(|at| format!("error while reading offset {at}: Input/output error"))
    );
}
