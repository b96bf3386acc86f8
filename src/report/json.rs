//! One JSON object a line, on standard output, for machines.

use super::{Event, Report, print_json, say};

pub(super) struct Json;

impl Report for Json {
    fn event(&self, event: &Event) {
        let shown = serde_json::to_string(event).map_err(|error| error.to_string());
        let shown = shown.and_then(|line| print_json(&(line + "\n")).map_err(|error| error.to_string()));
        if let Err(error) = shown {
            say(&format!("warning: an event could not be written to standard output ({error})"));
        }
    }
}
