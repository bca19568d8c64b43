//! Rewards that can be checked: `llm_verify` under the names that objectives use, and `llm-align verify`.

pub use llm_verify::report::{VerifyConfig, verify};
pub use llm_verify::{RewardSpec, Rewards, Scored, Task};
