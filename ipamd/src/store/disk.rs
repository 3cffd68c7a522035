//! The store on disk: sled.
//!
//! sled's `flush` writes the log but does not fsync it on Linux (its own fsync runs every 500 ms in the background), so
//! each commit syncs the log file itself; on tmpfs that costs nothing. Records stay far below sled's segment
//! size, so that none goes to a file of its own that would want a sync of its own.

use super::{Batch, Contents, Store, StoreError, record};
use std::error::Error;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// sled's cache in bytes. All leases are in the service's memory, sled is read once, at start.
const CACHE: u64 = 4 << 20;

/// The store on disk.
#[derive(Debug)]
pub struct SledStore {
    path: PathBuf,
    /// `None` before the first load and after a failed commit: then the next load opens it anew.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    db: sled::Db,
    log: File,
}

impl SledStore {
    /// A store in this directory, which is made if it is not there. Nothing is touched before the first load.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    fn open(&self) -> Result<Open, Box<dyn Error + Send + Sync>> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let db =
            sled::Config::new().path(&self.path).cache_capacity(CACHE).flush_every_ms(Some(500)).open()?;
        let log = File::open(self.path.join("db"))?;
        // The names of sled's files have to survive too.
        File::open(&self.path)?.sync_all()?;
        Ok(Open { db, log })
    }
}

impl Store for SledStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.open().map_err(|source| StoreError::Open { path: self.path.clone(), source })?,
        };
        let mut contents = Contents::default();
        for entry in &*open.db {
            let (key, value) = entry.map_err(|error| StoreError::Read(Box::new(error)))?;
            record::read(&mut contents, &key, &value)?;
        }
        self.open = Some(open);
        Ok(contents)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let failed = |error: Box<dyn Error + Send + Sync>| StoreError::Write(error);
        let mut sled_batch = sled::Batch::default();
        for (key, value) in record::writes(batch).map_err(|error| failed(Box::new(error)))? {
            match value {
                Some(value) => sled_batch.insert(key.as_bytes(), value),
                None => sled_batch.remove(key.as_bytes()),
            }
        }
        // Taken out, so that every early return leaves the store closed, to be opened anew.
        let open = self.open.take().ok_or_else(|| failed("it is not open".into()))?;
        open.db.apply_batch(sled_batch).map_err(|error| failed(Box::new(error)))?;
        open.db.flush().map_err(|error| failed(Box::new(error)))?;
        open.log.sync_data().map_err(|error| failed(Box::new(error)))?;
        self.open = Some(open);
        Ok(())
    }
}
