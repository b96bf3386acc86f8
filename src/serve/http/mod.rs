//! HTTP: listeners and connections, what a path asks for, what a client takes.

pub(crate) mod accept;
pub(crate) mod address;
pub(crate) mod answer;
pub(crate) mod negotiate;
pub(crate) mod peers;
pub(crate) mod route;
pub(crate) mod stall;
