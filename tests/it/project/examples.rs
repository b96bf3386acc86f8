//! The files in `examples/` have the form that the programs for which they are written ask for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use oar_tiles::cli::command;

use crate::support::program::{program, run};
use crate::support::repository;

/// What Kubernetes would refuse, or start and never find: a selector that no pod's labels fit, a port without a name, a
/// volume that is not there. Prints the number of objects.
const KUBERNETES: &str = r#"
import sys
from ruamel.yaml import YAML

objects = [one for path in sys.argv[1:] for one in YAML(typ="safe").load_all(open(path))]
specs = [one["spec"] for one in objects if one["kind"] == "Deployment"]
templates = [spec["template"] for spec in specs]
jobs = [one["spec"]["jobTemplate"]["spec"] for one in objects if one["kind"] == "CronJob"]
jobs += [one["spec"] for one in objects if one["kind"] == "Job"]

def fits(selector, labels):
    return selector and all(labels.get(key) == value for key, value in selector.items())

for spec in specs:
    assert fits(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]), spec["selector"]
for one in objects:
    assert one["apiVersion"] and one["metadata"]["name"], one
    if one["kind"] in ("Service", "PodDisruptionBudget"):
        selector = one["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        found = [pod for pod in templates if fits(selector, pod["metadata"]["labels"])]
        assert len(found) == 1, (one["kind"], selector)
        ports = {port["name"] for container in found[0]["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in one["spec"].get("ports", [])} <= ports, one
for pod in [template["spec"] for template in templates] + [job["template"]["spec"] for job in jobs]:
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsNonRoot"] is True, pod
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes, container["name"]
        ports = {port["name"] for port in container.get("ports", [])}
        probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in container]
        assert {probe["httpGet"]["port"] for probe in probes} <= ports, container["name"]
        assert len(probes) in (0, 3) and container["resources"]["limits"]["memory"], container["name"]
for job in jobs:
    names = {container["name"] for container in job["template"]["spec"]["containers"]}
    rules = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy needs it"
    assert {rule["onExitCodes"]["containerName"] for rule in rules} <= names, rules
print(len(objects))
for args in [container["args"] for pod in templates for container in pod["spec"]["containers"]]:
    print(" ".join(args))
for job in jobs:
    print(" ".join(job["template"]["spec"]["containers"][0]["args"]))
"#;

fn example(name: &str) -> PathBuf {
    repository("examples").join(name)
}

/// Runs a command that has to succeed; what it said.
fn succeeds(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: scripts/test installs it"));
    let said = [&done.stdout[..], &done.stderr].concat();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    String::from_utf8(said).unwrap()
}

/// The program takes a command line of an example: its verbs, flags and values. What a shell does with the line is
/// taken away, and a variable stands for a whole number, which is a file, an address and a duration, too.
#[track_caller]
pub(super) fn is_known(line: &str) {
    let own = line.split([';', '|', '>', '&']).next().unwrap_or_default();
    let words = own.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
    let words = words.map(|word| if word.starts_with('$') { "1" } else { word });
    if let Err(error) = command().try_get_matches_from(std::iter::once("oar-tiles").chain(words)) {
        panic!("{line}: {error}");
    }
}

#[test]
fn a_command_line_with_another_verb_flag_or_value_is_refused() {
    is_known("reseed --or-seed --config /etc/oar-tiles.toml --metrics \"$METRICS\" > /dev/null 2>&1");
    for wrong in
        ["sed --config a.toml", "track instal", "seed --zooms 1", "seed --workers many", "reseed --watch --dry-run x y"]
    {
        assert!(std::panic::catch_unwind(|| is_known(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn systemd_takes_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let mut copies = Vec::new();
    for entry in fs::read_dir(example("systemd")).unwrap() {
        let path = entry.unwrap().path();
        let unit = fs::read_to_string(&path).unwrap();
        let started = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/oar-tiles "));
        started.into_iter().for_each(is_known);
        let copy = folder.path().join(path.file_name().unwrap());
        fs::write(&copy, unit.replace("/usr/bin/oar-tiles", env!("CARGO_BIN_EXE_oar-tiles"))).unwrap();
        copies.push(copy);
    }
    assert_eq!(copies.len(), 5);
    let units = format!("{}:", folder.path().display());
    let said = succeeds(Command::new("systemd-analyze").arg("verify").args(&copies).env("SYSTEMD_UNIT_PATH", units));
    let own: Vec<&str> = said.lines().filter(|line| line.contains("oar-tiles-")).collect();
    assert!(own.is_empty(), "{own:?}");
}

#[test]
fn kubernetes_objects_fit_each_other() {
    let python = std::env::var("TEST_PYTHON").expect("scripts/test installs it");
    let files = ["kubernetes/tiles.yaml", "kubernetes/seed-cronjob.yaml", "scale-out/kubernetes.yaml"].map(example);
    let said = succeeds(Command::new(python).args(["-c", KUBERNETES]).args(files));
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("6"));
    lines.for_each(is_known);
}

#[test]
fn schemas_take_the_workflow_and_the_composition() {
    let python = PathBuf::from(std::env::var("TEST_PYTHON").expect("scripts/test installs it"));
    for (schema, name) in [("vendor.github-workflows", "github-actions.yml"), ("vendor.compose-spec", "compose.yaml")] {
        let mut check = Command::new(python.with_file_name("check-jsonschema"));
        succeeds(check.args(["--quiet", "--builtin-schema", schema]).arg(example(name)));
    }
    run(program().args(["config", "--config"]).arg(example("map.toml"))).ok();
    // What they start: a list after a key, and a line after the name of the image.
    let text = |name: &str| fs::read_to_string(example(name)).unwrap();
    let list = |line: &str| {
        Some(serde_json::from_str::<Vec<String>>(line.trim().strip_prefix("command: ")?).unwrap().join(" "))
    };
    let mut lines: Vec<String> = text("compose.yaml").lines().filter_map(list).collect();
    let after = |image: &str, name: &str| {
        text(name).lines().filter_map(|line| line.trim().strip_prefix(image).map(str::to_owned)).collect::<Vec<_>>()
    };
    lines.extend(after("ghcr.io/example/oar-tiles ", "github-actions.yml"));
    lines.extend(after("oar-tiles ", "scale-out/cloud-run.sh"));
    let of_image = after("--args \"", "scale-out/cloud-run.sh");
    lines.extend(of_image.iter().map(|words| words.trim_end_matches('"').replace(',', " ")));
    assert_eq!(lines.len(), 6, "{lines:?}");
    for line in &lines {
        is_known(line);
    }
}

#[test]
fn nginx_takes_its_block() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost";
    succeeds(Command::new("openssl").args(made.split(' ')).args(["-keyout", &at("key"), "-out", &at("pem")]));
    let block = fs::read_to_string(example("nginx.conf")).unwrap();
    let block = block
        .replace("/etc/ssl/tiles.example.org.pem", &at("pem"))
        .replace("/etc/ssl/tiles.example.org.key", &at("key"))
        .replace("/var/cache/nginx/tiles", &at("cache"))
        .replace("listen 443", "listen 127.0.0.1:44300");
    fs::write(at("conf"), format!("pid {};\nevents {{ }}\nhttp {{\n{block}\n}}\n", at("pid"))).unwrap();
    let nginx = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    succeeds(Command::new(nginx).args(["-t", "-q", "-e", &at("log"), "-c", &at("conf")]));
}

#[test]
fn the_crontab_runs_commands_that_exist() {
    let text = fs::read_to_string(example("crontab")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let (settings, commands): (Vec<&str>, Vec<&str>) =
        lines.partition(|line| line.contains('=') && !line.contains('*'));
    assert_eq!((settings.len(), commands.len()), (3, 2));
    for line in commands {
        let times: Vec<&str> = line.split_whitespace().take(5).collect();
        assert!(times.iter().all(|time| time.chars().all(|c| c.is_ascii_digit() || "*/-,".contains(c))), "{line}");
        is_known(line.rsplit("oar-tiles ").next().unwrap());
    }
}

/// Prints the resources of a Terraform file, and ends with an error if an expression names one that is not there.
const TERRAFORM: &str = r##"
import re
import sys
import hcl2

text = open(sys.argv[1]).read()
parsed = hcl2.loads(text)
names = {(kind.strip('"'), name.strip('"')) for one in parsed["resource"] for kind, of in one.items() for name in of}
data = {(kind.strip('"'), name.strip('"')) for one in parsed["data"] for kind, of in one.items() for name in of}
code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
for prefix, kind, name in re.findall(r"(data\.)?\b(aws_\w+)\.(\w+)\.", code):
    assert (kind, name) in (data if prefix else names), f"{prefix}{kind}.{name} is not there"
for name in re.findall(r"\bvar\.(\w+)", code):
    assert any(name == one.strip('"') for variable in parsed["variable"] for one in variable), name
print(len(names))
"##;

#[test]
fn the_files_for_aws_have_the_right_form() {
    let python = PathBuf::from(std::env::var("TEST_PYTHON").expect("scripts/test installs it"));
    succeeds(Command::new(python.with_file_name("cfn-lint")).arg(example("aws/cloudfront.yaml")));
    let said = succeeds(Command::new(python).args(["-c", TERRAFORM]).arg(example("aws/cloudfront.tf")));
    assert_eq!(said.trim(), "8");
}

/// A key without the query, and a query that is passed on all the same, give one client's tile to everybody. nginx and
/// Varnish are asked in `purge/real_caches.rs`; clouds are not at hand.
#[test]
fn what_is_recommended_for_clouds_neither_forwards_queries_that_are_not_in_the_key_nor_says_nothing_of_them() {
    let text = |name: &str| fs::read_to_string(example(name)).unwrap().to_lowercase().replace('_', "");
    for name in ["aws/cloudfront.tf", "aws/cloudfront.yaml"] {
        let text = text(name);
        let behaviours: Vec<&str> = text.lines().filter(|line| line.contains("querystringbehavior")).collect();
        assert!(matches!(&behaviours[..], [one] if one.contains("none")), "{name}: {behaviours:?}");
        let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        assert!(code.into_iter().all(|line| !line.contains("originrequestpolicy")), "{name}");
    }
    let manual = fs::read_to_string(repository("docs/cdn.md")).unwrap();
    let recipes = manual.split("\n## Recipes\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let recipes: Vec<&str> = recipes.split("\n### ").skip(1).collect();
    assert_eq!(recipes.len(), 7);
    for recipe in recipes {
        let words = recipe.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        assert!(words.contains("query string"), "{recipe}");
    }
}

/// Whether a job definition has the parameters that the API's own description in botocore asks for. It is not run: that
/// takes an account.
const BATCH: &str = r#"
import json, sys
import botocore.session, botocore.validate
client = botocore.session.get_session().create_client("batch", region_name="eu-west-1", aws_access_key_id="-", aws_secret_access_key="-")
definition = json.load(open(sys.argv[1]))
shape = client.meta.service_model.operation_model("RegisterJobDefinition").input_shape
report = botocore.validate.ParamValidator().validate(definition, shape)
assert not report.has_errors(), report.generate_report()
rules = definition["retryStrategy"]["evaluateOnExit"]
assert len(rules) <= 5 and {rule["action"] for rule in rules} == {"RETRY", "EXIT"}, rules
print("oar-tiles", " ".join(definition["containerProperties"]["command"]))
"#;

#[test]
fn the_job_definition_for_batch_has_the_right_form() {
    let python = std::env::var("TEST_PYTHON").expect("scripts/test installs it");
    let said = succeeds(Command::new(python).args(["-c", BATCH]).arg(example("scale-out/aws-batch.json")));
    is_known(said.trim().strip_prefix("oar-tiles ").unwrap());
}

/// tileserver-gl takes minutes to be installed; it was tried by hand with this file. Here: every source is an archive
/// of the kind that it is named as, in a folder that the options name.
#[test]
fn the_configuration_of_tileserver_gl_names_archives() {
    let text = fs::read_to_string(example("tileserver-gl.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sources = json["data"].as_object().unwrap();
    assert_eq!(sources.len(), 2);
    for source in sources.values() {
        let (kind, file) = source.as_object().unwrap().iter().next().unwrap();
        assert!(file.as_str().unwrap().ends_with(&format!(".{kind}")), "{source}");
        assert!(json["options"]["paths"][kind].as_str().unwrap().starts_with('/'), "{kind}");
    }
}
