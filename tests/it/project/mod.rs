//! The project itself: imports between modules, the manual, licences.

pub(crate) mod dependencies;
pub(crate) mod imports;
pub(crate) mod manual;
pub(crate) mod names;
