//! `--progress json`: one JSON object a line, on standard output, for machines.

use super::record::{EventRecord, log};
use super::{Event, Report};

pub(super) struct Json;

impl Report for Json {
    fn event(&self, event: &Event) {
        // The log takes the same record to standard output.
        if event.is_logged() { log(event) } else { EventRecord::new(event).print() }
    }
}
