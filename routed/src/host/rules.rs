//! Keeps the masquerade table in the kernel by nft. [`crate::host::masquerade`] makes its text.

use ferrule_netlink::nft::{self, Found, KeptError, KeptTable, NetfilterSocket, NftError, Text};

use crate::host::masquerade;

/// Keeps the table.
#[derive(Debug)]
pub struct Rules {
    table: KeptTable,
    /// The socket is opened when it is first needed, and again after an error.
    netfilter: Option<NetfilterSocket>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { table: KeptTable::new(masquerade::TABLE, Text::Whole), netfilter: None }
    }
}

impl Rules {
    /// Brings the table to the `wanted` text. `by` names who has changed it, if the kernel told.
    ///
    /// # Errors
    /// nft is missing or refused, or the kernel does not answer.
    pub fn keep(&mut self, wanted: &str, by: Option<&str>) -> Result<(), KeptError> {
        let mut netfilter = self.netfilter.take().map_or_else(NetfilterSocket::open, Ok)?;
        let is_known = self.table.is_known(wanted);
        let found = self.table.keep(&mut netfilter, wanted)?;
        self.netfilter = Some(netfilter);
        let by = by.map(|by| format!(" ({by})")).unwrap_or_default();
        match (is_known, found) {
            (_, Found::Right) => {}
            (true, Found::Missing) => {
                tracing::warn!("the nftables table inet ferrule was deleted by someone else{by}; put back");
            }
            (true, Found::Different) => {
                tracing::warn!("the nftables table inet ferrule was changed by someone else{by}; put right");
            }
            (false, _) => tracing::info!("masquerading is set up in the nftables table inet ferrule"),
        }
        Ok(())
    }
}

/// The table of this family and name as nft prints it, if there is one.
///
/// # Errors
/// nft is missing, or refused.
pub fn list(family: &str, name: &str) -> Result<Option<String>, NftError> {
    nft::list_table(family, name)
}

/// Removes the table; `true` if there was one.
///
/// # Errors
/// nft is missing, or refused.
pub fn remove(family: &str, name: &str) -> Result<bool, NftError> {
    if list(family, name)?.is_none() {
        return Ok(false);
    }
    nft::apply(&nft::removal(family, name))?;
    Ok(true)
}
