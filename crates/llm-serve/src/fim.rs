//! Filling a gap: prompt and `suffix` around marks that a code model was trained with (Bavarian et al., "Efficient Training of
//! Language Models to Fill in the Middle", 2022: prefix, suffix, then the middle).
//!
//! Which marks is a matter of the vocabulary; a model without them would take the suffix for text to continue, so that is refused.

use llm_tokenizer::Tokenizer;

/// Begin, gap and end of the families we know: before the prefix, before the suffix, before the reply.
const FAMILIES: [[&str; 3]; 4] = [
    // Qwen Coder, CodeGemma, Granite
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    // StarCoder, SmolLM
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    // DeepSeek Coder
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    // Code Llama
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
];

/// Tokens that end a file or a middle in these families.
const ENDS: [&str; 5] = ["<|fim_pad|>", "<|file_sep|>", "<|file_separator|>", "<|repo_name|>", "▁<EOT>"];

/// The marks of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    marks: [u32; 3],
    /// Tokens that end the reply, besides the usual.
    pub ends: Vec<u32>,
}

impl Marks {
    /// `None` if the vocabulary has none.
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let id = |name: &str| tokenizer.special_id(name);
        let all = |[a, b, c]: [&str; 3]| Some([id(a)?, id(b)?, id(c)?]);
        let marks = FAMILIES.into_iter().find_map(all)?;
        let ends = ENDS.into_iter().filter_map(id).chain(marks).collect();
        Some(Self { marks, ends })
    }

    /// The ids of a prompt with a gap between `before` and `after`.
    pub fn prompt(&self, tokenizer: &Tokenizer, before: &str, after: &str) -> Vec<u32> {
        let [prefix, suffix, middle] = self.marks;
        let mut ids: Vec<u32> = tokenizer.bos_id().into_iter().collect();
        ids.push(prefix);
        ids.extend(tokenizer.encode(before));
        ids.push(suffix);
        ids.extend(tokenizer.encode(after));
        ids.push(middle);
        ids
    }
}
