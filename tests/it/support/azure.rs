//! The server of Azure Blob Storage's protocol: a prefix for each test, and a separate client that reads what is stored
//! there.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use oar_tiles::stop::Stop;
use oar_tiles::target::{
    BucketError, BucketLocation, BucketObject, BucketOptions, BucketPmtiles, BucketReader, BucketTiles, CloudSettings,
    ObjectKey, Publishing, Scheme, Template, TileReader, TreeOptions,
};
use tokio::runtime::Runtime;

use super::process::Start as _;
use super::s3::{options_with, runtime};
use super::targets::Target;

/// The one container.
const CONTAINER: &str = "oar-tiles-tests";

/// Microsoft's own client: makes the container, lists what is below a prefix (name, tag with time, rule for caches, and
/// bytes as hexadecimal digits, each on a line), or writes a blob with what it is given.
const CLIENT: &str = r#"
import os, sys
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import ContainerClient
container = ContainerClient(os.environ["TEST_AZURE_ENDPOINT"], sys.argv[2], credential={
    "account_name": os.environ["TEST_AZURE_ACCOUNT"], "account_key": os.environ["TEST_AZURE_KEY"]})
what, name = sys.argv[1], sys.argv[3]
if what == "make":
    try:
        container.create_container()
    except ResourceExistsError:
        pass
elif what == "list":
    for blob in container.list_blobs(name_starts_with=name):
        print(blob.name[len(name):])
        print(blob.etag, blob.last_modified)
        print(blob.content_settings.cache_control)
        print(container.download_blob(blob.name, decompress=False).readall().hex())
else:
    container.upload_blob(name, sys.stdin.buffer.read(), overwrite=True)
"#;

fn client(what: &str, name: &str, input: &[u8]) -> String {
    let mut python = Command::new(variable("TEST_PYTHON"));
    python.args(["-c", CLIENT, what, CONTAINER, name]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.start();
    python.stdin.take().unwrap().write_all(input).unwrap();
    let ended = python.wait_with_output().unwrap();
    assert!(ended.status.success(), "{what} {name}");
    String::from_utf8(ended.stdout).unwrap()
}

/// A blob as another client sees it.
pub(crate) struct Blob {
    pub bytes: Vec<u8>,
    /// Its `ETag` and time.
    pub stamp: String,
    pub cache_control: String,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by scripts/test"))
}

/// The settings that say where the server is and who asks, by the names of the variables that hold them.
fn settings() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("AZURE_ENDPOINT".to_owned(), variable("TEST_AZURE_ENDPOINT")),
        ("AZURE_STORAGE_ACCOUNT_NAME".to_owned(), variable("TEST_AZURE_ACCOUNT")),
        ("AZURE_STORAGE_ACCOUNT_KEY".to_owned(), variable("TEST_AZURE_KEY")),
    ])
}

/// Gives a command the variables with which it reaches the server.
pub(crate) fn with_account(command: &mut Command) -> &mut Command {
    command.envs(settings())
}

/// A prefix of its own for a test.
pub(crate) struct Container {
    pub runtime: Runtime,
    pub location: BucketLocation,
}

impl Container {
    pub(crate) fn new() -> Container {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static MADE: std::sync::Once = std::sync::Once::new();
        MADE.call_once(|| drop(client("make", "", b"")));
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let prefix = format!("{since}-{}/", NUMBER.fetch_add(1, Ordering::Relaxed));
        let location = BucketLocation { scheme: Scheme::Azure, bucket: CONTAINER.to_owned(), prefix };
        Container { runtime: runtime(), location }
    }

    /// Settings for tests: those for S3, without what only S3 knows.
    pub(crate) fn options() -> BucketOptions {
        let cloud = CloudSettings(settings().into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect());
        BucketOptions { cloud, ..options_with("http://127.0.0.1:1", |s3| s3.storage_class = None) }
    }

    /// The address of what lies below the prefix.
    pub(crate) fn place(&self, name: &str) -> String {
        format!("{}{name}", self.location)
    }

    pub(crate) fn key(&self, name: &str) -> ObjectKey {
        self.place(name).parse().unwrap()
    }

    /// Every blob below the prefix, by its name there.
    pub(crate) fn blobs(&self) -> BTreeMap<String, Blob> {
        let listed = client("list", &self.location.prefix, b"");
        let lines: Vec<&str> = listed.lines().collect();
        let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let blob = |blob: &[&str]| {
            let bytes = blob[3].as_bytes().chunks(2).map(digit).collect();
            (blob[0].to_owned(), Blob { bytes, stamp: blob[1].to_owned(), cache_control: blob[2].to_owned() })
        };
        lines.chunks(4).map(blob).collect()
    }

    /// Replaces a blob, as another program does.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        client("put", &format!("{}{name}", self.location.prefix), bytes);
    }
}

/// A prefix of a container.
pub(crate) struct InContainer(pub Container, pub TreeOptions);

impl Target for InContainer {
    type Sink = BucketTiles;
    fn sink(&self) -> Result<BucketTiles, BucketError> {
        let Container { location, runtime, .. } = &self.0;
        BucketTiles::create(
            location.clone(),
            Container::options(),
            self.1.clone(),
            runtime.handle().clone(),
            &Stop::new(),
        )
    }
    type Editor = BucketTiles;
    fn editor(&self) -> Result<BucketTiles, BucketError> {
        self.sink()
    }
    fn stamps(&self) -> BTreeMap<String, String> {
        let tiles = self.0.blobs().into_iter().filter(|(name, _)| !name.ends_with(".json"));
        tiles.map(|(name, blob)| (name, blob.stamp)).collect()
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        let template = Template::new("{z}/{x}/{y}.pbf").unwrap();
        let (handle, location) = (self.0.runtime.handle().clone(), self.0.location.clone());
        Some(Box::new(BucketReader::open(location, Container::options(), &template, handle).unwrap()))
    }
    fn is_remote(&self) -> bool {
        true
    }
    fn in_line(&self) -> bool {
        self.1.publish == Publishing::InPlace
    }
}

/// An archive in a container.
pub(crate) struct ArchiveInContainer(pub Container);

impl Target for ArchiveInContainer {
    type Sink = BucketPmtiles;
    fn sink(&self) -> Result<BucketPmtiles, BucketError> {
        let handle = self.0.runtime.handle().clone();
        BucketPmtiles::create(&self.0.key("t.pmtiles"), Container::options(), handle, &Stop::new())
    }
    type Editor = BucketPmtiles;
    fn editor(&self) -> Result<BucketPmtiles, BucketError> {
        self.sink()
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        let handle = self.0.runtime.handle().clone();
        let object = BucketObject::open(&self.0.key("t.pmtiles"), Container::options(), handle).unwrap();
        Some(Box::new(object.pmtiles().unwrap()))
    }
    fn in_line(&self) -> bool {
        false
    }
    fn bytes(&self) -> Option<Vec<u8>> {
        Some(self.0.blobs().remove("t.pmtiles").unwrap().bytes)
    }
}
