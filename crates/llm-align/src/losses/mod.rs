//! Losses of alignment as pure functions: values and gradients equal the reference implementations'.
//!
//! | file | job |
//! |---|---|
//! | [`policy`] | clipped and other surrogates of policy gradients over packed answers |
//! | [`advantages`] | from rewards to advantages: groups, leave-one-out, GAE, whitening |
//! | [`kl`] | k1, k2, k3 |

pub mod advantages;
pub mod kl;
pub mod policy;
