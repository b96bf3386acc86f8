//! HTTP: listeners, connections, paths, content negotiation and answers.

pub(crate) mod accept;
pub(crate) mod address;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod negotiate;
pub(crate) mod peers;
pub(crate) mod route;
mod stall;
pub(crate) mod unread;
