//! The small documents that are kept with a target: one suite for every place where they lie.

use std::os::unix::fs::PermissionsExt as _;

use oar_tiles::target::{BucketNotes, FolderNotes, MAX_KEPT_NOTE, NoteError, NoteStore, ObjectKey, WriteCondition};

use crate::support::s3::{Prefix, options};

pub(crate) fn keeps_notes(notes: &dyn NoteStore) {
    let read = |name: &str| notes.read(name).unwrap().map(|note| String::from_utf8(note.body).unwrap());
    let none: [String; 0] = [];
    assert_eq!((read("a.json"), notes.list("jobs").unwrap().as_slice()), (None, none.as_slice()));
    notes.remove("a.json").unwrap();

    let first = notes.write("a.json", b"1", &WriteCondition::Absent).unwrap();
    assert_eq!(notes.read("a.json").unwrap().unwrap().tag, first);
    let refused = |name: &str, body: &str, condition| {
        let refused = notes.write(name, body.as_bytes(), &condition);
        assert!(matches!(refused, Err(NoteError::Changed { .. })), "{name} {condition:?}: {refused:?}");
    };
    refused("a.json", "2", WriteCondition::Absent);
    refused("b.json", "2", WriteCondition::Unchanged(first.clone()));
    let second = notes.write("a.json", b"2", &WriteCondition::Unchanged(first.clone())).unwrap();
    assert_ne!(first, second);
    refused("a.json", "3", WriteCondition::Unchanged(first));
    assert_eq!(read("a.json").as_deref(), Some("2"));
    notes.write("a.json", b"4", &WriteCondition::Always).unwrap();
    assert_eq!(read("a.json").as_deref(), Some("4"));

    for name in ["jobs/2.json", "jobs/1.json", "outbox/1.json"] {
        notes.write(name, name.as_bytes(), &WriteCondition::Absent).unwrap();
    }
    assert_eq!(notes.list("jobs").unwrap(), ["jobs/1.json", "jobs/2.json"]);
    assert_eq!(read("jobs/2.json").as_deref(), Some("jobs/2.json"));
    notes.remove("jobs/1.json").unwrap();
    assert_eq!((notes.list("jobs").unwrap(), read("jobs/1.json")), (vec!["jobs/2.json".to_owned()], None));

    for name in ["", "/", "/a", "a/", "a/b/c", "..", "../a", "a/..", ".lock", "a b", "ü", "jobs/.staged"] {
        assert!(matches!(notes.write(name, b"x", &WriteCondition::Always), Err(NoteError::Name { .. })), "{name:?}");
        assert!(matches!(notes.read(name), Err(NoteError::Name { .. })), "{name:?}");
    }
    notes.write("long", &vec![b'x'; MAX_KEPT_NOTE], &WriteCondition::Always).unwrap();
    assert_eq!(notes.read("long").unwrap().unwrap().body.len(), MAX_KEPT_NOTE);
    notes.write("long", &vec![b'x'; MAX_KEPT_NOTE + 1], &WriteCondition::Always).unwrap();
    assert!(matches!(notes.read("long"), Err(NoteError::TooLong { .. })));
    notes.remove("long").unwrap();

    // Of several writers that have seen the same, one writes.
    for condition in [WriteCondition::Absent, WriteCondition::Unchanged(String::new())] {
        let seen = match condition {
            WriteCondition::Absent => WriteCondition::Absent,
            _ => WriteCondition::Unchanged(notes.read("race").unwrap().unwrap().tag),
        };
        let won = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..6)
                .map(|number| {
                    let (body, seen) = (format!("{seen:?} {number}"), &seen);
                    scope.spawn(move || notes.write("race", body.as_bytes(), seen).is_ok())
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(won, 1, "{seen:?}");
    }
}

#[test]
fn notes_are_kept_in_a_directory_and_beside_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tiles");
    std::fs::create_dir(&root).unwrap();
    keeps_notes(&FolderNotes::of_directory(&root));
    let (one, other) = (folder.path().join("a.mbtiles"), folder.path().join("b.mbtiles"));
    keeps_notes(&FolderNotes::beside(&one));
    assert_eq!(FolderNotes::beside(&other).read("a.json").unwrap(), None, "each archive has its own");
    std::fs::write(&one, "").unwrap();
    std::os::unix::fs::symlink(&one, folder.path().join("link.mbtiles")).unwrap();
    let by_link = FolderNotes::beside(&folder.path().join("link.mbtiles"));
    assert!(by_link.read("a.json").unwrap().is_some(), "a link leads to the notes of its archive");
}

#[test]
fn notes_are_kept_in_a_bucket_below_a_prefix_and_beside_an_archive() {
    let prefix = Prefix::new();
    let (options, handle) = (options(&prefix.endpoint), prefix.runtime.handle().clone());
    keeps_notes(&BucketNotes::of_prefix(prefix.location.clone(), options.clone(), handle.clone()));
    let key: ObjectKey = format!("{}a.pmtiles", prefix.location).parse().unwrap();
    keeps_notes(&BucketNotes::beside(&key, options, handle));
    let names: Vec<String> = prefix.objects().into_keys().collect();
    assert!(names.contains(&".oar-tiles/notes/a.json".to_owned()), "{names:?}");
    assert!(names.contains(&".a.pmtiles.oar-tiles/a.json".to_owned()), "{names:?}");
}

#[test]
fn a_folder_that_somebody_put_in_the_way_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let notes = FolderNotes::beside(&folder.path().join("a.mbtiles"));
    let own = folder.path().join(".a.mbtiles.oar-tiles");
    std::os::unix::fs::symlink(&elsewhere, &own).unwrap();
    assert!(notes.write("a.json", b"x", &WriteCondition::Always).is_err() && notes.read("a.json").is_err());
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    std::fs::remove_file(&own).unwrap();
    std::fs::create_dir(&own).unwrap();
    let target = elsewhere.join("precious");
    std::fs::write(&target, "mine").unwrap();
    for name in [".lock", ".staged", "a.json"] {
        if own.join(name).symlink_metadata().is_ok() {
            std::fs::remove_file(own.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(&target, own.join(name)).unwrap();
        notes.read("a.json").map(drop).unwrap_or_default();
        notes.write("a.json", b"x", &WriteCondition::Always).map(drop).unwrap_or_default();
        assert_eq!(std::fs::read(&target).unwrap(), b"mine", "{name}");
    }
}

#[test]
fn notes_are_read_without_the_right_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let notes = FolderNotes::of_directory(folder.path());
    notes.write("a.json", b"x", &WriteCondition::Always).unwrap();
    let own = folder.path().join(".oar-tiles/notes");
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o555)).unwrap();
    assert!(notes.read("a.json").unwrap().is_some());
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
    // Whoever only reads leaves nothing behind.
    let clean = tempfile::tempdir().unwrap();
    let none = FolderNotes::of_directory(clean.path());
    assert_eq!((none.read("a.json").unwrap(), none.list("jobs").unwrap()), (None, Vec::new()));
    none.remove("a.json").unwrap();
    assert_eq!(std::fs::read_dir(clean.path()).unwrap().count(), 0);
    let gone = FolderNotes::beside(&clean.path().join("gone/a.mbtiles"));
    assert_eq!(gone.read("a.json").unwrap(), None);
}
