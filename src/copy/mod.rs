//! The data mover: it knows extents and threads, nothing of formats.
