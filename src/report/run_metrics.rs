//! The figures of a run as a file for the `textfile` collector of Prometheus' node exporter: for seeds and reseeds that
//! cron starts.

use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::{FileMoment, WORK_IS_DONE, check_writable};
use crate::cdn::{LabelledOutbox, Outbox, purge_metrics};
use crate::clock::since_1970;
use crate::prometheus::{GaugeValue, gauge, label_value};

/// The metrics cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the metrics {}: {}", path.display(), moment.advice("--metrics", WORK_IS_DONE))]
pub struct MetricsFileError {
    pub path: PathBuf,
    pub moment: FileMoment,
    pub source: io::Error,
}

/// How much a run wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RunCounts {
    tiles: u64,
    bytes: u64,
}

/// Measures a run, and writes the figures to the file of `--metrics` if there is one.
#[derive(Debug)]
pub struct RunMetrics {
    file: Option<MetricsFile>,
    begun: Instant,
    counts: Option<RunCounts>,
    /// The purges that wait for CDNs, in Prometheus' text format.
    purges: String,
    /// How long the last publish of a watch took, and when the file was written after the last look.
    watched: Option<WatchedLook>,
}

/// The figures of a watch in the file.
#[derive(Debug, Clone, Copy)]
struct WatchedLook {
    took: Duration,
    noted: Instant,
}

/// The shortest time between two writes of the file while a watch finds no change: Prometheus rarely reads it more
/// often.
const UNCHANGED_PAUSE: Duration = Duration::from_secs(10);

impl RunMetrics {
    /// Starts the clock. Checks before the run that the file can be written after it.
    /// Fails if the file cannot be written, or if it is the output of the run.
    pub fn begin(path: Option<&Path>, verb: &str, output: &Path) -> Result<RunMetrics, MetricsFileError> {
        let file = path.map(|path| MetricsFile::new(path, verb, output)).transpose()?;
        Ok(RunMetrics { file, begun: Instant::now(), counts: None, purges: String::new(), watched: None })
    }

    /// Records what the run wrote: the number of tiles, and their size in bytes.
    pub fn wrote(&mut self, tiles: u64, bytes: u64) {
        self.counts = Some(RunCounts { tiles, bytes });
    }

    /// True if there is a file to write to.
    pub const fn is_wanted(&self) -> bool {
        self.file.is_some()
    }

    /// Records the purges that wait for CDNs.
    pub fn purges(&mut self, outbox: &Outbox) {
        let labelled = |file: &MetricsFile| LabelledOutbox { outbox: outbox.clone(), labels: file.output.clone() };
        self.purges = self.file.as_ref().map_or_else(String::new, |file| purge_metrics(&[labelled(file)]));
    }

    /// Records a publish of a watch that goes on, and writes the metrics. `bytes` is the size of the tiles, `took` the
    /// duration of the publish.
    pub fn published(&mut self, tiles: u64, bytes: u64, took: Duration) -> Result<(), MetricsFileError> {
        self.wrote(tiles, bytes);
        self.looked(took)
    }

    /// Records a look of a watch that found no change: the target is up to date. The file is written at most every 10
    /// s.
    pub fn unchanged(&mut self) -> Result<(), MetricsFileError> {
        match self.watched {
            Some(last) if last.noted.elapsed() < UNCHANGED_PAUSE => Ok(()),
            last => self.looked(last.map_or(Duration::ZERO, |last| last.took)),
        }
    }

    fn looked(&mut self, took: Duration) -> Result<(), MetricsFileError> {
        self.watched = Some(WatchedLook { took, noted: Instant::now() });
        let counts = self.counts.unwrap_or(RunCounts { tiles: 0, bytes: 0 });
        let written = RunWritten { counts: Some(counts), purges: &self.purges };
        self.file.iter().try_for_each(|file| file.write(0, took, &written))
    }

    /// Writes the metrics with the exit code of the run; 0 means success.
    pub fn end(&self, exit: u8) -> Result<(), MetricsFileError> {
        let written = RunWritten { counts: self.counts.filter(|_| exit == 0), purges: &self.purges };
        self.file.iter().try_for_each(|file| file.write(exit, self.begun.elapsed(), &written))
    }
}

#[derive(Debug, Clone)]
struct MetricsFile {
    path: PathBuf,
    labels: String,
    /// The label of the output, followed by a comma.
    output: String,
}

#[derive(Debug, Default)]
struct RunWritten<'a> {
    counts: Option<RunCounts>,
    /// The purges that wait for CDNs, in Prometheus' text format.
    purges: &'a str,
}

/// A metric's name, its help text and its value.
type Metric = (&'static str, &'static str, f64);

/// The metrics of the last successful run; a failed run leaves their values unchanged.
const OF_SUCCESS: [(&str, &str); 3] = [
    ("oar_tiles_run_success_timestamp_seconds", "When the last successful run ended, in seconds since 1970"),
    ("oar_tiles_run_tiles", "Tiles that the last successful run wrote"),
    ("oar_tiles_run_bytes", "Bytes of the tiles that the last successful run wrote"),
];

impl MetricsFile {
    /// Checks before the run that the metrics can be written after it.
    /// Fails if the file cannot be written, or if it is the output of the run.
    fn new(path: &Path, verb: &str, output: &Path) -> Result<MetricsFile, MetricsFileError> {
        // The run replaces the file, so it has to be able to make another one in the folder.
        let checked = check_writable(path, output)
            .and_then(|()| if is_device(path) { Ok(()) } else { new_beside(path).map(drop) });
        checked.map_err(|source| MetricsFileError { path: path.to_owned(), moment: FileMoment::Before, source })?;
        let output = format!("output=\"{}\"", label_value(&output.to_string_lossy()));
        let labels = format!("verb=\"{verb}\",{output}");
        Ok(MetricsFile { path: path.to_owned(), labels, output: output + "," })
    }

    /// Writes the figures of a run. Without counts, the figures of the last success are copied from the old file.
    /// Fails if the file cannot be written; the old file then stays.
    fn write(&self, exit: u8, took: Duration, written: &RunWritten<'_>) -> Result<(), MetricsFileError> {
        let failed = |source| MetricsFileError { path: self.path.clone(), moment: FileMoment::After, source };
        let now = since_1970(SystemTime::now());
        // A device may have no end.
        let has_before = !is_device(&self.path);
        let before = if has_before { std::fs::read_to_string(&self.path).unwrap_or_default() } else { String::new() };
        let text = self.text(exit, now, took, written.counts, &before) + written.purges;
        self.replace(&text).map_err(failed)
    }

    fn text(&self, exit: u8, now: Duration, took: Duration, counts: Option<RunCounts>, before: &str) -> String {
        let success = counts.map(|counts| [now.as_secs_f64(), counts.tiles as f64, counts.bytes as f64]);
        let mut metrics: Vec<Metric> = vec![
            (
                "oar_tiles_run_ended_timestamp_seconds",
                "When the last run ended, in seconds since 1970",
                now.as_secs_f64(),
            ),
            ("oar_tiles_run_exit_code", "The exit code of the last run", f64::from(exit)),
            ("oar_tiles_run_duration_seconds", "How long the last run took", took.as_secs_f64()),
        ];
        for (number, (name, help)) in OF_SUCCESS.iter().enumerate() {
            let value = success.map(|values| values[number]).or_else(|| self.value_in(before, name));
            metrics.extend(value.map(|value| (*name, *help, value)));
        }
        let one = |(name, help, value): &Metric| {
            gauge(name, help, &[GaugeValue { labels: self.labels.clone(), value: *value }])
        };
        metrics.iter().map(one).collect()
    }

    /// The value that `text`, the content of an older file, has for a metric of this run's command.
    fn value_in(&self, text: &str, name: &str) -> Option<f64> {
        let begin = format!("{name}{{{}}} ", self.labels);
        text.lines().find_map(|line| line.strip_prefix(&begin)?.trim().parse().ok())
    }

    /// Replaces the file atomically, so that the exporter never reads half of it.
    fn replace(&self, text: &str) -> io::Result<()> {
        if is_device(&self.path) {
            return std::fs::write(&self.path, text);
        }
        let mut file = new_beside(&self.path)?;
        file.write_all(text.as_bytes())?;
        file.persist(&self.path).map(drop).map_err(|error| error.error)
    }
}

/// True for a device or a pipe, such as `/dev/stdout` or `/dev/null`: it is written into, and never replaced.
fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// A new file in the folder of `path`, which is removed unless it is given that name.
fn new_beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    // The exporter runs as another user, who must be able to read the file.
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    builder.prefix(".oar-tiles-").tempfile_in(folder.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_what_the_last_success_did() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oar.prom");
        let file = MetricsFile::new(&path, "seed", Path::new("a\"b.mbtiles")).unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        let value = |name: &str| file.value_in(&read(), name);
        file.write(2, Duration::from_secs(3), &RunWritten::default()).unwrap();
        assert_eq!((value("oar_tiles_run_exit_code"), value("oar_tiles_run_tiles")), (Some(2.0), None));
        let written = RunWritten { counts: Some(RunCounts { tiles: 7, bytes: 900 }), purges: "more\n" };
        file.write(0, Duration::from_secs(3), &written).unwrap();
        assert!(read().ends_with("\nmore\n"));
        let success = value("oar_tiles_run_success_timestamp_seconds");
        assert!(success > Some(1.7e9) && value("oar_tiles_run_tiles") == Some(7.0), "{}", read());
        file.write(1, Duration::from_millis(1_500), &RunWritten::default()).unwrap();
        assert_eq!(value("oar_tiles_run_exit_code"), Some(1.0));
        assert_eq!(value("oar_tiles_run_duration_seconds"), Some(1.5));
        assert_eq!(value("oar_tiles_run_success_timestamp_seconds"), success);
        assert_eq!((value("oar_tiles_run_tiles"), value("oar_tiles_run_bytes")), (Some(7.0), Some(900.0)));
        assert!(read().contains("{verb=\"seed\",output=\"a\\\"b.mbtiles\"}"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }
}
