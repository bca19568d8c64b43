//! Losses of alignment as pure functions: values and gradients equal the reference implementations'.
//!
//! | file | job |
//! |---|---|
//! | [`reward`] | Bradley-Terry with margin and centring |
//! | [`value`] | the clipped loss of a value function |

pub mod reward;
pub mod value;
