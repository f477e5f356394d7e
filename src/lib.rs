//! A replacement for `qemu-img`: disk images inspected, converted and snapshotted.

#![warn(missing_docs)]

pub mod bench;
pub mod cli;
pub mod cmd;
pub mod commit;
pub mod compare;
pub mod copy;
pub mod crypto;
pub mod digest;
pub mod error;
pub mod format;
pub mod image;
pub mod json;
pub mod nearest;
pub mod number;
pub mod rebase;
pub mod scratch;
pub mod storage;
pub mod sys;
pub mod text;
pub mod units;
