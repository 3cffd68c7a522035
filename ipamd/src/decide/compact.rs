//! Leases and their former holders in few bytes. The store and the memory keep them in the same form, byte for byte.
//! Pure. Which records there are is said in `store::record`. The table of leases is in `table`.
//!
//! Numbers are written as LEB128. Ids of containers, uids of pods and paths of namespaces end in lower-case hexadecimal
//! digits or in a UUID. Such an end is packed as bytes. It makes up half of a lease as a kubelet asks for it.

use ferrule_model::{Attachment, AttachmentHash};
use ferrule_wire::messages::{Lease, Pod};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use std::cmp::Ordering;
use std::iter::from_fn;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An end with fewer digits than this stays text.
const HEX_MIN: usize = 16;

/// Length of a UUID as text, and the places of its dashes.
const UUID: usize = 36;
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// Who had an address that was released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// The attachment that had it.
    pub attachment: Attachment,
    /// Its pod, if the runtime named it.
    pub pod: Option<Pod>,
}

/// The bytes are not what this module has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it ends early or holds what cannot be")]
pub struct Broken;

/// A value that has a compact form.
pub trait Compact: Sized {
    /// Adds the value's bytes.
    fn write(&self, to: &mut Vec<u8>);

    /// Reads the value, and leaves the bytes after it.
    ///
    /// # Errors
    /// The bytes are no such value.
    fn read(from: &mut &[u8]) -> Result<Self, Broken>;

    /// Skips a value, and checks that it could be read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn skip(from: &mut &[u8]) -> Result<(), Broken> {
        Self::read(from).map(drop)
    }
}

/// A value in its compact form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed<T> {
    bytes: Box<[u8]>,
    of: PhantomData<T>,
}

impl<T: Compact> Packed<T> {
    /// Packs a value.
    #[must_use]
    pub fn new(value: &T) -> Self {
        let mut bytes = Vec::with_capacity(256);
        value.write(&mut bytes);
        Self::of_bytes(&bytes)
    }

    /// The bytes that `skip` has passed over. They get a piece of memory of exactly their size: a larger piece that is
    /// cut down would leave a hole for each lease.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), of: PhantomData }
    }

    /// The value.
    #[must_use]
    pub fn open(&self) -> T {
        #[expect(
            clippy::expect_used,
            reason = "made by `new` of a value, or by `of_bytes` of bytes that can be read"
        )]
        T::read(&mut &*self.bytes).expect("what was packed can be read")
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Packed<Lease> {
    /// The addresses. The rest of the lease is not unpacked.
    pub fn addresses(&self) -> impl Iterator<Item = IpNetwork> {
        let mut rest = &*self.bytes;
        let skipped = skip_attachment(&mut rest).and_then(|()| number(&mut rest));
        let count = skipped.unwrap_or(0);
        (0..count).map_while(move |_| address(&mut rest).ok())
    }

    /// Whether its pool has this name.
    #[must_use]
    pub fn is_of_pool(&self, name: &str) -> bool {
        let mut rest = &*self.bytes;
        let mut pool = || {
            skip_attachment(&mut rest)?;
            for _ in 0..number(&mut rest)? {
                address(&mut rest)?;
            }
            Text::take(&mut rest)
        };
        pool().is_ok_and(|pool| pool.bytes().eq(name.bytes()))
    }

    /// Whether its network has this name.
    #[must_use]
    pub fn is_of_network(&self, name: &str) -> bool {
        Text::take(&mut &*self.bytes).is_ok_and(|network| network.bytes().eq(name.bytes()))
    }

    /// Its attachment.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        #[expect(clippy::expect_used, reason = "as in `open`")]
        Attachment::read(&mut &*self.bytes).expect("what was packed can be read")
    }

    /// The hash of its attachment.
    #[must_use]
    pub fn hash(&self) -> AttachmentHash {
        #[expect(clippy::expect_used, reason = "as in `open`")]
        attachment_hash(&self.bytes).expect("what was packed can be read")
    }

    /// Who had its addresses, for the time after the lease has ended.
    #[must_use]
    pub fn former(&self) -> Packed<Former> {
        #[expect(clippy::expect_used, reason = "as in `open`")]
        self.parts_of_former()
            .map(|parts| Packed::of_bytes(&parts.concat()))
            .expect("what was packed can be read")
    }

    /// The bytes of the attachment and those of the pod, without what is between them.
    fn parts_of_former(&self) -> Result<[&[u8]; 2], Broken> {
        let mut rest = &*self.bytes;
        skip_attachment(&mut rest)?;
        let attachment = &self.bytes[..self.bytes.len() - rest.len()];
        for _ in 0..number(&mut rest)? {
            address(&mut rest)?;
        }
        Text::take(&mut rest)?;
        let from_pod = rest;
        skip_pod(&mut rest)?;
        Ok([attachment, &from_pod[..from_pod.len() - rest.len()]])
    }

    /// A probe to compare leases with: it has an attachment and nothing after it. It must not be opened.
    pub(crate) fn probe(attachment: &Attachment) -> Self {
        let mut bytes = Vec::with_capacity(128);
        attachment.write(&mut bytes);
        Self { bytes: bytes.into(), of: PhantomData }
    }

    /// The first bytes of the network's name, a zero, the container's id and so on. Where they differ, their order is
    /// that of the attachments.
    pub(crate) fn prefix(&self) -> u128 {
        let mut rest = &*self.bytes;
        let texts = from_fn(|| Text::take(&mut rest).ok()).take(2);
        let bytes = texts.flat_map(|text| text.bytes().chain([0])).chain([0; 16]);
        bytes.take(16).fold(0, |prefix, byte| prefix << 8 | u128::from(byte))
    }

    /// Compares by attachment, without unpacking.
    pub(crate) fn cmp_attachment(&self, other: &Self) -> Ordering {
        let (mut one, mut other) = (&*self.bytes, &*other.bytes);
        for _ in 0..3 {
            let (Ok(a), Ok(b)) = (Text::take(&mut one), Text::take(&mut other)) else { break };
            match a.cmp(b) {
                Ordering::Equal => {}
                different => return different,
            }
        }
        Ordering::Equal
    }
}

/// The hash of the attachment at the front of a lease.
pub(crate) fn attachment_hash(mut lease: &[u8]) -> Result<AttachmentHash, Broken> {
    let mut spelled = Vec::with_capacity(128);
    let mut ends = [0; 3];
    for end in &mut ends {
        Text::take(&mut lease)?.spell(&mut spelled);
        *end = spelled.len();
    }
    let [network, container_id, _] = ends;
    let fields = [&spelled[..network], &spelled[network..container_id], &spelled[container_id..]];
    Ok(AttachmentHash::of(fields))
}

fn skip_attachment(from: &mut &[u8]) -> Result<(), Broken> {
    (0..3).try_for_each(|_| Text::take(from).map(drop))
}

impl Compact for Lease {
    fn write(&self, to: &mut Vec<u8>) {
        self.attachment.write(to);
        put_number(to, self.addresses.len() as u64);
        self.addresses.iter().for_each(|network| put_address(to, network));
        put_text(to, &self.pool);
        put_pod(to, self.pod.as_ref());
        to.push(self.netns.is_some().into());
        if let Some(path) = &self.netns {
            put_text(to, path);
        }
        put_number(to, self.given_at_boottime_ms);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Broken> {
        let attachment = Attachment::read(from)?;
        let addresses = (0..number(from)?).map(|_| address(from)).collect::<Result<_, _>>()?;
        let pool = text(from)?;
        let pod = pod(from)?;
        let netns = if flag(from)? { Some(text(from)?) } else { None };
        Ok(Self { attachment, addresses, pool, pod, netns, given_at_boottime_ms: number(from)? })
    }

    fn skip(from: &mut &[u8]) -> Result<(), Broken> {
        skip_texts(from, 3)?;
        for _ in 0..number(from)? {
            address(from)?;
        }
        skip_texts(from, 1)?;
        skip_pod(from)?;
        let netns = flag(from)?;
        skip_texts(from, netns.into())?;
        number(from).map(drop)
    }
}

impl Compact for Former {
    fn write(&self, to: &mut Vec<u8>) {
        self.attachment.write(to);
        put_pod(to, self.pod.as_ref());
    }

    fn read(from: &mut &[u8]) -> Result<Self, Broken> {
        Ok(Self { attachment: Attachment::read(from)?, pod: pod(from)? })
    }

    fn skip(from: &mut &[u8]) -> Result<(), Broken> {
        skip_texts(from, 3)?;
        skip_pod(from)
    }
}

impl Compact for Attachment {
    fn write(&self, to: &mut Vec<u8>) {
        [&self.network, &self.container_id, &self.ifname].into_iter().for_each(|part| put_text(to, part));
    }

    fn read(from: &mut &[u8]) -> Result<Self, Broken> {
        Ok(Self { network: text(from)?, container_id: text(from)?, ifname: text(from)? })
    }
}

impl Compact for IpAddr {
    fn write(&self, to: &mut Vec<u8>) {
        put_address(to, &IpNetwork::from(*self));
    }

    fn read(from: &mut &[u8]) -> Result<Self, Broken> {
        address(from).map(|network| network.ip())
    }
}

fn put_pod(to: &mut Vec<u8>, pod: Option<&Pod>) {
    to.push(pod.is_some().into());
    if let Some(pod) = pod {
        [&pod.namespace, &pod.name, &pod.uid].into_iter().for_each(|part| put_text(to, part));
    }
}

fn pod(from: &mut &[u8]) -> Result<Option<Pod>, Broken> {
    if !flag(from)? {
        return Ok(None);
    }
    Ok(Some(Pod { namespace: text(from)?, name: text(from)?, uid: text(from)? }))
}

fn skip_pod(from: &mut &[u8]) -> Result<(), Broken> {
    let named = flag(from)?;
    skip_texts(from, if named { 3 } else { 0 })
}

fn put_address(to: &mut Vec<u8>, network: &IpNetwork) {
    match network {
        IpNetwork::V4(v4) => {
            to.push(4);
            to.extend(v4.ip().octets());
        }
        IpNetwork::V6(v6) => {
            to.push(6);
            to.extend(v6.ip().octets());
        }
    }
    to.push(network.prefix());
}

fn address(from: &mut &[u8]) -> Result<IpNetwork, Broken> {
    match byte(from)? {
        4 => {
            let ip = Ipv4Addr::from(array::<4>(from)?);
            Ipv4Network::new(ip, byte(from)?).map(IpNetwork::V4).map_err(|_| Broken)
        }
        6 => {
            let ip = Ipv6Addr::from(array::<16>(from)?);
            Ipv6Network::new(ip, byte(from)?).map(IpNetwork::V6).map_err(|_| Broken)
        }
        _ => Err(Broken),
    }
}

/// Adds a number.
pub(crate) fn put_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push((number & 0x7f) as u8);
}

/// Reads a number from the front and removes it.
pub(crate) fn number(from: &mut &[u8]) -> Result<u64, Broken> {
    // Nearly all numbers are lengths.
    if let [short @ ..0x80, rest @ ..] = *from {
        *from = rest;
        return Ok(u64::from(*short));
    }
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = byte(from)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Broken)
}

/// Reads a byte from the front and removes it.
pub(crate) fn byte(from: &mut &[u8]) -> Result<u8, Broken> {
    array::<1>(from).map(|[byte]| byte)
}

/// Reads some bytes from the front and removes them.
pub(crate) fn array<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], Broken> {
    let (first, rest) = from.split_first_chunk().ok_or(Broken)?;
    *from = rest;
    Ok(*first)
}

fn flag(from: &mut &[u8]) -> Result<bool, Broken> {
    match byte(from)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Broken),
    }
}

/// How a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Plain,
    Hex,
    Uuid,
}

/// A text as it lies in the bytes.
#[derive(Debug, Clone, Copy)]
struct Text<'a> {
    plain: &'a [u8],
    end: End,
    packed: &'a [u8],
}

impl<'a> Text<'a> {
    fn take(from: &mut &'a [u8]) -> Result<Self, Broken> {
        let head = number(from)?;
        let plain = slice(from, head >> 2)?;
        let (end, packed) = match head & 3 {
            0 => (End::Plain, 0),
            1 => (End::Hex, number(from)?),
            2 => (End::Uuid, 16),
            _ => return Err(Broken),
        };
        Ok(Self { plain, end, packed: slice(from, packed)? })
    }

    /// Compares as texts. Two texts of one form are not spelled out for it.
    fn cmp(self, other: Self) -> Ordering {
        let both = self.plain.len().min(other.plain.len());
        let same_form = self.plain.len() == other.plain.len() && self.end == other.end;
        match self.plain[..both].cmp(&other.plain[..both]) {
            Ordering::Equal if same_form => self.packed.cmp(other.packed),
            Ordering::Equal => self.bytes().cmp(other.bytes()),
            different => different,
        }
    }

    /// Adds it as text.
    fn spell(self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.plain);
        let start = to.len();
        for &byte in self.packed {
            if self.end == End::Uuid && DASHES.contains(&(to.len() - start)) {
                to.push(b'-');
            }
            to.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
    }

    /// Its bytes as text.
    fn bytes(self) -> impl Iterator<Item = u8> {
        let mut digits = self.packed.iter().flat_map(|&byte| [byte >> 4, byte & 0xf]).map(digit);
        let mut place = 0;
        let end = from_fn(move || {
            if self.end == End::Uuid && DASHES.contains(&place) {
                place += 1;
                return Some(b'-');
            }
            place += 1;
            digits.next()
        });
        self.plain.iter().copied().chain(end)
    }
}

const fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

const fn value(digit: u8) -> u8 {
    if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 }
}

fn slice<'a>(from: &mut &'a [u8], length: u64) -> Result<&'a [u8], Broken> {
    let length = usize::try_from(length).map_err(|_| Broken)?;
    let (first, rest) = from.split_at_checked(length).ok_or(Broken)?;
    *from = rest;
    Ok(first)
}

fn text(from: &mut &[u8]) -> Result<String, Broken> {
    let text = Text::take(from)?;
    let mut bytes = Vec::with_capacity(text.plain.len() + 2 * text.packed.len() + DASHES.len());
    text.spell(&mut bytes);
    String::from_utf8(bytes).map_err(|_| Broken)
}

fn skip_texts(from: &mut &[u8], count: usize) -> Result<(), Broken> {
    for _ in 0..count {
        // The packed end stands for hexadecimal digits, so the plain part alone decides whether the whole is text.
        str::from_utf8(Text::take(from)?.plain).map_err(|_| Broken)?;
    }
    Ok(())
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    let text = text.as_bytes();
    let (plain, end) = split(text);
    let packed = &text[plain..];
    let kind = match end {
        End::Plain => 0,
        End::Hex => 1,
        End::Uuid => 2,
    };
    put_number(to, (plain as u64) << 2 | kind);
    to.extend(&text[..plain]);
    if end == End::Hex {
        put_number(to, packed.len() as u64 / 2);
    }
    let mut digits = packed.iter().filter(|&&byte| byte != b'-').map(|&digit| value(digit));
    while let (Some(high), Some(low)) = (digits.next(), digits.next()) {
        to.push(high << 4 | low);
    }
}

/// Length of the plain part of a text, and what its end is.
fn split(text: &[u8]) -> (usize, End) {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if let Some(plain) = text.len().checked_sub(UUID) {
        let mut end = text[plain..].iter().enumerate();
        if end.all(|(place, byte)| if DASHES.contains(&place) { *byte == b'-' } else { is_hex(byte) }) {
            return (plain, End::Uuid);
        }
    }
    let digits = text.iter().rev().take_while(|byte| is_hex(byte)).count() & !1;
    if digits < HEX_MIN { (text.len(), End::Plain) } else { (text.len() - digits, End::Hex) }
}

#[cfg(test)]
mod tests;
