//! Zoom levels, lists of them, and limits that differ by zoom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::has_schema_of;

/// A zoom level, 0..=22. At zoom z the world is 2^z by 2^z tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct Zoom(u8);

impl Zoom {
    /// The deepest zoom that tiles are rendered for.
    pub const MAX: Zoom = Zoom(22);

    /// The shallowest.
    pub const MIN: Zoom = Zoom(0);

    /// A zoom level, if it is in range.
    pub const fn new(level: u8) -> Option<Zoom> {
        if level <= Zoom::MAX.0 { Some(Zoom(level)) } else { None }
    }

    /// The level as a number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The last column (and row) of the zoom: 2^z - 1.
    #[must_use]
    pub const fn last(self) -> u32 {
        (1 << self.0) - 1
    }
}

impl fmt::Display for Zoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of zoom levels, written `0-14`, `7` or `0-4,8,10-12`. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ZoomText")]
pub struct ZoomList(BTreeSet<Zoom>);

/// A configuration file may say `zoom = 7` as well as `zoom = "0-7"`.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum ZoomText {
    Number(u64),
    Text(String),
}

has_schema_of!(ZoomList, ZoomText, inline = true);

impl TryFrom<ZoomText> for ZoomList {
    type Error = ZoomError;
    fn try_from(text: ZoomText) -> Result<Self, ZoomError> {
        match text {
            ZoomText::Number(level) => level.to_string().parse(),
            ZoomText::Text(text) => text.parse(),
        }
    }
}

/// Why a zoom list could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoomError {
    /// Not a number or a range.
    #[error("\"{0}\" is no zoom list: write 0-14, 7 or 0-4,8,10-12")]
    NotAList(String),
    /// Beyond the deepest zoom.
    #[error("zoom {0} is too deep: the deepest zoom is {max}", max = Zoom::MAX)]
    TooDeep(u64),
    /// The range runs backwards.
    #[error("the zoom range {0}-{1} is reversed: write {1}-{0}")]
    Reversed(u64, u64),
}

impl ZoomList {
    /// A list of levels; `None` if there is no level.
    pub fn of(zooms: impl IntoIterator<Item = Zoom>) -> Option<ZoomList> {
        let zooms: BTreeSet<Zoom> = zooms.into_iter().collect();
        (!zooms.is_empty()).then_some(ZoomList(zooms))
    }

    /// Every level.
    pub fn all() -> ZoomList {
        ZoomList::range(Zoom(0), Zoom::MAX)
    }

    /// The levels between two, both included, in whichever order they are given.
    pub fn range(one: Zoom, other: Zoom) -> ZoomList {
        ZoomList((one.min(other).0..=one.max(other).0).map(Zoom).collect())
    }

    /// The levels of either list.
    #[must_use]
    pub fn union(&self, other: &ZoomList) -> ZoomList {
        ZoomList(self.0.union(&other.0).copied().collect())
    }

    /// The levels in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Zoom> + '_ {
        self.0.iter().copied()
    }

    /// Whether the level is in the list.
    pub fn contains(&self, zoom: Zoom) -> bool {
        self.0.contains(&zoom)
    }

    /// The shallowest level.
    pub fn min(&self) -> Zoom {
        self.0.first().copied().unwrap_or(Zoom(0))
    }

    /// The deepest level.
    pub fn max(&self) -> Zoom {
        self.0.last().copied().unwrap_or(Zoom(0))
    }
}

impl FromStr for ZoomList {
    type Err = ZoomError;
    fn from_str(text: &str) -> Result<Self, ZoomError> {
        let not_a_list = || ZoomError::NotAList(text.to_owned());
        let level = |part: &str| part.trim().parse::<u64>().map_err(|_not_a_number| not_a_list());
        let zoom = |level: u64| u8::try_from(level).ok().and_then(Zoom::new).ok_or(ZoomError::TooDeep(level));
        let mut levels = BTreeSet::new();
        for part in text.split(',') {
            let (from, to) = match part.split_once('-') {
                Some((from, to)) => (level(from)?, level(to)?),
                None => (level(part)?, level(part)?),
            };
            if from > to {
                return Err(ZoomError::Reversed(from, to));
            }
            let (from, to) = (zoom(from)?, zoom(to)?);
            levels.extend((from.0..=to.0).map(Zoom));
        }
        Ok(ZoomList(levels))
    }
}

impl fmt::Display for ZoomList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut levels = self.0.iter().map(|zoom| zoom.0).peekable();
        let mut first = true;
        while let Some(from) = levels.next() {
            let mut to = from;
            while let Some(next) = levels.next_if(|next| *next == to + 1) {
                to = next;
            }
            if !first {
                f.write_str(",")?;
            }
            first = false;
            if from == to { write!(f, "{from}")? } else { write!(f, "{from}-{to}")? }
        }
        Ok(())
    }
}

/// A limit for each zoom, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoomLimits(BTreeMap<Zoom, NonZeroU64>);

impl ZoomLimits {
    /// The same limit at every zoom; `None` for no limit at all.
    pub fn everywhere(limit: Option<NonZeroU64>) -> ZoomLimits {
        let zooms = (0..=Zoom::MAX.get()).filter_map(Zoom::new);
        ZoomLimits(limit.map(|limit| zooms.map(|zoom| (zoom, limit)).collect()).unwrap_or_default())
    }

    /// Sets the limit of some zooms; `None` for no limit.
    pub fn set(&mut self, zooms: &ZoomList, limit: Option<NonZeroU64>) {
        for zoom in zooms.iter() {
            match limit {
                Some(limit) => self.0.insert(zoom, limit),
                None => self.0.remove(&zoom),
            };
        }
    }

    /// The limit at a zoom.
    pub fn at(&self, zoom: Zoom) -> Option<NonZeroU64> {
        self.0.get(&zoom).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zoom_lists_are_read_and_written() {
        for (text, shown) in
            [("0-14", "0-14"), ("7", "7"), ("0-4,8,10-12", "0-4,8,10-12"), (" 3 , 1-2", "1-3"), ("22", "22")]
        {
            assert_eq!(text.parse::<ZoomList>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn zoom_lists_are_made_of_two_ends_and_joined() {
        let zoom = |level| Zoom::new(level).unwrap();
        assert_eq!(ZoomList::range(zoom(3), zoom(5)).to_string(), "3-5");
        assert_eq!(ZoomList::range(zoom(5), zoom(3)).to_string(), "3-5");
        assert_eq!(ZoomList::range(zoom(5), zoom(7)).union(&"0-5,9".parse().unwrap()).to_string(), "0-7,9");
    }

    #[test]
    fn a_bad_zoom_list_says_what_to_write_instead() {
        for (text, message) in [
            ("", "\"\" is no zoom list: write 0-14, 7 or 0-4,8,10-12"),
            ("a-b", "\"a-b\" is no zoom list: write 0-14, 7 or 0-4,8,10-12"),
            ("-1", "\"-1\" is no zoom list: write 0-14, 7 or 0-4,8,10-12"),
            ("23", "zoom 23 is too deep: the deepest zoom is 22"),
            ("0-99", "zoom 99 is too deep: the deepest zoom is 22"),
            ("14-0", "the zoom range 14-0 is reversed: write 0-14"),
        ] {
            assert_eq!(text.parse::<ZoomList>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn zooms_that_are_not_named_have_no_limit() {
        let mut limits = ZoomLimits::default();
        limits.set(&"2-4".parse().unwrap(), NonZeroU64::new(7));
        limits.set(&"3".parse().unwrap(), None);
        let at = |zoom| limits.at(Zoom::new(zoom).unwrap()).map(NonZeroU64::get);
        assert_eq!([1, 2, 3, 4, 5].map(at), [None, Some(7), None, Some(7), None]);
        let limits = ZoomLimits::everywhere(NonZeroU64::new(9));
        assert_eq!(limits.at(Zoom::MAX), NonZeroU64::new(9));
        assert_eq!(ZoomLimits::everywhere(None), ZoomLimits::default());
    }
}
