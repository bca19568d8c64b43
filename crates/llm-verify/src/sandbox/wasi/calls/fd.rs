//! Calls on descriptors.

use super::super::files::{Content, Files, Id};
use super::super::guest::{Errno, Guest, after};
use super::super::world::{Opened, World, now};
use super::Answer;
use std::io::Write;

/// Kinds of files.
const UNKNOWN: u8 = 0;
const DEVICE: u8 = 2;
const FOLDER: u8 = 3;
const FILE: u8 = 4;
/// Everything may be tried; what a file was opened for decides.
const ALL_RIGHTS: u64 = 0x1FFF_FFFF;
const APPEND: u32 = 1;

fn kind(files: &Files, node: Id) -> Result<u8, Errno> {
    Ok(match files.node(node)?.content {
        Content::File(_) => FILE,
        Content::Folder(_) => FOLDER,
        Content::Null => DEVICE,
    })
}

/// What `stat` says of a node; the pipes have none.
pub(super) fn put_filestat(files: &Files, guest: &mut Guest, node: Option<Id>, out: u32) -> Answer {
    let (mut kind_of, mut size, mut modified) = (UNKNOWN, 0, 0);
    if let Some(node) = node {
        (kind_of, size, modified) = (kind(files, node)?, files.length(node)?, files.node(node)?.modified);
    }
    let words = [1, node.unwrap_or(0), u64::from(kind_of), 1, size, modified, modified, modified];
    guest.put(out, &words.map(u64::to_le_bytes).concat())
}

/// Set the time of a node as the flags say: 4 to a given one, 8 to now. That of the last access is not kept.
pub(super) fn set_times(files: &mut Files, node: Id, modified: u64, flags: u32) -> Answer {
    match flags & 12 {
        0 => {}
        4 => files.node_mut(node)?.modified = modified,
        8 => files.node_mut(node)?.modified = now(),
        _ => return Err(Errno::INVAL),
    }
    Ok(())
}

pub(super) fn advise(world: &mut World, _: &mut Guest, fd: u32, _at: u64, _length: u64, _advice: u32) -> Answer {
    world.get(fd).map(|_| ())
}

pub(super) fn allocate(world: &mut World, _: &mut Guest, fd: u32, at: u64, length: u64) -> Answer {
    let node = writable(world, fd)?;
    let end = at.checked_add(length).ok_or(Errno::FBIG)?;
    if end > world.files.length(node)? {
        world.files.set_length(node, end, now())?;
    }
    Ok(())
}

fn writable(world: &mut World, fd: u32) -> Result<Id, Errno> {
    match world.get(fd)? {
        Opened::File { node, write: true, .. } => Ok(*node),
        Opened::File { .. } => Err(Errno::BADF),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn close(world: &mut World, _: &mut Guest, fd: u32) -> Answer {
    world.close(fd)
}

pub(super) fn sync(world: &mut World, _: &mut Guest, fd: u32) -> Answer {
    world.get(fd).map(|_| ())
}

pub(super) fn fdstat_get(world: &mut World, guest: &mut Guest, fd: u32, out: u32) -> Answer {
    let kind_of = world.node(fd)?.map_or(Ok(UNKNOWN), |node| kind(&world.files, node))?;
    let append = matches!(world.get(fd)?, Opened::File { append: true, .. });
    let mut stat = [0u8; 24];
    stat[0] = kind_of;
    stat[2] = u8::from(append) * APPEND as u8;
    stat[8..16].copy_from_slice(&ALL_RIGHTS.to_le_bytes());
    stat[16..24].copy_from_slice(&ALL_RIGHTS.to_le_bytes());
    guest.put(out, &stat)
}

pub(super) fn fdstat_set_flags(world: &mut World, _: &mut Guest, fd: u32, flags: u32) -> Answer {
    if let Opened::File { append, .. } = world.get(fd)? {
        *append = flags & APPEND != 0;
    }
    Ok(())
}

pub(super) fn fdstat_set_rights(world: &mut World, _: &mut Guest, fd: u32, _base: u64, _inheriting: u64) -> Answer {
    world.get(fd).map(|_| ())
}

pub(super) fn filestat_get(world: &mut World, guest: &mut Guest, fd: u32, out: u32) -> Answer {
    let node = world.node(fd)?;
    put_filestat(&world.files, guest, node, out)
}

pub(super) fn filestat_set_size(world: &mut World, _: &mut Guest, fd: u32, size: u64) -> Answer {
    let node = writable(world, fd)?;
    world.files.set_length(node, size, now())
}

pub(super) fn filestat_set_times(world: &mut World, _: &mut Guest, fd: u32, _accessed: u64, modified: u64, flags: u32) -> Answer {
    let node = world.node(fd)?.ok_or(Errno::INVAL)?;
    set_times(&mut world.files, node, modified, flags)
}

/// Read into the program's buffers; how much.
fn read_at(files: &Files, guest: &mut Guest, node: Id, at: u64, list: u32, count: u32) -> Result<u32, Errno> {
    let mut done = 0u32;
    for (place, length) in guest.pieces(list, count)? {
        let bytes = files.read(node, at + u64::from(done), length as usize)?;
        guest.put(place, bytes)?;
        done = after(done, bytes.len() as u32)?;
        if bytes.len() < length as usize {
            break;
        }
    }
    Ok(done)
}

/// Write from the program's buffers; how much. What fits is written, if that is anything.
fn write_at(files: &mut Files, guest: &Guest, node: Id, at: u64, list: u32, count: u32) -> Result<u32, Errno> {
    let (mut done, now) = (0u32, now());
    for (place, length) in guest.pieces(list, count)? {
        match files.write(node, at.checked_add(u64::from(done)).ok_or(Errno::FBIG)?, guest.bytes(place, length)?, now) {
            Ok(()) => done = after(done, length)?,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}

pub(super) fn pread(world: &mut World, guest: &mut Guest, fd: u32, list: u32, count: u32, at: u64, out: u32) -> Answer {
    let node = match world.get(fd)? {
        Opened::File { node, read: true, .. } => *node,
        Opened::File { .. } => return Err(Errno::BADF),
        Opened::Folder { .. } => return Err(Errno::ISDIR),
        _ => return Err(Errno::SPIPE),
    };
    let done = read_at(&world.files, guest, node, at.min(u64::MAX >> 1), list, count)?;
    guest.put(out, &done.to_le_bytes())
}

pub(super) fn read(world: &mut World, guest: &mut Guest, fd: u32, list: u32, count: u32, out: u32) -> Answer {
    let (node, from) = match world.get(fd)? {
        Opened::File { node, at, read: true, .. } => (*node, *at),
        Opened::Input => return guest.put(out, &0u32.to_le_bytes()),
        Opened::Folder { .. } => return Err(Errno::ISDIR),
        _ => return Err(Errno::BADF),
    };
    let done = read_at(&world.files, guest, node, from, list, count)?;
    if let Opened::File { at, .. } = world.get(fd)? {
        *at = from + u64::from(done);
    }
    guest.put(out, &done.to_le_bytes())
}

pub(super) fn prestat_get(world: &mut World, guest: &mut Guest, fd: u32, out: u32) -> Answer {
    let Opened::Folder { name: Some(name), .. } = world.get(fd)? else { return Err(Errno::BADF) };
    let length = name.len() as u32;
    guest.put(out, &[0u32.to_le_bytes(), length.to_le_bytes()].concat())
}

pub(super) fn prestat_dir_name(world: &mut World, guest: &mut Guest, fd: u32, at: u32, length: u32) -> Answer {
    let Opened::Folder { name: Some(name), .. } = world.get(fd)? else { return Err(Errno::BADF) };
    if (length as usize) < name.len() {
        return Err(Errno::NAMETOOLONG);
    }
    guest.put(at, name.as_bytes())
}

pub(super) fn pwrite(world: &mut World, guest: &mut Guest, fd: u32, list: u32, count: u32, at: u64, out: u32) -> Answer {
    let node = writable(world, fd)?;
    let done = write_at(&mut world.files, guest, node, at, list, count)?;
    guest.put(out, &done.to_le_bytes())
}

/// Names and kinds, from the `cookie`-th on; a name that does not fit is cut, and asked for again. The first call fixes the list.
pub(super) fn readdir(world: &mut World, guest: &mut Guest, fd: u32, at: u32, length: u32, cookie: u64, out: u32) -> Answer {
    let folder = world.folder(fd)?;
    if cookie == 0 {
        let names = world.files.names(folder)?.iter().map(|(name, id)| (name.clone(), *id));
        let all: Vec<_> = [(".".to_string(), folder), ("..".to_string(), folder)].into_iter().chain(names).collect();
        if let Opened::Folder { listing, .. } = world.get(fd)? {
            *listing = all;
        }
    }
    let Some(Opened::Folder { listing, .. }) = world.opened.get(fd as usize).and_then(Option::as_ref) else { return Err(Errno::BADF) };
    let buffer = guest.bytes_mut(at, length)?;
    let mut used = 0usize;
    let first = usize::try_from(cookie).map_err(|_| Errno::INVAL)?;
    for (i, (name, node)) in listing.iter().enumerate().skip(first) {
        let mut entry = [0u8; 24];
        entry[..8].copy_from_slice(&(i as u64 + 1).to_le_bytes());
        entry[8..16].copy_from_slice(&node.to_le_bytes());
        entry[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
        entry[20] = kind(&world.files, *node).unwrap_or(UNKNOWN);
        for bytes in [&entry[..], name.as_bytes()] {
            let part = bytes.len().min(buffer.len() - used);
            buffer[used..used + part].copy_from_slice(&bytes[..part]);
            used += part;
        }
        if used == buffer.len() {
            break;
        }
    }
    guest.put(out, &(used as u32).to_le_bytes())
}

pub(super) fn renumber(world: &mut World, _: &mut Guest, from: u32, to: u32) -> Answer {
    world.get(from)?;
    world.get(to)?;
    if from != to {
        world.close(to)?;
        world.opened.swap(from as usize, to as usize);
    }
    Ok(())
}

pub(super) fn seek(world: &mut World, guest: &mut Guest, fd: u32, offset: i64, whence: u32, out: u32) -> Answer {
    let (node, here) = match world.get(fd)? {
        Opened::File { node, at, .. } => (*node, *at),
        Opened::Folder { .. } => return Err(Errno::BADF),
        _ => return Err(Errno::SPIPE),
    };
    let base = match whence {
        0 => 0,
        1 => here,
        2 => world.files.length(node)?,
        _ => return Err(Errno::INVAL),
    };
    let target = base.checked_add_signed(offset).filter(|&t| t <= i64::MAX as u64).ok_or(Errno::INVAL)?;
    if let Opened::File { at, .. } = world.get(fd)? {
        *at = target;
    }
    guest.put(out, &target.to_le_bytes())
}

pub(super) fn tell(world: &mut World, guest: &mut Guest, fd: u32, out: u32) -> Answer {
    seek(world, guest, fd, 0, 1, out)
}

pub(super) fn write(world: &mut World, guest: &mut Guest, fd: u32, list: u32, count: u32, out: u32) -> Answer {
    let (node, from, append) = match world.get(fd)? {
        Opened::File { node, at, append, write: true, .. } => (*node, *at, *append),
        Opened::Output => return print(guest, &mut std::io::stdout().lock(), list, count, out),
        Opened::Errors => return print(guest, &mut std::io::stderr().lock(), list, count, out),
        Opened::Folder { .. } => return Err(Errno::ISDIR),
        _ => return Err(Errno::BADF),
    };
    let from = if append { world.files.length(node)? } else { from };
    let done = write_at(&mut world.files, guest, node, from, list, count)?;
    if let Opened::File { at, .. } = world.get(fd)? {
        *at = from + u64::from(done);
    }
    guest.put(out, &done.to_le_bytes())
}

/// To one of the pipes; who reads them counts.
fn print(guest: &mut Guest, stream: &mut impl Write, list: u32, count: u32, out: u32) -> Answer {
    let mut done = 0u32;
    for (place, length) in guest.pieces(list, count)? {
        stream.write_all(guest.bytes(place, length)?).map_err(|_| Errno::PIPE)?;
        done = after(done, length)?;
    }
    stream.flush().map_err(|_| Errno::PIPE)?;
    guest.put(out, &done.to_le_bytes())
}
