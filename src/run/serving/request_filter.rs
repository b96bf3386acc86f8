//! What a request wants of the rows: the layers with further conditions, and the values that these conditions read.

use std::sync::Arc;

use crate::config::{AskedCondition, FilterSettings, ParameterSettings};
use crate::draw::{PreparedLayer, RunLayers, session_value};
use crate::postgis::{Facet, Layer, SessionValue};
use crate::serve::GivenParameters;

/// What a request wants of the rows.
pub(crate) struct RequestFilter<'r> {
    filters: &'r FilterSettings,
    /// `None` for a request that gives no values, and wants all rows.
    given: Option<&'r GivenParameters>,
    pub(crate) values: Vec<SessionValue>,
}

impl<'r> RequestFilter<'r> {
    pub(crate) fn of(filters: &'r FilterSettings, given: Option<&'r GivenParameters>) -> RequestFilter<'r> {
        let all = given.map(|given| filters.values(given)).unwrap_or_default();
        let values = all.into_iter().map(|given| session_value(&given.name, given.array()));
        RequestFilter { filters, given, values: values.collect() }
    }

    /// The conditions that the request sets on the rows of a layer.
    pub(crate) fn of_layer(&self, layer: &Layer) -> Vec<AskedCondition> {
        self.given.map_or_else(Vec::new, |given| self.filters.asked(given, layer))
    }

    /// The facets of a layer by which requests choose, each with the parameter.
    pub(crate) fn facets_of<'l>(&self, layer: &'l Layer) -> Vec<(&'r ParameterSettings, &'l Facet)> {
        self.filters.facets_of(layer)
    }

    /// The layer with the rows that the request wants.
    pub(crate) fn narrowed(&self, layer: &Layer) -> Layer {
        self.narrowed_by(layer, &self.of_layer(layer))
    }

    /// The layer with the rows that fulfil some of the request's conditions.
    pub(crate) fn narrowed_by(&self, layer: &Layer, asked: &[AskedCondition]) -> Layer {
        let conditions: Vec<&str> = asked.iter().map(|condition| condition.sql.as_str()).collect();
        layer.narrowed(&conditions, &self.given.map(GivenParameters::json).unwrap_or_default())
    }
}

pub(crate) struct NarrowedLayers {
    pub(crate) statements: Arc<RunLayers>,
    pub(crate) values: Vec<SessionValue>,
}

impl NarrowedLayers {
    /// The layers with the rows that a request wants.
    pub(crate) fn of(layers: &[Arc<Layer>], filter: RequestFilter<'_>) -> NarrowedLayers {
        let layers = layers.iter().map(|layer| PreparedLayer::new(&Arc::new(filter.narrowed(layer))));
        NarrowedLayers { statements: RunLayers::new(&layers.collect::<Vec<_>>()), values: filter.values }
    }
}
