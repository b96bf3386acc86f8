//! The background task that lists the tiles of the target.
//!
//! A list belongs to one state of the target, and is used once it is complete. Until then, and while a run replaces
//! tiles one by one, each tile is looked up in the target.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::served::ServedTarget;
use super::state::ServedState;
use super::stored::StoredTiles;
use crate::error::with_causes;
use crate::target::ReadError;

/// The most tiles that are listed. A list takes 16 bytes for each range of consecutive tiles, and 24 bytes for each
/// tile while it is made.
const MAX_INDEXED_TILES: u64 = 20_000_000;

/// The interval at which the task checks if there is a state to list.
const PAUSE: Duration = Duration::from_secs(1);

/// After making a list, the task pauses for this many times the time that it took, so that it does not list all the
/// time if the target is published again and again.
const REST_BY_LISTING: u32 = 10;

/// True if the tiles of a state may be listed: they do not change before the state does, and there are not too many.
fn can_be_listed(state: &ServedState) -> bool {
    let stored = state.manifest.as_ref().map(|manifest| manifest.stored);
    state.may_be_kept() && stored.is_some_and(|stored| stored <= MAX_INDEXED_TILES)
}

/// Lists the tiles of the target's present state, and of each later state.
pub(crate) async fn keep_listed(target: Arc<ServedTarget>) {
    let mut is_failing = false;
    loop {
        let (begun, of_thread) = (Instant::now(), Arc::clone(&target));
        match tokio::task::spawn_blocking(move || list(&of_thread)).await {
            Ok(Ok(())) => is_failing = false,
            Ok(Err(error)) => {
                if !is_failing {
                    tracing::warn!(
                        "the tiles of the target cannot be listed, so each is asked for: {}",
                        with_causes(&error)
                    );
                }
                is_failing = true;
            }
            Err(error) => return tracing::warn!("a thread died ({error})"),
        }
        tokio::time::sleep(PAUSE.max(begun.elapsed() * REST_BY_LISTING)).await;
    }
}

/// Lists the tiles of the target's present state, unless they are listed already or may not be. Blocks.
fn list(target: &ServedTarget) -> Result<(), ReadError> {
    // If the target cannot be read, the requests report that.
    let Ok(state) = target.current() else { return Ok(()) };
    if state.stored().is_some() || !can_be_listed(&state) {
        return Ok(());
    }
    let stored = StoredTiles::new(target.list()?);
    // A write during the listing began a new state; its tiles may be missing in this list.
    if target.needs_polling() {
        target.poll()?;
    }
    if Arc::ptr_eq(&target.last(), &state) && target.is_current(&state) {
        tracing::info!("{} tiles are known without a lookup", stored.count());
        state.keep_stored(stored);
    }
    Ok(())
}
