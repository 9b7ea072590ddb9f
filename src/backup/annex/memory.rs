//! Files in memory, as the copy reads them.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::source::{FileSource, Found, FoundKind, SourceFile, Stat};

/// Files by their paths.
#[derive(Default)]
pub(super) struct Memory(HashMap<PathBuf, Arc<[u8]>>);

impl Memory {
    /// Adds a file.
    pub fn add(&mut self, path: PathBuf, bytes: Vec<u8>) {
        self.0.insert(path, bytes.into());
    }

    fn get(&self, path: &Path) -> io::Result<&Arc<[u8]>> {
        self.0.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl FileSource for Memory {
    fn list(&self, _: &Path) -> io::Result<Vec<Found>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SourceFile>> {
        Ok(Box::new(Content(Arc::clone(self.get(path)?))))
    }

    fn stat(&self, path: &Path) -> io::Result<(FoundKind, Stat)> {
        Ok((FoundKind::File, Stat { size: self.get(path)?.len() as u64, ..Stat::default() }))
    }

    fn link(&self, _: &Path) -> io::Result<PathBuf> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Content(Arc<[u8]>);

impl SourceFile for Content {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn done_with(&self, _: u64, _: u64) {}
}
