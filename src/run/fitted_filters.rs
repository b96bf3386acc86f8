//! Checks what requests may ask of the layers, and finds out as which types the conditions take the values.

use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::config::FilterSettings;
use crate::draw::{check_narrowed, session_value};
use crate::postgis::{Error, Layer, LayerOptions, SessionValue, Snapshot};

/// Checks the conditions that the configuration has as SQL, before the first request.
pub(crate) async fn check_conditions(
    snapshot: &Snapshot,
    layers: &[LayerOptions],
    filters: &FilterSettings,
) -> Result<(), Error> {
    let narrowed = |layer: &LayerOptions| {
        let conditions = filters.written(&layer.name);
        (!conditions.is_empty()).then(|| layer.narrowed(&conditions))
    };
    let options: Vec<LayerOptions> = layers.iter().filter_map(narrowed).collect();
    if options.is_empty() {
        return Ok(());
    }
    check_narrowed(snapshot, &options, &sample_values(filters)).await
}

/// Sample values of all parameters, with which the conditions are tried.
fn sample_values(filters: &FilterSettings) -> Vec<SessionValue> {
    let sample = |name: &str, values: &str| session_value(name, values.to_owned());
    filters.parameters.iter().map(|settings| sample(&settings.parameter.name, settings.sample())).collect()
}

/// The settings as the layers of a database take them: a condition that does not take integers of 64 bits gets those of
/// 32 bits, and requests may give no values with which the database cannot compare. Fails if the facet of a layer does
/// not have the type of its parameter. Conditions that the database does not understand at all stay as they are.
pub(crate) async fn fitted_filters(
    snapshot: &Snapshot,
    layers: &[Arc<Layer>],
    filters: &FilterSettings,
) -> Result<FilterSettings, Error> {
    layers.iter().try_for_each(|layer| filters.check_facets(layer))?;
    let mut fitted = filters.within_facets(layers.iter().map(|layer| &**layer));
    let session = &snapshot.keeper;
    let of_integers = fitted.of_integers();
    if !of_integers.is_empty() {
        session.set_savepoint().await?;
        session.set_values(&sample_values(filters)).await?;
    }
    for condition in &of_integers {
        let Some(layer) = layers.iter().find(|layer| layer.name() == condition.layer) else { continue };
        let context = layer.context();
        let understood = async |sql: &str| {
            let statement = format!("SELECT FROM {} WHERE false AND ({sql}\n)", layer.relation);
            session.at_savepoint(session.all(&context, &statement, &[]).await).await
        };
        let no_operator = match understood(&condition.sql).await? {
            Err(Error::Query { source, .. }) => {
                let codes = [SqlState::UNDEFINED_FUNCTION, SqlState::DATATYPE_MISMATCH];
                codes.iter().any(|code| source.code.as_ref() == Some(code))
            }
            _ => false,
        };
        if no_operator && understood(&condition.narrower).await?.is_ok() {
            fitted.narrow(condition);
        }
    }
    if !of_integers.is_empty() {
        session.release_savepoint().await?;
    }
    Ok(fitted)
}
