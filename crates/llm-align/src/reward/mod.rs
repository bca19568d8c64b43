//! Reward models: a decoder with a scalar head that learns which of two answers people prefer.
//!
//! | file | job |
//! |---|---|
//! | [`model`] | the decoder with its head, in memory and in Hugging Face's files |
//! | [`config`] | settings of the training |
//! | `train` | pairs, loss, held-out judgement |
//! | [`calibration`] | accuracy, reliability bins, Brier score |
//! | [`mod@score`] | rewards of the rows of a file |

pub mod calibration;
pub mod config;
pub mod model;
pub mod score;
mod train;

pub use calibration::Calibration;
pub use config::RewardConfig;
pub use model::{RewardModel, Texts};
pub use score::{ScoreConfig, score};
pub use train::{Reward, RewardBatch, reward};
