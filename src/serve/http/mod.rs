//! HTTP: listeners, connections, paths, content negotiation and answers.
//!
//! | file | what |
//! |---|---|
//! | `accept` | the accept loop: which connections are served, and whose connections end for others when all are taken |
//! | `address` | where a listener waits for connections: a TCP address, a Unix socket, or a socket that systemd has opened |
//! | `answer` | answers: tiles, documents and errors, with their headers |
//! | `connection` | one connection, of HTTP/1.1 or HTTP/2, from its first byte until its client is done, is too slow, or the server ends |
//! | `origin` | which sites' pages may read answers, where the settings list them |
//! | `route` | finds out which resource a path names |
//! | `stall` | how slowly a client may take an answer |
//! | `unread` | the memory of answers that clients are slow to read: how much all clients, and each of them, may make the server hold |

pub(crate) mod accept;
pub(crate) mod address;
pub(crate) mod answer;
pub(crate) mod connection;
pub(crate) mod origin;
pub(crate) mod route;
mod stall;
pub(crate) mod unread;
