//! The masquerade table in the kernel, kept by nft: what it is to say is made in [`crate::host::masquerade`].

use std::sync::Arc;

use ferrule_netlink::nft::{self, Netfilter, NetfilterSocket, NftError};
use nix::errno::Errno;

use crate::host::masquerade;

/// Keeps the table.
#[derive(Debug, Default)]
pub struct Rules {
    /// The table as it was last found right, or made so.
    kept: Option<Kept>,
    /// Asked for the generation of the rulesets; opened when it is first needed.
    netfilter: Option<NetfilterSocket>,
}

/// A masquerade table that is in the kernel.
#[derive(Debug)]
struct Kept {
    /// Its text.
    text: Arc<str>,
    /// How this version of nft prints it, once that was seen.
    printed: Option<String>,
    /// The generation of the rulesets in which it was right. As long as that lasts, nobody has changed any ruleset.
    generation: Option<u32>,
}

impl Kept {
    /// It was looked at in this generation.
    fn is_seen_in(&self, generation: Option<u32>) -> bool {
        self.printed.is_some() && self.generation == generation
    }

    /// Whether this print of it shows it as it was made. The first one of a generation in which nobody has come in between
    /// does, whatever it looks like.
    fn is_printed_as(&self, listed: &str, undisturbed: Option<u32>) -> bool {
        match &self.printed {
            Some(printed) => printed == listed,
            None => undisturbed.is_some() && self.generation == undisturbed,
        }
    }
}

impl Rules {
    /// Brings the table to the `wanted` text; `by` is who has changed it, if that was told.
    ///
    /// # Errors
    /// nft is missing, or refused.
    pub fn keep(&mut self, wanted: &Arc<str>, by: Option<&str>) -> Result<(), NftError> {
        let generation = self.generation();
        let is_known = self.known(wanted).is_some();
        if generation.is_some() && self.known(wanted).is_some_and(|kept| kept.is_seen_in(generation)) {
            return Ok(());
        }
        let listed = if self.is_missing() { None } else { list()? };
        if let Some(listed) = &listed {
            let undisturbed = generation.filter(|before| self.generation() == Some(*before));
            let is_as_made = self.known(wanted).is_some_and(|kept| kept.is_printed_as(listed, undisturbed));
            if is_as_made || masquerade::same(listed, wanted) {
                self.kept =
                    Some(Kept { text: Arc::clone(wanted), printed: Some(listed.clone()), generation });
                return Ok(());
            }
        }
        nft::apply(&masquerade::replacement(wanted))?;
        let by = by.map(|by| format!(" ({by})")).unwrap_or_default();
        match (is_known, listed) {
            (true, None) => {
                tracing::warn!("the nftables table inet ferrule was deleted by someone else{by}; put back");
            }
            (true, Some(_)) => {
                tracing::warn!("the nftables table inet ferrule was changed by someone else{by}; put right");
            }
            (false, _) => tracing::info!("masquerading is set up in the nftables table inet ferrule"),
        }
        // A transaction is one generation; with another in between, it is not certain that the table is still as made.
        let made =
            generation.map(|before| before.wrapping_add(1)).filter(|made| self.generation() == Some(*made));
        self.kept = Some(Kept { text: Arc::clone(wanted), printed: None, generation: made });
        Ok(())
    }

    /// The table in the kernel, if it is this one.
    fn known(&self, wanted: &str) -> Option<&Kept> {
        self.kept.as_ref().filter(|kept| *kept.text == *wanted)
    }

    /// The kernel itself says that the table, or a set that always is in it, is not there: no program has to be started to
    /// learn that.
    fn is_missing(&mut self) -> bool {
        let set = self.netfilter.as_mut().map(|socket| socket.elements(masquerade::TABLE, masquerade::SET));
        set.is_some_and(|set| set.is_err_and(|error| error.errno() == Some(Errno::ENOENT)))
    }

    /// Which state the rulesets are in; `None` if the kernel does not tell.
    fn generation(&mut self) -> Option<u32> {
        if self.netfilter.is_none() {
            self.netfilter = NetfilterSocket::open().ok();
        }
        let told = self.netfilter.as_mut()?.generation().ok();
        if told.is_none() {
            self.netfilter = None;
        }
        told
    }
}

/// The table as nft prints it, if there is one.
///
/// # Errors
/// nft is missing, or refused.
pub fn list() -> Result<Option<String>, NftError> {
    nft::list_table("inet", masquerade::TABLE)
}

/// Removes the table; `true` if there was one.
///
/// # Errors
/// The same.
pub fn remove() -> Result<bool, NftError> {
    if list()?.is_none() {
        return Ok(false);
    }
    nft::apply(&masquerade::removal())?;
    Ok(true)
}
