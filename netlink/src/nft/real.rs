//! [`Netfilter`] on the real kernel.

use ferrule_model::{Element, Family};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::{Change, Flow, Netfilter, NftError, TableFamily, codec, conntrack, list_rules, list_table};
use crate::socket::Socket;
use crate::{Error, Port};

/// Netfilter netlink in the namespace in which the socket was opened.
#[derive(Debug)]
pub struct NetfilterSocket {
    socket: Socket,
    family: TableFamily,
}

impl NetfilterSocket {
    /// Opens a socket in the calling thread's namespace, for tables of the family `inet`.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open() -> Result<Self, Error> {
        Self::of(TableFamily::Inet)
    }

    /// The same for tables of the family `bridge`.
    ///
    /// # Errors
    /// As [`NetfilterSocket::open`].
    pub fn bridge() -> Result<Self, Error> {
        Self::of(TableFamily::Bridge)
    }

    fn of(family: TableFamily) -> Result<Self, Error> {
        Ok(Self { socket: Socket::of(NETLINK_NETFILTER)?, family })
    }

    /// The number by which the kernel knows the socket.
    ///
    /// # Errors
    /// The socket failed.
    pub fn port(&self) -> Result<Port, Error> {
        self.socket.port()
    }

    /// The named counters of a table, and the number of packets each has counted. None if there is no such table.
    ///
    /// # Errors
    /// The socket failed, or the kernel refused.
    pub fn counters(&mut self, table: &str) -> Result<Vec<(String, u64)>, Error> {
        let messages = self.socket.dump(&codec::counters((self.family, table)))?;
        Ok(messages.iter().filter_map(codec::parse_counter).collect())
    }
}

impl Netfilter for NetfilterSocket {
    fn change(&mut self, table: &str, changes: &[Change<'_>], generation: Option<u32>) -> Result<(), Error> {
        let [begin, end] = codec::bounds(generation);
        let requests = codec::changes((self.family, table), changes);
        let done = self.socket.transaction(&begin, &requests, &end)?;
        done.map_err(|refusal| Error::Refused { request: format!("nft element of {table}"), refusal })
    }

    fn elements(&mut self, table: &str, set: &'static str) -> Result<Vec<Element>, Error> {
        let messages = self.socket.dump(&codec::list((self.family, table), set))?;
        Ok(messages.iter().flat_map(|found| codec::parse_elements(found, set)).collect())
    }

    fn table(&mut self, table: &str) -> Result<Option<u64>, Error> {
        let answers = self.socket.batch(&[codec::table(self.family, table)])?;
        match answers.results.into_iter().next() {
            Some(Err(refusal)) if refusal.errno == Errno::ENOENT => Ok(None),
            Some(Err(refusal)) => Err(Error::Refused { request: format!("nft table {table}"), refusal }),
            _ => Ok(Some(answers.messages.iter().find_map(codec::parse_table_number).unwrap_or_default())),
        }
    }

    fn has_table(&mut self, table: &str) -> Result<bool, Error> {
        Ok(self.table(table)?.is_some())
    }

    fn generation(&mut self) -> Result<u32, Error> {
        let answers = self.socket.batch(&[codec::generation()])?;
        if let Some(Err(refusal)) = answers.results.into_iter().next() {
            return Err(Error::Refused { request: "nft generation".into(), refusal });
        }
        let found = answers.messages.iter().find_map(codec::parse_generation);
        found.ok_or_else(|| Error::Decode("nothing about the generation of the rulesets".into()))
    }

    fn rules(&mut self, table: &str) -> Result<Option<String>, NftError> {
        list_rules(self.family.as_str(), table)
    }

    fn whole(&mut self, table: &str) -> Result<Option<String>, NftError> {
        list_table(self.family.as_str(), table)
    }

    fn forget_udp(
        &mut self,
        family: Family,
        port: Option<u16>,
        wanted: &dyn Fn(&Flow) -> bool,
    ) -> Result<usize, Error> {
        let listed = self.socket.dump(&conntrack::udp_flows(family, port))?;
        let flows = listed.iter().filter_map(|found| conntrack::parse_udp_flow(found, family));
        // A kernel that does not know the filter lists all connections.
        let flows = flows.filter(|(flow, _)| port.is_none_or(|port| port == flow.port));
        let requests: Vec<_> = flows.filter(|(flow, _)| wanted(flow)).map(|(_, delete)| delete).collect();
        for result in self.socket.batch(&requests)?.results {
            match result {
                // The connection ended by itself.
                Ok(()) | Err(crate::Refusal { errno: Errno::ENOENT, .. }) => {}
                Err(refusal) => {
                    return Err(Error::Refused { request: "conntrack delete".into(), refusal });
                }
            }
        }
        Ok(requests.len())
    }
}
