//! CloudFront as moto plays it, a real process, behind a stub that keeps the limits that moto does not know: 3,000
//! paths and 15 wildcards in progress. The stub also refuses, is busy, and loses answers to what was accepted.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use super::command_line::{AWS_SECRET, Purged};
use crate::support::process::{Process, Start as _};
use crate::support::stub::{Stub, StubAnswer, StubRequest};
use crate::support::until;

/// Makes a distribution, or lists what was invalidated in one: a line for each invalidation, its reference first.
const CLIENT: &str = r#"
import sys, boto3
endpoint, verb, name = sys.argv[1:4]
client = boto3.client("cloudfront", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
if verb == "create":
    origin = {"Id": "o", "DomainName": "example.org", "CustomOriginConfig": {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "http-only"}}
    behavior = {"TargetOriginId": "o", "ViewerProtocolPolicy": "allow-all", "ForwardedValues": {"QueryString": False, "Cookies": {"Forward": "none"}}}
    config = {"CallerReference": "test", "Comment": "", "Enabled": True, "Origins": {"Quantity": 1, "Items": [origin]}, "DefaultCacheBehavior": behavior}
    print(client.create_distribution(DistributionConfig=config)["Distribution"]["Id"])
else:
    for page in client.get_paginator("list_invalidations").paginate(DistributionId=name):
        for item in page["InvalidationList"].get("Items", []):
            batch = client.get_invalidation(DistributionId=name, Id=item["Id"])["Invalidation"]["InvalidationBatch"]
            print(batch["CallerReference"], *batch["Paths"]["Items"])
"#;

/// Signs each request again, by another implementation, and prints both signatures.
const SIGN: &str = r#"
import sys, json
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
secret = sys.argv[1]
for request in json.load(sys.stdin):
    headers = dict(request["headers"])
    fields = dict(part.strip().split("=", 1) for part in headers["authorization"].split(" ", 1)[1].split(","))
    key = fields["Credential"].split("/")[0]
    signed = {name: headers[name] for name in fields["SignedHeaders"].split(";")}
    again = AWSRequest(method=request["method"], url="http://" + headers["host"] + request["path"], data=request["body"], headers=signed)
    again.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(Credentials(key, secret), "cloudfront", "us-east-1")
    print(fields["Signature"], auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again))
"#;

fn python(script: &str, arguments: &[&str], input: &str) -> String {
    let mut python = Command::new(std::env::var("TEST_PYTHON").expect("scripts/test installs moto"));
    let mut child = python
        .args(["-c", script])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .start();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}

/// moto's server, killed with the value.
struct Moto {
    _child: Process,
    port: u16,
}

impl Moto {
    fn start() -> Moto {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let python = std::env::var("TEST_PYTHON").expect("scripts/test installs moto");
        let child = Command::new(Path::new(&python).with_file_name("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .start();
        let moto = Moto { _child: child, port };
        until("moto listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        moto
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Hands a request on; the status of its answer.
fn handed_on(port: u16, request: &StubRequest) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let headers: String = request
        .headers
        .iter()
        .filter(|(name, _)| name != "connection")
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let StubRequest { method, path, body, .. } = request;
    write!(stream, "{method} {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

const TOO_MANY: &str =
    "<ErrorResponse><Error><Type>Sender</Type><Code>TooManyInvalidationsInProgress</Code></Error></ErrorResponse>";

#[test]
fn cloudfront_invalidates_every_changed_tile_once_whatever_it_answers() {
    let moto = Moto::start();
    let distribution = python(CLIENT, &[&moto.url(), "create", ""], "").trim().to_owned();
    let port = moto.port;
    let (mut number, mut paths, mut wildcards, mut seen) = (0, 0, 0, HashSet::new());
    let stub = Stub::new(move |request| {
        number += 1;
        if number == 2 {
            return StubAnswer::of(503, "");
        }
        let reference = request.body.split("<CallerReference>").nth(1).unwrap().split('<').next().unwrap().to_owned();
        // Amazon takes a request with a known reference for the first one; moto would invalidate again.
        if seen.contains(&reference) {
            return StubAnswer::of(201, "<Invalidation/>");
        }
        let items: Vec<&str> =
            request.body.split("<Path>").skip(1).map(|item| item.split('<').next().unwrap()).collect();
        let stars = items.iter().filter(|item| item.ends_with('*')).count();
        if paths + items.len() - stars > 3_000 || wildcards + stars > 15 {
            // Those before are complete by the next request.
            (paths, wildcards) = (0, 0);
            return StubAnswer::of(400, TOO_MANY);
        }
        (paths, wildcards) = (paths + items.len() - stars, wildcards + stars);
        seen.insert(reference);
        let status = handed_on(port, request);
        if number == 1 { StubAnswer::Cut } else { StubAnswer::of(status, "<Invalidation/>") }
    });
    let purge = format!(
        "provider = \"cloudfront\"\ndistribution = \"{distribution}\"\nendpoint = \"{}\"\nmin_interval = \"0s\"",
        stub.url
    );
    let purged = Purged::new(&purge);
    // In more columns than wildcards may be in progress, and more tiles than paths may be.
    let tiles: Vec<String> = (0..60).flat_map(|x| (0..90).map(move |y| format!("8/{}/{y}", x * 3))).collect();
    let list = purged.list(tiles.iter().cloned());
    let ran = purged.purge(&["--tiles", &list]).ok();
    assert!(ran.stdout.contains("nothing waits"), "{}{}", ran.stdout, ran.stderr);
    let one = purged.list(["0/0/0".to_owned()].into_iter());
    assert!(purged.purge(&["--tiles", &one]).ok().stdout.contains("1 item sent, nothing waits"));
    // What moto has is what changed, each once.
    let listed = python(CLIENT, &[&moto.url(), "list", &distribution], "");
    let mut references = HashSet::new();
    let mut items = HashSet::new();
    for line in listed.lines() {
        let mut words = line.split(' ');
        assert!(references.insert(words.next().unwrap().to_owned()), "a reference twice: {listed}");
        words.for_each(|item| assert!(items.insert(item.to_owned()), "{item} twice"));
    }
    let is_hit = |tile: &String| {
        let column = tile.rsplit_once('/').unwrap().0;
        items.contains(&format!("/a/{tile}.pbf")) || items.contains(&format!("/a/{column}/*"))
    };
    assert!(tiles.iter().all(is_hit) && items.contains("/a/0/0/0.pbf"), "{listed}");
    assert!(!items.contains("/a/*"), "{} items are enough", items.len());
    // The signatures are what another implementation makes of these requests.
    let asked: Vec<serde_json::Value> = stub
        .asked()
        .iter()
        .map(|request| {
            serde_json::json!({ "method": request.method, "path": request.path, "headers": request.headers, "body": request.body })
        })
        .collect();
    let signed = python(SIGN, &[AWS_SECRET], &serde_json::Value::from(asked).to_string());
    assert!(signed.lines().count() >= 4);
    for line in signed.lines() {
        let (ours, theirs) = line.split_once(' ').unwrap();
        assert_eq!(ours, theirs);
    }
}
