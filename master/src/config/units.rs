//! Sizes (`"64 MiB"`) and durations (`"10s"`) as people write them.

/// Bytes.
pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Milliseconds.
pub const SECOND: u64 = 1_000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// Bytes: `"64 KiB"`, `"1 MiB"`, `"2 GiB"`, `"100 B"`, `"100"`. Units count in 1024, so that
/// `KB` and `MB`, which mean two things, are not taken.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Milliseconds: `"500ms"`, `"10s"`, `"5m"`, `"1h"`. A unit is needed.
pub fn duration_ms(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A number and what comes behind it, with or without a space between them.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// `bytes` as [`size`] reads it, in the largest unit that leaves no rest.
pub fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

/// `ms` as [`duration_ms`] reads it, in the largest unit that leaves no rest.
pub fn show_duration(ms: u64) -> String {
    for (factor, unit) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if ms != 0 && ms.is_multiple_of(factor) {
            return format!("{}{unit}", ms / factor);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("100 B", 100),
            ("64KiB", 64 << 10),
            (" 1 MiB ", 1 << 20),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "1 MB", "1k", "-1", "1.5 MiB", "99999999999 GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn reads_durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("10 s", 10_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1.5s", "1d"] {
            assert_eq!(duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn shows_what_it_reads() {
        for text in ["0 B", "100 B", "64 KiB", "1 MiB", "1025 KiB", "2 GiB"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
        for text in ["0ms", "500ms", "10s", "90s", "5m", "1h"] {
            assert_eq!(show_duration(duration_ms(text).unwrap()), text);
        }
    }
}
