//! How much of a run is kept.

use clap::Args;
use std::str::FromStr;

/// Options of `run` that keep a recording small.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Recording less")]
pub struct VolumeArgs {
    /// Take no more than this on disk, such as 2GB or 500MiB: rows are kept whole where they matter most, and as samples,
    /// statistics and hashes elsewhere. With --shard, all shards together take no more. Traces all layers, unless --layers
    /// names some. Not with --two-pass
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["no_payloads", "two_pass", "sweep"])]
    pub budget: Option<Size>,
    /// Fingerprint every layer first, then record whole what lies around the first place at which the phases part by more
    /// than rounding. Traces all layers, unless --layers names some. Not with --budget: the first pass is the least plan that
    /// there is; nor with --shard: each would find a divergence of its own
    #[arg(long, conflicts_with_all = ["no_payloads", "record_only", "sweep", "remote"])]
    pub two_pass: bool,
    /// Compress whole rows (zstd), file by file where it saves a tenth or more
    #[arg(long, conflicts_with = "no_payloads")]
    pub compress: bool,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Units by how they end; the longest first.
const UNITS: [(&str, f64); 10] = [
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("b", 1.0),
    ("", 1.0),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let wrong = || "expected a size such as 500MB, 2GB (1000³ bytes) or 2GiB (1024³ bytes)".to_owned();
        let lower = text.trim().to_ascii_lowercase();
        let (number, unit) =
            UNITS.iter().find_map(|(unit, size)| Some((lower.strip_suffix(unit)?, *size))).ok_or_else(wrong)?;
        let number = number.trim();
        // What else f64 reads, such as `inf` or `1e9`, nobody means here.
        let plain = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.');
        let bytes = number.parse::<f64>().ok().filter(|_| plain).ok_or_else(wrong)? * unit;
        // Beyond 2⁵³ bytes not every count is a number of its own; no disk has so many.
        if (1.0..=9.0e15).contains(&bytes) { Ok(Size(bytes as u64)) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Size>().map(|size| size.0);
        for (text, bytes) in [
            ("2GB", 2_000_000_000),
            ("500MB", 500_000_000),
            ("2GiB", 2 << 30),
            ("1.5 kb", 1500),
            ("64k", 0),
            ("4096", 4096),
            ("7B", 7),
            ("3tib", 3 << 40),
        ] {
            assert_eq!(read(text).unwrap_or(0), bytes, "{text}");
        }
        for wrong in ["", "GB", "-1GB", "inf", "1e9", "0", "2XB", "1.2.3MB", "99999999TB", "NaN"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
