//! Keeps the guard in the kernel: the tables whose texts [`crate::decide::guard`] and [`crate::decide::bridge_guard`]
//! write. A table is made again if somebody flushed or changed it. The elements of the second one are kept with it
//! ([`super::bridge_ports`]).

use ferrule_config::{Config, SourceCheck};
use ferrule_model::{Element, HostSide, IfName};
use ferrule_netlink::Error;
use ferrule_netlink::nft::{Found, KeptError, KeptTable, Netfilter, Text};
use nix::errno::Errno;

use super::bridge_ports::BridgePorts;
use crate::decide::guard::TABLE;
use crate::decide::guard::share::OVER;
use crate::decide::{bridge_guard, guard};

/// What opens the tables of one family.
type Open<N> = fn() -> Result<N, Error>;

/// Keeps both tables.
#[derive(Debug)]
pub struct Guard<N> {
    tables: [Kept<N>; 2],
    ports: BridgePorts,
    /// Whether a pod on a bridge may send under its own MAC only.
    checks_macs: bool,
}

/// One table.
#[derive(Debug)]
struct Kept<N> {
    family: &'static str,
    guards: &'static str,
    open: Open<N>,
    netfilter: Option<N>,
    table: KeptTable,
    script: String,
}

/// What came of a look.
#[derive(Debug, Default)]
pub struct Outcome {
    /// A sentence for each table that somebody has changed.
    pub repaired: Vec<String>,
    /// A sentence for each reason for which a table cannot be kept.
    pub complaints: Vec<String>,
}

impl<N: Netfilter> Guard<N> {
    /// A guard as the configuration wants it. The two functions open its way to the kernel: to the tables of the family
    /// `inet`, and to those of the family `bridge`.
    pub fn new(config: &Config, [inet, bridge]: [Open<N>; 2]) -> Self {
        let table = |family, guards, open, script| {
            let table = KeptTable::new(TABLE, Text::Script);
            Kept { family, guards, open, netfilter: None, table, script }
        };
        let tables = [
            table("inet", "pods", inet, guard::script(config)),
            table("bridge", "pods on bridges", bridge, bridge_guard::script(config)),
        ];
        let checks_macs = config.pods.source_check != SourceCheck::Off;
        Self { tables, ports: BridgePorts::default(), checks_macs }
    }

    /// Whether a pod on a bridge that has another MAC than its ADD gave it can send nothing.
    pub const fn checks_macs(&self) -> bool {
        self.checks_macs
    }

    /// Who is over its share of the table of connections: elements of the sets of [`OVER`].
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn over_their_share(&mut self) -> Result<Vec<Element>, Error> {
        let [inet, _] = &mut self.tables;
        inet.elements(&OVER)
    }

    /// Makes both tables as they have to be. The sentence about one that somebody has changed says who that was if the
    /// kernel told (`by`).
    pub fn keep(&mut self, by: Option<&str>) -> Outcome {
        let mut outcome = Outcome::default();
        for table in &mut self.tables {
            match table.keep(by) {
                Ok(told) => outcome.repaired.extend(told),
                Err(error) => {
                    let (guards, reason) = (table.guards, error.to_string());
                    // If nft is missing, both tables fail for that, and one line is enough.
                    if !outcome.complaints.iter().any(|line| line.ends_with(&reason)) {
                        outcome.complaints.push(format!("{guards} are not guarded: {reason}"));
                    }
                }
            }
        }
        outcome
    }

    /// Lets the port of a pod that is new on its bridge send under what its ADD gave it, and under nothing else.
    ///
    /// # Errors
    /// The kernel refused. [`Guard::keep`] and [`Guard::keep_ports`] put everything right.
    pub fn add_port(&mut self, made: &HostSide) -> Result<(), Error> {
        let ports = &mut self.ports;
        self.tables[1].with(|netfilter| ports.add(netfilter, made))
    }

    /// Forgets a port that is gone.
    ///
    /// # Errors
    /// As [`Guard::add_port`].
    pub fn remove_port(&mut self, port: &IfName) -> Result<(), Error> {
        let ports = &mut self.ports;
        self.tables[1].with(|netfilter| ports.remove(netfilter, port))
    }

    /// Makes what the ports may send under right. `pods` are all pods, and `is_there` tells whether a link is there.
    /// Returns a sentence if somebody has changed it.
    ///
    /// # Errors
    /// The kernel refused, or did not answer.
    pub fn keep_ports(
        &mut self,
        pods: &[HostSide],
        is_there: impl FnMut(&IfName) -> bool,
        by: Option<&str>,
    ) -> Result<Option<String>, Error> {
        let ports = &mut self.ports;
        let was_changed = self.tables[1].with(|netfilter| ports.keep(netfilter, pods, is_there))?;
        Ok(was_changed.then(|| {
            let by = named(by);
            format!("what pods on bridges may send under was removed from the nftables table bridge {TABLE} by someone else{by}; put back")
        }))
    }
}

/// Who it was, if that is known.
fn named(by: Option<&str>) -> String {
    by.map(|by| format!(" ({by})")).unwrap_or_default()
}

impl<N: Netfilter> Kept<N> {
    /// Does something with the table's way to the kernel.
    fn with<T>(&mut self, act: impl FnOnce(&mut N) -> Result<T, Error>) -> Result<T, Error> {
        let mut netfilter = self.netfilter.take().map_or_else(self.open, Ok)?;
        let done = act(&mut netfilter)?;
        // It is not kept after an error, because it may be broken.
        self.netfilter = Some(netfilter);
        Ok(done)
    }

    /// The elements of these sets. There are none without the table.
    fn elements(&mut self, sets: &[&'static str]) -> Result<Vec<Element>, Error> {
        self.with(|netfilter| {
            let mut all = Vec::new();
            for set in sets {
                match netfilter.elements(TABLE, set) {
                    Ok(mut elements) => all.append(&mut elements),
                    Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(all)
        })
    }

    fn keep(&mut self, by: Option<&str>) -> Result<Option<String>, KeptError> {
        let mut netfilter = self.netfilter.take().map_or_else(self.open, Ok)?;
        let is_known = self.table.is_known(&self.script);
        let found = self.table.keep(&mut netfilter, &self.script)?;
        // It is not kept after an error, because it may be broken.
        self.netfilter = Some(netfilter);
        let (family, guards) = (self.family, self.guards);
        let verb = match (is_known, found) {
            (_, Found::Right) => return Ok(None),
            (true, Found::Missing) => "deleted",
            (true, Found::Different) => "changed",
            (false, _) => {
                tracing::info!("{guards} are guarded by the nftables table {family} {TABLE}");
                return Ok(None);
            }
        };
        let by = named(by);
        Ok(Some(format!("the nftables table {family} {TABLE} was {verb} by someone else{by}; put back")))
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
        let texts = [
            "",
            "[pods]\nsource_check = \"loose\"\n",
            "[pods]\nsource_check = \"off\"\n",
            "[pods]\nconnections = 0\n",
            "[routing]\naccept = \"wireguard\"\n[routing.vxlan]\nalso_from = [\"0.0.0.0/0\", \"2001:db8:7::/48\"]\n",
            "[routing.vxlan]\ndevice6 = \"tunnel6\"\n[cluster]\nnon_masquerade_cidrs = [\"172.16.0.0/12\", \"2001:db8:7::1/128\"]\n",
        ];
        for text in texts {
            let config = config(text);
            let look = || {
                let mut guard = Guard::new(&config, [NetfilterSocket::open, NetfilterSocket::bridge]);
                let mut told = |by| {
                    let Outcome { repaired, complaints } = guard.keep(by);
                    assert!(complaints.is_empty(), "{complaints:?}");
                    repaired
                };
                assert!(told(None).is_empty());
                for (family, chain) in [("inet", "pods4"), ("bridge", "ports4")] {
                    nft::apply(&format!("flush chain {family} ferrule-guard {chain}")).unwrap();
                    let sentence = format!(
                        "the nftables table {family} ferrule-guard was changed by someone else (somebody); put back"
                    );
                    assert_eq!(told(Some("somebody")), [sentence]);
                    assert!(told(None).is_empty());
                    nft::apply(&format!("delete table {family} ferrule-guard")).unwrap();
                    let [sentence] = &told(None)[..] else { panic!("{family}") };
                    assert!(sentence.contains("was deleted"), "{sentence}");
                }
            };
            netns::make().unwrap().run(look).unwrap();
        }
    }
}
