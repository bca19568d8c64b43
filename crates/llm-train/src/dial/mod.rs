//! One dial for a training run: `--depth N` or `--params 50M` sets the shape of the model and everything that should change with it.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`shape`] | `Shape` | depth and width; heads and feed-forward width that follow |
//! | [`recipe`] | `Recipe` | tokens, batch size, learning rate, weight decay, steps |
//! | [`data`] | `Data`, `Rate` | vocabulary, rows, tokens at hand, speed |
//! | [`choice`] | `Dial`, `Choice` | what the user gave stays, the rest is chosen; why |
//!
//! The idea is nanochat's (one number, `--depth`); the rules are written out where they are computed, with their sources. A value that
//! stands in the configuration or in `--set` is never changed, and what depends on it follows it: a given batch size changes the steps, a
//! given number of steps changes the batch size.

pub mod choice;
pub mod data;
pub mod recipe;
pub mod shape;
mod show;

pub use choice::{Choice, Dial, load};
pub use data::{Data, Rate};
pub use recipe::Recipe;
pub use shape::Shape;
