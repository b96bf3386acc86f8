//! Live tiles of requests that give values for parameters: the layers with further conditions, and the values that these conditions read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{LayerSettings, ParameterSettings};
use crate::postgis::{
    Error, Layer, LayerOptions, PreparedLayer, RunLayers, SessionValue, Snapshot, check_narrowed, session_value,
};
use crate::serve::GivenParameters;

/// The layers of a request.
pub(super) struct NarrowedLayers {
    pub(super) statements: Arc<RunLayers>,
    pub(super) values: Vec<SessionValue>,
}

impl NarrowedLayers {
    /// The layers with the rows that a request wants.
    pub(super) fn of(
        layers: &[Arc<Layer>],
        parameters: &[ParameterSettings],
        given: &GivenParameters,
    ) -> NarrowedLayers {
        let of_name = |name: &str| parameters.iter().find(|settings| settings.parameter.name == name);
        let asked: Vec<&ParameterSettings> = given.given.iter().filter_map(|given| of_name(&given.name)).collect();
        let members = given.json();
        let layers = layers.iter().map(|layer| {
            let conditions: Vec<&str> =
                asked.iter().filter_map(|settings| settings.conditions.get(layer.name())).map(String::as_str).collect();
            PreparedLayer::new(&Arc::new(layer.narrowed(&conditions, &members)))
        });
        let values = given.given.iter().map(|given| session_value(&given.name, given.array()));
        NarrowedLayers { statements: RunLayers::new(&layers.collect::<Vec<_>>()), values: values.collect() }
    }
}

/// Checks the conditions of all parameters before the first request.
///
/// # Errors
/// If the database does not accept one of them.
pub(super) async fn check_conditions(
    snapshot: &Snapshot,
    layers: &[LayerSettings],
    parameters: &[ParameterSettings],
) -> Result<(), Error> {
    let conditions: BTreeMap<&str, Vec<&str>> =
        parameters.iter().flat_map(|settings| &settings.conditions).fold(BTreeMap::new(), |mut all, (layer, sql)| {
            all.entry(layer.as_str()).or_insert_with(Vec::new).push(sql.as_str());
            all
        });
    let narrowed = |layer: &LayerSettings| {
        let conditions = conditions.get(layer.options.name.as_str())?;
        Some(layer.options.narrowed(conditions))
    };
    let options: Vec<LayerOptions> = layers.iter().filter_map(narrowed).collect();
    if options.is_empty() {
        return Ok(());
    }
    let values: Vec<SessionValue> = parameters
        .iter()
        .map(|settings| session_value(&settings.parameter.name, settings.sample().to_owned()))
        .collect();
    check_narrowed(snapshot, &options, &values).await
}
