//! The project itself: imports between modules, the manual, the examples, licences.

pub(crate) mod dependencies;
pub(crate) mod examples;
pub(crate) mod image;
pub(crate) mod imports;
pub(crate) mod manual;
pub(crate) mod names;
pub(crate) mod paths;
pub(crate) mod processes;
pub(crate) mod tutorial;
pub(crate) mod version;
