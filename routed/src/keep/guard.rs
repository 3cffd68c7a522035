//! Keeps the guard in the kernel: the table whose text [`crate::decide::guard`] writes. It is made again if somebody
//! flushed or changed it.

use ferrule_config::Config;
use ferrule_netlink::Error;
use ferrule_netlink::nft::{Found, KeptError, KeptTable, Netfilter, Text};

use crate::decide::guard::{TABLE, script};

/// Keeps the table.
#[derive(Debug)]
pub struct Guard<N> {
    open: fn() -> Result<N, Error>,
    netfilter: Option<N>,
    table: KeptTable,
    script: String,
}

impl<N: Netfilter> Guard<N> {
    /// A guard as the configuration wants it. `open` opens its way to the kernel.
    pub fn new(config: &Config, open: fn() -> Result<N, Error>) -> Self {
        let table = KeptTable::new(TABLE, Text::Script);
        Self { open, netfilter: None, table, script: script(config) }
    }

    /// Makes the table as it has to be. Returns a sentence if somebody has changed it, with who that was if the kernel
    /// told.
    ///
    /// # Errors
    /// nft is missing or refused, or the kernel does not answer.
    pub fn keep(&mut self, by: Option<&str>) -> Result<Option<String>, KeptError> {
        let mut netfilter = self.netfilter.take().map_or_else(self.open, Ok)?;
        let is_known = self.table.is_known(&self.script);
        let found = self.table.keep(&mut netfilter, &self.script)?;
        // It is not kept after an error, because it may be broken.
        self.netfilter = Some(netfilter);
        let verb = match (is_known, found) {
            (_, Found::Right) => return Ok(None),
            (true, Found::Missing) => "deleted",
            (true, Found::Different) => "changed",
            (false, _) => {
                tracing::info!("pods are guarded by the nftables table inet {TABLE}");
                return Ok(None);
            }
        };
        let by = by.map(|by| format!(" ({by})")).unwrap_or_default();
        Ok(Some(format!("the nftables table inet {TABLE} was {verb} by someone else{by}; put back")))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use ferrule_netlink::nft::NetfilterSocket;
    use ferrule_netlink::{netns, nft};

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("f")).unwrap()
    }

    #[test]
    fn every_script_is_one_that_nft_takes_and_is_put_back() {
        for text in ["", "[pods]\nsource_check = \"loose\"\n", "[pods]\nsource_check = \"off\"\n"] {
            let config = config(text);
            let look = || {
                let mut guard = Guard::new(&config, NetfilterSocket::open);
                assert_eq!(guard.keep(None).unwrap(), None);
                nft::apply("flush chain inet ferrule-guard pods4").unwrap();
                let told = guard.keep(Some("somebody")).unwrap();
                assert!(told.is_some_and(|told| told.contains("was changed by someone else (somebody)")));
                assert_eq!(guard.keep(None).unwrap(), None);
                nft::apply("delete table inet ferrule-guard").unwrap();
                assert!(guard.keep(None).unwrap().is_some_and(|told| told.contains("was deleted")));
            };
            netns::make().unwrap().run(look).unwrap();
        }
    }
}
