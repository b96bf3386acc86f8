//! `oar-tiles jobs`: sends requests to the admin listener of a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{CommandError, area};
use crate::https::{HttpsClient, RequestBody, deepest_cause, https_client};
use crate::serve::{TOKEN_VARIABLE, tileset_segment};
use crate::tile::{AreaPart, ZoomList};

/// The longest wait for an answer. The server answers only once a job is durable.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The pause between two looks at a job whose end is awaited.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// How the listener is reached.
enum AdminWay {
    /// Over HTTP, or over HTTPS if there is a proxy in front of the listener. The client follows no redirect, because
    /// no other server must get the token.
    Web(Box<HttpsClient>),
    /// Over a Unix socket.
    Socket(PathBuf),
}

/// A server's admin listener.
pub(crate) struct AdminServer {
    /// The URL as the user gave it.
    url: String,
    /// The prefix of all paths.
    base: String,
    way: AdminWay,
    token: Option<String>,
}

impl AdminServer {
    /// The listener at a URL (`http://HOST:PORT`, `https://HOST/PATH`) or a socket (`unix:PATH`). The token comes from
    /// the file, or else from the environment variable. Fails if the URL is of another form, or the file cannot be
    /// read.
    pub(crate) fn new(url: &str, token_file: Option<&Path>) -> Result<AdminServer, CommandError> {
        let wrong = |what: String| CommandError::Admin { url: url.to_owned(), what };
        let (base, way) = if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            ("http://localhost".to_owned(), AdminWay::Socket(path.into()))
        } else {
            let parsed: Option<Uri> = url.parse().ok();
            let is_web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none();
            if !parsed.as_ref().is_some_and(is_web) {
                let what = "is no address of an admin listener: write http://HOST:PORT, https://HOST or unix:PATH";
                return Err(wrong(what.to_owned()));
            }
            let client = https_client().map_err(|error| wrong(format!("cannot be asked: {error}")))?;
            (url.trim_end_matches('/').to_owned(), AdminWay::Web(Box::new(client)))
        };
        let token = match token_file {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                Some(read.map_err(|error| wrong(format!("needs the token in {}: {error}", path.display())))?)
            }
            None => std::env::var(TOKEN_VARIABLE).ok(),
        };
        Ok(AdminServer { url: url.to_owned(), base, way, token: token.map(|token| token.trim().to_owned()) })
    }

    /// The same listener for the jobs of one of its tilesets.
    pub(crate) fn for_tileset(self, name: &str) -> AdminServer {
        AdminServer { base: format!("{}/{}", self.base, tileset_segment(name)), ..self }
    }

    /// Sends a request, and returns the JSON of the answer.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CommandError> {
        let failed = |what: String| CommandError::Admin { url: self.url.clone(), what };
        match tokio::time::timeout(ANSWER_LIMIT, self.answer(method, path, body)).await {
            Ok(Ok((status, answer))) if status < 300 => Ok(answer),
            Ok(Ok((status, answer))) => {
                let why = answer["error"].as_str().unwrap_or("it does not say why");
                Err(failed(format!("answered {status}: {why}")))
            }
            Ok(Err(error)) => Err(failed(format!("cannot be asked: {}", deepest_cause(&*error)))),
            Err(_elapsed) => Err(failed(format!("did not answer within {} s", ANSWER_LIMIT.as_secs()))),
        }
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), Box<dyn std::error::Error + Send + Sync>> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(|json| Bytes::from(json.to_string())).unwrap_or_default();
        let request = request.body(RequestBody::new(body))?;
        let answer = match &self.way {
            AdminWay::Web(client) => client.request(request).await?,
            AdminWay::Socket(path) => over_socket(path, request).await?,
        };
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Waits until a job has ended. Calls `shown` with each new state.
    pub(crate) async fn wait(&self, id: u64, mut shown: impl FnMut(&Value)) -> Result<(), CommandError> {
        let mut last = Value::Null;
        loop {
            let job = self.ask(Method::GET, &format!("/jobs/{id}"), None).await?;
            if job != last {
                shown(&job);
            }
            match job["state"].as_str() {
                Some("done") => return Ok(()),
                Some(state @ ("failed" | "cancelled")) => {
                    let why = job["cause"].as_str().unwrap_or("a client took it back");
                    let what = format!("says that job {id} is {state}: {why}");
                    return Err(CommandError::Admin { url: self.url.clone(), what });
                }
                _ => {}
            }
            last = job;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

/// Sends a request to the server behind a Unix socket.
async fn over_socket(
    path: &Path,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(path).await?;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (mut head, body) = request.into_parts();
    // There is no host, so the request names only the path.
    head.uri = head.uri.path().parse()?;
    head.headers.insert(HOST, HeaderValue::from_static("localhost"));
    Ok(send.send_request(Request::from_parts(head, body)).await?)
}

/// The body of a request for a job.
pub(crate) fn written(
    what: &str,
    tiles: Option<&Path>,
    areas: &[String],
    zooms: Option<&ZoomList>,
) -> Result<Value, CommandError> {
    let mut job = json!({ "what": what });
    if let Some(path) = tiles {
        let text = std::fs::read_to_string(path).map_err(|error| CommandError::Admin {
            url: path.display().to_string(),
            what: format!("cannot be read: {error}"),
        })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        job["tiles"] = lines.collect();
    }
    let areas: Vec<_> = areas.iter().map(|text| area(text)).collect::<Result<Vec<_>, _>>()?.concat();
    if !areas.is_empty() {
        job["area"] = areas.iter().map(AreaPart::json).collect();
    }
    if let Some(zooms) = zooms {
        job["zoom"] = zooms.to_string().into();
    }
    Ok(job)
}

pub(crate) fn line(job: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let progress = &job["progress"];
    let more = match (progress["done"].as_u64(), progress["total"].as_u64()) {
        (Some(done), Some(total)) => {
            let left = progress["eta_seconds"].as_u64().map_or_else(String::new, |left| format!(", {left} s left"));
            format!("  {done} of {total} tiles{left}")
        }
        _ => job["cause"].as_str().map_or_else(String::new, |cause| format!("  {cause}")),
    };
    format!(
        "{:>6}  {:<9}  {}{more}\n",
        job["id"].as_u64().unwrap_or_default(),
        text(&job["state"]),
        text(&job["job"]["what"])
    )
}
