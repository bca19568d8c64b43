//! Where the stage programs are: built once with `cargo build` beside this executable, in the profile the tests use.

use crate::term::{Paint, plural};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace folder.
pub fn root() -> PathBuf {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).filter(|p| p.ends_with("xtask"));
    let xtask = xtask.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    xtask.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The path relative to the working directory where that is shorter to read.
pub fn short(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(&here) {
        Ok(rest) if rest.as_os_str().is_empty() => PathBuf::from("."),
        Ok(rest) => rest.to_path_buf(),
        Err(_) => path.to_path_buf(),
    }
}

/// The folder of our own executable: `target/debug` or `target/release`.
fn folder() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find the folder of this program")?;
    Ok(exe.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf))
}

/// The file of a program: a path when the name has a slash, else a binary of the workspace.
pub fn locate(program: &str) -> Result<PathBuf> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    Ok(short(&folder()?.join(format!("{program}{}", std::env::consts::EXE_SUFFIX))))
}

/// The Cargo feature a device needs beyond the default.
fn feature(device: &str) -> Option<&'static str> {
    match device.split(':').next().unwrap_or_default() {
        "cuda" => Some("cuda"),
        "vulkan" => Some("vulkan"),
        "webgpu" | "wgpu" => Some("webgpu"),
        _ => None,
    }
}

/// Is it a variable that Cargo sets for the package it runs?
fn describes_package(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_")
        || matches!(&*name, "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE")
}

/// Build the workspace programs among `programs` for these devices. Unchanged sources take a second.
pub fn build<'a>(programs: impl IntoIterator<Item = &'a str>, devices: &[&str]) -> Result<()> {
    build_with(programs, devices, &[])
}

/// [`build`] with features of the tensor library.
pub fn build_with<'a>(programs: impl IntoIterator<Item = &'a str>, devices: &[&str], tensor_features: &[String]) -> Result<()> {
    let features: BTreeSet<&str> = devices.iter().filter_map(|d| feature(d)).collect();
    let wanted: BTreeSet<&str> = programs.into_iter().filter(|p| !p.contains('/')).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let root = root();
    let folder = folder()?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&root).args(["build", "--workspace", "--bins"]);
    // `cargo run`, which started this program, has described it in the environment. Build scripts that look there (ring's does) would run
    // again, and with them half the workspace, whenever a build follows one from a shell.
    std::env::vars_os().filter(|(name, _)| describes_package(name)).for_each(|(name, _)| {
        command.env_remove(name);
    });
    match folder.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => {}
        Some("release") => {
            command.arg("--release");
        }
        Some(profile) => {
            command.args(["--profile", profile]);
        }
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    for feature in tensor_features {
        command.args(["--features", &format!("llm-tensor/{feature}")]);
    }
    let mut missing = 0;
    for program in &wanted {
        let manifest = root.join("crates").join(program).join("Cargo.toml");
        let Ok(text) = std::fs::read_to_string(&manifest) else {
            let known = std::fs::read_dir(root.join("crates"))
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect::<Vec<_>>();
            let hint = crate::term::nearest(program, known.iter().map(String::as_str)).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            bail!("no program `{program}` in this workspace{hint}");
        };
        for feature in features.iter().filter(|f| text.contains(&format!("\n{f} = "))) {
            command.args(["--features", &format!("{program}/{feature}")]);
        }
        missing += usize::from(!folder.join(program).exists());
    }
    if missing > 0 {
        let paint = Paint::stderr();
        eprintln!("{}", paint.bold(&format!("Building {missing} program{} (only this once; the tests share the result)", plural(missing))));
        eprintln!("{}", paint.dim("The tensor library is the large part: expect 5 to 15 minutes on two cores."));
    } else {
        // A fresh build says nothing; errors and warnings still appear.
        command.arg("--quiet");
    }
    let status = command.status().context("cannot start cargo; is it installed and on PATH?")?;
    ensure!(status.success(), "the programs could not be built (cargo's message is above)");
    Ok(())
}
