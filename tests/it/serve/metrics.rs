//! Metrics that Prometheus takes: of the server, and of runs in cron and watches as a file.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::process::Start as _;
use crate::support::program::seed;
use crate::support::served::{GZIP, Served, small_target};
use crate::support::tracked::Tracked;
use crate::support::watch_process::Watching;
use crate::support::{Db, until};

/// Feeds a program; its exit code and everything that it said.
fn fed(command: &mut Command, text: &str) -> (Option<i32>, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

#[test]
fn prometheus_takes_the_metrics_and_the_rules() {
    let (_folder, target) = small_target();
    let served = Served::new(&target, &[]);
    for path in ["/0/0/0.pbf", "/0/0/0.pbf", "/3/4/6.pbf", "/tiles.json", "/9/9", "/03/4/6.pbf"] {
        served.get(path, GZIP);
    }
    let (code, metrics) = served.admin("/metrics");
    assert_eq!(code, 200);
    let (code, said) = fed(Command::new("promtool").args(["check", "metrics"]), &metrics);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{metrics}");
    // Every metric that rules and dashboard ask for is one that the server has.
    let manual = fs::read_to_string(crate::support::repository("docs/serving.md")).unwrap();
    let rules = crate::support::repository("examples/prometheus-rules.yaml");
    let checked = Command::new("promtool").args(["check", "rules"]).arg(&rules).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let dashboard = fs::read_to_string(crate::support::repository("examples/grafana-dashboard.json")).unwrap();
    let panels: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(panels["panels"].as_array().unwrap().iter().all(|panel| panel["targets"][0]["expr"].is_string()));
    for text in [&fs::read_to_string(&rules).unwrap(), &dashboard, &manual] {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':') {
            let name = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
            // Only a server of variants has these.
            let of_variants = ["oar_tiles_variants", "oar_tiles_open_variants"].contains(&name);
            if name.starts_with("oar_tiles_") && !name.starts_with("oar_tiles_run_") && !of_variants {
                assert!(metrics.contains(&format!("# TYPE {name} ")), "{name}\n{metrics}");
            }
        }
    }
}

#[test]
fn a_run_in_cron_leaves_its_metrics_for_prometheus() {
    let (db, folder) = (Db::with_facilities(100), tempfile::tempdir().unwrap());
    let (target, metrics) = (folder.path().join("t.mbtiles"), folder.path().join("oar.prom"));
    let file = metrics.to_str().unwrap();
    seed(&db.url, &target, &["--zoom", "0-2", "--metrics", file]).ok();
    let first = fs::read_to_string(&metrics).unwrap();
    let (code, said) = fed(Command::new("promtool").args(["check", "metrics"]), &first);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{first}");
    let value = |text: &str, name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{verb=\"seed\",output=\"")));
        line.unwrap_or_else(|| panic!("{name}: {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value(&first, "oar_tiles_run_tiles") > 3.0 && value(&first, "oar_tiles_run_bytes") > 100.0, "{first}");
    assert!(value(&first, "oar_tiles_run_exit_code") == 0.0 && value(&first, "oar_tiles_run_duration_seconds") > 0.0);
    // A run that fails says so, and when the last one succeeded.
    db.run("ALTER TABLE api_facility RENAME TO elsewhere");
    seed(&db.url, &target, &["--zoom", "0-2", "--metrics", file]).fails(2, &["api_facility"]);
    let second = fs::read_to_string(&metrics).unwrap();
    assert!((value(&second, "oar_tiles_run_exit_code") - 2.0).abs() < 1e-9, "{second}");
    for name in ["oar_tiles_run_success_timestamp_seconds", "oar_tiles_run_tiles", "oar_tiles_run_bytes"] {
        assert!((value(&first, name) - value(&second, name)).abs() < 1e-9, "{name}");
    }
    seed(&db.url, &target, &["--metrics", target.to_str().unwrap()]).fails(2, &["choose another --metrics"]);
    seed(&db.url, &target, &["--metrics", "/nowhere/oar.prom"])
        .fails(2, &["cannot write the metrics /nowhere/oar.prom"]);
}

#[test]
fn a_watch_writes_its_metrics_after_each_publish() {
    let tracked = Tracked::facilities(100);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-2"]);
    let metrics = tracked.path("oar.prom");
    let value = |name: &str| -> Option<f64> {
        let text = fs::read_to_string(&metrics).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{verb=\"reseed\"")))?.to_owned();
        line.rsplit(' ').next()?.parse().ok()
    };
    let watching = Watching::start(&tracked.db.url, &target, &["--metrics", metrics.to_str().unwrap()]);
    until("the first look is noted", || value("oar_tiles_run_exit_code") == Some(0.0));
    assert_eq!(value("oar_tiles_run_tiles"), Some(0.0), "nothing had changed");
    let first = value("oar_tiles_run_success_timestamp_seconds").unwrap();
    tracked.db.run("UPDATE api_facility SET name = name || '!' WHERE id = (SELECT min(id) FROM api_facility)");
    until("the publish is noted", || value("oar_tiles_run_tiles").is_some_and(|tiles| tiles > 0.0));
    assert!(value("oar_tiles_run_success_timestamp_seconds").unwrap() > first);
    assert!(value("oar_tiles_run_bytes").unwrap() > 100.0 && value("oar_tiles_run_duration_seconds").unwrap() > 0.0);
    assert_eq!(watching.end(), 0);
}
