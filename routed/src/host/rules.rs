//! Keeps the masquerade table in the kernel by nft. [`crate::host::masquerade`] makes its text.

use ferrule_netlink::nft::{self, Found, KeptError, KeptTable, NetfilterSocket, NftError, Text};

use crate::host::masquerade;

/// Tells who has changed the table, if the kernel told. It may take a moment.
pub type Who<'a> = &'a mut dyn FnMut() -> Option<String>;

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
    /// Brings the table to the `wanted` text. If somebody has changed it, the log says so, with the name that `who` tells.
    ///
    /// # Errors
    /// nft is missing or refused, or the kernel does not answer.
    pub fn keep(&mut self, wanted: &str, who: Who<'_>) -> Result<(), KeptError> {
        let mut netfilter = self.netfilter.take().map_or_else(NetfilterSocket::open, Ok)?;
        let is_known = self.table.is_known(wanted);
        let found = self.table.keep(&mut netfilter, wanted)?;
        self.netfilter = Some(netfilter);
        let [verb, done] = match (is_known, found) {
            (_, Found::Right) => return Ok(()),
            (true, Found::Missing) => ["deleted", "put back"],
            (true, Found::Different) => ["changed", "put right"],
            (false, _) => {
                tracing::info!("masquerading is set up in the nftables table inet ferrule");
                return Ok(());
            }
        };
        let by = who().map(|by| format!(" ({by})")).unwrap_or_default();
        tracing::warn!("the nftables table inet ferrule was {verb} by someone else{by}; {done}");
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
