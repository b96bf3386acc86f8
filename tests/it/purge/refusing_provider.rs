//! A provider that refuses keeps its backlog, and everything that speaks of the target says so; no publish is held up.

use super::delivery::{ONE, OTHER, PurgedPlaces};
use crate::support::served::Served;

#[test]
fn a_provider_that_refuses_is_named_by_status_metrics_and_the_change_log() {
    let told = PurgedPlaces::new("tiles/", "");
    told.verb("seed", &[]).ok();
    told.told();
    told.end_with("exit 78");
    let metrics = told.file("run.prom");
    let metrics = metrics.to_str().unwrap();
    for rows in [ONE, OTHER] {
        told.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {rows}"));
        let ran = told.verb("reseed", &["--metrics", metrics]).ok();
        assert!(ran.stderr.contains("refuses to be told what changed"), "{}", ran.stderr);
    }
    let waits = told.status()[0]["tiles"].as_u64().unwrap();
    assert!(waits >= 4);
    let labels = "provider=\"command\",url=\"https://tiles.test/\"}";
    let file = std::fs::read_to_string(metrics).unwrap();
    let of_file = format!("output=\"{}\",{labels}", told.places.place("tiles/"));
    assert!(file.contains(&format!("oar_tiles_purge_stopped{{{of_file} 1\n")), "{file}");
    assert!(file.contains(&format!("oar_tiles_purge_waiting_tiles{{{of_file} {waits}\n")), "{file}");
    let log = told.verb("track", &["status"]).ok().stdout;
    let said = format!("command https://tiles.test/ is not purged, and {waits} tiles");
    assert!(log.contains(&said) && log.contains("exit code 78") && log.contains("run oar-tiles purge"), "{log}");
    let served = Served::at(&told.places, "tiles/", &[]);
    let (status, text) = served.admin("/metrics");
    assert_eq!(status, 200);
    assert!(text.contains(&format!("oar_tiles_purge_stopped{{{labels} 1\n")), "{text}");
    assert!(text.contains(&format!("oar_tiles_purge_waiting_tiles{{{labels} {waits}\n")), "{text}");
    // And when the cause is gone.
    told.end_with("exit 0");
    told.verb("purge", &[]).ok();
    let log = told.verb("track", &["status"]).ok().stdout;
    assert!(!log.contains("tiles.test"), "{log}");
    let (_, text) = served.admin("/metrics");
    assert!(text.contains(&format!("oar_tiles_purge_stopped{{{labels} 0\n")), "{text}");
    told.verb("reseed", &["--metrics", metrics]).ok();
    let file = std::fs::read_to_string(metrics).unwrap();
    assert!(file.contains(&format!("oar_tiles_purge_waiting_tiles{{{of_file} 0\n")), "{file}");
}

#[test]
fn what_waits_for_a_cache_that_was_removed_from_the_settings_is_shown_until_it_is_forgotten() {
    let told = PurgedPlaces::new("tiles/", "");
    told.verb("seed", &[]).ok();
    told.end_with("exit 75");
    told.change(ONE).0.ok();
    told.end_with("exit 0");
    told.told();
    let moved = "https://other.test/";
    told.configure(|text| text.replace("https://tiles.test/", moved));
    told.db.run(&format!("UPDATE api_facility SET name = name || '?' WHERE {ONE}"));
    let warned = told.verb("reseed", &[]).ok().stderr;
    let message = "what changed waits for command https://tiles.test/, and no [[purge]] has this address: put it back, or run oar-tiles purge --config ";
    assert!(warned.contains(message), "{warned}");
    assert!(told.told().iter().all(|line| line.starts_with(moved)));
    let status = told.status();
    assert_eq!(
        (&status[0]["tiles"], &status[1]["tiles"], &status[1]["provider"], &status[1]["stopped"]),
        (&0.into(), &4.into(), &"command https://tiles.test/".into(), &"no [[purge]] has this address".into())
    );
    // The address is back: nothing was lost.
    told.configure(|text| text.replace(moved, "https://tiles.test/"));
    told.verb("purge", &[]).ok();
    assert_eq!(told.told().len(), 4);
    // And forgotten.
    told.end_with("exit 75");
    told.change(ONE).0.ok();
    told.configure(|text| text.replace("https://tiles.test/", moved));
    told.verb("purge", &["--forget"]).ok();
    assert_eq!(told.status().as_array().unwrap().len(), 1);
}
