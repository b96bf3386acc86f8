//! Checks whether layers can be drawn. Each layer is probed separately, so that an error in one layer does not hide errors in others.

use crate::error::ErrorKind;
use crate::postgis::layer::{LayerOptions, RowZooms};
use crate::postgis::probe::{
    JumpingRows, LayerProbe, RowSecurity, names_and_locks, row_security, row_security_warning,
};
use crate::postgis::session::{Error, Session, Snapshot};
use crate::tile::LayerId;

/// The result of the probe of a layer.
#[derive(Debug)]
pub struct LayerTrial {
    /// The layer's id.
    pub id: LayerId,
    /// The layer's name.
    pub layer: String,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Rows with lines or rings that jump across ±180°.
    pub jumps: Option<JumpingRows>,
    /// The warning that policies may hide rows of tables that this layer reads and no earlier layer does.
    pub row_security: Option<String>,
    /// Why the layer cannot be drawn; empty if it can be drawn. The first error is the one that a run would report; a run would report the others
    /// once the first is fixed.
    pub errors: Vec<Error>,
}

/// Probes each layer.
///
/// # Errors
/// If the database is lost, or a stop was requested.
pub async fn try_layers(snapshot: &Snapshot, layers: &[LayerOptions]) -> Result<Vec<LayerTrial>, Error> {
    let session = &snapshot.keeper;
    let encoding = crate::postgis::probe::server(session).await?.encoding;
    let mut trials = Vec::new();
    let mut said: Vec<RowSecurity> = Vec::new();
    for options in layers {
        let mut warnings = Vec::new();
        let (mut errors, mut jumps) = (Vec::new(), None);
        let tried = try_layer(session, options, &encoding, &mut warnings, &mut jumps);
        if let Some(error) = Box::pin(objection(session, tried)).await? {
            errors.push(error);
            let mut wrong = Vec::new();
            let columns = async { LayerProbe { session, options }.wrong_columns().await.map(|found| wrong = found) };
            errors.extend(Box::pin(objection(session, columns)).await?);
            errors.append(&mut wrong);
            for alone in parts_alone(options) {
                let named = async { LayerProbe { session, options: &alone }.names().await.map(drop) };
                errors.extend(Box::pin(objection(session, named)).await?);
            }
            keep_different(&mut errors);
        }
        // The transaction still has the locks of earlier layers.
        let mut hiding = row_security(session).await?;
        hiding.retain(|one| !said.contains(one));
        let row_security = row_security_warning(&hiding);
        said.append(&mut hiding);
        trials.push(LayerTrial { id: options.id, layer: options.name.clone(), warnings, jumps, row_security, errors });
    }
    Ok(trials)
}

/// The error of the probe or of the database, if there is one. The transaction goes on after it.
async fn objection(session: &Session, work: impl Future<Output = Result<(), Error>>) -> Result<Option<Error>, Error> {
    session.set_savepoint().await?;
    match work.await {
        Ok(()) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::Usage | ErrorKind::Failed) => {
            session.return_to_savepoint().await?;
            Ok(Some(error))
        }
        Err(error) => Err(error),
    }
}

/// Copies of the layer, each with only one of the expressions that the database checks, because the database reports only the first wrong one.
fn parts_alone(options: &LayerOptions) -> Vec<LayerOptions> {
    let mut bare = options.clone();
    (bare.properties, bare.filter, bare.row_zooms) = (Some(Vec::new()), None, RowZooms::default());
    bare.budget.rank = None;
    let mut parts: Vec<LayerOptions> = Vec::new();
    for property in options.properties.iter().flatten() {
        parts.push(LayerOptions { properties: Some(vec![property.clone()]), ..bare.clone() });
    }
    parts.push(LayerOptions { filter: options.filter.clone(), ..bare.clone() });
    let RowZooms { min, max } = options.row_zooms.clone();
    parts.push(LayerOptions { row_zooms: RowZooms { min, max: None }, ..bare.clone() });
    parts.push(LayerOptions { row_zooms: RowZooms { min: None, max }, ..bare.clone() });
    parts.push(LayerOptions { budget: options.budget.clone(), ..bare });
    parts
}

/// Removes duplicate errors.
fn keep_different(errors: &mut Vec<Error>) {
    let mut seen = Vec::new();
    errors.retain(|error| {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let is_new = !seen.contains(&(error.to_string(), cause.clone()));
        seen.push((error.to_string(), cause));
        is_new
    });
}

async fn try_layer(
    session: &Session,
    options: &LayerOptions,
    encoding: &str,
    warnings: &mut Vec<String>,
    jumps: &mut Option<JumpingRows>,
) -> Result<(), Error> {
    let (named, _locks) = names_and_locks(session, std::slice::from_ref(options)).await?;
    let Some(named) = named.into_iter().next() else { return Ok(()) };
    let layer = named.rows(encoding, warnings).await?;
    *jumps = JumpingRows::of(session, &layer).await?;
    Ok(())
}
