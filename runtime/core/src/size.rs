//! Bytes, as errors say them.

use core::fmt;

/// A number of bytes: `15.23 GB`, `76.5 MB`, `512 bytes`. Units are powers of ten, as on devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_units = |unit: f64| self.0 as f64 / unit;
        match self.0 {
            ..1_000_000 => write!(f, "{} bytes", self.0),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", in_units(1e6)),
            1_000_000_000.. => write!(f, "{:.2} GB", in_units(1e9)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn units() {
        let said = |bytes| Size(bytes).to_string();
        assert_eq!(said(0), "0 bytes");
        assert_eq!(said(999_999), "999999 bytes");
        assert_eq!(said(76_543_210), "76.5 MB");
        assert_eq!(said(15_231_233_024), "15.23 GB");
    }
}
