//! Sizes and alignment: the few numbers every module shares.

/// Bytes in a KiB.
pub const KIB: u64 = 1 << 10;
/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;
/// The unit of the classic disk interfaces; virtual sizes are multiples of it.
pub const SECTOR: u64 = 512;

/// A number as an index or length in memory. What does not fit lies behind the end of everything there.
pub fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// `value` rounded down to a multiple of `align`, a power of two.
pub const fn align_down(value: u64, align: u64) -> u64 {
    value & !(align - 1)
}

/// `value` rounded up to a multiple of `align`, a power of two; `None` where that does not fit.
pub const fn align_up(value: u64, align: u64) -> Option<u64> {
    match value.checked_add(align - 1) {
        Some(sum) => Some(align_down(sum, align)),
        None => None,
    }
}

/// `bytes` for people: three significant digits and a binary unit ("0 B", "1.5 GiB", "0.977 MiB"), in the form the
/// reference prints sizes. The next unit starts at 1000, not at 1024.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}B", three_digits(value), UNITS[unit])
}

/// A number from 0 to below 1000 with three significant digits and no trailing zeros, as C's `%.3g` has it.
fn three_digits(value: f64) -> String {
    let exponent = match format!("{value:.2e}").split_once('e') {
        Some((_, exponent)) => exponent.parse::<i32>().unwrap_or(0),
        None => 0,
    };
    if exponent >= 3 {
        // 999.95 and above are rounded to a number of four digits, which C writes with an exponent.
        return "1e+03".to_owned();
    }
    let decimals = (2 - exponent).clamp(0, 20) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
