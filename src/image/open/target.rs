//! What is to be opened.

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::image::node::Child;
use crate::image::options::NodeOptions;
use crate::image::probe::Driver;
use crate::image::{ImageSpec, jsonname};

/// Something to be opened: a name, options, or both.
#[derive(Debug, Default)]
pub struct Target {
    /// The name.
    pub filename: Option<String>,
    /// The options.
    pub options: NodeOptions,
    /// What the image's bytes come from, where that is open already; the name is then for messages only.
    pub bytes: Option<Child>,
}

impl From<&ImageSpec> for Target {
    fn from(spec: &ImageSpec) -> Self {
        match spec {
            ImageSpec::Name { filename, format } => {
                let mut options = NodeOptions::default();
                if let Some(format) = format {
                    options.set("driver", format.as_str());
                }
                Target { filename: Some(filename.clone()), options, bytes: None }
            }
            ImageSpec::Options { options, .. } => {
                Target { filename: None, options: NodeOptions::new(options.clone()), bytes: None }
            }
        }
    }
}

impl Target {
    /// Turns a `json:` name into options. What the name says gives way to what was said besides.
    pub fn read_name(mut self) -> Result<Target> {
        let Some(text) = self.filename.as_deref().and_then(|name| name.strip_prefix("json:")) else {
            return Ok(self);
        };
        match jsonname::parse(text).context(|| "Could not parse the JSON options")? {
            Value::Object(options) => self.options.add_defaults(NodeOptions::new(options)),
            _ => return Err(Error::invalid("Invalid JSON object given")),
        }
        self.filename = None;
        Ok(self)
    }

    /// Takes out the driver.
    pub fn driver(&mut self) -> Result<Option<Driver>> {
        let name = self.options.string("driver").map(str::to_owned);
        self.options.remove("driver");
        name.map(|name| Driver::find(&name)).transpose()
    }
}
