//! Every file below a folder that may be a tile.

use std::io;

use rustix::fs::FileType;

use super::folder::{OpenFolder, Unreachable, split};
use crate::sink::tree::Template;
use crate::stop::Stop;

/// Hands over the name of every file in the folders below `root` in which tiles of the template may lie; no file is opened. Links to
/// folders are not followed, and names that are not UTF-8 are left out: they are not ours.
pub(super) fn walk<E>(
    root: &OpenFolder,
    template: &Template,
    stop: &Stop,
    mut each: impl FnMut(&str) -> Result<(), E>,
) -> Result<Result<(), E>, Unreachable> {
    // Folders yet to be read, as names below the root.
    let mut waiting = vec![split(&template.prefix()).0.to_owned()];
    while let Some(name) = waiting.pop() {
        let folder = match root.find(&name) {
            Err(missing) if missing.is_missing() => continue,
            // Where tiles are read they are not there; where one is written, this is in the way.
            Err(Unreachable::NoFolder(_) | Unreachable::Link(_)) => continue,
            found => found?,
        };
        if stop.asked().is_some() {
            return Err(Unreachable::Io(folder.path().to_owned(), io::Error::from(io::ErrorKind::Interrupted)));
        }
        let mut found = Ok(());
        let read = folder.each(|part, kind| {
            let name = if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") };
            if kind == FileType::Directory {
                if template.may_hold(&name) {
                    waiting.push(name);
                }
            } else if found.is_ok() {
                found = each(&name);
            }
        });
        match read {
            Err(missing) if missing.is_missing() => {}
            read => read?,
        }
        if found.is_err() {
            return Ok(found);
        }
    }
    Ok(Ok(()))
}
