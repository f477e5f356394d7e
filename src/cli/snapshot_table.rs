//! The table of internal snapshots, as `snapshot -l` and `info` print it.

use crate::image::SnapshotInfo;
use crate::sys::time::local_time;
use crate::units::human_size;

/// The table with its heading ("Snapshot list:"), each line ended; nothing at all where there are no snapshots.
///
/// Columns count bytes, and what is too long pushes the rest to the right.
pub fn snapshot_table(snapshots: &[SnapshotInfo]) -> String {
    if snapshots.is_empty() {
        return String::new();
    }
    let mut out = "Snapshot list:\n".to_owned();
    let heading =
        Row { id: "ID", tag: "TAG", vm_size: "VM_SIZE", date: "DATE", vm_clock: "VM_CLOCK", icount: "ICOUNT" };
    heading.print(&mut out);
    for snapshot in snapshots {
        let row = Row {
            id: &snapshot.id,
            tag: &snapshot.name,
            vm_size: &human_size(snapshot.vm_state_size),
            date: &local_time(snapshot.date_sec).to_string(),
            vm_clock: &vm_clock(snapshot.vm_clock_nsec),
            icount: &icount(snapshot.icount),
        };
        row.print(&mut out);
    }
    out
}

struct Row<'a> {
    id: &'a str,
    tag: &'a str,
    vm_size: &'a str,
    date: &'a str,
    vm_clock: &'a str,
    icount: &'a str,
}

impl Row<'_> {
    fn print(&self, out: &mut String) {
        left(out, self.id, 7);
        left(out, self.tag, 16);
        let Row { vm_size, date, vm_clock, icount, .. } = self;
        *out += &format!("{vm_size:>8} {date:>19} {vm_clock:>15} {icount:>10}\n");
    }
}

/// A column of `width` bytes, filled up on the right, and the space behind it.
fn left(out: &mut String, text: &str, width: usize) {
    let len = crate::text::to_bytes(text).len();
    *out += text;
    out.extend(std::iter::repeat_n(' ', width.saturating_sub(len) + 1));
}

/// Hours (at least four digits), minutes, seconds and milliseconds.
fn vm_clock(nsec: u64) -> String {
    let milliseconds = nsec / 1_000_000;
    let seconds = milliseconds / 1000;
    format!("{:04}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, milliseconds % 1000)
}

/// The instruction count, which the reference prints as a signed number.
fn icount(count: Option<u64>) -> String {
    match count {
        Some(count) => count.cast_signed().to_string(),
        None => "--".to_owned(),
    }
}

#[cfg(test)]
#[path = "snapshot_table_tests.rs"]
mod tests;
