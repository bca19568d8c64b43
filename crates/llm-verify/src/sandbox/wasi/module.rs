//! The interpreter's machine code: compiled once, kept in the user's cache folder, and trusted only there.
//!
//! The name of a kept file says what it is made of: the hash of the `python.wasm`, and that of wasmtime's version, its settings and
//! the processor's features. A new version, another processor or another interpreter is another file. Beside it lies the
//! hash of its bytes. Files appear whole, by renaming, and are never changed.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use wasmtime::{Config, Engine, Module};

/// Largest file that is taken for an interpreter.
const MOST_BYTES: u64 = 512 << 20;
/// What calls in WebAssembly may nest: CPython compiled to it needs more than the default, 512 KiB.
pub(super) const STACK: usize = 8 << 20;

/// The folder of the compiled interpreter.
pub(super) fn cache() -> Result<PathBuf, String> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
    };
    let base = base.ok_or("there is no folder to keep the compiled Python in: set XDG_CACHE_HOME to one that is yours")?;
    Ok(base.join("llm-in-rust").join("wasi"))
}

/// The runtime, set up the same for compiling and for running.
pub(super) fn engine() -> Result<Engine, String> {
    let mut config = Config::new();
    // The first is for calls that are not used here, and must be no less than the second.
    config.async_stack_size(2 * STACK).max_wasm_stack(STACK);
    Engine::new(&config).map_err(|e| format!("wasmtime: {e:#}"))
}

/// The file with the machine code of `python`; made if it is not there, after `compiling` was called.
pub(super) fn prepare(python: &Path, cache: &Path, compiling: impl FnOnce() -> Result<(), String>) -> Result<PathBuf, String> {
    let named = |e: std::io::Error| format!("{}: {e}", python.display());
    if fs::metadata(python).map_err(named)?.len() > MOST_BYTES {
        return Err(format!("{}: more than {} MiB; expected a python.wasm", python.display(), MOST_BYTES >> 20));
    }
    let bytes = fs::read(python).map_err(named)?;
    if !bytes.starts_with(b"\0asm\x01\0\0\0") {
        return Err(format!("{}: not a WebAssembly module; {}", python.display(), super::super::choice::HOW));
    }
    let engine = engine()?;
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    private_folder(cache)?;
    let path = cache.join(format!("{}-{:016x}.cwasm", &llm_run::hash::bytes(&bytes)[..32], settings.finish()));
    if let Ok(true) = is_whole(&path)
        && let Ok(module) = load(&engine, &path)
    {
        is_a_program(&module, python)?;
        return Ok(path);
    }
    compiling()?;
    let code = engine.precompile_module(&bytes).map_err(|e| format!("{}: {e:#}", python.display()))?;
    keep(cache, &path, &code)?;
    keep(cache, &hash_file(&path), llm_run::hash::bytes(&code).as_bytes())?;
    let right = load(&engine, &path).and_then(|module| is_a_program(&module, python));
    if right.is_err() {
        // Not to be left behind: nobody will ask for it.
        let _ = fs::remove_file(&path).and_then(|()| fs::remove_file(hash_file(&path)));
    }
    right.map(|()| path)
}

fn hash_file(path: &Path) -> PathBuf {
    path.with_extension("blake3")
}

/// Write beside the target and rename; several processes may do so at once.
fn keep(cache: &Path, path: &Path, bytes: &[u8]) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(cache).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Whether the file is there and has the hash that was written with it.
fn is_whole(path: &Path) -> Result<bool, String> {
    let hash = hash_file(path);
    if !path.exists() || !hash.exists() {
        return Ok(false);
    }
    ours(path)?;
    ours(&hash)?;
    let expected = fs::read_to_string(&hash).map_err(|e| e.to_string())?;
    Ok(llm_run::hash::path(path).map_err(|e| e.to_string())? == expected.trim())
}

/// Make the folder, readable by nobody else, or see that nobody else can write to the one that is there.
fn private_folder(cache: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", cache.display());
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(cache).map_err(failed)?;
    ours(cache)
}

/// Belongs to this user, and nobody else may write to it. On Windows the user's folder is trusted as it is.
fn ours(path: &Path) -> Result<(), String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let there = fs::symlink_metadata(path).map_err(failed)?;
        // Whoever this process is, is the owner of what it makes.
        let me = tempfile::tempfile().and_then(|file| file.metadata()).map_err(failed)?.uid();
        if there.is_symlink() || there.uid() != me || there.mode() & 0o022 != 0 {
            return Err(format!(
                "{}: machine code is only kept where nobody else can write: expected a folder or file of this user without write access for others",
                path.display()
            ));
        }
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// A module that was compiled before.
pub(super) fn load(engine: &Engine, path: &Path) -> Result<Module, String> {
    // SAFETY: the bytes must be what `Engine::precompile_module` gave, and must not change while they are mapped. Only `prepare`
    // names such a file, in a folder and with a name of its own making: the folder and the file belong to this user and nobody
    // else may write to them (`ours`), and before a file of an earlier run is used its bytes had the hash that was written after
    // compiling (`is_whole`), so it is not cut short or damaged. Files there are replaced by renaming, never changed in
    // place, and a map keeps the old one. A program inside the sandbox reaches no file at all. Who can break this
    // can run programs as this user anyway.
    let module = unsafe { Module::deserialize_file(engine, path) };
    module.map_err(|e| format!("{}: {e:#}", path.display()))
}

/// A command of WASI preview 1 begins with `_start` and asks for nothing else.
fn is_a_program(module: &Module, python: &Path) -> Result<(), String> {
    let foreign = module.imports().map(|i| i.module().to_string()).find(|name| name != "wasi_snapshot_preview1");
    let problem = match (foreign, module.get_export("_start").is_some()) {
        (Some(name), _) => format!("it asks for calls of `{name}`"),
        (None, false) => "it has no `_start`".to_string(),
        (None, true) => return Ok(()),
    };
    Err(format!("{}: not a program for WASI preview 1: {problem}; {}", python.display(), super::super::choice::HOW))
}
