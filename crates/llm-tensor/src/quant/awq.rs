//! The AWQ layout of AutoAWQ, version `gemm`, 4 bits.
//!
//! `qweight` int32 `[I, O / 8]`, `qzeros` int32 `[G, O / 8]`: bits `4j..` of word `c` belong to output `8c + ORDER[j]`. Zero points are stored as
//! they are. `scales` float16 `[G, O]`, groups are runs of inputs. An element is `scale * (code - zero)`. Checked against fixtures of the layout
//! (`fixtures/quant`).
//!
//! Legend: I input features, O output features, G groups.

use super::{Meaning, Packed};
use crate::weights::{Dtype, Weights};
use half::f16;

/// Names of the three tensors, after the layer's name.
pub const TENSORS: [&str; 3] = ["qweight", "qzeros", "scales"];
/// The output, of eight, that each four bits of a word belong to.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The four-bit numbers of `[rows, O / 8]` words, `[O, rows]`.
fn unpack(words: &[u8], outputs: usize) -> Vec<u8> {
    let words = words.as_chunks::<4>().0;
    let rows = words.len() / (outputs / 8).max(1);
    let mut out = vec![0u8; outputs * rows];
    for (at, word) in words.iter().enumerate() {
        let (row, column) = (at / (outputs / 8), at % (outputs / 8));
        let word = u32::from_le_bytes(*word);
        for (j, output) in ORDER.iter().enumerate() {
            out[(8 * column + output) * rows + row] = (word >> (4 * j) & 15) as u8;
        }
    }
    out
}

/// The matrix `[O, I]` in `PREFIX.qweight` and its companions.
pub fn read(weights: &Weights, prefix: &str, shape: [usize; 2]) -> Result<Packed, String> {
    let [outputs, inputs] = shape;
    if outputs == 0 || inputs == 0 || !outputs.is_multiple_of(8) {
        return Err(format!("shape {shape:?}: the layout needs a multiple of 8 outputs"));
    }
    let get = |name: &str, dtypes: &[Dtype], rows: Option<usize>, columns: usize| {
        let name = format!("{prefix}.{name}");
        let (dtype, shape, bytes) = weights.raw(&name).map_err(|e| e.to_string())?;
        match *shape {
            [r, c] if dtypes.contains(&dtype) && c == columns && rows.is_none_or(|rows| r == rows) => Ok((r, dtype, bytes)),
            _ => {
                let rows = rows.map_or_else(|| "groups".to_string(), |rows| rows.to_string());
                Err(format!("`{name}` is {dtype} {shape:?}, expected {} [{rows}, {columns}]", dtypes[0]))
            }
        }
    };
    let (_, _, qweight) = get("qweight", &[Dtype::I32], Some(inputs), outputs / 8)?;
    let (groups, dtype, scale_bytes) = get("scales", &[Dtype::F16, Dtype::BF16, Dtype::F32], None, outputs)?;
    let (_, _, qzeros) = get("qzeros", &[Dtype::I32], Some(groups), outputs / 8)?;
    if groups == 0 || !inputs.is_multiple_of(groups) {
        return Err(format!("`{prefix}.scales`: {inputs} inputs are no whole number of {groups} groups"));
    }
    let file: Vec<f32> = match dtype {
        Dtype::F16 => scale_bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => scale_bytes.as_chunks::<2>().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        _ => scale_bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    };
    let scales = (0..outputs).flat_map(|o| (0..groups).map(move |g| g * outputs + o)).map(|at| file[at]).collect();
    let zeros = unpack(qzeros, outputs).into_iter().map(i16::from).collect();
    Ok(Packed::new(shape, inputs / groups, None, &unpack(qweight, outputs), Meaning::Bits4, scales, Some(zeros)))
}
