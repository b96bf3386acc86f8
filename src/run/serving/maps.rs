//! The tables that say for which values those of requests stand: read before the first request, and again and again
//! after it, because nothing else notes their changes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::config::{DatabaseSettings, FilterSettings, ParameterSettings};
use crate::error::with_causes;
use crate::postgis::{Database, Error, Session, SessionOptions, quoted};
use crate::run::CommandError;
use crate::serve::ParameterType;
use crate::stop::Stop;

/// The most rows of a table. All of them are read each time.
const MAX_ROWS: usize = 10_000;

/// The pause between two readings.
const PAUSE: Duration = Duration::from_millis(250);

/// The time after which a reading that is not done is logged: a table may be locked.
const LONG: Duration = Duration::from_secs(2);

/// The pause after a reading that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 2_000 });

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

/// True if there is a table to read.
pub(crate) fn have_maps(filters: &FilterSettings) -> bool {
    filters.parameters.iter().any(|settings| settings.map.is_some())
}

/// Reads the tables of a tileset until a stop is asked for. If a reading fails, requests go by what the last one found.
pub(crate) async fn keep_maps(settings: DatabaseSettings, filters: FilterSettings, stop: Stop) {
    let reader = Arc::new(MapReader { settings, filters, stop: stop.clone(), database: OnceLock::new() });
    read_always(&stop, || Arc::clone(&reader).read()).await;
}

struct MapReader {
    settings: DatabaseSettings,
    filters: FilterSettings,
    stop: Stop,
    database: OnceLock<Database>,
}

impl MapReader {
    async fn read(self: Arc<MapReader>) -> Result<(), CommandError> {
        let database = if let Some(known) = self.database.get() {
            known
        } else {
            let session = SessionOptions { connections: 1, ..self.settings.session.clone() };
            let database = Database::new(&self.settings.connect, session, &self.stop)?;
            self.database.get_or_init(|| database)
        };
        read_maps(&database.session(None).await?, &self.filters).await
    }
}

/// Reads again and again, until a stop is asked for. What fails is logged, once while it fails alike, and so is a
/// reading that panics or takes long.
async fn read_always<R>(stop: &Stop, read: impl Fn() -> R)
where
    R: Future<Output = Result<(), CommandError>> + Send + 'static,
{
    let mut said = String::new();
    while stop.asked().is_none() {
        let mut reading = tokio::spawn(read());
        let result = match tokio::time::timeout(LONG, &mut reading).await {
            Ok(result) => result,
            Err(_long) => {
                if said.is_empty() {
                    say(
                        &mut said,
                        format!("reading it takes longer than {} s: its table may be locked", LONG.as_secs()),
                    );
                }
                reading.await
            }
        };
        let pause = match result.map_err(CommandError::from).flatten() {
            Ok(()) => {
                if !std::mem::take(&mut said).is_empty() {
                    tracing::warn!("the maps of parameters are read again");
                }
                PAUSE
            }
            Err(error) => {
                say(&mut said, with_causes(&error));
                PAUSE_AFTER_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn say(said: &mut String, why: String) {
    if *said != why {
        tracing::warn!("requests go by the values that a map had last: {why}");
        *said = why;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::stop::Signal;

    #[test]
    fn a_reading_that_panics_is_not_the_last_one() {
        let (stop, readings) = (Stop::new(), Arc::new(AtomicU32::new(0)));
        let read = || {
            let (stop, readings) = (stop.clone(), Arc::clone(&readings));
            async move {
                assert!(readings.fetch_add(1, Ordering::Relaxed) > 0, "the first reading");
                stop.ask(Signal::Terminate);
                Ok(())
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(read_always(&stop, read));
        assert_eq!(readings.load(Ordering::Relaxed), 2);
    }
}
