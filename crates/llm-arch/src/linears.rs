//! The projections of a decoder by canonical name: what quantisation and calibration work on.

use crate::Decoder;
use crate::decoder::Block;
use llm_tensor::nn::Linear;

impl Decoder {
    /// The projections of one block in the order in which a token meets them, by canonical name without `.weight`. Routers and stacked experts
    /// are none.
    pub fn block_linears_mut(&mut self, layer: usize) -> Vec<(String, &mut Linear)> {
        let at = format!("model.layers.{layer}");
        self.model.layers.get_mut(layer).map(|block| block_linears(block, &at)).unwrap_or_default()
    }

    /// All projections of all blocks.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let blocks = self.model.layers.iter_mut().enumerate();
        blocks.flat_map(|(i, block)| block_linears(block, &format!("model.layers.{i}"))).collect()
    }
}

fn block_linears<'a>(block: &'a mut Block, at: &str) -> Vec<(String, &'a mut Linear)> {
    let mut out = Vec::new();
    let mut add = |name: &str, linear: &'a mut Linear| out.push((format!("{at}.{name}"), linear));
    if let Some(attention) = &mut block.self_attn {
        add("self_attn.q_proj", &mut attention.q_proj);
        add("self_attn.k_proj", &mut attention.k_proj);
        add("self_attn.v_proj", &mut attention.v_proj);
        add("self_attn.o_proj", &mut attention.o_proj);
    }
    if let Some(mla) = &mut block.mla {
        for (name, linear) in [("mla.q_proj", &mut mla.q_proj), ("mla.q_a_proj", &mut mla.q_a_proj)] {
            linear.iter_mut().for_each(|linear| add(name, linear));
        }
        add("mla.kv_a_proj_with_mqa", &mut mla.kv_a_proj_with_mqa);
        mla.q_b_proj.iter_mut().for_each(|linear| add("mla.q_b_proj", linear));
        add("mla.kv_b_proj", &mut mla.kv_b_proj);
        add("mla.o_proj", &mut mla.o_proj);
    }
    if let Some(mlp) = &mut block.mlp {
        mlp.gate_proj.iter_mut().for_each(|linear| add("mlp.gate_proj", linear));
        add("mlp.up_proj", &mut mlp.up_proj);
        add("mlp.down_proj", &mut mlp.down_proj);
    }
    if let Some(shared) = block.moe.as_mut().and_then(|moe| moe.shared_experts.as_mut()) {
        add("moe.shared_experts.gate_proj", &mut shared.gate_proj);
        add("moe.shared_experts.up_proj", &mut shared.up_proj);
        add("moe.shared_experts.down_proj", &mut shared.down_proj);
    }
    out
}
