//! Every file below a folder that may be a tile.

use std::io;

use rustix::fs::FileType;

use super::folder::{OpenFolder, Unreachable, split};
use crate::sink::tree::Template;
use crate::stop::Stop;

/// Hands over the name of every file below `root` that may be a tile of the template, folder by folder; no file is looked at. Folders
/// in which no tile can lie are not read, links to folders are not followed, names that are no UTF-8 are not ours.
pub(super) fn walk<E>(
    root: &OpenFolder,
    template: &Template,
    stop: &Stop,
    mut each: impl FnMut(&str) -> Result<(), E>,
) -> Result<Result<(), E>, Unreachable> {
    let prefix = template.prefix();
    // Folders yet to be read, as names below the root.
    let mut waiting = vec![split(&prefix).0.to_owned()];
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
            } else if found.is_ok() && name.starts_with(&prefix) {
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
