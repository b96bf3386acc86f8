//! A sink of any kind of target.

use crate::sink::{
    Described, Directory, Finished, Mbtiles, Metadata, Needs, Pmtiles, S3, S3Pmtiles, Sink, TargetError, TileEdit,
    Tileset, Written,
};

/// A sink of any kind.
pub(crate) enum AnySink {
    Mbtiles(Mbtiles),
    Pmtiles(Pmtiles),
    Directory(Directory),
    S3(S3),
    S3Pmtiles(S3Pmtiles),
}

/// Calls the sink of the target's kind.
macro_rules! each {
    ($any:expr, $sink:ident => $call:expr) => {
        match $any {
            AnySink::Mbtiles($sink) => $call.map_err(TargetError::from),
            AnySink::Pmtiles($sink) => $call.map_err(TargetError::from),
            AnySink::Directory($sink) => $call.map_err(TargetError::from),
            AnySink::S3($sink) => $call.map_err(TargetError::from),
            AnySink::S3Pmtiles($sink) => $call.map_err(TargetError::from),
        }
    };
}

impl Sink for AnySink {
    type Error = TargetError;

    fn needs(&self) -> Needs {
        match self {
            AnySink::Mbtiles(sink) => sink.needs(),
            AnySink::Pmtiles(sink) => sink.needs(),
            AnySink::Directory(sink) => sink.needs(),
            AnySink::S3(sink) => sink.needs(),
            AnySink::S3Pmtiles(sink) => sink.needs(),
        }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, TargetError> {
        each!(self, sink => sink.begin(tileset))
    }

    fn relative_address(&self) -> Option<String> {
        match self {
            AnySink::Directory(sink) => sink.relative_address(),
            AnySink::S3(sink) => sink.relative_address(),
            AnySink::Mbtiles(_) | AnySink::Pmtiles(_) | AnySink::S3Pmtiles(_) => None,
        }
    }

    fn claim(&mut self) -> Result<(), TargetError> {
        each!(self, sink => sink.claim())
    }

    fn held(&self) -> Option<u64> {
        match self {
            AnySink::Mbtiles(sink) => sink.held(),
            AnySink::Pmtiles(sink) => sink.held(),
            AnySink::Directory(sink) => sink.held(),
            AnySink::S3(sink) => sink.held(),
            AnySink::S3Pmtiles(sink) => sink.held(),
        }
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, TargetError> {
        each!(self, sink => sink.write(edits))
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, TargetError> {
        each!(self, sink => sink.finish(metadata))
    }
}
