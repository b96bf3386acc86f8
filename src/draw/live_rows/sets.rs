//! The live rows of a layer of points that fulfil a request's conditions, found by one statement for all tiles and
//! zooms. A later snapshot asks only about the rows that came since.

use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::keys::{KeyArrays, KeyColumns};
use super::points::LivePoints;
use crate::draw::Worker;
use crate::draw::cached_rows::{CachedRows, MatchingSet, MatchingSetBuilder};
use crate::error::with_causes;
use crate::postgis::layer::{FacetChoice, FrequentValue, Layer};
use crate::postgis::session::{Error, Param};
use crate::postgis::sql::matching_keys;

/// A set is asked for if it has at most one row in this many. For more, reading the keys takes about as long as drawing
/// some tiles.
const MIN_SHARE: usize = 2;

impl LivePoints {
    /// True if one statement finds the keys of these rows, which are of the layer `own`, and those of others.
    pub(crate) fn ask_alike(&self, own: &Layer, others: &LivePoints, layer: &Layer) -> bool {
        let statement = matching_keys(own, &self.key, None);
        statement.is_some_and(|statement| matching_keys(layer, &others.key, None) == Some(statement))
    }

    /// A set of an earlier version of these rows, if no row came since.
    pub(crate) fn matching_as_before(&self, before: &MatchingSet) -> Option<MatchingSet> {
        self.rows.keys_since(before, &self.key)?.is_empty().then_some(())?;
        Some(MatchingSetBuilder::new(&self.rows, &self.key)?.finish(Some(before)))
    }

    /// The rows that fulfil the conditions of `narrowed`, which is the layer of these rows with further conditions.
    /// Only rows that came since the set `before` are asked about. `None` if most rows fulfil them, or the rows are not
    /// kept. The statement's keys are also looked up in `alike`, the rows of other layers about which
    /// [`LivePoints::ask_alike`] says that they have the same ones; one set for each follows.
    pub(crate) async fn matching(
        &self,
        worker: &Worker,
        narrowed: &Layer,
        before: Option<&MatchingSet>,
        alike: &[LivePoints],
    ) -> Result<Option<Vec<MatchingSet>>, Error> {
        let all = std::iter::once(self).chain(alike);
        let builders = all.map(|points| MatchingSetBuilder::new(&points.rows, &points.key));
        let Some(mut sets) = builders.collect::<Option<Vec<_>>>() else { return Ok(None) };
        let since = before.and_then(|before| Some((before, self.rows.keys_since(before, &self.key)?)));
        let keys = since.as_ref().and_then(|(_, keys)| KeyArrays::of(narrowed, &self.key, keys));
        let since = since.filter(|_| keys.is_some());
        let most = i64::try_from(self.rows.kept_count() / MIN_SHARE).unwrap_or(i64::MAX);
        let limit = most + 1;
        let among = keys.as_ref().map(KeyArrays::kind);
        let params = keys.as_ref().map_or_else(|| -> Vec<Param<'_>> { vec![(&limit, Type::INT8)] }, KeyArrays::params);
        let columns = KeyColumns::of(narrowed, &self.key);
        let Some(statement) = matching_keys(narrowed, &self.key, among) else { return Ok(None) };
        let context = format!("layer \"{}\", reading which rows a request chooses", narrowed.name);
        let (mut found, mut unread) = (0, None);
        let each = |row: &Row| {
            found += 1;
            match columns.read(row) {
                Ok(key) => key.iter().for_each(|key| sets.iter_mut().for_each(|set| set.add(key))),
                Err(error) => unread = Some(error),
            }
            Ok(())
        };
        worker.session().each(&context, &statement, &params, each).await?;
        if let Some(error) = unread {
            tracing::info!("{context}, a key cannot be read, so that the database draws: {}", with_causes(&error));
            return Ok(None);
        }
        let before = since.map(|(before, _)| before);
        Ok((found <= most).then(|| sets.into_iter().map(|set| set.finish(before)).collect()))
    }

    /// True if it is known which rows have the values of these facets.
    pub(crate) fn know_facets(&self, choices: &[FacetChoice]) -> bool {
        self.facets.as_ref().is_some_and(|facets| choices.iter().all(|choice| facets.has(choice)))
    }

    /// The rows that have wanted values of facets, of all rows or of those of a set; `None` if these are not known.
    pub(crate) fn with_facets(&self, choices: &[FacetChoice], among: Option<&MatchingSet>) -> Option<MatchingSet> {
        let chosen = self.facets.as_ref()?.matching(choices)?;
        match among {
            Some(among) => chosen.and(among),
            None => Some(chosen),
        }
    }

    /// The `most` most frequent values of a facet among all rows, or those of a set; `None` if they are not known.
    pub(crate) fn frequent_values(
        &self,
        column: &str,
        among: Option<&MatchingSet>,
        most: usize,
    ) -> Option<Vec<FrequentValue>> {
        let facets = self.facets.as_ref()?;
        let all = self.rows.all_kept()?;
        let among = match among {
            Some(among) => all.and(among)?,
            None => all,
        };
        facets.frequent(column, &among, most)
    }

    /// The rows of a set, as cached rows of the layer. `None` if it is a set of other rows.
    pub(crate) fn only(&self, set: &Arc<MatchingSet>) -> Option<CachedRows> {
        self.rows.only(set)
    }
}
