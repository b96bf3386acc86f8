//! One tileset of a server.

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::error::with_causes;
use crate::serve::jobs::JobDesk;
use crate::serve::live::LiveSource;
use crate::serve::observe::metrics::{MeasuredTileset, Metrics};
use crate::serve::parameters::{KeyGate, TilesetParameters};
use crate::serve::public::changes::ChangeEvents;
use crate::serve::target::served::ServedTarget;
use crate::serve::target::stored::StoredTiles;
use crate::serve::tiles::served::ServedTiles;
use crate::serve::writer::{TargetWriter, WriterDesk};
use crate::tile::TileTextNames;

/// What a segment of a path escapes: everything but the unreserved characters (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The name of a tileset as a segment of a path.
#[must_use]
pub fn tileset_segment(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

/// A tileset of a server.
pub(crate) struct SiteTileset {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its path below the server's: empty, or its name and a slash.
    pub(crate) path: String,
    /// The further headers of its tiles.
    pub(crate) headers: TilesetHeadersOf,
    /// Its tiles.
    pub(crate) tiles: ServedTiles,
    /// Its target.
    pub(crate) target: Arc<ServedTarget>,
    /// What renders its live tiles.
    pub(crate) live: Option<Arc<dyn LiveSource>>,
    /// The subscribers that are notified of changed tiles; `None` if there can be none.
    pub(crate) changes: Option<ChangeEvents>,
    /// The writer that keeps its target up to date; `None` if another process does.
    pub(crate) writer: Option<SiteWriter>,
    /// The jobs of its target.
    pub(crate) jobs: JobDesk,
    /// What requests for its live tiles may ask.
    pub(crate) parameters: SiteParameters,
    /// The counters.
    pub(crate) metrics: Arc<Metrics>,
}

/// The further headers of a tileset's tiles.
pub(crate) struct TilesetHeadersOf {
    /// The tileset whose settings list the headers: its own, or that of all variants.
    pub(crate) tileset: Arc<str>,
    /// What their placeholders stand for.
    pub(crate) names: TileTextNames,
}

/// The parameters of a tileset.
pub(crate) struct SiteParameters {
    /// The parameters; none without live tiles.
    pub(crate) declared: TilesetParameters,
    /// The limit for new sets of values.
    pub(crate) gate: Arc<KeyGate>,
}

/// The writer of a tileset's target.
pub(crate) struct SiteWriter {
    /// The writer.
    pub(crate) writer: Arc<dyn TargetWriter>,
    /// The desk to which the writer reports.
    pub(crate) desk: WriterDesk,
}

impl SiteTileset {
    /// The path of a tileset that is addressed by its name.
    pub(crate) fn path_of(name: &str) -> String {
        format!("{}/", tileset_segment(name))
    }

    /// The URL under which clients find it, with a slash at its end; `public_url` is the server's.
    pub(crate) fn url(&self, public_url: &str) -> String {
        format!("{public_url}{}", self.path)
    }

    /// The reasons for `/readyz` to answer 503: the target cannot be read, or live tiles do not fit it. Empty if there are none.
    pub(crate) async fn reasons(&self) -> Vec<String> {
        match self.tiles.state().await {
            Err(error) => vec![with_causes(&error)],
            Ok(state) => {
                let unfit = self.tiles.unfit(&state).map(|error| with_causes(&error));
                self.tiles.trouble().into_iter().chain(unfit).collect()
            }
        }
    }

    /// The tileset in `/status.json`.
    pub(crate) fn describe(&self) -> serde_json::Map<String, Value> {
        let state = self.tiles.last();
        let manifest = state.manifest.as_ref();
        let members = json!({
            "name": state.described.name,
            "zooms": manifest.map(|manifest| &manifest.zooms),
            "snapshot": manifest.map(|manifest| &manifest.snapshot),
            "snapshot_age_seconds": snapshot_age(manifest.map(|manifest| manifest.started)),
            "changes_noticed": state.generation - 1,
            "publication": state.publication().map(|publication| publication.number),
            "subscribers": self.changes.as_ref().map(ChangeEvents::count),
            "writer": self.writer.as_ref().map(|writer| writer.desk.describe()),
            "change_log": self.tiles.live_layers().map(|_| self.tiles.known().describe()),
            "known_tiles": state.stored().map(StoredTiles::count),
        });
        match members {
            Value::Object(members) => members,
            _ => serde_json::Map::new(),
        }
    }

    /// The values that are measured when the metrics are read.
    pub(crate) fn measured(&self) -> MeasuredTileset {
        let state = self.tiles.last();
        MeasuredTileset {
            snapshot_age: snapshot_age(state.manifest.as_ref().map(|manifest| manifest.started)),
            known_tiles: state.stored().map(StoredTiles::count),
            publication: state.publication().map(|publication| publication.number),
            lag: self.writer.as_ref().map(|writer| writer.desk.lag_seconds()),
        }
    }
}

/// The seconds that have passed since `started`, given in seconds since 1970.
fn snapshot_age(started: Option<u64>) -> Option<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    Some(now.saturating_sub(started?))
}
