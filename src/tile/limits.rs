//! Limits that differ by zoom.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::{Zoom, ZoomList};

/// A limit for each zoom, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoomLimits(BTreeMap<Zoom, NonZeroU64>);

impl ZoomLimits {
    /// The same limit at every zoom; `None` for no limit at all.
    #[must_use]
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
    #[must_use]
    pub fn at(&self, zoom: Zoom) -> Option<NonZeroU64> {
        self.0.get(&zoom).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
