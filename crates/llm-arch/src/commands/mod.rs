//! The commands of the program, one file each.

mod convert;
mod extend_vocab;
mod format;
mod generate;
mod inspect;
mod merge;
mod parity;
mod plan;
mod presets;
mod tokens;

pub use convert::Convert;
pub use extend_vocab::ExtendVocab;
pub use generate::Generate;
pub use inspect::Inspect;
pub use merge::Merge;
pub use parity::Parity;
pub use plan::PlanArgs;
pub use presets::Presets;
pub use tokens::Tokens;

use anyhow::{Result, anyhow};
use llm_arch::presets::{self as known, Preset};

/// The preset of a name, or an error that names what was probably meant.
fn preset(name: &str) -> Result<&'static Preset> {
    known::find(name).ok_or_else(|| {
        let near = known::suggestions(name);
        let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
        anyhow!("`{name}` is no preset{hint} (`llm-arch presets` lists them)")
    })
}
