//! The program's memory, as the calls of WASI see it: every access is checked, and what lies outside is an error of the program's.

/// An error number of WASI, preview 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errno(pub(super) i32);

#[allow(missing_docs)]
impl Errno {
    pub(super) const BADF: Errno = Errno(8);
    pub(super) const BUSY: Errno = Errno(10);
    pub(super) const EXIST: Errno = Errno(20);
    pub(super) const FAULT: Errno = Errno(21);
    pub(super) const FBIG: Errno = Errno(22);
    pub(super) const ILSEQ: Errno = Errno(25);
    pub(super) const INVAL: Errno = Errno(28);
    pub(super) const IO: Errno = Errno(29);
    pub(super) const ISDIR: Errno = Errno(31);
    pub(super) const MFILE: Errno = Errno(33);
    pub(super) const NAMETOOLONG: Errno = Errno(37);
    pub(super) const NOENT: Errno = Errno(44);
    pub(super) const NOSPC: Errno = Errno(51);
    pub(super) const NOTDIR: Errno = Errno(54);
    pub(super) const NOTEMPTY: Errno = Errno(55);
    pub(super) const NOTSOCK: Errno = Errno(57);
    pub(super) const NOTSUP: Errno = Errno(58);
    pub(super) const PERM: Errno = Errno(63);
    pub(super) const PIPE: Errno = Errno(64);
    pub(super) const SPIPE: Errno = Errno(70);
    pub(super) const NOTCAPABLE: Errno = Errno(76);
}

/// Longest list that a call takes.
pub(super) const MOST_PIECES: u32 = 1024;

/// Linear memory.
pub(super) struct Guest<'a>(pub(super) &'a mut [u8]);

impl Guest<'_> {
    /// `length` bytes at `at`.
    pub(super) fn bytes(&self, at: u32, length: u32) -> Result<&[u8], Errno> {
        let from = at as usize;
        self.0.get(from..from.saturating_add(length as usize)).ok_or(Errno::FAULT)
    }

    /// The same, to write to.
    pub(super) fn bytes_mut(&mut self, at: u32, length: u32) -> Result<&mut [u8], Errno> {
        let from = at as usize;
        self.0.get_mut(from..from.saturating_add(length as usize)).ok_or(Errno::FAULT)
    }

    /// Put `bytes` at `at`.
    pub(super) fn put(&mut self, at: u32, bytes: &[u8]) -> Result<(), Errno> {
        let length = u32::try_from(bytes.len()).map_err(|_| Errno::FAULT)?;
        self.bytes_mut(at, length)?.copy_from_slice(bytes);
        Ok(())
    }

    /// A 32-bit number.
    pub(super) fn u32(&self, at: u32) -> Result<u32, Errno> {
        let mut word = [0; 4];
        word.copy_from_slice(self.bytes(at, 4)?);
        Ok(u32::from_le_bytes(word))
    }

    /// A 64-bit number.
    pub(super) fn u64(&self, at: u32) -> Result<u64, Errno> {
        let mut word = [0; 8];
        word.copy_from_slice(self.bytes(at, 8)?);
        Ok(u64::from_le_bytes(word))
    }

    /// A path or another text.
    pub(super) fn text(&self, at: u32, length: u32) -> Result<&str, Errno> {
        std::str::from_utf8(self.bytes(at, length)?).map_err(|_| Errno::ILSEQ)
    }

    /// The pieces of a list of buffers: place and length.
    pub(super) fn pieces(&self, at: u32, count: u32) -> Result<Vec<(u32, u32)>, Errno> {
        if count > MOST_PIECES {
            return Err(Errno::INVAL);
        }
        let list = self.bytes(at, count * 8)?;
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |n, &b| n << 8 | u32::from(b));
        Ok(list.chunks_exact(8).map(|piece| (word(&piece[..4]), word(&piece[4..]))).collect())
    }
}

/// Add a number to an address of the program's.
pub(super) fn after(at: u32, offset: u32) -> Result<u32, Errno> {
    at.checked_add(offset).ok_or(Errno::FAULT)
}
