//! HTTP: listeners, connections, paths, content negotiation and answers.

pub(crate) mod accept;
pub(crate) mod address;
pub(crate) mod answer;
pub(crate) mod connection;
pub(crate) mod route;
mod stall;
pub(crate) mod unread;
