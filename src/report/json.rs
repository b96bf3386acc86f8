//! `--progress json`: one JSON object a line, on standard output, for machines.

use super::record::{EventRecord, log};
use super::{Event, Report};

pub(super) struct Json;

impl Report for Json {
    fn event(&self, event: &Event) {
        // The log copies its records to standard output, so a logged event is not printed a second time.
        if event.is_logged() { log(event) } else { EventRecord::new(event).print() }
    }
}
