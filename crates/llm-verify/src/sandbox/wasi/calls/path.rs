//! Calls on paths.

use super::super::files::{Content, Place};
use super::super::guest::{Errno, Guest};
use super::super::world::{Opened, World, now};
use super::{Answer, fd};
use std::collections::BTreeMap;

/// How a file is opened.
const CREATE: u32 = 1;
const FOLDER: u32 = 2;
const EXCLUSIVE: u32 = 4;
const TRUNCATE: u32 = 8;
/// What for.
const MAY_READ: u64 = 1 << 1;
const MAY_WRITE: u64 = 1 << 6;

/// Where a path of the program's leads.
fn place(world: &World, guest: &Guest, fd: u32, at: u32, length: u32) -> Result<Place, Errno> {
    let path = guest.text(at, length)?;
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    world.files.find(world.folder(fd)?, path)
}

pub(super) fn create_directory(world: &mut World, guest: &mut Guest, fd: u32, at: u32, length: u32) -> Answer {
    let place = place(world, guest, fd, at, length)?;
    world.files.create(&place, Content::Folder(BTreeMap::new()), now()).map(|_| ())
}

pub(super) fn filestat_get(world: &mut World, guest: &mut Guest, fd: u32, _flags: u32, at: u32, length: u32, out: u32) -> Answer {
    let place = place(world, guest, fd, at, length)?;
    let node = place.node.ok_or(Errno::NOENT)?;
    if place.folder_wanted {
        world.files.names(node)?;
    }
    fd::put_filestat(&world.files, guest, Some(node), out)
}

pub(super) fn filestat_set_times(
    world: &mut World,
    guest: &mut Guest,
    fd: u32,
    _follow: u32,
    at: u32,
    length: u32,
    _accessed: u64,
    modified: u64,
    flags: u32,
) -> Answer {
    let node = place(world, guest, fd, at, length)?.node.ok_or(Errno::NOENT)?;
    fd::set_times(&mut world.files, node, modified, flags)
}

pub(super) fn link(_: &mut World, _: &mut Guest, _from: u32, _flags: u32, _at: u32, _length: u32, _to: u32, _new: u32, _new_length: u32) -> Answer {
    Err(Errno::NOTSUP)
}

pub(super) fn open(
    world: &mut World,
    guest: &mut Guest,
    fd: u32,
    _follow: u32,
    at: u32,
    length: u32,
    how: u32,
    rights: u64,
    _inheriting: u64,
    flags: u32,
    out: u32,
) -> Answer {
    let place = place(world, guest, fd, at, length)?;
    let (read, write) = (rights & MAY_READ != 0, rights & MAY_WRITE != 0);
    let folder_wanted = how & FOLDER != 0 || place.folder_wanted;
    let node = match place.node {
        Some(_) if how & CREATE != 0 && how & EXCLUSIVE != 0 => return Err(Errno::EXIST),
        Some(node) => node,
        None if how & CREATE == 0 => return Err(Errno::NOENT),
        None if folder_wanted => return Err(Errno::ISDIR),
        None => world.files.create(&place, Content::File(Vec::new()), now())?,
    };
    let opened = match world.files.node(node)?.content {
        // The bit for writing is asked for with every folder, too.
        Content::Folder(_) if how & TRUNCATE != 0 || (write && !read && !folder_wanted) => return Err(Errno::ISDIR),
        Content::Folder(_) => Opened::Folder { node, name: None, listing: Vec::new() },
        _ if folder_wanted => return Err(Errno::NOTDIR),
        _ => Opened::File { node, at: 0, append: flags & 1 != 0, read, write },
    };
    if how & TRUNCATE != 0 {
        world.files.set_length(node, 0, now())?;
    }
    let number = world.open(node, opened)?;
    guest.put(out, &number.to_le_bytes())
}

pub(super) fn readlink(world: &mut World, guest: &mut Guest, fd: u32, at: u32, length: u32, _buffer: u32, _size: u32, _out: u32) -> Answer {
    place(world, guest, fd, at, length)?.node.ok_or(Errno::NOENT)?;
    Err(Errno::INVAL)
}

pub(super) fn remove_directory(world: &mut World, guest: &mut Guest, fd: u32, at: u32, length: u32) -> Answer {
    let place = place(world, guest, fd, at, length)?;
    world.files.remove(&place, true, now())
}

pub(super) fn rename(world: &mut World, guest: &mut Guest, fd: u32, at: u32, length: u32, to: u32, new: u32, new_length: u32) -> Answer {
    let (from, to) = (place(world, guest, fd, at, length)?, place(world, guest, to, new, new_length)?);
    world.files.rename(&from, &to, now())
}

pub(super) fn symlink(_: &mut World, _: &mut Guest, _target: u32, _target_length: u32, _fd: u32, _at: u32, _length: u32) -> Answer {
    Err(Errno::NOTSUP)
}

pub(super) fn unlink_file(world: &mut World, guest: &mut Guest, fd: u32, at: u32, length: u32) -> Answer {
    let place = place(world, guest, fd, at, length)?;
    world.files.remove(&place, false, now())
}
