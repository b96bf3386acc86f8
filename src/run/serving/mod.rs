//! `oar-tiles serve` and `oar-tiles preview`: a target over HTTP.
//!
//! | file | what |
//! |---|---|
//! | `awaited` | live tiles of a server that began while its database was away |
//! | `bounds` | the limits on the database sessions of live tiles, over all tilesets |
//! | `count` | how many rows a request chooses, and where they lie |
//! | `drawing` | tiles that are drawn from kept rows, or whose cells are counted from them |
//! | `family` | the variants of a tileset, by their family's manifest |
//! | `filtered` | the kept rows that a request's filter leaves |
//! | `follow` | the change log, followed for stale tiles and for live ones |
//! | `live` | tiles that the target does not hold, rendered on request |
//! | `live_layers` | the layers with the rows that are kept of them, and as which layer the rows of each are read |
//! | `maps` | the tables that say for which values those of requests stand |
//! | `pooled_rows` | rows that a tileset takes from others in this server, and offers to them |
//! | `request_filter` | what a request wants of the rows: further conditions of the layers, and their values |
//! | `rows` | rows of points, kept to draw live tiles without a statement |
//! | `saved_rows`, `saved_rows_file` | how a server takes over the rows that the one before has left; the file beside a target in which it leaves them |
//! | `search` | the batch of a live tile, with the area in which its features are searched |
//! | `sets` | the sets of rows that match filters: their places, bounds, and for which states they hold |
//! | `shared_work` | work that is done once for all who wait for its result |
//! | `snapshot` | the database state that live tiles show for some seconds, and the sessions on it |

mod awaited;
mod bounds;
mod count;
mod drawing;
mod family;
mod filtered;
mod follow;
mod live;
mod live_layers;
mod maps;
mod pooled_rows;
mod request_filter;
mod rows;
mod saved_rows;
mod saved_rows_file;
mod search;
mod sets;
mod shared_work;
mod snapshot;

use std::path::Path;
use std::sync::Arc;

use awaited::{AwaitedTiles, may_be_awaited};
use bounds::LiveBounds;
use family::family_parts;
use live::DatabaseTiles;

use super::{CommandError, Family, Target, TilesetRun, WrittenFileError, blocking_read};
use crate::error::with_causes;
use crate::report::{print, say_warning, write_document};
use crate::serve::{
    Addressing, ChangeDetection, LiveSource, Rereader, ServeError, ServeOptions, ServedSource, SettingsReader,
    TargetOpener, TileServer, TilesetParameters, TilesetParts, WorkQueue, Writer, WrittenTarget, WrittenVariants,
    files_of_archive, files_of_directory, live_only, standalone, style,
};
use crate::stop::Stop;
use crate::target::{Described, ReadError, Storage};

/// What happens once the server is listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnceReady {
    /// Its addresses are printed.
    SayWhere,
    /// Its addresses are printed, and the desktop is asked to open the map in a browser.
    OpenBrowser,
}

/// A tileset that is served, and the writer that keeps its target up to date meanwhile.
pub(crate) struct ServedTileset {
    pub run: TilesetRun,
    /// The writer; `None` if other processes write.
    pub writer: Option<Arc<dyn Writer<WrittenTarget>>>,
    /// False if it has no target, so that every tile is rendered on request.
    pub(crate) has_target: bool,
}

impl ServedTileset {
    /// A tileset that other processes write.
    pub(crate) const fn read_only(run: TilesetRun) -> ServedTileset {
        ServedTileset { run, writer: None, has_target: true }
    }

    /// A tileset without a target.
    pub(crate) const fn live_only(run: TilesetRun) -> ServedTileset {
        ServedTileset { run, writer: None, has_target: false }
    }
}

/// The tilesets that a server serves.
pub(crate) enum ServedTilesets {
    /// One, at the root of all paths.
    One(Box<ServedTileset>),
    /// Several, each below its name.
    ByName(NamedTilesets),
}

/// The tilesets of a server, each below its name.
pub(crate) struct NamedTilesets {
    pub(crate) tilesets: Vec<ServedTileset>,
    /// The tilesets with variants. Their tilesets without conditions, if wanted, are in `tilesets`.
    pub(crate) families: Vec<ServedFamily>,
}

/// The variants of a tileset that are served, and the writer that keeps them up to date meanwhile.
pub(crate) struct ServedFamily {
    pub(crate) family: Family,
    /// The writer; `None` if other processes write.
    pub writer: Option<Arc<dyn Writer<WrittenVariants>>>,
}

impl NamedTilesets {
    fn has(&self, name: &str) -> bool {
        self.tilesets.iter().any(|served| served.run.settings.tileset.name == name)
    }
}

impl ServedTilesets {
    fn families(&self) -> &[ServedFamily] {
        match self {
            ServedTilesets::One(_) => &[],
            ServedTilesets::ByName(named) => &named.families,
        }
    }

    fn all(&self) -> &[ServedTileset] {
        match self {
            ServedTilesets::One(one) => std::slice::from_ref(one),
            ServedTilesets::ByName(named) => &named.tilesets,
        }
    }

    const fn addressing(&self) -> Addressing {
        match self {
            ServedTilesets::One(_) => Addressing::Root,
            ServedTilesets::ByName(_) => Addressing::ByName,
        }
    }
}

/// Serves tilesets until `stop` is asked for, and prints where clients find them. The result is always an error: that
/// of the start, or [`CommandError::Stopped`] once the server has ended. `reread` reads the settings again at SIGHUP.
/// Fails if a target cannot be read, an address cannot be used, live tiles are wanted and cannot be rendered, or the
/// server was stopped.
pub(crate) async fn run(
    tilesets: &ServedTilesets,
    options: &ServeOptions,
    then: OnceReady,
    reread: Option<SettingsReader>,
    stop: &Stop,
) -> Result<(), CommandError> {
    // Before the address is printed, because from then on the process may get a signal.
    let rereader = reread.and_then(Rereader::listening);
    let server = start(tilesets, options, stop).await?;
    let url = server.public_url();
    match tilesets {
        ServedTilesets::One(one) => {
            let shown = if options.section.preview { "a map of it at" } else { "its tiles at" };
            print(&format!("{}: {shown} {url} (TileJSON: {url}tiles.json)\n", one.run.target))?;
        }
        ServedTilesets::ByName(named) => {
            let count = named.tilesets.len();
            let lone = named.families.iter().filter(|served| !named.has(served.family.name())).count();
            let maps = if options.section.preview { format!(", maps of them at {url}") } else { String::new() };
            let noun = if count + lone == 1 { "tileset" } else { "tilesets" };
            print(&format!("{} {noun}: listed at {url}catalog{maps}\n", count + lone))?;
        }
    }
    if let Some(admin) = server.admin_url() {
        print(&format!("metrics and health: {admin}metrics, {admin}readyz\n"))?;
    }
    if then == OnceReady::OpenBrowser && !is_opened_by_desktop(&url) {
        say_warning("the desktop could not be asked to show the map: open the address above in a browser");
    }
    Err(CommandError::Stopped(server.run(stop, rereader).await))
}

/// Asks the desktop to open a page; false if there is no program for it.
fn is_opened_by_desktop(url: &str) -> bool {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    std::process::Command::new(program).arg(url).spawn().is_ok()
}

/// Opens the targets and begins to listen. Fails if a target cannot be read, an address cannot be used, or live tiles
/// are wanted and cannot be rendered.
pub(crate) async fn start(
    served: &ServedTilesets,
    options: &ServeOptions,
    stop: &Stop,
) -> Result<TileServer, CommandError> {
    let starting = async {
        let all = served.all();
        let bounds = Arc::new(LiveBounds::new(
            all.len(),
            options.shares,
            options.live.as_ref().and_then(|live| live.explain_after),
        ));
        let (mut tilesets, mut away) = (Vec::new(), None);
        for served in all {
            tilesets.push(parts(served, options, &bounds, &mut away).await?);
        }
        let mut families = Vec::new();
        for family in served.families() {
            families.push(family_parts(family, stop).await?);
        }
        let queue = WorkQueue::new(options.shares);
        let started = TileServer::start(options.clone(), tilesets, families, served.addressing(), queue).await;
        started.map_err(|error| match error {
            ServeError::Target(error) => CommandError::Read(error),
            other => CommandError::Serve(other),
        })
    };
    tokio::select! {
        started = starting => started,
        signal = stop.wait() => Err(CommandError::Interrupted(signal)),
    }
}

/// A tileset in the form that the server uses. `away` says why the database did not answer when an earlier tileset was
/// opened. The database is not asked again then, because each attempt waits for its time limit.
async fn parts(
    served: &ServedTileset,
    options: &ServeOptions,
    bounds: &Arc<LiveBounds>,
    away: &mut Option<String>,
) -> Result<TilesetParts, CommandError> {
    let run = &served.run;
    if options.live.is_some()
        && options.writer.is_some_and(|writer| writer.write_back.is_some())
        && run.target.url.is_replaced_by_edits()
    {
        return Err(CommandError::WrittenAsAWhole { target: run.target.to_string() });
    }
    if served.writer.is_some() {
        refuse_versions(&run.target)?;
    }
    let mut filters = run.settings.tileset.filters.clone();
    let (mut live, mut described): (Option<Arc<dyn LiveSource>>, _) = (None, None);
    if let Some(why) = away.as_deref().filter(|_| options.live.is_some() && served.has_target) {
        live = AwaitedTiles::new(run, bounds, why).await?.map(|tiles| Arc::new(tiles) as Arc<dyn LiveSource>);
    }
    if options.live.is_some() && live.is_none() {
        match DatabaseTiles::open(run, served.has_target, bounds).await {
            Ok(tiles) => {
                filters = tiles.filters().clone();
                described = tiles.described().cloned();
                live = Some(Arc::new(tiles));
            }
            Err(error) if served.has_target && may_be_awaited(&error, options) => {
                let why = with_causes(&error);
                live = Some(Arc::new(AwaitedTiles::new(run, bounds, &why).await?.ok_or(error)?));
                *away = Some(why);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(TilesetParts {
        name: run.settings.tileset.name.clone(),
        source: match described {
            Some(described) => live_only(described),
            None => source(&run.target)?,
        },
        headers: run.settings.server.tile_headers.clone(),
        parameters: TilesetParameters(filters.parameters.iter().map(|settings| settings.parameter.clone()).collect()),
        live,
        writer: served.writer.clone(),
    })
}

/// Refuses a writer of a target that is published as versions: a reseed cannot edit them.
fn refuse_versions(target: &Target) -> Result<(), CommandError> {
    if target.publishes_versions() {
        return Err(CommandError::WriterOfVersions { target: target.to_string() });
    }
    Ok(())
}

/// How the server reaches a target.
fn source(target: &Target) -> Result<ServedSource, CommandError> {
    let watched = match target.url.storage() {
        Storage::File(path) => files_of_archive(path),
        Storage::Folder(path) => files_of_directory(path),
        Storage::Prefix | Storage::Object => ChangeDetection::Description,
    };
    let notes = target.notes()?;
    let target = target.clone();
    let open: TargetOpener = Arc::new(move || target.reader().map_err(into_read_error));
    Ok(ServedSource { open, watched, notes })
}

/// The error of a target that cannot be opened, as an error of reading.
fn into_read_error(error: CommandError) -> ReadError {
    match error {
        CommandError::Read(error) => error,
        other => ReadError::Remote { what: "the target cannot be opened".to_owned(), source: Some(Box::new(other)) },
    }
}

// `oar-tiles preview --html` and `--style`: the map as a page of the user's own, and its style for a map of the user's
// own.

/// Writes the page. `public_url` is the address of the target's tiles and TileJSON; without it, the URL with which the
/// target was seeded. `basemap` is the URL of a style that is drawn below the tiles. Fails if the target cannot be
/// read, the address of its tiles is not known, or the file cannot be written.
pub(crate) async fn write_page(
    run: &TilesetRun,
    file: &Path,
    public_url: Option<String>,
    basemap: Option<&str>,
) -> Result<(), CommandError> {
    let (_, base) = base_of(run, public_url).await?;
    write_document(file, &run.settings.tileset.output, standalone(&base, basemap).as_bytes(), |moment, source| {
        WrittenFileError::NoPage { path: file.to_owned(), moment, source }.into()
    })
}

/// Writes the map's style. `glyphs` is the address of a font server that has the font that the style names. Fails if
/// the address of the tiles is not known, that of the glyphs is no URL, no layer has the property `label`, or the file
/// cannot be written.
pub(crate) async fn write_style(
    run: &TilesetRun,
    file: &Path,
    public_url: Option<String>,
    label: Option<&str>,
    glyphs: Option<&str>,
) -> Result<(), CommandError> {
    let (described, base) = base_of(run, public_url).await?;
    if let Some(label) =
        label.filter(|label| described.vector_layers.iter().all(|layer| !layer.fields.contains_key(*label)))
    {
        let mut names: Vec<&str> =
            described.vector_layers.iter().flat_map(|layer| layer.fields.keys()).map(String::as_str).collect();
        names.dedup();
        let what = format!("property \"{label}\": it has {}", names.join(", "));
        return Err(CommandError::NotThere { target: run.target.to_string(), what });
    }
    let glyphs = glyphs.map(|url| with_slash(url).ok_or_else(|| CommandError::NoGlyphsUrl { url: url.to_owned() }));
    let glyphs = glyphs.transpose()?;
    let text = serde_json::to_string_pretty(&style(&described, &base, label, glyphs.as_deref()))
        .map_err(std::io::Error::from)?;
    write_document(file, &run.settings.tileset.output, (text + "\n").as_bytes(), |moment, source| {
        WrittenFileError::NoStyle { path: file.to_owned(), moment, source }.into()
    })
}

/// The target's description, and the URL of its tiles, with a slash at the end.
async fn base_of(run: &TilesetRun, public_url: Option<String>) -> Result<(Described, String), CommandError> {
    let target = run.target.clone();
    let described = blocking_read(&run.stop, move || Ok(target.reader()?.describe()?)).await?;
    let seeded = described.public_url.clone();
    let Some(url) = public_url.or(seeded).filter(|url| !url.is_empty()) else {
        return Err(CommandError::NoPublicUrl { target: run.target.to_string() });
    };
    let Some(base) = with_slash(&url) else { return Err(CommandError::NoUrl { url }) };
    Ok((described, base))
}

/// A URL with a slash at its end; `None` if a page cannot ask it.
fn with_slash(url: &str) -> Option<String> {
    let is_url = url.starts_with("https://") || url.starts_with("http://");
    is_url.then(|| format!("{}/", url.strip_suffix('/').unwrap_or(url)))
}
