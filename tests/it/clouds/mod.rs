//! Azure Blob Storage: what every target promises, archives in parts, whole runs, messages.

mod archives;
mod contract;
mod daemon;
mod messages;
mod runs;
