//! The project itself: imports between modules, the manual, licences.

pub mod dependencies;
pub mod imports;
pub mod manual;
pub mod names;
