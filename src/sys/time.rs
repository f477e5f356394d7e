//! Calendar time in the zone of the user.

/// A moment on the calendar and the clock of the local time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// The year, as people count it.
    pub year: i64,
    /// 1 to 12.
    pub month: i32,
    /// 1 to 31.
    pub day: i32,
    /// 0 to 23.
    pub hour: i32,
    /// 0 to 59.
    pub minute: i32,
    /// 0 to 60.
    pub second: i32,
}

/// `seconds` after the epoch in the time zone that `TZ` or the system names; in UTC where the system cannot say.
pub fn local_time(seconds: u32) -> LocalTime {
    ZONE.call_once(|| {
        // SAFETY: takes no arguments and keeps nothing of ours; the program never changes its environment.
        unsafe { tzset() };
    });
    let time = seconds.into();
    // SAFETY: every field of `tm` is an integer or a pointer, for which all zeros is a valid value.
    let mut broken: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call; the function keeps neither of them.
    if unsafe { libc::localtime_r(&time, &mut broken) }.is_null() {
        // SAFETY: as above.
        unsafe { libc::gmtime_r(&time, &mut broken) };
    }
    LocalTime {
        year: i64::from(broken.tm_year) + 1900,
        month: broken.tm_mon + 1,
        day: broken.tm_mday,
        hour: broken.tm_hour,
        minute: broken.tm_min,
        second: broken.tm_sec,
    }
}

/// Reads the time zone once; `localtime_r` alone need not look at `TZ`.
static ZONE: std::sync::Once = std::sync::Once::new();

unsafe extern "C" {
    /// Reads `TZ` (POSIX); the libc crate does not declare it for every target.
    fn tzset();
}

impl std::fmt::Display for LocalTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LocalTime { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}
