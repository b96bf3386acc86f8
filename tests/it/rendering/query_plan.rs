//! The plan of the statement that renders, as the server really chose it: the speed stands on it.

use crate::support::{Db, seed};

/// The plans of the statement over a table of 20,000 facilities after some changes, each from its grouping on.
fn plans_after(changes: &str) -> Vec<String> {
    let db = Db::with_facilities(20_000);
    let table = format!("facilities_of_{}", db.name);
    db.run(changes);
    db.run(&format!(
        "ALTER TABLE api_facility RENAME TO {table}; ANALYZE {table};
         ALTER DATABASE {name} SET session_preload_libraries = 'auto_explain';
         ALTER DATABASE {name} SET auto_explain.log_min_duration = 0;",
        name = db.name
    ));
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(
        &config,
        format!("[[layer]]\nname = \"f\"\ntable = \"{table}\"\nproperties = {{ tile = \"name\", feature = \"name\", drawn = \"name\", geom = \"name\" }}\n[run]\nbatch_features = 2000"),
    )
    .unwrap();
    seed(&db.url, &output, &["--zoom", "14", "--config", config.to_str().unwrap()]).ok();

    let socket = db.url.split("host=").nth(1).unwrap().split('&').next().unwrap();
    let log = std::fs::read_to_string(format!("{socket}/server.log")).expect("scripts/postgres logs beside its socket");
    let plans: Vec<&str> = log
        .split("LOG:  duration: ")
        .filter(|entry| {
            entry.contains(&table) && entry.contains("ST_AsMVT(feature.*") && entry.contains("GroupAggregate")
        })
        .collect();
    assert!(plans.len() >= 8, "{} plans", plans.len());
    plans.iter().map(|plan| plan.split("GroupAggregate").nth(1).unwrap().to_owned()).collect()
}

#[test]
fn the_index_finds_the_features_and_one_sort_serves_the_grouping() {
    for plan in plans_after("") {
        assert!(plan.contains("Index Cond: (location && ") && !plan.contains("BitmapOr"), "no index:\n{plan}");
        assert_eq!(plan.matches("Sort Key").count(), 1, "one sort:\n{plan}");
        assert!(!plan.contains("HashAggregate") && !plan.contains("Gather"), "{plan}");
    }
}

#[test]
fn the_index_finds_the_features_beyond_the_edge_too() {
    let beyond = "UPDATE api_facility SET location = ST_Translate(location, 360, 0) WHERE id = (SELECT min(id) FROM api_facility)";
    for plan in plans_after(beyond) {
        assert_eq!(plan.matches("Index Cond: (location && ").count(), 3, "no index:\n{plan}");
        assert!(plan.contains("BitmapOr") && !plan.contains("Seq Scan"), "{plan}");
    }
}
