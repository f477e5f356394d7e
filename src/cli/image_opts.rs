//! `--image-opts`: an image described by options instead of a file name.

use serde_json::Value;

use super::optlist::{check_id, elements};
use super::output;
use crate::error::Result;
use crate::image::Options;

/// Reads the options of an image, `driver=qcow2,file.filename=x`; keys keep their dots. A first word without `=` refers
/// to a node. Warns about flags without a value, as the reference does.
pub fn image_options(text: &str) -> Result<Options> {
    let (options, warnings) = parse(text)?;
    for warning in warnings {
        output::warn(&warning);
    }
    Ok(options)
}

fn parse(text: &str) -> Result<(Options, Vec<String>)> {
    let mut options = Options::new();
    let mut warnings = Vec::new();
    for element in elements(text, Some("file")) {
        let (name, value) = (element.name, element.value);
        if element.flag {
            let no = if value == "off" { "no" } else { "" };
            warnings
                .push(format!("short-form boolean option '{no}{name}' deprecated\nPlease use {name}={value} instead"));
        }
        if name == "id" {
            check_id(&value)?;
        }
        // The last of equal names counts.
        options.insert(name, Value::String(value));
    }
    Ok((options, warnings))
}

#[cfg(test)]
#[path = "image_opts_tests.rs"]
mod tests;
