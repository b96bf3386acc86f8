//! The file beside a target that holds the live rows of a server, and when it was written.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cursor::StateInHistory;
use crate::draw::{SavedRows, read_saved_rows, write_saved_rows};
use crate::error::with_causes;
use crate::manifest::{DatabaseMark, Witness};
use crate::postgis::Layer;
use crate::run::CommandError;
use crate::target::FolderNotes;

/// The name of the file among the notes of the target.
const NAME: &str = "live-rows";

/// The pause between two writes of rows that have changed.
const PAUSE: Duration = Duration::from_secs(300);

/// Where the rows of a tileset are kept between starts.
pub(crate) struct SavedRowsFile {
    notes: FolderNotes,
    /// The fingerprint of the configuration, with the versions of the program's drawing.
    pub(crate) fingerprint: String,
    pub(crate) last: Mutex<LastWrite>,
    /// Held while the file is written.
    pub(crate) writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(crate) struct LastWrite {
    /// When it was tried.
    pub(crate) tried: Option<Instant>,
    /// When it was written by this server.
    pub(crate) written: Option<Instant>,
    pub(crate) shown: Option<StateInHistory>,
    /// True if its failure was logged.
    pub(crate) is_failure_logged: bool,
}

/// What the rows of a file depend on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) fingerprint: String,
    /// What the layers read ([`Reads::digest`](crate::postgis::Reads::digest)).
    pub(crate) reads: String,
    pub(crate) database: DatabaseMark,
    /// The state of the rows, and what tells the history of the database from others.
    pub(crate) witness: Witness,
    pub(crate) newest: String,
}

impl About {
    pub(crate) fn shown(&self) -> Option<StateInHistory> {
        Some(StateInHistory { state: self.witness.snapshot.parse().ok()?, newest: self.newest.parse().ok()? })
    }
}

impl SavedRowsFile {
    /// The file beside a target, for a tileset with this fingerprint.
    pub(crate) fn new(notes: FolderNotes, fingerprint: &str) -> SavedRowsFile {
        let fingerprint = fingerprint.to_owned();
        SavedRowsFile { notes, fingerprint, last: Mutex::default(), writing: tokio::sync::Mutex::default() }
    }

    /// The time since this server wrote it; `None` if it has not.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.last.lock().written.map(|written| written.elapsed())
    }

    /// Notes that the rows were read from the table, so that they are written at once.
    pub(crate) fn note_read(&self) {
        let mut last = self.last.lock();
        (last.tried, last.shown) = (None, None);
    }

    /// True if rows of this state are to be written now. Rows stay as they are while nothing is logged.
    pub(crate) fn is_due(&self, shown: &StateInHistory) -> bool {
        let last = self.last.lock();
        last.tried.is_none_or(|tried| tried.elapsed() >= PAUSE)
            && last.shown.as_ref().is_none_or(|saved| saved.newest != shown.newest)
    }

    /// True if there is a file; an error says why there is no usable one. Removes what a killed server has left of one.
    pub(crate) fn is_there(&self) -> Result<bool, String> {
        if let Err(error) = self.notes.remove_partial(NAME) {
            tracing::debug!("{}", with_causes(&error));
        }
        match self.notes.open_file(NAME) {
            Ok(file) => Ok(file.is_some()),
            Err(error) => Err(with_causes(&error)),
        }
    }

    pub(crate) fn read(&self, layers: &[Arc<Layer>], key: &[u8], memory: usize) -> Result<SavedRows<About>, String> {
        let file = self.notes.open_file(NAME).map_err(|error| with_causes(&error))?;
        let file = file.ok_or_else(|| "it was removed".to_owned())?;
        read_saved_rows(&file, layers, key, memory).map_err(|error| error.to_string())
    }

    /// Writes the file. False if another server is writing it.
    pub(crate) fn write(&self, saved: &SavedRows<About>, key: &[u8]) -> Result<bool, CommandError> {
        let fill = |file: &std::fs::File| -> io::Result<()> { write_saved_rows(file, saved, key) };
        Ok(self.notes.write_file(NAME, fill)?)
    }
}
