//! Reads the files, which is the one effect of this crate. The other modules work out what the text says.

use std::path::Path;

use crate::document::Document;
use crate::{
    Config, ConfigError, DEFAULT_CONFIG, EditedNodes, NodeFile, NodesFile, ServedFile, ServicesFile,
    SubnetEnv,
};

impl Config {
    /// Reads the configuration: the file of `--config`, else [`DEFAULT_CONFIG`], which need not exist.
    ///
    /// # Errors
    /// If the file cannot be read (a missing one only if it was asked for), or has a fault.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let path = explicit.unwrap_or(Path::new(DEFAULT_CONFIG));
        match read(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if explicit.is_none() && error.is_missing() => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }
}

impl NodesFile {
    /// Reads and parses the file.
    ///
    /// # Errors
    /// As [`NodesFile::parse`], and if the file cannot be read ([`ConfigError::is_missing`] tells a missing one).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, path)
    }
}

impl ServicesFile {
    /// Reads and parses the file.
    ///
    /// # Errors
    /// As [`ServicesFile::parse`], and if the file cannot be read ([`ConfigError::is_missing`] tells a missing one).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, path)
    }
}

impl ServedFile {
    /// Reads and parses the file.
    ///
    /// # Errors
    /// As [`ServedFile::parse`], and if the file cannot be read ([`ConfigError::is_missing`] tells a file that is not
    /// there yet).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, path)
    }
}

impl NodeFile {
    /// Reads and parses the file.
    ///
    /// # Errors
    /// As [`NodeFile::parse`], and if the file cannot be read ([`ConfigError::is_missing`] tells a file that is not
    /// there yet).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, path)
    }
}

impl SubnetEnv {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read or is not what flannel writes.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, path)
    }
}

impl EditedNodes {
    /// The text of the file.
    ///
    /// # Errors
    /// It cannot be read ([`ConfigError::is_missing`] tells a missing one).
    pub fn read(file: &Path) -> Result<String, ConfigError> {
        read(file)
    }
}

/// The text of a file.
fn read(path: &Path) -> Result<String, ConfigError> {
    let bytes =
        std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let end = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..end]);
        let document = Document::new(path, &text);
        document.fault_at(end..end, "", "here it is not text in UTF-8", "save the file in UTF-8").into()
    })
}
