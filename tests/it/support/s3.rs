//! The S3 server of the tests: a prefix for each test, and a separate client that reads what is stored there.

use oar_tiles::encode::TileFormat;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use futures_util::{StreamExt as _, stream};
use oar_tiles::config::{ConfigValues, Settings};
use oar_tiles::postgis::ConnectParts;
use oar_tiles::stop::Stop;
use oar_tiles::target::{
    BucketError, BucketLocation, BucketOptions, BucketTiles, Finished, Metadata, PartialScope, Publishing, RunKind,
    S3Keys, S3Section, Scheme, Sink, TargetSection, Template, TileEdit, Tileset, TreeOptions, Unwritten, Written,
};
use oar_tiles::tile::{Coverage, LonLatBox, Order, Scope, TileCoord, TileTextNames, Zoom};
use tokio::runtime::Runtime;

/// The one bucket: each costs the server volumes of its own.
const BUCKET: &str = "oar-tiles-tests";

/// A prefix of its own for a test.
pub(crate) struct Prefix {
    /// The runtime of the sink's requests.
    pub runtime: Runtime,
    pub location: BucketLocation,
    pub endpoint: String,
    pub keys: S3Keys,
    pub client: Client,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by scripts/test"))
}

/// The keys of the user who may everything.
pub(crate) fn keys() -> S3Keys {
    S3Keys { key: variable("TEST_S3_KEY"), secret: variable("TEST_S3_SECRET"), session: None }
}

/// The keys of the user who may only read.
pub(crate) fn reader_keys() -> S3Keys {
    S3Keys { key: "reader".to_owned(), secret: variable("TEST_S3_READER"), session: None }
}

/// Settings for tests: those of the sample, but with shorter pauses.
pub(crate) fn options(endpoint: &str) -> BucketOptions {
    options_with(endpoint, |_| {})
}

/// These settings with other keys of the section.
pub(crate) fn options_with(endpoint: &str, change: impl FnOnce(&mut S3Section)) -> BucketOptions {
    let section = format!(
        r#"[s3]
endpoint = {endpoint:?}
region = "us-east-1"
path_style = true
in_flight = 16
attempts = 6
attempt_timeout = "10s"
request_timeout = "1m"
part_size_mb = 5
cache_control = {{ "0-3" = "public, max-age=60", "4-22" = "public, max-age=86400" }}
notes_cache_control = "public, max-age=5"
metadata = {{ owner = "maps" }}
storage_class = "STANDARD_IA"
"#
    );
    let values = ConfigValues::of_draft(&section).unwrap();
    let settings = Settings::resolve(&values, &ConnectParts::default(), &[]).unwrap();
    let mut options = BucketOptions { keys: Some(keys()), names: TileTextNames::default(), ..settings.tileset.bucket };
    change(&mut options.section);
    options
}

/// An ordinary target.
pub(crate) fn tree() -> TreeOptions {
    TreeOptions {
        template: Template::new("{z}/{x}/{y}.pbf").unwrap(),
        publish: Publishing::InPlace,
        force: false,
        public_url: None,
        section: TargetSection::default(),
    }
}

/// A tileset of a fingerprint, for all zooms and the whole world.
pub(crate) fn tileset(fingerprint: &str) -> Tileset {
    Tileset {
        fingerprint: fingerprint.to_owned(),
        layers: vec!["facilities".to_owned()],
        scope: Scope { zooms: "0-14".parse().unwrap(), coverage: Coverage::new(&[]) },
        partial: PartialScope::default(),
        unwritten: Unwritten::Delete,
        list_changes: false,
        dirty: None,
        before_manifest: Vec::new(),
        run: RunKind::Seed { database: "d".to_owned(), snapshot: "5:5:".to_owned() },
    }
}

/// The metadata of a run.
pub(crate) fn metadata(fingerprint: &str, run: u32) -> Metadata {
    Metadata {
        name: "facilities".to_owned(),
        format: TileFormat::MVT,
        description: None,
        attribution: None,
        version: None,
        zooms: "0-14".parse().unwrap(),
        bounds: LonLatBox::from_sides([-180.0, -85.0, 180.0, 85.0]),
        center: None,
        vector_layers: Vec::new(),
        manifest: format!("{{\"fingerprint\":\"{fingerprint}\",\"run\":{run}}}"),
    }
}

/// A tile.
pub(crate) fn coord(zoom: u8, x: u32, y: u32) -> TileCoord {
    TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
}

/// The first `count` tiles of zoom 6, from the first column on, in the order that the sink wants; their bytes depend on
/// the version.
pub(crate) fn tiles(count: u32, version: u32) -> Vec<(TileCoord, Vec<u8>)> {
    let mut tiles: Vec<_> = (0..count)
        .map(|number| {
            let tile = coord(6, number / 64, number % 64);
            (tile, format!("tile {tile} version {version} {}", "·".repeat(number as usize % 50)).into_bytes())
        })
        .collect();
    tiles.sort_by_key(|(tile, _)| Order::ZoomColumnTmsRow.sort_key(*tile));
    tiles
}

/// Tiles as edits, in batches.
pub(crate) fn edits(tiles: &[(TileCoord, Vec<u8>)]) -> Vec<Vec<TileEdit>> {
    let edit = |(tile, bytes): &(TileCoord, Vec<u8>)| TileEdit::Put((*tile).into(), bytes.clone().into());
    tiles.chunks(50).map(|tiles| tiles.iter().map(edit).collect()).collect()
}

impl Prefix {
    pub(crate) fn new() -> Prefix {
        Prefix::on(&variable("TEST_S3_ENDPOINT"), keys())
    }

    /// A prefix on another server.
    pub(crate) fn on(endpoint: &str, keys: S3Keys) -> Prefix {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let runtime = runtime();
        let S3Keys { key, secret, .. } = keys.clone();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(endpoint)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(key, secret, None, None, "test"))
            .force_path_style(true);
        let client = Client::from_conf(config.build());
        if let Err(error) = runtime.block_on(client.create_bucket().bucket(BUCKET).send()) {
            let error = format!("{error:?}");
            assert!(error.contains("BucketAlready"), "{error}");
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let prefix = format!("{since}-{}/", NUMBER.fetch_add(1, Ordering::Relaxed));
        let location = BucketLocation { scheme: Scheme::S3, bucket: BUCKET.to_owned(), prefix };
        Prefix { runtime, location, endpoint: endpoint.to_owned(), keys, client }
    }

    /// A sink.
    pub(crate) fn sink(&self) -> BucketTiles {
        self.sink_with(options(&self.endpoint), tree()).unwrap()
    }

    /// A sink with settings.
    pub(crate) fn sink_with(&self, options: BucketOptions, tree: TreeOptions) -> Result<BucketTiles, BucketError> {
        BucketTiles::create(self.location.clone(), options, tree, self.runtime.handle().clone(), &Stop::new())
    }

    /// Every object below the prefix: name and bytes.
    pub(crate) fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.runtime.block_on(async {
            let mut objects = BTreeMap::new();
            let mut from = None;
            loop {
                let list = self.client.list_objects_v2().bucket(BUCKET).prefix(&self.location.prefix);
                let page = list.set_continuation_token(from).send().await.unwrap();
                let keys = page.contents().iter().map(|object| object.key().unwrap().to_owned());
                // One request at a time would spend most of its time waiting.
                let got = keys.map(async |key| {
                    let got = self.client.get_object().bucket(BUCKET).key(&key).send().await.unwrap();
                    (key, got.body.collect().await.unwrap().to_vec())
                });
                let got: Vec<_> = stream::iter(got).buffer_unordered(16).collect().await;
                for (key, body) in got {
                    objects.insert(key.strip_prefix(&self.location.prefix).unwrap().to_owned(), body);
                }
                from = page.next_continuation_token().map(str::to_owned);
                if from.is_none() {
                    return objects;
                }
            }
        })
    }

    /// `ETag` and time of every object below the prefix.
    pub(crate) fn stamps(&self) -> BTreeMap<String, String> {
        let list = self.client.list_objects_v2().bucket(BUCKET).prefix(&self.location.prefix);
        let pages = self.runtime.block_on(list.into_paginator().send().try_collect()).unwrap();
        let stamp = |object: &aws_sdk_s3::types::Object| {
            let name = object.key().unwrap().strip_prefix(&self.location.prefix).unwrap().to_owned();
            (name, format!("{:?} {:?}", object.e_tag(), object.last_modified()))
        };
        pages.iter().flat_map(|page| page.contents().iter().map(stamp)).collect()
    }

    /// The tiles below the prefix.
    pub(crate) fn tiles(&self) -> BTreeMap<String, Vec<u8>> {
        self.objects().into_iter().filter(|(name, _)| name.rsplit('.').next() == Some("pbf")).collect()
    }

    /// A note below the prefix as JSON.
    pub(crate) fn note(&self, name: &str) -> Option<serde_json::Value> {
        self.objects().get(name).map(|body| serde_json::from_slice(body).unwrap())
    }

    /// The number of the run in the manifest.
    pub(crate) fn manifest_run(&self) -> Option<u64> {
        let metadata = self.note("metadata.json")?;
        let manifest: serde_json::Value = serde_json::from_str(metadata["oar_tiles_manifest"].as_str()?).unwrap();
        manifest["run"].as_u64()
    }

    /// Waits until the server stores and returns objects: a server that was just started refuses both for a while.
    pub(crate) fn wait_for_server(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let key = format!("probe-{}", self.location.prefix.trim_end_matches('/'));
        loop {
            let done = self.runtime.block_on(async {
                self.client.put_object().bucket(BUCKET).key(&key).body(vec![1].into()).send().await.ok()?;
                self.client.get_object().bucket(BUCKET).key(&key).send().await.ok()?.body.collect().await.ok()
            });
            if done.is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "the server does not come back");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The headers of every tile, as `HEAD` returns them: media type, encoding, `Cache-Control` and metadata, sorted.
    pub(crate) fn tile_headers(&self) -> BTreeMap<String, String> {
        let names: Vec<String> = self.tiles().into_keys().collect();
        let head = |name: String| async move {
            let key = format!("{}{name}", self.location.prefix);
            let head = self.client.head_object().bucket(BUCKET).key(key).send().await.unwrap();
            let mut metadata: Vec<String> =
                head.metadata().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
            metadata.sort();
            let plain = [head.content_type(), head.content_encoding(), head.cache_control()];
            (name, format!("{} {}", plain.map(Option::unwrap_or_default).join("|"), metadata.join(" ")))
        };
        self.runtime.block_on(futures_util::stream::iter(names).map(head).buffer_unordered(32).collect())
    }

    /// Restores the objects below the prefix.
    pub(crate) fn restore(&self, objects: &BTreeMap<String, Vec<u8>>) {
        let now = self.objects();
        for name in now.keys().filter(|name| !objects.contains_key(*name)) {
            let key = format!("{}{name}", self.location.prefix);
            self.runtime.block_on(self.client.delete_object().bucket(BUCKET).key(key).send()).unwrap();
        }
        for (name, body) in objects.iter().filter(|(name, body)| now.get(*name) != Some(body)) {
            self.put(name, body);
        }
    }

    /// Stores an object without the sink.
    pub(crate) fn put(&self, name: &str, body: &[u8]) {
        let key = format!("{}{name}", self.location.prefix);
        let put = self.client.put_object().bucket(BUCKET).key(key).body(body.to_vec().into());
        self.runtime.block_on(put.send()).unwrap();
    }
}

/// A runtime with worker threads.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A whole run of the usual tileset.
pub(crate) fn run(
    sink: BucketTiles,
    tiles: &[(TileCoord, Vec<u8>)],
    number: u32,
) -> Result<(Written, Finished), BucketError> {
    run_of(sink, &tileset("f"), tiles, number)
}

/// A whole run of a tileset.
pub(crate) fn run_of(
    mut sink: BucketTiles,
    tileset: &Tileset,
    tiles: &[(TileCoord, Vec<u8>)],
    run: u32,
) -> Result<(Written, Finished), BucketError> {
    sink.begin(tileset)?;
    let mut written = Written::default();
    for edits in edits(tiles) {
        let count = edits.len() as u64;
        let more = sink.write(edits)?;
        assert_eq!(more.total(), count);
        written += more;
    }
    let finished = sink.finish(&metadata(&tileset.fingerprint, run))?;
    Ok((written, finished))
}

/// Tiles as they should lie below the prefix.
pub(crate) fn named(tiles: &[(TileCoord, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    tiles.iter().map(|(tile, bytes)| (format!("{tile}.pbf"), bytes.clone())).collect()
}
