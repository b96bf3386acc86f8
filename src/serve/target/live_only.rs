//! A substitute for a missing target: it stores nothing and declares no tile empty, so every tile is rendered on
//! request.

use std::sync::Arc;

use super::served::{ServedSource, TargetOpener};
use super::watch::ChangeDetection;
use crate::target::{Described, KeptNote, NoteError, NoteStore, ReadError, TileReader, WriteCondition};
use crate::tile::TileId;

struct LiveOnly(Described);

impl TileReader for LiveOnly {
    fn describe(&mut self) -> Result<Described, ReadError> {
        Ok(self.0.clone())
    }

    fn list(&mut self) -> Result<Vec<TileId>, ReadError> {
        Ok(Vec::new())
    }

    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError> {
        Ok(tiles.iter().map(|_| None).collect())
    }
}

/// A store that never holds a note.
#[derive(Debug)]
struct NoNotes;

impl NoteStore for NoNotes {
    fn read(&self, _name: &str) -> Result<Option<KeptNote>, NoteError> {
        Ok(None)
    }

    fn write(&self, name: &str, _body: &[u8], _condition: &WriteCondition) -> Result<String, NoteError> {
        let source = "the tileset has no target".into();
        Err(NoteError::Refused { action: "write", place: name.to_owned(), source })
    }

    fn list(&self, _folder: &str) -> Result<Vec<String>, NoteError> {
        Ok(Vec::new())
    }

    fn remove(&self, _name: &str) -> Result<(), NoteError> {
        Ok(())
    }
}

/// The source from which a tileset without a target is served. Its manifest names no zooms.
pub fn live_only(described: Described) -> ServedSource {
    let open: TargetOpener = Arc::new(move || Ok(Box::new(LiveOnly(described.clone()))));
    ServedSource { open, watched: ChangeDetection::Notes(Vec::new()), notes: Arc::new(NoNotes) }
}
