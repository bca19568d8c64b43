//! The projections of a decoder by canonical name: what quantisation and calibration work on.

use crate::Decoder;
use crate::decoder::Block;
use llm_tensor::nn::{Linear, Weight};
use llm_tensor::quant::Activations;

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

    fn each_weight(&mut self, change: impl Fn(&mut Weight)) {
        self.each_weight_mut(|name, weight| {
            if !name.contains("position_embeddings") {
                change(weight);
            }
        });
    }

    /// Every projection and table by canonical name.
    pub(crate) fn each_weight_mut(&mut self, mut change: impl FnMut(String, &mut Weight)) {
        self.linears_mut().into_iter().for_each(|(name, linear)| change(format!("{name}.weight"), &mut linear.weight));
        self.lm_head.iter_mut().for_each(|head| change("lm_head.weight".into(), &mut head.weight));
        change("model.embed_tokens.weight".into(), &mut self.model.embed_tokens.weight);
        self.model.position_embeddings.iter_mut().for_each(|table| change("model.position_embeddings.weight".into(), &mut table.weight));
    }

    /// Multiply every quantised matrix with inputs in that format. Dense ones, and tables (NF4), stay as they are.
    pub fn set_activations(&mut self, activations: Activations) {
        self.each_weight(|weight| weight.set_activations(activations));
    }

    /// Keep the dense projections, the output projection and the embedding in bfloat16 on the processor: half the memory to hold and
    /// to read, while inputs and sums stay `f32`. For inference; these matrices are no parameters any more. Exact where the
    /// checkpoint is in bfloat16. Routers and stacked experts stay `f32`.
    pub fn keep_bf16(&mut self) {
        self.each_weight(Weight::keep_bf16);
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
