//! The options that most commands have, and what they mean: which image, how it is opened, how the result is printed.

use std::time::Duration;

use clap::Arg;

use super::args::{Args, OWN, flag, optional, parsed, usage_error, value};
use super::create_options::option_list;
use super::image_opts::image_options;
use super::output;
use super::progress::{self, Descriptor, Form};
use crate::error::{Error, Result};
use crate::image::{ImageSpec, OpenContext, OpenPolicy};

/// The IDs of the options about progress.
const PROGRESS: &str = "progress";
const PROGRESS_SHORT: &str = "progress-short";
const PROGRESS_FD: &str = "progress-fd";

/// How a result is printed (`--output`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people.
    #[default]
    Human,
    /// As JSON.
    Json,
}

/// `-f`, the format of an image that exists.
pub fn format() -> Arg {
    value("format", "FMT", "The format of the image; without it, the format is probed").short('f').long("format")
}

/// `-q`.
pub fn quiet() -> Arg {
    flag("quiet", "Print no messages besides errors").short('q').long("quiet")
}

/// `-p`, `--progress`, and ours: `--progress=json` and `--progress-fd`. What they ask for is [`Args::progress`].
pub fn progress() -> [Arg; 2] {
    [progress_form(PROGRESS, "Show progress; with 'json', as JSON lines on stderr").short('p'), progress_fd()]
}

/// As [`progress`], for a command of which the reference knows no `--progress`: `-p` is an option of its own there, so that no
/// prefix becomes ambiguous.
pub fn progress_short() -> [Arg; 3] {
    [
        flag(PROGRESS_SHORT, "Show progress").short('p'),
        progress_form(PROGRESS, "As -p; with 'json', as JSON lines on stderr").help_heading(OWN),
        progress_fd(),
    ]
}

fn progress_form(id: &'static str, help: &'static str) -> Arg {
    optional(id, "json", help).long("progress")
}

fn progress_fd() -> Arg {
    value(PROGRESS_FD, "NUMBER", "Write progress as JSON lines to this open descriptor (implies --progress=json)")
        .value_parser(parsed(progress::descriptor))
        .long("progress-fd")
        .help_heading(OWN)
}

/// `-o`, creation options.
pub fn options(help: &'static str) -> Arg {
    value("options", "OPTIONS", help).value_parser(parsed(option_list)).short('o').long("options")
}

/// `-b`, the backing file.
pub fn backing(help: &'static str) -> Arg {
    value("backing", "FILE", help).short('b').long("backing")
}

/// `-F`, the format of the backing file.
pub fn backing_format() -> Arg {
    value("backing-format", "FMT", "The format of the backing file, which must be said")
        .short('F')
        .long("backing-format")
}

/// `-u` of what lies on a backing file.
pub fn backing_unsafe(help: &'static str) -> Arg {
    flag("backing-unsafe", help).short('u').long("backing-unsafe")
}

/// `--image-opts`.
pub fn image_opts() -> Arg {
    flag("image-opts", "FILENAME is a list of options (driver=...,file.filename=...)").long("image-opts")
}

/// `-U`.
pub fn force_share() -> Arg {
    flag("force-share", "Open the image even if another process is writing to it").short('U').long("force-share")
}

/// `--untrusted`, which every command has.
pub fn untrusted() -> Arg {
    flag(
        "untrusted",
        "Open images from strangers: only the files named here, not those that images refer to; formats are not guessed; \
         tighter limits. QEMU_IMG_UNTRUSTED=1 in the environment does the same",
    )
    .long("untrusted")
    .help_heading(OWN)
}

/// Whether the environment asks for what [`untrusted`] does. Whoever sets the variable to something means it.
fn untrusted_by_environment() -> bool {
    std::env::var_os("QEMU_IMG_UNTRUSTED").is_some_and(|value| !value.is_empty() && value != "0")
}

/// `--lock-timeout`, which every command has.
pub fn lock_timeout() -> Arg {
    value("lock-timeout", "SECONDS", "Wait this long for images that another process holds (0: refuse at once)")
        .value_parser(parsed(seconds))
        .long("lock-timeout")
        .help_heading(OWN)
}

/// A number of seconds, with decimals or without.
fn seconds(text: &str) -> Result<Duration> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = text.parse().ok().filter(|_| plain);
    number
        .and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| Error::invalid(format!("Invalid lock timeout '{text}': it must be a number of seconds")))
}

/// `--output` of the command called `command`.
pub fn output(command: &'static str) -> Arg {
    value("output", "human|json", "Print for people (the default) or as JSON").long("output").value_parser(parsed(
        move |text| match text {
            "human" => Ok(Output::Human),
            "json" => Ok(Output::Json),
            other => Err(usage_error(command, format!("--output expects 'human' or 'json' not '{other}'"))),
        },
    ))
}

/// What a user named, as something that can be opened. `is_options` says that it is a list of options.
pub fn image_spec(name: &str, is_options: bool, format: Option<&str>) -> Result<ImageSpec> {
    match (is_options, format) {
        (false, format) => Ok(ImageSpec::name(name, format)),
        (true, None) => Ok(ImageSpec::options(name, image_options(name)?)),
        (true, Some(_)) => Err(Error::invalid("--image-opts and --format are mutually exclusive")),
    }
}

impl Args {
    /// The image `name`, as [`format`] and [`image_opts`] say.
    pub fn spec(&self, name: &str) -> Result<ImageSpec> {
        image_spec(name, self.flag("image-opts"), self.text("format"))
    }

    /// What [`output`] asks for.
    pub fn output(&self) -> Output {
        self.get::<Output>("output").copied().unwrap_or_default()
    }

    /// What progress is shown: none with `-q`.
    pub fn progress(&self) -> Form {
        if self.flag("quiet") {
            return Form::None;
        }
        match self.get::<Descriptor>(PROGRESS_FD) {
            Some(descriptor) => Form::Json(Some(descriptor.clone())),
            None if self.texts(PROGRESS).contains(&"json") => Form::Json(None),
            None if self.given(PROGRESS) || self.is_flag(PROGRESS_SHORT) => Form::Plain,
            None => Form::None,
        }
    }

    /// What opening images needs to know: the secrets, and where warnings go.
    pub fn context(&self) -> OpenContext {
        let untrusted = self.flag("untrusted") || untrusted_by_environment();
        OpenContext {
            secrets: self.secrets().clone(),
            policy: if untrusted { OpenPolicy::UNTRUSTED } else { OpenPolicy::TRUSTING },
            warnings: output::WARNINGS,
            lock_timeout: self.get::<Duration>("lock-timeout").copied().unwrap_or_default(),
            ..OpenContext::default()
        }
    }
}
