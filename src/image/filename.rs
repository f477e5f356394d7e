//! File names inside images: relative ones are relative to the image that holds them.

/// The name to open for a backing file called `backing` by the image called `image`.
pub fn resolve_backing(image: &str, backing: &str) -> String {
    if backing.starts_with('/') || backing.contains(':') {
        return backing.to_owned();
    }
    match image.rfind('/') {
        Some(slash) => format!("{}{backing}", &image[..=slash]),
        None => backing.to_owned(),
    }
}
