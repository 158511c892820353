//! The bytes of a secret, and nothing that could show them by accident.
//!
//! Decides: nothing. Never does: print, serialize or hash a value for display. There is no
//! `Display`, no `Serialize`, and `Debug` says `[redacted]`. [`SecretData::expose`] is the one way
//! in; `tests/tidy/` lists the files that may call it (SEC-1).

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// A secret value: any bytes, shared by reference, overwritten with zeros when the last owner drops it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretData(Arc<Zeroizing<Vec<u8>>>);

impl SecretData {
    /// Takes ownership of `bytes`; they are zeroized when the last clone is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// The value itself. Only for encoding it to a store, to the wire or to an authorized reader.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Size of the value in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True for a value of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::SecretData;

    #[test]
    fn debug_shows_nothing_of_the_value() {
        let data = SecretData::new(b"hunter2".to_vec());
        assert_eq!(format!("{data:?}"), "[redacted]");
        assert_eq!(data.expose(), b"hunter2");
    }
}
