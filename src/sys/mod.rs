//! The operating system below what the standard library offers. The only place with `unsafe`.
#![allow(unsafe_code)]

pub mod time;
