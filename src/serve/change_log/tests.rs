use std::time::Duration;

use super::*;
use crate::cursor::NewestLogged;
use crate::sink::Scope;
use crate::tile::Zoom;

fn tile(zoom: u8, x: u32) -> TileCoord {
    TileCoord::new(Zoom::new(zoom).unwrap(), x, 0).unwrap()
}

fn cursor(text: &str) -> Cursor {
    text.parse().unwrap()
}

fn look(seen: &str, transactions: &[u64], dirty: Option<&[TileCoord]>) -> LogLook {
    let dirty = dirty.map(<[TileCoord]>::to_vec);
    let (since, begun) = (Cursor::default(), Instant::now());
    LogLook { since, seen: cursor(seen), transactions: transactions.to_vec(), dirty, is_other_history: false, begun }
}

/// The known changes for a target of zooms 0 to 5 that shows the database state `shown`.
fn beside(shown: &str) -> KnownChanges {
    let known = KnownChanges::default();
    known.shows(Some(cursor(shown)), &[Scope::read("0-5", &[]).unwrap()]);
    known
}

#[test]
fn a_stored_tile_is_dirty_until_the_target_shows_every_transaction_of_the_look_that_found_it() {
    let known = beside("100:100:");
    known.looked(look("110:110:", &[101, 105], Some(&[tile(3, 1), tile(9, 9)])));
    assert!(known.dirty_for(tile(3, 1)).is_some() && known.dirty_for(tile(3, 2)).is_none());
    assert!(known.dirty_for(tile(9, 9)).is_none(), "the target does not hold it");
    known.looked(look("120:120:", &[111], Some(&[tile(3, 2)])));
    // A publication of a state in which one of the two was running, and an unrelated one, too.
    known.shows(Some(cursor("101:108:105")), &[Scope::read("0-5", &[]).unwrap()]);
    assert!(known.dirty_for(tile(3, 1)).is_some());
    known.shows(Some(cursor("107:110:107,109")), &[Scope::read("0-5", &[]).unwrap()]);
    assert!(known.dirty_for(tile(3, 1)).is_none() && known.dirty_for(tile(3, 2)).is_some());
    known.shows(Some(cursor("112:112:")), &[Scope::read("0-5", &[]).unwrap()]);
    assert!(known.dirty_for(tile(3, 2)).is_none());
    // What the target shows before the look finds it was never dirty.
    known.looked(look("130:130:", &[111], None));
    assert!(known.dirty_for(tile(3, 2)).is_none());
    // Too many to list.
    known.looked(look("140:140:", &[133], None));
    assert!(known.dirty_for(tile(5, 7)).is_some() && known.dirty_for(tile(6, 7)).is_none());
}

#[test]
fn a_tile_that_is_dirty_to_the_writer_is_so_until_it_has_published() {
    let known = beside("100:100:");
    known.found_dirty(Some(&"3/1/0".parse().unwrap()));
    known.found_dirty(Some(&"3/2/0".parse().unwrap()));
    assert!(known.dirty_for(tile(3, 1)).is_some() && known.dirty_for(tile(3, 2)).is_some());
    assert!(known.dirty_for(tile(3, 3)).is_none() && known.writers_lag().is_some());
    known.found_dirty(None);
    assert!(known.dirty_for(tile(3, 3)).is_some());
    known.is_clean();
    assert!(known.dirty_for(tile(3, 1)).is_none() && known.writers_lag().is_none());
}

#[test]
fn live_tiles_outlive_a_publication_whose_changes_the_log_tells_and_no_other() {
    let known = beside("100:100:");
    let first = LiveSince::default();
    let is_same = |since: &LiveSince, other: &LiveSince| since.get() == other.get();
    let unfollowed = known.beside(Some(&cursor("101:101:")), &first);
    assert!(!is_same(&unfollowed, &first), "nobody follows the log");
    known.looked(look("110:110:", &[105], Some(&[tile(9, 9)])));
    assert!(!is_same(&unfollowed, &first), "what changed before it was followed is not known");
    assert!(is_same(&known.beside(Some(&cursor("109:109:")), &first), &first), "the log has been read up to it");
    // Two publications that show more than was read of the log; it is read up to both, one after the other.
    let second = known.beside(Some(&cursor("112:112:")), &first);
    let third = known.beside(Some(&cursor("115:115:")), &second);
    assert!(second.get() > first.get() && third.get() >= second.get());
    known.looked(look("113:113:", &[111], Some(&[tile(9, 9)])));
    assert!(is_same(&second, &first) && !is_same(&third, &first));
    known.looked(look("116:116:", &[], Some(&[])));
    assert!(is_same(&third, &first));
    assert!(!is_same(&known.beside(None, &first), &first), "nobody knows what it shows");
    known.failed("away".to_owned(), LogFailure::Passing);
    assert!(!known.is_followed() && !is_same(&known.beside(Some(&cursor("109:109:")), &first), &first));
}

#[test]
fn a_change_gives_its_tiles_a_new_epoch_at_any_zoom_and_leaves_the_others() {
    let known = beside("100:100:");
    known.looked(look("100:100:", &[], Some(&[])));
    let (epochs, since) = (known.epochs(), LiveSince::default());
    let first = epochs.of(tile(9, 8), &since);
    std::thread::sleep(Duration::from_millis(1));
    known.looked(look("110:110:", &[105], Some(&[tile(9, 9), tile(20, 5)])));
    let changed = epochs.of(tile(9, 9), &since);
    assert!(changed > first && epochs.of(tile(20, 5), &since) == changed && epochs.of(tile(9, 8), &since) == first);
    assert!(epochs.since(tile(9, 9), changed) >= epochs.moment(changed));
    known.looked(look("120:120:", &[], Some(&[])));
    assert_eq!(epochs.of(tile(9, 9), &since), changed, "nothing has changed");
    std::thread::sleep(Duration::from_millis(1));
    known.looked(look("120:120:", &[115], None));
    assert!(epochs.of(tile(9, 8), &since) > changed);
}

#[test]
fn a_shared_tile_is_taken_if_it_shows_every_known_change_and_all_that_clients_have_seen() {
    let known = beside("100:100:");
    let (epochs, state) = (known.epochs(), |text: &str| Arc::new(cursor(text)));
    known.beside(Some(&cursor("100:100:")), &LiveSince::default());
    assert!(!epochs.takes(tile(9, 1), &state("99:99:")), "it is older than the target");
    let before = epochs.since(tile(9, 1), LiveEpoch::default());
    assert!(epochs.takes(tile(9, 1), &state("104:104:")));
    assert!(epochs.since(tile(9, 1), LiveEpoch::default()) > before, "nothing older is rendered here afterwards");
    assert!(!epochs.takes(tile(9, 1), &state("103:103:")), "clients have seen a later one");
    known.looked(look("110:110:", &[105], Some(&[tile(9, 2)])));
    assert!(!epochs.takes(tile(9, 2), &state("109:109:")) && epochs.takes(tile(9, 3), &state("109:109:")));
    assert!(epochs.answers(tile(9, 2), &state("115:115:")) && !epochs.answers(tile(9, 2), &state("114:114:")));
    assert!(!epochs.takes(tile(9, 2), &state("114:114:")) && epochs.takes(tile(9, 2), &state("115:115:")));
}

#[test]
fn in_another_history_nothing_counts_as_seen_and_no_tile_as_fresh() {
    let known = beside("100:100:");
    let (epochs, state) = (known.epochs(), |text: &str| Arc::new(cursor(text)));
    let kept =
        |text: &str, at| StateInHistory { state: cursor(text), newest: NewestLogged::Transaction { xid: 99, at } };
    known.keeps(&kept("108:108:", 1));
    assert_eq!(known.unconfirmed(), [], "the first look evicts every live tile");
    known.looked(look("110:110:", &[], Some(&[])));
    for shown in [kept("112:112:", 1), kept("112:112:", 1), kept("115:115:", 1)] {
        known.keeps(&shown);
    }
    let (examined, before) = (known.unconfirmed(), epochs.of(tile(9, 1), &LiveSince::default()));
    assert_eq!(examined, [kept("112:112:", 1), kept("115:115:", 1)]);
    assert!(epochs.answers(tile(9, 1), &state("115:115:")) && !epochs.answers(tile(9, 1), &state("105:105:")));
    known.keeps(&kept("116:116:", 1));
    known.looked(LogLook { is_other_history: true, ..look("105:105:", &[], None) });
    known.examined(&examined);
    assert_eq!(known.unconfirmed(), [kept("116:116:", 1)]);
    assert!(epochs.of(tile(9, 1), &LiveSince::default()) > before && epochs.of_this_history() > before);
    assert!(epochs.answers(tile(9, 1), &state("106:106:")) && epochs.takes(tile(9, 2), &state("106:106:")));
    // Too many to examine.
    let before = epochs.of(tile(9, 1), &LiveSince::default());
    std::thread::sleep(Duration::from_millis(1));
    (0..=u64::try_from(MAX_UNCONFIRMED).unwrap()).for_each(|number| known.keeps(&kept("120:120:", number)));
    assert!(known.unconfirmed().len() < MAX_UNCONFIRMED && epochs.of(tile(9, 1), &LiveSince::default()) > before);
}

#[test]
fn the_clock_says_whether_the_log_was_read_a_moment_ago_and_no_log_is_not_missed() {
    let (known, start) = (KnownChanges::default(), Instant::now());
    let after = |seconds: u64| start + Duration::from_secs(seconds);
    let age = |seconds: u64| known.log_age(|| after(seconds));
    assert_eq!((age(0), age(900)), (LogAge::Current, LogAge::Current), "nobody is to follow a log");
    known.awaits_log();
    assert_eq!((age(0), age(59), age(62)), (LogAge::Old, LogAge::Old, LogAge::LongOutage));
    assert!(known.is_starting(after(4)) && !known.is_starting(after(7)), "for 5 s a server says that it is not ready");
    let begun = |seconds: u64| LogLook { begun: after(seconds), ..look("110:110:", &[], Some(&[])) };
    known.looked(begun(10));
    assert_eq!((age(11), age(13), age(90)), (LogAge::Current, LogAge::Old, LogAge::LongOutage));
    known.confirmed(after(20));
    assert_eq!((age(21), age(23)), (LogAge::Current, LogAge::Old), "the process was paused");
    assert!(
        !known.is_starting(after(23)) && known.unread(after(23)).unwrap().ends_with("the database has not answered")
    );
    known.failed("away".to_owned(), LogFailure::Passing);
    assert_eq!((age(21), age(23)), (LogAge::Current, LogAge::Old), "until then everything was read");
    known.failed("gone".to_owned(), LogFailure::NoLog);
    assert_eq!(age(0), LogAge::Old, "it was followed before");
    let without = KnownChanges::default();
    without.awaits_log();
    without.failed("not installed".to_owned(), LogFailure::NoLog);
    assert_eq!((without.log_age(|| after(900)), without.unread(after(900))), (LogAge::Current, None));
}

#[test]
fn a_live_tile_is_not_fresh_after_changes_were_missed() {
    let (known, since) = (beside("100:100:"), LiveSince::default());
    known.looked(look("110:110:", &[], Some(&[])));
    let before = known.epochs().of(tile(9, 1), &since);
    std::thread::sleep(Duration::from_millis(1));
    let next = |from: &str, to: &str| LogLook { since: cursor(from), ..look(to, &[], Some(&[])) };
    known.looked(next("110:110:", "120:120:"));
    assert_eq!(known.epochs().of(tile(9, 1), &since), before, "it goes on where the last look ended");
    // The target was written meanwhile, and the look begins at what it shows.
    known.failed("the target was replaced".to_owned(), LogFailure::Lost);
    known.looked(next("130:130:", "131:131:"));
    assert!(known.epochs().of(tile(9, 1), &since) > before);
    assert!(!known.epochs().takes(tile(9, 1), &Arc::new(cursor("125:125:"))));
}
