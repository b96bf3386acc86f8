//! The access log: one line on standard output for each request of the public listener, as text or as JSON.
//!
//! A separate thread writes the lines. If standard output is read too slowly, lines are dropped and counted; requests
//! never wait for it.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Serialize;

use crate::json::JSON_VERSION;
use crate::serve::options::AccessLogStyle;

/// The most lines that may wait to be written; further ones are dropped.
const MAX_WAITING_LINES: usize = 16_384;

/// The most lines that one write contains.
const MAX_LINES_PER_WRITE: usize = 256;

/// How long the server waits at its end until the last lines are written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// An answered request.
#[derive(Debug)]
pub(crate) struct AccessLine<'a> {
    /// The address of the client, as far as trusted proxies tell; `None` over a Unix socket.
    pub(crate) client: Option<IpAddr>,
    pub(crate) method: &'a str,
    /// Path and query, percent-encoded as the client sent them.
    pub(crate) path: &'a str,
    /// The HTTP version, such as `HTTP/1.1`.
    pub(crate) protocol: &'a str,
    pub(crate) status: u16,
    /// The length of the answer's body, in bytes.
    pub(crate) bytes: u64,
    /// How long the answer took.
    pub(crate) took: Duration,
    /// Where the answer came from.
    pub(crate) source: &'static str,
}

/// A line of the access log as JSON.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AccessRecord<'a> {
    /// The version of this form: 1.
    schema_version: u32,
    /// When the answer was complete (RFC 3339, UTC).
    time: String,
    /// The address of the client, as far as trusted proxies tell; `-` over a Unix socket.
    client: String,
    /// The method.
    method: &'a str,
    /// Path and query, percent-encoded as the client sent them.
    path: &'a str,
    /// The HTTP version, such as `HTTP/1.1`.
    protocol: &'a str,
    /// The status of the answer.
    status: u16,
    /// The length of the answer's body, in bytes.
    bytes: u64,
    /// How long the answer took, in seconds.
    seconds: f64,
    /// Where the answer came from.
    source: &'a str,
}

impl AccessLine<'_> {
    fn text(&self, style: AccessLogStyle, at: SystemTime) -> String {
        let time = humantime::format_rfc3339_millis(at);
        let client = self.client.map_or_else(|| "-".to_owned(), |client| client.to_string());
        let AccessLine { method, protocol, status, bytes, took, source, .. } = self;
        let path = printable(self.path);
        let path = &*path;
        let seconds = took.as_secs_f64();
        match style {
            AccessLogStyle::Json => {
                let (status, bytes) = (*status, *bytes);
                let record = AccessRecord {
                    schema_version: JSON_VERSION,
                    time: time.to_string(),
                    client,
                    method,
                    path,
                    protocol,
                    status,
                    bytes,
                    seconds,
                    source,
                };
                // This does not fail: all keys are texts.
                serde_json::to_string(&record).unwrap_or_default() + "\n"
            }
            AccessLogStyle::Text => {
                // Escaped, because a quote in the path would end the quoted request in the line.
                let path = path.replace('\\', "\\\\").replace('"', "\\\"");
                format!("{time} {client} \"{method} {path} {protocol}\" {status} {bytes} {seconds:.6} {source}\n")
            }
        }
    }
}

/// A path with every byte that is not printable ASCII as `%XX`, which means the same (RFC 3986, section 2.1). Some
/// clients send others as they are, and terminals obey some of these: controls, characters that turn the direction of
/// text, line separators.
fn printable(path: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~');
    if path.bytes().all(is_plain) {
        return Cow::Borrowed(path);
    }
    let written = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    Cow::Owned(path.bytes().map(written).collect())
}

enum LogMessage {
    Line(String),
    /// Asks the thread to write everything before this message, and to answer when that is done.
    End(SyncSender<()>),
}

#[derive(Debug)]
pub(crate) struct AccessLog {
    lines: SyncSender<LogMessage>,
    lost: AtomicU64,
}

impl AccessLog {
    /// Starts the thread that writes.
    pub(crate) fn start() -> std::io::Result<AccessLog> {
        let (lines, waiting) = sync_channel(MAX_WAITING_LINES);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&waiting))?;
        Ok(AccessLog { lines, lost: AtomicU64::new(0) })
    }

    /// Queues a line, or drops it if too many wait.
    pub(crate) fn write(&self, line: &AccessLine<'_>, style: AccessLogStyle) {
        let text = line.text(style, SystemTime::now());
        if self.lines.try_send(LogMessage::Line(text)).is_err() && self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("standard output is not read fast enough: lines of the access log are lost");
        }
    }

    /// Waits until all lines are written, at most [`LAST_LINES`].
    pub(crate) fn end(&self) {
        let (tell, done) = sync_channel(1);
        if self.lines.try_send(LogMessage::End(tell)).is_ok() {
            // Without a reader the lines cannot be written, so the wait has a limit.
            done.recv_timeout(LAST_LINES).unwrap_or_default();
        }
    }
}

fn write(waiting: &Receiver<LogMessage>) {
    while let Ok(first) = waiting.recv() {
        let (mut text, mut end) = (String::new(), None);
        for message in std::iter::once(first).chain(waiting.try_iter().take(MAX_LINES_PER_WRITE)) {
            match message {
                LogMessage::Line(line) => text.push_str(&line),
                LogMessage::End(tell) => end = Some(tell),
            }
        }
        let mut output = std::io::stdout().lock();
        if let Err(error) = output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            return tracing::warn!("the access log cannot be written ({error})");
        }
        if let Some(tell) = end {
            tell.try_send(()).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_in_either_style() {
        let line = AccessLine {
            client: Some("203.0.113.7".parse().unwrap()),
            method: "GET",
            path: "/0/0/0.pbf?\"a\\b",
            protocol: "HTTP/1.1",
            status: 200,
            bytes: 3_412,
            took: Duration::from_micros(412),
            source: "memory",
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_390_629_123);
        assert_eq!(
            line.text(AccessLogStyle::Text, at),
            "2026-11-22T23:37:09.123Z 203.0.113.7 \"GET /0/0/0.pbf?\\\"a\\\\b HTTP/1.1\" 200 3412 0.000412 memory\n"
        );
        let text = line.text(AccessLogStyle::Json, at);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&read["path"], &read["seconds"]), (&"/0/0/0.pbf?\"a\\b".into(), &0.000_412.into()));
        assert_eq!(text.matches('\n').count(), 1);
        let steering = AccessLine { path: "/é\u{1b}\u{85}\u{9b}\u{202e}\u{2028}\u{7f}%0a", ..line };
        for style in [AccessLogStyle::Text, AccessLogStyle::Json] {
            let text = steering.text(style, at);
            assert!(text.contains("/%C3%A9%1B%C2%85%C2%9B%E2%80%AE%E2%80%A8%7F%0a"), "{text}");
            assert!(text.trim_end().bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text:?}");
        }
    }
}
