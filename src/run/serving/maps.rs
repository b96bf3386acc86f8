//! The tables that say for which values those of requests stand: read before the first request, and looked at again and
//! again, because nothing else notes their changes.

use std::time::Duration;

use crate::config::{DatabaseSettings, FilterSettings, ParameterSettings};
use crate::error::with_causes;
use crate::postgis::{Database, Error, Session, SessionOptions, quoted};
use crate::run::CommandError;
use crate::serve::ParameterType;
use crate::stop::Stop;

/// The most rows of a table. All of them are read at each look.
const MAX_ROWS: usize = 10_000;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// The pause after a look that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Reads the tables of all parameters.
/// Fails if one cannot be read, has too many rows, or has what can be no value of its parameter.
pub(crate) async fn read_maps(session: &Session, filters: &FilterSettings) -> Result<(), CommandError> {
    for settings in &filters.parameters {
        read_map(session, settings).await?;
    }
    Ok(())
}

async fn read_map(session: &Session, settings: &ParameterSettings) -> Result<(), CommandError> {
    let ParameterSettings { parameter, map: Some(section), .. } = settings else { return Ok(()) };
    let Some(map) = &parameter.map else { return Ok(()) };
    let cast = if parameter.kind == ParameterType::Integer {
        "::pg_catalog.int8::pg_catalog.text"
    } else {
        "::pg_catalog.text"
    };
    let [from, to] = [&section.from, &section.to].map(|column| quoted(column));
    let table = section.schema.iter().chain([&section.table]).map(|name| quoted(name)).collect::<Vec<_>>().join(".");
    let sql = format!(
        "SELECT named.{from}{cast}, named.{to}{cast} FROM {table} AS named
         WHERE named.{from} IS NOT NULL AND named.{to} IS NOT NULL LIMIT {}",
        MAX_ROWS + 1
    );
    let context = format!("parameter \"{}\", reading its map", parameter.name);
    let unfit = |what: String| CommandError::UnfitMap { parameter: parameter.name.clone(), what };
    let rows = session.all(&context, &sql, &[]).await.map_err(|error| match error {
        Error::Query { source, .. } if source.is_data_exception() || source.is_of_statement() => {
            unfit(source.to_string())
        }
        other => other.into(),
    })?;
    if rows.len() > MAX_ROWS {
        return Err(unfit(format!("{table} has more than {MAX_ROWS} rows")));
    }
    let rows = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    map.set(parameter, rows).map_err(|what| unfit(format!("{table}: {what}")))
}

/// True if there is a table to look at.
pub(crate) fn have_maps(filters: &FilterSettings) -> bool {
    filters.parameters.iter().any(|settings| settings.map.is_some())
}

/// Looks at the tables of a tileset until a stop is asked for. If a look fails, requests go by what the last one found.
pub(crate) async fn keep_maps(settings: DatabaseSettings, filters: FilterSettings, stop: Stop) {
    let (mut database, mut said): (Option<Database>, String) = (None, String::new());
    while stop.asked().is_none() {
        let looked: Result<(), CommandError> = async {
            let known = if let Some(known) = database.take() {
                known
            } else {
                let session = SessionOptions { connections: 1, ..settings.session.clone() };
                Database::new(&settings.connect, session, &stop)?
            };
            let session = database.insert(known).session(None).await?;
            read_maps(&session, &filters).await
        }
        .await;
        let pause = match looked {
            Ok(()) => {
                said.clear();
                PAUSE
            }
            Err(error) => {
                let text = with_causes(&error);
                if said != text {
                    tracing::warn!("requests go by the values that a map had last: {text}");
                    said = text;
                }
                PAUSE_AFTER_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
}
