//! The only files that a program in WebAssembly sees: a tree in memory, counted byte by byte.
//!
//! There is nothing to escape from: no path here is ever given to the operating system. A file counts with its length, at least
//! a page, against one bound; the number of files and folders has another. Links, symbolic ones too, do not exist.

use super::guest::Errno;
use std::collections::{BTreeMap, HashMap};

/// What one file or folder counts at least.
const PAGE: u64 = 4096;
/// Files and folders.
const MOST_NODES: usize = 1024;
/// Bytes of a name.
const LONGEST_NAME: usize = 255;
/// Room is made in steps of so much, so that growing byte by byte does not copy a file every time.
const STEP: usize = 64 << 10;

/// The number of a node.
pub(super) type Id = u64;
/// The folder that everything is below.
pub(super) const ROOT: Id = 1;

/// What a node is.
#[derive(Debug)]
pub(super) enum Content {
    /// A file and its bytes.
    File(Vec<u8>),
    /// A folder and what is in it.
    Folder(BTreeMap<String, Id>),
    /// `/dev/null`.
    Null,
}

/// A file or folder.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) content: Content,
    /// Nanoseconds since 1970.
    pub(super) modified: u64,
    /// Whether a name leads to it.
    named: bool,
    /// Descriptors that hold it.
    held: u32,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Files {
    nodes: HashMap<Id, Node>,
    next: Id,
    used: u64,
    most: u64,
}

/// Where a path leads: the folder of its last name, that name, and what bears it. The base itself has no name.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    pub(super) folder: Id,
    pub(super) name: Option<String>,
    pub(super) node: Option<Id>,
    /// It ended with a slash.
    pub(super) folder_wanted: bool,
}

impl Files {
    /// An empty root, with room for `most` bytes.
    pub(super) fn new(most: u64) -> Self {
        let mut files = Files { nodes: HashMap::new(), next: ROOT, used: 0, most };
        files.insert(Content::Folder(BTreeMap::new()), 0);
        files
    }

    fn insert(&mut self, content: Content, now: u64) -> Id {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Node { content, modified: now, named: true, held: 0 });
        id
    }

    /// The node of that number.
    pub(super) fn node(&self, id: Id) -> Result<&Node, Errno> {
        self.nodes.get(&id).ok_or(Errno::NOENT)
    }

    /// The same, to change.
    pub(super) fn node_mut(&mut self, id: Id) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&id).ok_or(Errno::NOENT)
    }

    /// The names in a folder.
    pub(super) fn names(&self, id: Id) -> Result<&BTreeMap<String, Id>, Errno> {
        match &self.node(id)?.content {
            Content::Folder(names) => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn names_mut(&mut self, id: Id) -> Result<&mut BTreeMap<String, Id>, Errno> {
        match &mut self.node_mut(id)?.content {
            Content::Folder(names) => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Follow `path` from the folder `base`, never above it.
    pub(super) fn find(&self, base: Id, path: &str) -> Result<Place, Errno> {
        if path.starts_with('/') {
            return Err(Errno::NOTCAPABLE);
        }
        let mut trail = vec![base];
        let mut last: Option<(String, Option<Id>)> = None;
        for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
            if let Some((_, node)) = last.take() {
                trail.push(node.ok_or(Errno::NOENT)?);
            }
            let here = *trail.last().unwrap_or(&base);
            let names = self.names(here)?;
            if part == ".." {
                if trail.pop().is_none() || trail.is_empty() {
                    return Err(Errno::NOTCAPABLE);
                }
                continue;
            }
            if part.len() > LONGEST_NAME {
                return Err(Errno::NAMETOOLONG);
            }
            last = Some((part.to_string(), names.get(part).copied()));
        }
        let folder = *trail.last().unwrap_or(&base);
        self.names(folder)?;
        let folder_wanted = path.ends_with('/');
        Ok(match last {
            Some((name, node)) => Place { folder, name: Some(name), node, folder_wanted },
            None => Place { folder, name: None, node: Some(folder), folder_wanted },
        })
    }

    /// A new node at a place where there is none.
    pub(super) fn create(&mut self, place: &Place, content: Content, now: u64) -> Result<Id, Errno> {
        let name = match (&place.name, place.node) {
            (Some(name), None) => name.clone(),
            _ => return Err(Errno::EXIST),
        };
        if !self.node(place.folder)?.named {
            return Err(Errno::NOENT);
        }
        if self.nodes.len() >= MOST_NODES {
            return Err(Errno::NOSPC);
        }
        self.charge(0, size(&content))?;
        let id = self.insert(content, now);
        self.names_mut(place.folder)?.insert(name, id);
        self.node_mut(place.folder)?.modified = now;
        Ok(id)
    }

    /// Account for a file that goes from one length to another.
    fn charge(&mut self, from: u64, to: u64) -> Result<(), Errno> {
        let after = self.used.saturating_sub(from).checked_add(to).filter(|&after| after <= self.most || to <= from);
        self.used = after.ok_or(Errno::NOSPC)?;
        Ok(())
    }

    /// Write `bytes` at `at`; what lies between the old end and `at` is zero.
    pub(super) fn write(&mut self, id: Id, at: u64, bytes: &[u8], now: u64) -> Result<(), Errno> {
        if bytes.is_empty() || matches!(self.node(id)?.content, Content::Null) {
            return Ok(());
        }
        let end = at.checked_add(bytes.len() as u64).ok_or(Errno::FBIG)?;
        if end > self.length(id)? {
            self.set_length(id, end, now)?;
        }
        let node = self.node_mut(id)?;
        node.modified = now;
        let Content::File(data) = &mut node.content else { return Err(Errno::ISDIR) };
        let from = usize::try_from(at).map_err(|_| Errno::FBIG)?;
        data.get_mut(from..from + bytes.len()).ok_or(Errno::IO)?.copy_from_slice(bytes);
        Ok(())
    }

    /// What is at `at`, at most `most` bytes.
    pub(super) fn read(&self, id: Id, at: u64, most: usize) -> Result<&[u8], Errno> {
        match &self.node(id)?.content {
            Content::File(data) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
                Ok(&data[from..data.len().min(from.saturating_add(most))])
            }
            Content::Null => Ok(&[]),
            Content::Folder(_) => Err(Errno::ISDIR),
        }
    }

    /// Bytes of a file; 0 for anything else.
    pub(super) fn length(&self, id: Id) -> Result<u64, Errno> {
        Ok(match &self.node(id)?.content {
            Content::File(data) => data.len() as u64,
            _ => 0,
        })
    }

    /// Cut or lengthen a file.
    pub(super) fn set_length(&mut self, id: Id, length: u64, now: u64) -> Result<(), Errno> {
        let old = match &self.node(id)?.content {
            Content::File(data) => data.len() as u64,
            Content::Null => return Ok(()),
            Content::Folder(_) => return Err(Errno::ISDIR),
        };
        self.charge(old.max(PAGE), length.max(PAGE))?;
        let node = self.node_mut(id)?;
        node.modified = now;
        if let Content::File(data) = &mut node.content {
            let length = usize::try_from(length).map_err(|_| Errno::FBIG)?;
            if length > data.capacity() {
                data.reserve_exact(length.div_ceil(STEP).saturating_mul(STEP) - data.len());
            }
            data.resize(length, 0);
            if length == 0 {
                data.shrink_to_fit();
            }
        }
        Ok(())
    }

    /// Take the name away; the node goes with the last descriptor. `folder` says what is expected to be there.
    pub(super) fn remove(&mut self, place: &Place, folder: bool, now: u64) -> Result<(), Errno> {
        let (Some(name), node) = (&place.name, place.node.ok_or(Errno::NOENT)?) else { return Err(Errno::BUSY) };
        match (&self.node(node)?.content, folder) {
            (Content::Folder(names), true) if !names.is_empty() => return Err(Errno::NOTEMPTY),
            (Content::Folder(_), false) => return Err(Errno::ISDIR),
            (Content::File(_) | Content::Null, true) => return Err(Errno::NOTDIR),
            (Content::Null, false) => return Err(Errno::PERM),
            _ => {}
        }
        self.names_mut(place.folder)?.remove(name);
        self.node_mut(place.folder)?.modified = now;
        self.node_mut(node)?.named = false;
        self.sweep(node);
        Ok(())
    }

    /// Give the node of `from` the name of `to`, in place of what is there.
    pub(super) fn rename(&mut self, from: &Place, to: &Place, now: u64) -> Result<(), Errno> {
        let (Some(old), Some(new)) = (&from.name, &to.name) else { return Err(Errno::BUSY) };
        let node = from.node.ok_or(Errno::NOENT)?;
        if to.node == Some(node) {
            return Ok(());
        }
        let is_folder = matches!(self.node(node)?.content, Content::Folder(_));
        if is_folder && self.is_below(to.folder, node) {
            return Err(Errno::INVAL);
        }
        match to.node {
            Some(_) => self.remove(to, is_folder, now)?,
            None if to.folder_wanted && !is_folder => return Err(Errno::NOTDIR),
            None => {}
        }
        self.names_mut(from.folder)?.remove(old);
        self.names_mut(to.folder)?.insert(new.clone(), node);
        for folder in [from.folder, to.folder] {
            self.node_mut(folder)?.modified = now;
        }
        Ok(())
    }

    /// Whether `node` is `folder` or somewhere in it.
    fn is_below(&self, node: Id, folder: Id) -> bool {
        let mut rest = vec![folder];
        while let Some(at) = rest.pop() {
            if at == node {
                return true;
            }
            rest.extend(self.names(at).into_iter().flat_map(|names| names.values()));
        }
        false
    }

    /// A descriptor holds the node.
    pub(super) fn hold(&mut self, id: Id) -> Result<(), Errno> {
        self.node_mut(id)?.held += 1;
        Ok(())
    }

    /// It no longer does.
    pub(super) fn let_go(&mut self, id: Id) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.held = node.held.saturating_sub(1);
            self.sweep(id);
        }
    }

    fn sweep(&mut self, id: Id) {
        if self.nodes.get(&id).is_some_and(|node| !node.named && node.held == 0)
            && let Some(node) = self.nodes.remove(&id)
        {
            self.used = self.used.saturating_sub(size(&node.content));
        }
    }
}

/// What a node counts.
fn size(content: &Content) -> u64 {
    match content {
        Content::File(data) => (data.len() as u64).max(PAGE),
        Content::Folder(_) => PAGE,
        Content::Null => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(files: &mut Files, path: &str) -> Result<Id, Errno> {
        let place = files.find(ROOT, path)?;
        files.create(&place, Content::File(Vec::new()), 1)
    }

    fn folder(files: &mut Files, path: &str) -> Id {
        let place = files.find(ROOT, path).unwrap();
        files.create(&place, Content::Folder(BTreeMap::new()), 1).unwrap()
    }

    #[test]
    fn paths_stay_below_their_base() {
        let mut files = Files::new(1 << 20);
        let tmp = folder(&mut files, "tmp");
        let deep = folder(&mut files, "tmp/deep");
        assert_eq!(files.find(tmp, "deep/../deep/.").unwrap().node, Some(deep));
        assert_eq!(files.find(tmp, ".").unwrap(), Place { folder: tmp, name: None, node: Some(tmp), folder_wanted: false });
        for out in ["..", "/tmp", "deep/../..", "../tmp", "../../etc/passwd"] {
            assert_eq!(files.find(tmp, out), Err(Errno::NOTCAPABLE), "{out}");
        }
        assert_eq!(files.find(tmp, "gone/x"), Err(Errno::NOENT));
        file(&mut files, "tmp/f").unwrap();
        assert_eq!(files.find(tmp, "f/x"), Err(Errno::NOTDIR));
        assert_eq!(files.find(tmp, &"n".repeat(256)), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn bytes_and_files_are_counted() {
        let mut files = Files::new(64 << 10);
        let a = file(&mut files, "a").unwrap();
        files.write(a, 0, &[1; 60 << 10], 2).unwrap();
        assert_eq!(files.write(a, 60 << 10, &[1; 8 << 10], 2), Err(Errno::NOSPC));
        assert_eq!(files.set_length(a, u64::MAX, 2), Err(Errno::NOSPC));
        assert_eq!(files.write(a, u64::MAX, &[1], 2), Err(Errno::FBIG));
        assert_eq!(files.length(a).unwrap(), 60 << 10);
        file(&mut files, "b").unwrap();
        assert_eq!(file(&mut files, "c"), Err(Errno::NOSPC));
        // A file without a name still counts while it is open.
        files.hold(a).unwrap();
        let place = files.find(ROOT, "a").unwrap();
        files.remove(&place, false, 3).unwrap();
        assert_eq!(file(&mut files, "c"), Err(Errno::NOSPC));
        files.let_go(a);
        let c = file(&mut files, "c").unwrap();
        files.write(c, 3, b"x", 4).unwrap();
        assert_eq!(files.read(c, 0, 10).unwrap(), b"\0\0\0x");
        let mut many = Files::new(1 << 40);
        assert_eq!((0..2000).find_map(|i| file(&mut many, &i.to_string()).err()), Some(Errno::NOSPC));
    }

    #[test]
    fn moving_and_removing() {
        let mut files = Files::new(1 << 20);
        folder(&mut files, "d");
        folder(&mut files, "d/e");
        file(&mut files, "d/e/f").unwrap();
        let find = |files: &Files, path: &str| files.find(ROOT, path).unwrap();
        let (d, into) = (find(&files, "d"), find(&files, "d/e/d"));
        assert_eq!(files.rename(&d, &into, 2), Err(Errno::INVAL));
        assert_eq!(files.remove(&d, true, 2), Err(Errno::NOTEMPTY));
        assert_eq!(files.remove(&d, false, 2), Err(Errno::ISDIR));
        let (f, g) = (find(&files, "d/e/f"), find(&files, "g"));
        files.rename(&f, &g, 2).unwrap();
        assert_eq!(files.find(ROOT, "d/e/f").unwrap().node, None);
        let e = find(&files, "d/e");
        files.remove(&e, true, 3).unwrap();
        let root = find(&files, ".");
        assert_eq!(files.remove(&root, true, 3), Err(Errno::BUSY));
    }
}
