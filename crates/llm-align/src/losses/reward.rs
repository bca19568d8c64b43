//! The loss of a reward model on preferences (Bradley and Terry, 1952; Ouyang et al., InstructGPT, 2022, equation 1).
//!
//! The margin is that of Llama 2 (Touvron et al., 2023, equation 2): how much better the chosen answer is, where somebody said so. The
//! centring term keeps rewards near zero, since only their differences are learned (Eisenstein et al., 2023). Both are as in TRL,
//! `reward_trainer.py`.
//!
//! Legend: B pairs.

use llm_tensor::burn::tensor::Tensor;
use llm_tensor::burn::tensor::activation::log_sigmoid;

/// Loss of each pair, `[B]`: `-log sigmoid(chosen - rejected - margin)`. Without margins they are 0.
pub fn bradley_terry(chosen_B: Tensor<1>, rejected_B: Tensor<1>, margin_B: Option<Tensor<1>>) -> Tensor<1> {
    let difference_B = chosen_B - rejected_B;
    let difference_B = match margin_B {
        Some(margin_B) => difference_B - margin_B,
        None => difference_B,
    };
    log_sigmoid(difference_B).neg()
}

/// What centring adds to the loss of each pair before its coefficient, `[B]`: `(chosen + rejected)^2`.
pub fn centring(chosen_B: Tensor<1>, rejected_B: Tensor<1>) -> Tensor<1> {
    (chosen_B + rejected_B).square()
}
