//! The sink of a prefix for which shards write a version.

use super::note::write_note;
use super::open::note_template;
use super::store::Condition;
use super::version::{SharedVersion, VersionNote};
use super::{S3, S3Error, wait};

impl S3 {
    /// Notes that shards are going to write a version with these layers, and gives the lease back. Other runs leave the
    /// version alone for a week.
    ///
    /// # Errors
    /// If the bucket cannot be written.
    pub fn begin_shared(mut self, version: &SharedVersion, layers: &[String]) -> Result<(), S3Error> {
        self.write_version_note(version, &VersionNote::begun_by(&version.run), layers)?;
        self.release()
    }

    /// Makes this run write and publish a version that shards have written, instead of a version of its own. Must be called before
    /// [`Sink::begin`](crate::target::Sink::begin).
    pub fn adopt(&mut self, version: SharedVersion) {
        self.adopted = Some(version);
    }

    fn write_version_note(
        &self,
        version: &SharedVersion,
        note: &VersionNote,
        layers: &[String],
    ) -> Result<(), S3Error> {
        let name = version.note();
        let failed = |source| S3Error::Note { place: self.store.place(&name), source };
        let body = serde_json::to_vec(note).map_err(failed)?;
        wait(&self.runtime, async {
            tokio::select! {
                biased;
                _ = self.stop.wait() => Err(self.not_open()),
                written = async {
                    write_note(&self.store, &name, body, &Condition::Always).await?;
                    note_template(&self.store, &version.version, layers, &self.tree.template).await
                } => written,
            }
        })
    }
}
