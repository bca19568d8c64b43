//! The inside: one program, from its order to the exit code of the cell.
//!
//! Two threads watch. One ends the process when the clock or the processor's time runs out, the other when the evaluating program
//! closes standard input. Ending the process is all there is to do: nothing inside can delay it, so the compiled code
//! needs no counters of its own (fuel, epochs), which would make every loop slower.
//!
//! Memory: `memory_bytes` of linear memory, `disk_bytes` of files, which are in memory too, and what the runtime itself needs.

use super::calls::{self, Ended};
use super::module;
use super::world::World;
use crate::sandbox::{FAILED, Limits, MEMORY, PASSED, TIMED_OUT};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};
use wasmtime::{Linker, Store};

/// Reads the program, empties the namespace it runs in, runs it, and tells by the exit code whether the end was reached.
const WRAPPER: &str = "import os, sys\n\
    def main():\n\
    \tcode = int(sys.argv.pop())\n\
    \tsys.orig_argv = []\n\
    \tos.chdir('/tmp')\n\
    \twith open('/tmp/program.py', encoding='utf-8') as f: source = f.read()\n\
    \texec(compile(source, 'program.py', 'exec'), {})\n\
    \tsys.stdout.flush()\n\
    \tos._exit(code)\n\
    main()\n";

/// Run `program`; the exit code that says what became of it.
pub(super) fn run(program: &str, module: &Path, limits: Limits) -> Result<u8, String> {
    wall()?;
    end_with_standard_input();
    end_in_time(limits);
    let program = program.to_string();
    let module = module.to_path_buf();
    // The code's calls nest on the stack of its thread.
    let inside = std::thread::Builder::new().stack_size(2 * module::STACK).spawn(move || execute(&program, &module, &limits));
    inside.map_err(|e| format!("cannot start a thread: {e}"))?.join().map_err(|_| "the runtime failed".to_string())?
}

fn execute(program: &str, path: &Path, limits: &Limits) -> Result<u8, String> {
    let failed = |e: wasmtime::Error| format!("wasmtime: {e:#}");
    let engine = module::engine()?;
    let module = module::load(&engine, path)?;
    // Not 0, which Python ends with when a program calls exit() before its tests; and not to be guessed.
    let end = (RandomState::new().build_hasher().finish() % 0x3FFF_FFFF) as u32 + 0x1000;
    let arguments = ["python", "-I", "-B", "-X", "utf8", "-c", WRAPPER, &end.to_string()].map(String::from).to_vec();
    let mut store = Store::new(&engine, World::new(program, arguments, limits)?);
    store.limiter(|world| world);
    let mut linker = Linker::new(&engine);
    calls::link(&mut linker).map_err(failed)?;
    let instance = linker.instantiate(&mut store, &module).map_err(failed)?;
    store.data_mut().memory = instance.get_memory(&mut store, "memory");
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(failed)?;
    let Err(error) = start.call(&mut store, ()) else { return Ok(FAILED) };
    match error.downcast_ref::<Ended>() {
        Some(Ended(code)) if *code == end => Ok(PASSED),
        Some(_) => Ok(FAILED),
        // A trap: the stack, or the interpreter gave up.
        None if store.data().denied => Ok(MEMORY),
        None => {
            eprintln!("{}", error.root_cause());
            Ok(FAILED)
        }
    }
}

/// End the process when nobody listens any more.
pub(super) fn end_with_standard_input() {
    std::thread::spawn(|| {
        let mut rest = [0u8; 64];
        while let Ok(1..) = std::io::stdin().lock().read(&mut rest) {}
        std::process::exit(i32::from(FAILED));
    });
}

/// End the process at its deadline.
fn end_in_time(limits: Limits) {
    let start = Instant::now();
    std::thread::spawn(move || {
        while start.elapsed().as_secs_f64() < limits.seconds && processor_time() < Duration::from_secs(limits.processor_seconds) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::process::exit(i32::from(TIMED_OUT));
    });
}

/// What this process had of the processor; only Linux is asked, elsewhere the clock alone decides.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    use nix::sys::time::TimeValLike;
    let used = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let used = used.map_or(0, |u| u.user_time().num_microseconds() + u.system_time().num_microseconds());
    Duration::from_micros(u64::try_from(used).unwrap_or(0))
}

#[cfg(not(target_os = "linux"))]
fn processor_time() -> Duration {
    Duration::ZERO
}

/// A second wall around the runtime: this process cannot make files grow, gain rights, open sockets or leave a core file.
/// To be called before the first thread.
#[cfg(target_os = "linux")]
fn wall() -> Result<(), String> {
    use nix::sys::resource::{Resource, setrlimit};
    let refused = |e: nix::errno::Errno| format!("cannot isolate generated code here: {}", e.desc());
    for resource in [Resource::RLIMIT_CORE, Resource::RLIMIT_FSIZE, Resource::RLIMIT_MEMLOCK, Resource::RLIMIT_MSGQUEUE] {
        setrlimit(resource, 0, 0).map_err(refused)?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(refused)?;
    crate::sandbox::forbidden::forbid()
}

#[cfg(not(target_os = "linux"))]
fn wall() -> Result<(), String> {
    Ok(())
}
