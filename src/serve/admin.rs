//! The admin listener: health, metrics and status, for supervisors and not for the public.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::http::answer::{Answer, RequestBody, closing, private, private_json, without_body};
use super::http::connection::{Answers, KnownHosts, malformed};
use super::jobs::JobRoutes;
use super::observe::metrics::Measured;
use super::public::Site;
use super::queue::{ClassCounts, WorkClass};
use super::redis::RedisCache;
use super::tilesets::SiteTileset;
use crate::cdn::{LabelledOutbox, purge_metrics};
use crate::json::JSON_VERSION;

/// What there is beside the jobs of each tileset, which have a table of their own (`JobRoutes`).
const ENDPOINTS: [(&str, Endpoint); 5] = [
    ("/livez", |_| Box::pin(async { private(StatusCode::OK, "text/plain", "ok\n".to_owned()) })),
    ("/readyz", |admin| Box::pin(admin.ready())),
    ("/metrics", |admin| Box::pin(admin.metrics())),
    ("/status.json", |admin| Box::pin(admin.status())),
    ("/jobs", |admin| Box::pin(admin.all_jobs())),
];

type Endpoint = for<'a> fn(&'a Admin) -> BoxFuture<'a, Answer>;

#[derive(Clone)]
pub(crate) struct Admin {
    /// The state of the public listener.
    site: Arc<Site>,
    /// True if the server was asked to end.
    draining: Arc<AtomicBool>,
    /// The names by which clients may ask.
    hosts: KnownHosts,
    /// The jobs of each tileset, in their order.
    jobs: Arc<[JobRoutes]>,
}

impl Answers for Admin {
    async fn answer(self, request: Request<RequestBody>) -> Answer {
        if let Some(what) = malformed(&request) {
            return closing(private(StatusCode::BAD_REQUEST, "text/plain", format!("{what}\n")));
        }
        if !self.hosts.knows(&request) {
            return private(StatusCode::MISDIRECTED_REQUEST, "text/plain", format!("{}\n", KnownHosts::UNKNOWN));
        }
        let path = request.uri().path().to_owned();
        if let Some((jobs, path)) = self.jobs_of(&path) {
            let settings = self.site.settings();
            return jobs.answer(request, path, settings.token.as_ref()).await;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return private(
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "only GET and HEAD are answered\n".to_owned(),
            );
        }
        let answer = match ENDPOINTS.iter().find(|(known, _)| *known == path) {
            Some((_, answer)) => answer(&self).await,
            None => private(StatusCode::NOT_FOUND, "text/plain", self.what_there_is()),
        };
        if request.method() == Method::HEAD { without_body(answer) } else { answer }
    }
}

impl Admin {
    /// The admin listener of a server.
    pub(crate) fn new(site: Arc<Site>, draining: Arc<AtomicBool>, hosts: KnownHosts) -> Admin {
        let followers = JobRoutes::followers();
        let routes = |tileset: &Arc<SiteTileset>| {
            let base = tileset.path.strip_suffix('/').map_or_else(String::new, |path| format!("/{path}"));
            let (store, tiles) = (tileset.jobs.clone(), tileset.tiles.clone());
            JobRoutes { store, tiles, followers: Arc::clone(&followers), draining: Arc::clone(&draining), base }
        };
        let jobs = site.tilesets.all.iter().map(routes).collect();
        Admin { site, draining, hosts, jobs }
    }

    /// The jobs of the tileset that a path names, and the path below the tileset.
    fn jobs_of<'a>(&'a self, path: &'a str) -> Option<(&'a JobRoutes, &'a str)> {
        let below = |jobs: &'a JobRoutes| {
            let rest = path.strip_prefix(&*jobs.base).filter(|rest| JobRoutes::knows(rest))?;
            Some((jobs, rest))
        };
        self.jobs.iter().find_map(below)
    }

    /// The answer to a path that nothing has.
    fn what_there_is(&self) -> String {
        let own = ENDPOINTS.iter().map(|(path, _)| (*path).to_owned());
        let of_tileset: Vec<&str> = JobRoutes::paths().collect();
        if self.site.tilesets.at_root().is_some() {
            let own = own.filter(|path| !of_tileset.contains(&&**path));
            let all = own.chain(of_tileset.iter().map(|path| (*path).to_owned())).collect();
            return format!("there is {}\n", in_words(all));
        }
        let of_each = of_tileset.iter().map(|path| format!("/TILESET{path}")).collect();
        format!("there is {}, and for each tileset {}\n", in_words(own.collect()), in_words(of_each))
    }

    async fn all_jobs(&self) -> Answer {
        let mut all = Vec::new();
        for (tileset, routes) in self.site.tilesets.all.iter().zip(&*self.jobs) {
            match routes.listed().await {
                Ok(jobs) => all.extend(jobs.into_iter().map(|mut job| {
                    job["tileset"] = (*tileset.name).into();
                    job
                })),
                Err(refused) => return refused,
            }
        }
        private_json(StatusCode::OK, &json!({ "schema_version": JSON_VERSION, "jobs": all }))
    }

    /// The reasons for `/readyz` to answer 503: the server is about to end, a target cannot be read, or live tiles do
    /// not fit it, or the change log was not read yet. Empty if there are none.
    async fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("the server was asked to end".to_owned());
        }
        for tileset in &self.site.tilesets.all {
            let of_tileset = tileset.reasons().await;
            match self.site.tilesets.at_root() {
                Some(_) => reasons.extend(of_tileset),
                None => reasons.extend(of_tileset.iter().map(|reason| format!("{}: {reason}", tileset.name))),
            }
        }
        for family in &self.site.tilesets.families {
            reasons.extend(family.reasons().iter().map(|reason| format!("{}: {reason}", family.name)));
        }
        reasons
    }

    /// What is wrong, or not there yet, though the server is ready.
    fn notes(&self) -> Vec<String> {
        let named = |tileset: &Arc<SiteTileset>| {
            let notes = [tileset.note(), tileset.writing(), tileset.preparing()].into_iter().flatten();
            let is_lone = self.site.tilesets.at_root().is_some();
            let named = |note| if is_lone { note } else { format!("{}: {note}", tileset.name) };
            notes.map(named).collect::<Vec<_>>()
        };
        let families = &self.site.tilesets.families;
        let writers = families.iter().filter_map(|family| Some(format!("{}: {}", family.name, family.status.note()?)));
        self.site.tilesets.all.iter().flat_map(named).chain(writers).collect()
    }

    async fn ready(&self) -> Answer {
        let reasons = self.reasons().await;
        let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut body = json!({ "schema_version": JSON_VERSION, "ready": reasons.is_empty(), "reasons": reasons });
        let notes = self.notes();
        if !notes.is_empty() {
            body["notes"] = notes.into();
        }
        private_json(status, &body)
    }

    async fn metrics(&self) -> Answer {
        let tilesets = &self.site.tilesets;
        let mut outboxes = Vec::new();
        for tileset in &tilesets.all {
            tileset.metrics.set_measured(&tileset.measured());
            let labels = match tilesets.at_root() {
                Some(_) => String::new(),
                None => format!("tileset=\"{}\",", tileset.name),
            };
            outboxes.extend(tileset.tiles.outbox().await.map(|outbox| LabelledOutbox { outbox, labels }));
        }
        tilesets.families.iter().for_each(|family| family.measured());
        let measured = Measured {
            cached_bytes: self.site.cache.bytes(),
            unread: self.site.unread.counts(),
            queue: self.site.queue.counts(),
            // All tilesets share one pool.
            sessions: tilesets.all.iter().map(|tileset| tileset.tiles.sessions()).max().unwrap_or(0),
        };
        let text = self.site.metrics.text(measured) + &purge_metrics(&outboxes);
        private(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
    }

    async fn status(&self) -> Answer {
        let reasons = self.reasons().await;
        let mut status = json!({
            "schema_version": JSON_VERSION,
            "program": crate::target::GENERATOR,
            "ready": reasons.is_empty(),
            "reasons": reasons,
            "notes": self.notes(),
            "redis": self.site.shared.as_ref().map(RedisCache::describe),
            "cached_bytes": self.site.cache.bytes(),
            "unread_bytes": self.site.unread.counts().held,
            "live": self.live(),
            "queue": self.queue(),
        });
        if let Some(tileset) = self.site.tilesets.at_root() {
            tileset.describe().into_iter().for_each(|(name, value)| status[name] = value);
        } else {
            let one = |tileset: &Arc<SiteTileset>| {
                let mut described = tileset.describe();
                described.insert("name".to_owned(), (*tileset.name).into());
                described
            };
            status["tilesets"] = self.site.tilesets.all.iter().map(one).collect();
            let families = &self.site.tilesets.families;
            if !families.is_empty() {
                status["families"] = families.iter().map(|family| family.describe()).collect();
            }
        }
        private_json(StatusCode::OK, &status)
    }

    /// The live tiles and requests in flight; null if no tiles are rendered on request.
    fn live(&self) -> Value {
        let counts: Vec<_> = self.site.tilesets.all.iter().filter_map(|tileset| tileset.tiles.live_counts()).collect();
        // All tilesets share the queue; requests are counted for each tileset.
        counts.first().map_or(Value::Null, |first| {
            let requests: usize = counts.iter().map(|counts| counts.requests).sum();
            json!({ "running": first.running, "queued": first.queued, "requests": requests })
        })
    }

    /// The workers, and the tasks that run and wait.
    fn queue(&self) -> Value {
        let (shares, counts) = (self.site.queue.shares(), self.site.queue.counts());
        let by_class = |counts: ClassCounts| -> serde_json::Map<String, Value> {
            WorkClass::ALL.iter().map(|class| (class.name().to_owned(), counts.of(*class).into())).collect()
        };
        json!({
            "workers": shares.workers(),
            "live_reserved": shares.live_reserved(),
            "background_guaranteed": shares.background_guaranteed(),
            "running": by_class(counts.running),
            "waiting": by_class(counts.waiting),
        })
    }
}

/// Names as a list with "and".
fn in_words(mut names: Vec<String>) -> String {
    match names.pop() {
        Some(last) if !names.is_empty() => format!("{} and {last}", names.join(", ")),
        last => last.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn paths(text: &str) -> BTreeSet<&str> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '/' && c != '.');
        words.filter(|word| word.starts_with('/') && word.len() > 1).collect()
    }

    #[test]
    fn the_help_the_sample_and_the_manual_list_every_path_of_the_admin_listener() {
        let known: BTreeSet<&str> = ENDPOINTS.iter().map(|(path, _)| *path).collect();
        let mut command = crate::cli::command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.get_arguments().find(|arg| arg.get_id() == "admin").unwrap().get_help().unwrap().to_string();
        assert_eq!(paths(&help), known, "{help}");
        let (_, sample) = crate::config::SAMPLE.split_once("Where the admin listener waits").unwrap();
        assert_eq!(paths(sample.split_once("must not be public").unwrap().0), known, "sample-config.toml");
        let manual = include_str!("../../docs/serving.md");
        let row = manual.lines().find(|line| line.starts_with("| `listen`, `admin` |")).unwrap();
        assert_eq!(paths(row), known, "{row}");
    }
}
