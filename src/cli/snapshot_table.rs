//! The table of internal snapshots, as `snapshot -l` and `info` print it.

use crate::image::{SnapshotDetails, SnapshotInfo};
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

/// The table of what each snapshot takes of the file, with an explanation below; nothing at all where there are no
/// snapshots. `details` has as many elements as `snapshots`.
pub fn details_table(snapshots: &[SnapshotInfo], details: &[SnapshotDetails]) -> String {
    if snapshots.is_empty() {
        return String::new();
    }
    let mut out = "Snapshot list:\n".to_owned();
    let row = |out: &mut String, id: &str, tag: &str, rest: [&str; 6]| {
        left(out, id, 7);
        left(out, tag, 16);
        let [date, size, referenced, exclusive, shared, compressed] = rest;
        *out += &format!("{date:>19} {size:>12} {referenced:>10} {exclusive:>10} {shared:>10} {compressed:>10}\n");
    };
    row(&mut out, "ID", "TAG", ["DATE", "VIRTUAL_SIZE", "REFERENCED", "EXCLUSIVE", "SHARED", "COMPRESSED"]);
    for (snapshot, details) in snapshots.iter().zip(details) {
        let compressed = if details.compressed_clusters == 0 { "-".to_owned() } else { human_size(details.compressed) };
        let rest = [
            &local_time(snapshot.date_sec).to_string(),
            &human_size(snapshot.disk_size),
            &human_size(details.referenced),
            &human_size(details.exclusive),
            &human_size(details.shared),
            &compressed,
        ];
        row(&mut out, &snapshot.id, &snapshot.name, rest.map(String::as_str));
    }
    out += "EXCLUSIVE is what deleting the snapshot gives back, SHARED what the disk uses now, too.\n";
    out
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
