//! Which device runs what: architectures as `sm_90a` spells them, against a device's compute capability.

/// What code is compiled for.
///
/// In order of what suits a device that runs both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arch {
    major: u32,
    minor: u32,
    /// What the number's suffix allows.
    reach: Reach,
}

/// How far code reaches beyond the capability that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// No suffix.
    Plain,
    /// `f`: devices of the same major capability, PTX too.
    Family,
    /// `a`: that capability and no other, PTX too.
    Exact,
}

impl Arch {
    /// `sm_80`, `sm_90a`, `sm_100f`; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Arch> {
        let number = text.strip_prefix("sm_")?;
        let (number, reach) = match number.as_bytes().last()? {
            b'a' => (&number[..number.len() - 1], Reach::Exact),
            b'f' => (&number[..number.len() - 1], Reach::Family),
            _ => (number, Reach::Plain),
        };
        let digits = (2..=4).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        let number: u32 = number.parse().ok().filter(|_| digits)?;
        Some(Arch { major: number / 10, minor: number % 10, reach })
    }

    /// Whether a device of this capability runs a binary.
    pub(crate) fn binary_runs(self, (major, minor): (u32, u32)) -> bool {
        match self.reach {
            Reach::Exact => (major, minor) == (self.major, self.minor),
            Reach::Plain | Reach::Family => major == self.major && minor >= self.minor,
        }
    }

    /// Whether the driver can compile PTX for a device of this capability.
    pub(crate) fn ptx_runs(self, capability: (u32, u32)) -> bool {
        match self.reach {
            Reach::Plain => capability >= (self.major, self.minor),
            Reach::Family | Reach::Exact => self.binary_runs(capability),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling() {
        let arch = |major, minor, reach| Some(Arch { major, minor, reach });
        assert_eq!(Arch::parse("sm_80"), arch(8, 0, Reach::Plain));
        assert_eq!(Arch::parse("sm_90a"), arch(9, 0, Reach::Exact));
        assert_eq!(Arch::parse("sm_103f"), arch(10, 3, Reach::Family));
        for text in
            ["", "sm_", "sm_a", "sm_8", "sm_+80", "sm_80b", "sm_12345", "gfx942", "compute_80", "sm_8é"]
        {
            assert_eq!(Arch::parse(text), None, "{text}");
        }
    }

    #[test]
    fn binaries_stay_in_their_generation() {
        let runs = |arch, capability| Arch::parse(arch).unwrap().binary_runs(capability);
        assert!(runs("sm_80", (8, 0)) && runs("sm_80", (8, 9)));
        assert!(!runs("sm_86", (8, 0)) && !runs("sm_80", (9, 0)));
        assert!(runs("sm_90a", (9, 0)) && !runs("sm_90a", (9, 1)) && !runs("sm_90a", (8, 0)));
        assert!(runs("sm_100f", (10, 3)) && !runs("sm_100f", (12, 0)));
    }

    #[test]
    fn ptx_goes_on() {
        let runs = |arch, capability| Arch::parse(arch).unwrap().ptx_runs(capability);
        assert!(runs("sm_80", (8, 0)) && runs("sm_80", (12, 0)) && !runs("sm_80", (7, 5)));
        assert!(runs("sm_90a", (9, 0)) && !runs("sm_90a", (10, 0)));
        assert!(!runs("sm_100f", (12, 0)));
    }
}
