//! Renders tiles outside of the target's scope when they are requested.
//!
//! ```text
//! request ─► memory ─► a flight for the tile: joined, or begun ─► queue ─► worker ─► memory ─► every request that waits
//! ```
//!
//! | file | what |
//! |---|---|
//! | `source` | the trait of what renders, because the server knows nothing of databases |
//! | `flights` | one flight per tile for all requests; from the queue to its result |
//! | `table` | the flights in progress, the requests that wait for them, failures |
//!
//! A flight is a separate task. A client that disconnects ends it only if no other request waits for it: then the flight leaves the queue, or its
//! statement is cancelled.

mod flights;
mod source;
mod table;

pub(crate) use flights::{FlightCounts, FlightNotes, FlightParts, LiveFlights};
pub(crate) use source::draws;
pub use source::{LiveError, LiveLayer, LiveRequest, LiveSource, LiveTile, StateNow};
pub(crate) use table::FlightKey;
