//! `oar-tiles jobs`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use super::on_runtime;
use crate::report::{print, print_as_json};
use crate::run::{CommandError, jobs};
use crate::tile::ZoomList;

/// `oar-tiles jobs`.
#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// Submit a job to the server that writes a target
    Submit(JobsSubmit),
    /// List the jobs of a server's target, the oldest first
    List(JobsServer),
    /// Show a job
    Show(JobsOne),
    /// Take a job back: it is cancelled, or asked to end if it runs
    Cancel(JobsOne),
}

/// The server that is asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobsServer {
    /// Address of the server's admin listener: http://127.0.0.1:9180, unix:PATH, or https://HOST of a proxy before it
    #[arg(long, value_name = "URL")]
    pub(crate) admin: String,
    /// Tileset whose jobs are meant, if the server has several
    #[arg(long, value_name = "NAME")]
    pub tileset: Option<String>,
    /// File with the server's token [default: the variable OAR_TILES_TOKEN has the token]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// `oar-tiles jobs show` and `cancel`.
#[derive(Debug, Args)]
pub(crate) struct JobsOne {
    /// Number of the job
    pub id: u64,
    /// The server.
    #[command(flatten)]
    pub server: JobsServer,
}

/// `oar-tiles jobs submit`.
#[derive(Debug, Args)]
pub(crate) struct JobsSubmit {
    /// What to render
    #[arg(value_enum)]
    pub what: JobsWork,
    /// With tiles: a file with a line z/x/y for each
    #[arg(long, value_name = "FILE", required_if_eq("what", "tiles"))]
    pub tiles: Option<PathBuf>,
    /// With area: W,S,E,N or a GeoJSON file; repeat the flag for several areas
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, action = ArgAction::Append, required_if_eq("what", "area"))]
    pub(crate) area: Vec<String>,
    /// With log or area: only these zooms
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Wait until the job has ended, and show how far it is
    #[arg(long)]
    pub(crate) wait: bool,
    /// The server.
    #[command(flatten)]
    pub server: JobsServer,
}

/// What a job renders, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum JobsWork {
    /// What the change log has made dirty
    Log,
    /// The tiles of a list
    Tiles,
    /// All tiles of boxes
    Area,
    /// Everything, with the target's own zooms and boxes
    Seed,
}

impl JobsWork {
    /// Its name in a request.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            JobsWork::Log => "log",
            JobsWork::Tiles => "tiles",
            JobsWork::Area => "area",
            JobsWork::Seed => "seed",
        }
    }
}

pub(crate) fn run_jobs(arguments: &Jobs) -> Result<(), CommandError> {
    let server = |given: &JobsServer| {
        let server = jobs::AdminServer::new(&given.admin, given.token_file.as_deref())?;
        Ok::<_, CommandError>(match &given.tileset {
            Some(name) => server.for_tileset(name),
            None => server,
        })
    };
    let shown = |job: &Value| print(&jobs::line(job));
    on_runtime(async || match arguments {
        Jobs::Submit(submit) => {
            let server = server(&submit.server)?;
            let wanted =
                jobs::written(submit.what.name(), submit.tiles.as_deref(), &submit.area, submit.zoom.as_ref())?;
            let job = server.ask(Method::POST, "/jobs", Some(&wanted)).await?;
            if submit.wait {
                let id = job["id"].as_u64().unwrap_or_default();
                return server.wait(id, |job| shown(job).unwrap_or_default()).await;
            }
            Ok(shown(&job)?)
        }
        Jobs::List(given) => {
            let all = server(given)?.ask(Method::GET, "/jobs", None).await?;
            all["jobs"].as_array().into_iter().flatten().try_for_each(|job| Ok(shown(job)?))
        }
        Jobs::Show(one) => {
            let path = format!("/jobs/{}", one.id);
            Ok(print_as_json(&server(&one.server)?.ask(Method::GET, &path, None).await?)?)
        }
        Jobs::Cancel(one) => {
            let path = format!("/jobs/{}", one.id);
            Ok(shown(&server(&one.server)?.ask(Method::DELETE, &path, None).await?)?)
        }
    })
}
