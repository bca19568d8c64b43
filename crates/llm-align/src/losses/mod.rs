//! Losses of alignment as pure functions: values and gradients equal the reference implementations'.
//!
//! | file | job |
//! |---|---|
//! | [`policy`] | clipped and other surrogates of policy gradients over packed answers |
//! | [`advantages`] | from rewards to advantages: groups, leave-one-out, GAE, whitening |
//! | [`kl`] | k1, k2, k3 |
//! | [`reward`] | Bradley-Terry with margin and centring |
//! | [`value`] | the clipped loss of a value function |
//! | [`preference`] | pairs of answers against a reference: DPO and its variants, f-divergences |
//! | [`reference_free`] | pairs without a reference: ORPO, SimPO, CPO |
//! | [`mix`] | several of these with weights, as a configuration names them |
//! | [`kto`] | single answers with a verdict: KTO, unpaired APO |
//!
//! Where implementations of one name disagree, the name says which is meant (`ipo_trl`, `ipo_openrlhf`).

pub mod advantages;
pub mod kl;
pub mod kto;
pub mod mix;
pub mod policy;
pub mod preference;
pub mod reference_free;
pub mod reward;
pub mod value;
