//! What goes through the sorters: small structs of integers, ordered by their fields in this order.

use super::sorter::record;

record!(
    /// A document under the hash of its text.
    ExactRecord {
        /// First half of the hash.
        hi: u64,
        /// Second half.
        lo: u64,
        /// The document.
        doc: u32,
    }
);
record!(
    /// A document under the hash of one band of its signature.
    BandRecord {
        /// Hash of the band.
        key: u64,
        /// The document.
        doc: u32,
    }
);
record!(
    /// A document under two blocks of its SimHash.
    SimRecord {
        /// Hash of the blocks.
        key: u64,
        /// The document.
        doc: u32,
        /// All bits.
        hash: u64,
    }
);
record!(
    /// A line or paragraph under the hash of its text.
    SpanRecord {
        /// First half of the hash.
        hi: u64,
        /// Second half.
        lo: u64,
        /// Line or paragraph ([`super::remove::LINE`]…): they are not compared with each other.
        kind: u8,
        /// The document.
        doc: u32,
        /// First byte in the document.
        start: u32,
        /// Byte after the last.
        end: u32,
    }
);
record!(
    /// A chosen place of a document under the hash of the bytes there.
    AnchorRecord {
        /// Hash of the bytes.
        key: u64,
        /// The document.
        doc: u32,
        /// Where the bytes begin.
        at: u32,
        /// How far before that the first window begins that chose this place.
        before: u16,
        /// How far before that the last one begins.
        last: u16,
    }
);
record!(
    /// Two documents that are one.
    Edge {
        /// The first.
        a: u32,
        /// The second.
        b: u32,
    }
);
record!(
    /// Two documents that share a band.
    Candidate {
        /// The one that came first.
        head: u32,
        /// The other.
        doc: u32,
        /// The bucket in which they met.
        group: u64,
    }
);
record!(
    /// A document that was not similar to the head of its bucket.
    Failed {
        /// The bucket.
        group: u64,
        /// The document.
        doc: u32,
    }
);
record!(
    /// A document that goes.
    Decision {
        /// The document.
        doc: u32,
        /// The one that stays instead.
        kept: u32,
        /// The first document of the cluster: its name.
        cluster: u32,
        /// One of the constants in [`super::remove`].
        method: u8,
        /// Bits of the estimated similarity (`f32`); NaN when unknown.
        similarity: u32,
    }
);
record!(
    /// A stretch of a document that goes.
    Cut {
        /// The document.
        doc: u32,
        /// First byte.
        start: u32,
        /// Byte after the last.
        end: u32,
        /// The document that has it first.
        of: u32,
        /// One of the constants in [`super::remove`].
        method: u8,
    }
);
record!(
    /// An estimated similarity.
    Estimate {
        /// The document.
        doc: u32,
        /// Bits of an `f32`.
        similarity: u32,
    }
);
