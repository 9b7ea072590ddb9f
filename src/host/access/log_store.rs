//! The log over a backend, sealed under the table key.

use std::sync::Arc;

use crate::crypt::{CryptError, Sealing, seal};
use crate::repo::log::{self, LogStore, SealFailure, Sealed, Sealer, StoreFailure};
use crate::store::{Backend, Create, ObjectName, SessionTag, StoreError};

/// A backend as the log sees it.
pub(super) struct BackendLog {
    pub backend: Arc<dyn Backend>,
    pub tag: SessionTag,
}

fn failure(error: StoreError) -> StoreFailure {
    StoreFailure(Box::new(error))
}

fn name_of(name: &str) -> Result<ObjectName, StoreFailure> {
    ObjectName::new(name).map_err(|e| failure(e.into()))
}

impl LogStore for BackendLog {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<log::Created, StoreFailure> {
        match self.backend.create(&name_of(name)?, &[bytes], &self.tag).map_err(failure)? {
            Create::Created => Ok(log::Created::Created),
            Create::Same | Create::Other => Ok(log::Created::Exists),
        }
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        let name = name_of(name)?;
        match self.backend.read(&name, limit as u64) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::TooLarge { .. }) => self.backend.read_range(&name, 0, limit + 1).map(Some).map_err(failure),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(failure(e)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        let folder = name_of(prefix.trim_end_matches('/'))?;
        let all = self.backend.list_sorted(Some(&folder)).map_err(failure)?;
        Ok(all.into_iter().map(|object| object.name.to_string()).collect())
    }
}

/// Seals entries and bodies under the table key.
pub(super) struct TableSealer(pub Sealing);

impl Sealer for TableSealer {
    fn seal(&self, plain: &[u8], aad: &[u8]) -> Result<Sealed, SealFailure> {
        let sealed = self.0.seal_table(aad, plain.to_vec()).map_err(|e| SealFailure::Failed(e.to_string()))?;
        Ok(Sealed { salt: sealed.salt, nonce: sealed.nonce, ciphertext: sealed.bytes })
    }

    fn open(&self, sealed: &Sealed, aad: &[u8]) -> Result<Vec<u8>, SealFailure> {
        let opened =
            seal::open_salted(self.0.table_key(), &sealed.salt, &sealed.nonce, aad, sealed.ciphertext.clone(), "an entry of the log");
        opened.map_err(|e| match e {
            CryptError::NotAuthentic { .. } => SealFailure::NotAuthentic,
            other => SealFailure::Failed(other.to_string()),
        })
    }
}
