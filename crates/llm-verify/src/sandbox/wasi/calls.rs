//! The calls of WASI preview 1, all that CPython imports: `fd_*` in [`fd`], `path_*` in [`path`], the rest here.
//!
//! They are written here, and not taken from `wasmtime-wasi`, for what they leave out: nothing opens a file, a folder or a
//! socket of the host, so there is nothing to get wrong about links and races, and what is written is counted exactly. The host
//! is asked for the time, for sleep, and to write to two pipes.
//!
//! Layouts and numbers: `witx/wasi_snapshot_preview1.witx` of the WASI repository.
#![allow(clippy::too_many_arguments)] // WASI's own

mod fd;
mod path;

use super::guest::{Errno, Guest, MOST_PIECES, after};
use super::world::{World, now};
use std::time::Duration;
use wasmtime::{Caller, Linker};

const MODULE: &str = "wasi_snapshot_preview1";

type Answer = Result<(), Errno>;

/// The program ended itself.
#[derive(Debug, thiserror::Error)]
#[error("ended with {0}")]
pub(super) struct Ended(pub(super) u32);

/// Give every call its function.
macro_rules! link {
    ($linker:expr; $($name:literal $call:path [$($argument:ident: $kind:ty),*])*) => {$(
        $linker.func_wrap(MODULE, $name, |mut caller: Caller<'_, World>, $($argument: $kind),*| -> wasmtime::Result<i32> {
            let memory = caller.data().memory.ok_or_else(|| wasmtime::Error::msg("no memory"))?;
            let (bytes, world) = memory.data_and_store_mut(&mut caller);
            Ok($call(world, &mut Guest(bytes), $($argument),*).err().map_or(0, |errno: Errno| errno.0))
        })?;
    )*};
}

/// All calls.
pub(super) fn link(linker: &mut Linker<World>) -> wasmtime::Result<()> {
    link! { linker;
        "args_get" args_get [list: u32, text: u32]
        "args_sizes_get" args_sizes_get [count: u32, size: u32]
        "environ_get" environ_get [list: u32, text: u32]
        "environ_sizes_get" environ_sizes_get [count: u32, size: u32]
        "clock_res_get" clock_res_get [clock: u32, out: u32]
        "clock_time_get" clock_time_get [clock: u32, precision: u64, out: u32]
        "random_get" random_get [at: u32, length: u32]
        "poll_oneoff" poll_oneoff [asked: u32, events: u32, count: u32, out: u32]
        "sched_yield" sched_yield []
        "sock_accept" sock_accept [fd: u32, flags: u32, out: u32]
        "sock_recv" sock_recv [fd: u32, list: u32, count: u32, flags: u32, size: u32, out: u32]
        "sock_send" sock_send [fd: u32, list: u32, count: u32, flags: u32, size: u32]
        "sock_shutdown" sock_shutdown [fd: u32, how: u32]
        "proc_raise" proc_raise [signal: u32]
        "fd_advise" fd::advise [fd: u32, at: u64, length: u64, advice: u32]
        "fd_allocate" fd::allocate [fd: u32, at: u64, length: u64]
        "fd_close" fd::close [fd: u32]
        "fd_datasync" fd::sync [fd: u32]
        "fd_fdstat_get" fd::fdstat_get [fd: u32, out: u32]
        "fd_fdstat_set_flags" fd::fdstat_set_flags [fd: u32, flags: u32]
        "fd_fdstat_set_rights" fd::fdstat_set_rights [fd: u32, base: u64, inheriting: u64]
        "fd_filestat_get" fd::filestat_get [fd: u32, out: u32]
        "fd_filestat_set_size" fd::filestat_set_size [fd: u32, size: u64]
        "fd_filestat_set_times" fd::filestat_set_times [fd: u32, accessed: u64, modified: u64, flags: u32]
        "fd_pread" fd::pread [fd: u32, list: u32, count: u32, at: u64, out: u32]
        "fd_prestat_get" fd::prestat_get [fd: u32, out: u32]
        "fd_prestat_dir_name" fd::prestat_dir_name [fd: u32, at: u32, length: u32]
        "fd_pwrite" fd::pwrite [fd: u32, list: u32, count: u32, at: u64, out: u32]
        "fd_read" fd::read [fd: u32, list: u32, count: u32, out: u32]
        "fd_readdir" fd::readdir [fd: u32, at: u32, length: u32, cookie: u64, out: u32]
        "fd_renumber" fd::renumber [from: u32, to: u32]
        "fd_seek" fd::seek [fd: u32, offset: i64, whence: u32, out: u32]
        "fd_sync" fd::sync [fd: u32]
        "fd_tell" fd::tell [fd: u32, out: u32]
        "fd_write" fd::write [fd: u32, list: u32, count: u32, out: u32]
        "path_create_directory" path::create_directory [fd: u32, at: u32, length: u32]
        "path_filestat_get" path::filestat_get [fd: u32, flags: u32, at: u32, length: u32, out: u32]
        "path_filestat_set_times" path::filestat_set_times [fd: u32, follow: u32, at: u32, length: u32, accessed: u64, modified: u64, flags: u32]
        "path_link" path::link [from: u32, flags: u32, at: u32, length: u32, to: u32, new: u32, new_length: u32]
        "path_open" path::open [fd: u32, follow: u32, at: u32, length: u32, how: u32, rights: u64, inheriting: u64, flags: u32, out: u32]
        "path_readlink" path::readlink [fd: u32, at: u32, length: u32, buffer: u32, size: u32, out: u32]
        "path_remove_directory" path::remove_directory [fd: u32, at: u32, length: u32]
        "path_rename" path::rename [fd: u32, at: u32, length: u32, to: u32, new: u32, new_length: u32]
        "path_symlink" path::symlink [target: u32, target_length: u32, fd: u32, at: u32, length: u32]
        "path_unlink_file" path::unlink_file [fd: u32, at: u32, length: u32]
    }
    linker.func_wrap(MODULE, "proc_exit", |code: u32| -> wasmtime::Result<()> { Err(wasmtime::Error::new(Ended(code))) })?;
    Ok(())
}

/// Texts, each with a zero after it, and the list of their addresses.
fn put_texts(guest: &mut Guest, texts: &[String], list: u32, text: u32) -> Answer {
    let (mut list, mut text) = (list, text);
    for one in texts {
        guest.put(list, &text.to_le_bytes())?;
        guest.put(text, one.as_bytes())?;
        text = after(text, u32::try_from(one.len()).map_err(|_| Errno::FAULT)?)?;
        guest.put(text, &[0])?;
        (list, text) = (after(list, 4)?, after(text, 1)?);
    }
    Ok(())
}

fn put_sizes(guest: &mut Guest, texts: &[String], count: u32, size: u32) -> Answer {
    let bytes: usize = texts.iter().map(|t| t.len() + 1).sum();
    guest.put(count, &(texts.len() as u32).to_le_bytes())?;
    guest.put(size, &(bytes as u32).to_le_bytes())
}

fn args_get(world: &mut World, guest: &mut Guest, list: u32, text: u32) -> Answer {
    put_texts(guest, &world.arguments, list, text)
}

fn args_sizes_get(world: &mut World, guest: &mut Guest, count: u32, size: u32) -> Answer {
    put_sizes(guest, &world.arguments, count, size)
}

fn environ_get(world: &mut World, guest: &mut Guest, list: u32, text: u32) -> Answer {
    put_texts(guest, &world.environment, list, text)
}

fn environ_sizes_get(world: &mut World, guest: &mut Guest, count: u32, size: u32) -> Answer {
    put_sizes(guest, &world.environment, count, size)
}

fn clock_res_get(_: &mut World, guest: &mut Guest, clock: u32, out: u32) -> Answer {
    if clock > 3 {
        return Err(Errno::INVAL);
    }
    guest.put(out, &1000u64.to_le_bytes())
}

/// Nanoseconds: 0 is the date; the others count from the start of the program.
fn time(world: &World, clock: u32) -> Result<u64, Errno> {
    match clock {
        0 => Ok(now()),
        1..=3 => Ok(u64::try_from(world.start.elapsed().as_nanos()).unwrap_or(u64::MAX)),
        _ => Err(Errno::INVAL),
    }
}

fn clock_time_get(world: &mut World, guest: &mut Guest, clock: u32, _precision: u64, out: u32) -> Answer {
    guest.put(out, &time(world, clock)?.to_le_bytes())
}

fn random_get(world: &mut World, guest: &mut Guest, at: u32, length: u32) -> Answer {
    for piece in guest.bytes_mut(at, length)?.chunks_mut(8) {
        piece.copy_from_slice(&world.random.next_u64().to_le_bytes()[..piece.len()]);
    }
    Ok(())
}

/// Wait for a clock or a descriptor. Descriptors are always ready: input is at its end, files are files.
fn poll_oneoff(world: &mut World, guest: &mut Guest, asked: u32, events: u32, count: u32, out: u32) -> Answer {
    const SUBSCRIPTION: u32 = 48;
    const EVENT: u32 = 32;
    if count == 0 || count > MOST_PIECES {
        return Err(Errno::INVAL);
    }
    // Both lists have to be there before anything is waited for.
    guest.bytes(asked, count.checked_mul(SUBSCRIPTION).ok_or(Errno::FAULT)?)?;
    guest.bytes(events, count.checked_mul(EVENT).ok_or(Errno::FAULT)?)?;
    let mut ready: Vec<(u64, u8)> = Vec::new();
    let mut soonest: Option<(u64, u64)> = None;
    for i in 0..count {
        let at = after(asked, i * SUBSCRIPTION)?;
        let mark = guest.u64(at)?;
        match guest.bytes(after(at, 8)?, 1)?[0] {
            0 => {
                let (clock, timeout) = (guest.u32(after(at, 16)?)?, guest.u64(after(at, 24)?)?);
                let absolute = guest.u32(after(at, 40)?)? & 1 == 1;
                let wait = if absolute { timeout.saturating_sub(time(world, clock)?) } else { timeout };
                if soonest.is_none_or(|(least, _)| wait < least) {
                    soonest = Some((wait, mark));
                }
            }
            kind @ 1..=2 => ready.push((mark, kind)),
            _ => return Err(Errno::INVAL),
        }
    }
    if let (true, Some((wait, mark))) = (ready.is_empty(), soonest) {
        // The clock of the cell ends the process, however long this is.
        std::thread::sleep(Duration::from_nanos(wait));
        ready.push((mark, 0));
    }
    let mut at = events;
    for (mark, kind) in &ready {
        let mut event = [0u8; EVENT as usize];
        event[..8].copy_from_slice(&mark.to_le_bytes());
        event[10] = *kind;
        guest.put(at, &event)?;
        at = after(at, EVENT)?;
    }
    guest.put(out, &(ready.len() as u32).to_le_bytes())
}

fn sched_yield(_: &mut World, _: &mut Guest) -> Answer {
    std::thread::yield_now();
    Ok(())
}

fn sock_accept(_: &mut World, _: &mut Guest, _fd: u32, _flags: u32, _out: u32) -> Answer {
    Err(Errno::NOTSOCK)
}

fn sock_recv(_: &mut World, _: &mut Guest, _fd: u32, _list: u32, _count: u32, _flags: u32, _size: u32, _out: u32) -> Answer {
    Err(Errno::NOTSOCK)
}

fn sock_send(_: &mut World, _: &mut Guest, _fd: u32, _list: u32, _count: u32, _flags: u32, _size: u32) -> Answer {
    Err(Errno::NOTSOCK)
}

fn sock_shutdown(_: &mut World, _: &mut Guest, _fd: u32, _how: u32) -> Answer {
    Err(Errno::NOTSOCK)
}

fn proc_raise(_: &mut World, _: &mut Guest, _signal: u32) -> Answer {
    Err(Errno::NOTSUP)
}
