//! The plan of the statement that renders, as the server really chose it: the speed stands on it.

use super::support::{Db, seed};

#[test]
fn the_index_finds_the_features_and_one_sort_serves_the_grouping() {
    let db = Db::with_facilities(20_000);
    let table = format!("facilities_of_{}", db.name);
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
    for plan in plans {
        let plan = plan.split("GroupAggregate").nth(1).unwrap();
        assert!(plan.contains("Index Cond: (location && "), "no index:\n{plan}");
        assert_eq!(plan.matches("Sort Key").count(), 1, "one sort:\n{plan}");
        assert!(!plan.contains("HashAggregate") && !plan.contains("Gather"), "{plan}");
    }
}
