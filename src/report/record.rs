//! The log on standard error: each event becomes a record with a time, a level and a message.
//!
//! | form | where | a warning |
//! |---|---|---|
//! | plain | on a terminal | `warning: text` |
//! | timed | in a pipe or file | `2026-11-23T15:04:05.678Z WARN text` |
//! | JSON | where asked for | `{"schema_version":1,"time":"…","level":"warn","message":"text","event":"warning"}` |
//!
//! With `--progress json` the records go to standard output, too, between those of the run's progress.

use std::io;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

use super::event::{Event, LogLevel};
use super::terminal::{print_json, visible, visible_json, write_err};
use crate::error::ErrorKind;
use crate::json::JSON_VERSION;

/// The form of the log. The texts are the help of `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// Plain on a terminal, timed elsewhere
    Auto,
    /// The text alone
    Plain,
    /// Time and level before each line
    Timed,
    /// A JSON object a line
    Json,
}

/// An event with what every line of a log has.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EventRecord<'a> {
    /// The version of this form: 1.
    schema_version: u32,
    /// When it happened (RFC 3339, UTC).
    time: String,
    /// The severity.
    level: LogLevel,
    /// The event in words.
    message: String,
    #[serde(flatten)]
    event: &'a Event,
}

static FORM: OnceLock<LogForm> = OnceLock::new();
static COPIES_TO_STDOUT: AtomicBool = AtomicBool::new(false);

/// Sets the form of the log, before anything is logged. Later calls have no effect.
pub fn set_log_form(form: LogForm) {
    FORM.get_or_init(|| form);
}

fn form() -> LogForm {
    match FORM.get().copied().unwrap_or(LogForm::Auto) {
        LogForm::Auto if io::stderr().is_terminal() => LogForm::Plain,
        LogForm::Auto => LogForm::Timed,
        form => form,
    }
}

/// True if the log is JSON.
pub(crate) fn is_json() -> bool {
    form() == LogForm::Json
}

/// From now on, records of the log also go to standard output, as JSON.
pub(crate) fn copy_to_stdout() {
    COPIES_TO_STDOUT.store(true, Ordering::Relaxed);
}

impl EventRecord<'_> {
    /// The record of an event that happens now.
    pub(crate) fn new(event: &Event) -> EventRecord<'_> {
        EventRecord::at(SystemTime::now(), event)
    }

    pub fn at(time: SystemTime, event: &Event) -> EventRecord<'_> {
        let time = humantime::format_rfc3339_millis(time).to_string();
        EventRecord { schema_version: JSON_VERSION, time, level: event.level(), message: event.message(), event }
    }

    fn json(&self) -> String {
        // This does not fail: all keys are strings, and every value can be serialized.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// Writes the record to standard output.
    pub(crate) fn print(&self) {
        if let Err(error) = print_json(&self.json()) {
            // This bypasses `log`, which would try to print again.
            let message = format!("an event could not be written to standard output ({error})");
            write_err(&EventRecord::new(&Event::Warning { message }).text(form()));
        }
    }

    fn text(&self, form: LogForm) -> String {
        let plain = match self.level {
            LogLevel::Error => "error: ",
            LogLevel::Warn => "warning: ",
            LogLevel::Info | LogLevel::Debug => "",
        };
        let causes: String = self.event.causes().iter().map(|cause| format!("\n  cause: {cause}")).collect();
        let text = format!("{}{causes}", self.message);
        match form {
            LogForm::Json => visible_json(&self.json()),
            LogForm::Auto | LogForm::Plain if matches!(self.event, Event::Restarting { .. }) => {
                visible(&text).into_owned() + "\n"
            }
            LogForm::Auto | LogForm::Plain => format!("{plain}{}\n", visible(&text)),
            LogForm::Timed => {
                let level = format!("{:?}", self.level).to_uppercase();
                visible(&text).lines().map(|line| format!("{} {level} {line}\n", self.time)).collect()
            }
        }
    }
}

pub(crate) fn log(event: &Event) {
    let record = EventRecord::new(event);
    write_err(&record.text(form()));
    if COPIES_TO_STDOUT.load(Ordering::Relaxed) {
        record.print();
    }
}

/// Writes a message for the user to the log.
pub fn say(message: &str) {
    note(LogLevel::Info, message.to_owned());
}

/// Writes a message of the program itself to the log.
pub(crate) fn note(level: LogLevel, message: String) {
    log(&Event::Note { library: None, fields: std::collections::BTreeMap::new(), message, level });
}

pub fn say_warning(message: &str) {
    log(&Event::Warning { message: message.to_owned() });
}

fn causes(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string).collect()
}

/// Writes an error that is one of several to the log: its text, and each of its causes once.
pub fn say_problem(error: &dyn std::error::Error) {
    log(&Event::Problem { causes: causes(error), message: error.to_string() });
}

/// Writes an error without a cause to the log.
pub fn say_problem_text(message: &str) {
    log(&Event::Problem { causes: Vec::new(), message: message.to_owned() });
}

/// Writes to the log why the command fails: the error's text, and each of its causes once.
pub fn say_failure(error: &dyn std::error::Error, kind: ErrorKind, exit_code: u8) {
    log(&Event::Failed { kind, exit_code, causes: causes(error), message: error.to_string() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_time_and_level() {
        let event = Event::Failed {
            kind: ErrorKind::Usage,
            exit_code: 2,
            causes: vec!["why".to_owned()],
            message: "what\nwhere\u{1b}".to_owned(),
        };
        let record = EventRecord { time: "T".to_owned(), ..EventRecord::new(&event) };
        assert_eq!(record.text(LogForm::Timed), "T ERROR what\nT ERROR where\\u{1b}\nT ERROR   cause: why\n");
        assert_eq!(record.text(LogForm::Plain), "error: what\nwhere\\u{1b}\n  cause: why\n");
        assert_eq!(
            record.text(LogForm::Json),
            "{\"schema_version\":1,\"time\":\"T\",\"level\":\"error\",\"message\":\"what\\nwhere\\u001b\",\
             \"event\":\"failed\",\"kind\":\"usage\",\"exit_code\":2,\"causes\":[\"why\"]}\n"
        );
    }
}
