//! The setting `max_shrink`: how many of a target's tiles, and of a layer's rows, a run may take away.

use std::str::FromStr;

/// The share of the tiles in its scope that a run may delete from a target, in percent: at 50 %, half of them or less.
/// A run that would leave no tile is refused at any share but 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxShrink(u32);

/// The error for a text that is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no share of tiles: write \"0%\" to \"100%\"")]
pub struct MaxShrinkError(String);

impl MaxShrink {
    /// A run may delete everything.
    pub const ALL: MaxShrink = MaxShrink(100);

    /// True if a run may leave `left` of the `held` tiles in its scope.
    pub fn allows(self, held: u64, left: u64) -> bool {
        let kept = u128::from(100 - self.0.min(100));
        self == MaxShrink::ALL || held == 0 || left > 0 && u128::from(left) * 100 >= u128::from(held) * kept
    }
}

/// A layer may lose this many rows whatever its size.
const ALWAYS_ALLOWED_ROWS: u64 = 100;

impl MaxShrink {
    /// True if a run may leave `left` of the `held` rows of a layer.
    pub fn allows_rows(self, held: u64, left: u64) -> bool {
        held.saturating_sub(left) <= ALWAYS_ALLOWED_ROWS || self.allows(held, left)
    }
}

impl std::fmt::Display for MaxShrink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for MaxShrink {
    type Err = MaxShrinkError;
    fn from_str(text: &str) -> Result<MaxShrink, MaxShrinkError> {
        let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse().ok());
        number.filter(|number| *number <= 100).map(MaxShrink).ok_or_else(|| MaxShrinkError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_may_leave_no_less_than_the_share_says_and_never_nothing() {
        for (share, held, left, allowed) in [
            ("50%", 0, 0, true),
            ("50%", 1, 0, false),
            ("50%", 1, 1, true),
            ("50%", 2, 1, true),
            ("50%", 3, 1, false),
            ("50%", 1_000, 500, true),
            ("50%", 1_000, 499, false),
            ("50%", 10, 1_000, true),
            ("0%", 10, 10, true),
            ("0%", 10, 9, false),
            ("99%", 1_000, 10, true),
            ("99%", 1_000, 9, false),
            ("99%", 10, 0, false),
            ("100%", 10, 0, true),
            ("50%", u64::MAX, u64::MAX / 2, false),
            ("50%", u64::MAX, u64::MAX / 2 + 1, true),
        ] {
            let share: MaxShrink = share.parse().unwrap();
            assert_eq!(share.allows(held, left), allowed, "{share} of {held}: {left}");
        }
        for (share, held, left, allowed) in [
            ("50%", 100, 0, true),
            ("50%", 101, 0, false),
            ("0%", 1_000, 900, true),
            ("0%", 1_000, 899, false),
            ("50%", 1_000, 499, false),
            ("50%", 10, 1_000, true),
            ("100%", 1_000, 0, true),
        ] {
            let share: MaxShrink = share.parse().unwrap();
            assert_eq!(share.allows_rows(held, left), allowed, "{share} of {held} rows: {left}");
        }
        for text in ["", "50", "101%", "-1%", "half", "%"] {
            let message = format!("\"{text}\" is no share of tiles: write \"0%\" to \"100%\"");
            assert_eq!(text.parse::<MaxShrink>().unwrap_err().to_string(), message);
        }
    }
}
