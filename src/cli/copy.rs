//! `oar-tiles copy`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::closing::first_failure;
use super::settings::resolved_to_write;
use super::{SettingFlags, on_runtime};
use crate::report::{Style, grouped, print, report, sized, start_log, timed};
use crate::run::copy::{CopiedPart, CopyReport};
use crate::run::{CommandError, TilesetRun, area_or_boxes, copy};
use crate::stop::Stop;
use crate::target::TARGET_FORMS;
use crate::tile::{LonLatBox, ZoomList};

/// `oar-tiles copy`.
#[derive(Debug, Args)]
#[command(override_usage = "oar-tiles copy [OPTIONS] <SOURCE>... <TARGET>")]
pub(crate) struct Copy {
    // One list, because clap cannot tell where the sources end if flags stand among them.
    #[arg(
        required = true,
        num_args = 1..,
        value_name = "PLACE",
        help = format!("Copy from, and last of all copy to: {TARGET_FORMS}; several sources are joined, tiles that are \
            in more than one of them by their layers")
    )]
    pub places: Vec<String>,
    /// Copy only these zooms, such as 0-14, 7 or 0-4,8,10-12
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Copy only tiles that this box touches, in degrees; repeat the flag for several boxes
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// Copy only this layer of each tile; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Copy only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, conflicts_with = "bbox")]
    pub(crate) area: Option<String>,
    /// Write only what differs from this older target, as a patch in MBTiles that `mbtiles apply-patch` (of Martin)
    /// brings into a copy of it
    #[arg(long, value_name = "TARGET", conflicts_with_all = ["zoom", "bbox", "layer", "area", "changed_out"])]
    pub since: Option<String>,
    /// Overwrite the target even if it holds another tileset or was made by another program
    #[arg(long)]
    pub force: bool,
    /// After publishing, list the tiles that changed in FILE: .json, .geojson, else a line z/x/y for each; only * if
    /// that is not known
    #[arg(long, value_name = "FILE")]
    pub(crate) changed_out: Option<PathBuf>,
    /// URL under which clients find the directory or bucket, such as https://host/path; tiles.json refers to it [env:
    /// OAR_TILES_PUBLIC_URL]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(crate) fn run_copy(arguments: &Copy, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let Copy { places, zoom, bbox, layer, area: wanted, since, force, changed_out, public_url, quiet, config } =
        arguments;
    let (target, source) = match places.split_last() {
        Some((target, source)) if !source.is_empty() => (target, source),
        _ => return Err(CommandError::NoCopyTarget),
    };
    if since.is_some() && source.len() > 1 {
        return Err(CommandError::NoPatchOfSeveral);
    }
    let flags = SettingFlags { config: config.clone(), public_url: public_url.clone(), ..SettingFlags::default() };
    let (mut settings, is_own) = resolved_to_write(&flags, target)?;
    // The CDNs of the configuration are in front of its own output only.
    if !is_own {
        settings.tileset.purges.clear();
    }
    let bbox = area_or_boxes(wanted.as_ref(), bbox)?;
    let options = copy::CopyOptions {
        sources: source.to_vec(),
        layers: layer.clone(),
        zoom: zoom.clone(),
        bbox,
        since: since.clone(),
    };
    on_runtime(async || {
        let run = TilesetRun::new(settings, *force, &report(Style::Warnings), stop)?;
        let run = run.with_changed_out(changed_out.as_deref())?;
        let done = copy::copy(&run, &options).await?;
        let shown = if *quiet { Ok(()) } else { print(&render_copy(&done)).map_err(CommandError::from) };
        let purged = run.purge_published(false).await.map(drop);
        first_failure([purged, shown, run.changed_out.result()])
    })
}

/// One line about a copy.
#[must_use]
pub fn render_copy(copy: &CopyReport) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for the eye")]
    let rate = grouped(((copy.stored + copy.unchanged) as f64 / copy.seconds.max(1e-3)) as u64);
    let mut more = String::new();
    for (count, what) in [
        (copy.unchanged, "unchanged"),
        (copy.deleted, if copy.part == Some(CopiedPart::Patch) { "removed" } else { "deleted" }),
    ] {
        if count > 0 {
            more.push_str(&format!(", {} {what}", grouped(count)));
        }
    }
    if let Some(part) = copy.part {
        more.push_str(match part {
            CopiedPart::Tiles => ", a part without manifest",
            CopiedPart::Layers => ", some layers without manifest",
            CopiedPart::Joined => ", joined without manifest",
            CopiedPart::Patch => ", a patch",
        });
    }
    let (stored, bytes, time) = (grouped(copy.stored), sized(copy.bytes), timed(copy.seconds));
    format!("{stored} tiles stored{more}: {bytes} in {time} ({rate} tiles/s): {} → {}\n", copy.source, copy.target)
}
