//! Generated scenes with captions and questions in English, German and Spanish: pictures to learn seeing from, without a
//! download, whose right answers are known.
//!
//! | file | job |
//! |---|---|
//! | `scene` | what is shown, without pixels and words; training or held-out |
//! | `ask` | what can be asked and what is right |
//! | `wording`, `english`, `german`, `spanish` | sentences |
//! | `raster`, `font`, `png` | pixels and files |
//! | `generate` | settings, the sets, the texts for a tokenizer and a language model |
//!
//! Picture `i` of a set is a function of (seed, set, i): asking for more moves none.

mod ask;
mod english;
mod font;
mod generate;
mod german;
mod png;
mod raster;
mod scene;
mod spanish;
mod wording;

pub use generate::{ScenesConfig, Shares, Summary, write};
pub use scene::{Background, Bar, Cell, Colour, Content, Kind, Object, Scene, Shape};
pub use wording::accepted;
