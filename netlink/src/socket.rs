//! A netlink socket that sends many requests in one message and returns the answer to each.
//!
//! The kernel works through the requests of one `sendmsg` in their order, in the caller's context (`netlink_rcv_skb`).
//! It answers a refused one with an error that carries its sequence number. So only the last request has to ask for an
//! acknowledgement. Once that is here, silence about the others means yes.

use std::borrow::Borrow;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NlasIterator,
};
use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::netns::Netns;
use crate::{Error, Port, Refusal};

/// Longest wait for an answer. The kernel answers within the send, unless another process holds its RTNL lock.
const ANSWER_S: i64 = 10;
/// Requests in one send. The receive buffer has to hold an answer to each (`net.core.rmem_default`, 212,992 bytes; an
/// ACK takes 768 of them).
const REQUESTS_A_SEND: usize = 200;
/// Attempts to list a table that changes during the listing.
const DUMP_ATTEMPTS: u32 = 10;

/// Bytes of the longest datagram. A dump fills at most 32 KiB (`netlink_dump`), and a notification is one message.
const DATAGRAM: usize = 64 << 10;
/// The same outside of dumps: one message of the kernel, or the acknowledgements of one send.
const ANSWER: usize = 32 << 10;

/// Bytes that every socket may send in one message. It is less than the least `net.core.wmem_default` that a machine
/// would have.
const SENT_WITHOUT_ASKING: usize = 64 << 10;
/// What the kernel counts in addition to a message's bytes (`netlink_sendmsg`).
const SEND_OVERHEAD: usize = 4096;

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG`.
const ATTR_MSG: u16 = 1;

/// One message of a netlink family: its type and what follows the netlink header.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `NLM_F_CREATE` and the like. The flags of every request are added when it is sent.
    pub(crate) flags: u16,
    /// The family's header and attributes.
    pub(crate) payload: Vec<u8>,
}

/// A message from the kernel.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    flags: u16,
    pub(crate) sequence: u32,
    /// The port of the socket that asked for the change. 0 means the kernel by itself.
    pub(crate) port: u32,
    pub(crate) payload: Vec<u8>,
}

/// The same, still inside its datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    pub(crate) payload: &'a [u8],
}

impl Part<'_> {
    fn to_message(self) -> Message {
        let Part { kind, flags, sequence, port, payload } = self;
        Message { kind, flags, sequence, port, payload: payload.to_vec() }
    }
}

/// The result of a batch: for each request the kernel's yes or no, and the messages that are neither.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) results: Vec<Result<(), Refusal>>,
    pub(crate) messages: Vec<Message>,
}

/// A netlink socket of one protocol. It belongs to the namespace in which it was opened, wherever its thread goes.
#[derive(Debug)]
pub(crate) struct Socket {
    raw: Raw,
    sequence: u32,
    /// The buffer for received datagrams. It is kept, so that a short program asks for the memory once.
    datagram: Vec<u8>,
}

impl Socket {
    /// Opens a socket for route netlink in the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        Self::of(NETLINK_ROUTE)
    }

    /// Opens a socket for another protocol (`NETLINK_*`).
    pub(crate) fn of(protocol: isize) -> Result<Self, Error> {
        let open = || -> io::Result<Raw> {
            let mut raw = Raw::new(protocol)?;
            raw.bind_auto()?;
            raw.connect(&SocketAddr::new(0, 0))?;
            raw.set_ext_ack(true)?;
            // An acknowledgement need not contain the request.
            raw.set_cap_ack(true)?;
            // Kernels before Linux 4.20 do not know such filters. What they should have left out is left out here.
            let _ = raw.set_netlink_get_strict_chk(true);
            setsockopt(&raw, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_S))?;
            Ok(raw)
        };
        Ok(Self { raw: open().map_err(Error::Open)?, sequence: 0, datagram: Vec::new() })
    }

    /// Opens a socket in `netns`.
    pub(crate) fn open_in(netns: &Netns) -> Result<Self, Error> {
        Self::opened_in(netns, Self::open)
    }

    /// Runs `open` in `netns`.
    pub(crate) fn opened_in(
        netns: &Netns,
        open: impl FnOnce() -> Result<Self, Error>,
    ) -> Result<Self, Error> {
        netns.run(open)?
    }

    /// The number by which the kernel knows the socket.
    pub(crate) fn port(&self) -> Result<Port, Error> {
        let mut address = SocketAddr::new(0, 0);
        self.raw.get_address(&mut address).map_err(Error::Open)?;
        Ok(Port(address.port_number()))
    }

    /// Runs `inside` with this socket in a multicast group (`RTNLGRP_*`), and drops the rest of its messages
    /// afterwards.
    pub(crate) fn subscribed<T>(
        &mut self,
        group: u32,
        inside: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.raw.add_membership(group).map_err(Error::Open)?;
        let result = inside(self);
        self.raw.drop_membership(group).map_err(Error::Open)?;
        let mut buffer = Vec::with_capacity(4096);
        while self.raw.recv(&mut buffer, libc::MSG_DONTWAIT).is_ok() {
            buffer.clear();
        }
        result
    }

    /// Sends `requests` in as few messages as possible and waits for all answers. Each request is written into the send
    /// buffer as soon as it is made, so thousands never exist at once.
    pub(crate) fn batch<R: Borrow<Request>>(
        &mut self,
        requests: impl IntoIterator<Item = R>,
    ) -> Result<Answers, Error> {
        let mut requests = requests.into_iter().peekable();
        let mut answers =
            Answers { results: Vec::with_capacity(requests.size_hint().0), messages: Vec::new() };
        let mut buffer = Vec::new();
        while requests.peek().is_some() {
            buffer.clear();
            let mut count = 0;
            while let Some(request) = requests.next_if(|_| count < REQUESTS_A_SEND) {
                count += 1;
                let is_last = count == REQUESTS_A_SEND || requests.peek().is_none();
                let flags = if is_last { NLM_F_REQUEST | NLM_F_ACK } else { NLM_F_REQUEST };
                self.append(&mut buffer, request.borrow(), flags);
            }
            self.send(&buffer)?;
            self.answers(count, &mut answers)?;
        }
        Ok(answers)
    }

    /// Receives the answers to the last `count` requests. The last of them is acknowledged.
    fn answers(&mut self, count: usize, answers: &mut Answers) -> Result<(), Error> {
        let start = answers.results.len();
        let first = self.sequence.wrapping_sub(count as u32).wrapping_add(1);
        answers.results.resize(start + count, Ok(()));
        loop {
            for message in self.receive()? {
                let place = message.sequence.wrapping_sub(first) as usize;
                if place >= count {
                    // This answers an earlier request whose caller gave up.
                    continue;
                }
                if message.kind != NLMSG_ERROR {
                    answers.messages.push(message);
                    continue;
                }
                answers.results[start + place] = verdict(&message)?;
                if message.sequence == self.sequence {
                    return Ok(());
                }
            }
        }
    }

    /// Sends `changes` between `begin` and `end` as one transaction of nfnetlink: all of them are done, or none.
    ///
    /// The kernel acknowledges the last change after the commit, and a refused one before it. A fault of the whole
    /// transaction is an error of its beginning (`nfnetlink_rcv_batch`).
    pub(crate) fn transaction(
        &mut self,
        begin: &Request,
        changes: &[Request],
        end: &Request,
    ) -> Result<Result<(), Refusal>, Error> {
        let Some((last, before)) = changes.split_last() else { return Ok(Ok(())) };
        let mut buffer = Vec::new();
        self.append(&mut buffer, begin, NLM_F_REQUEST);
        let beginning = self.sequence;
        for change in before {
            self.append(&mut buffer, change, NLM_F_REQUEST);
        }
        self.append(&mut buffer, last, NLM_F_REQUEST | NLM_F_ACK);
        let acknowledged = self.sequence;
        self.append(&mut buffer, end, NLM_F_REQUEST);
        if buffer.len() > SENT_WITHOUT_ASKING {
            self.make_room(buffer.len())?;
        }
        self.send(&buffer)?;
        let mut refused = Ok(());
        loop {
            for message in self.receive()?.iter().filter(|message| is_acknowledgement(message)) {
                let place = message.sequence.wrapping_sub(beginning);
                if place > acknowledged.wrapping_sub(beginning) {
                    continue;
                }
                refused = refused.and(verdict(message)?);
                if message.sequence == acknowledged || (place == 0 && refused.is_err()) {
                    return Ok(refused);
                }
            }
        }
    }

    /// Lists a table. If it changed meanwhile, lists it again.
    pub(crate) fn dump(&mut self, request: &Request) -> Result<Vec<Message>, Error> {
        self.dump_as(request, |part| Some(part.to_message()))
    }

    /// The same. Each message is read as it comes, and those that give nothing are left out.
    pub(crate) fn dump_as<T>(
        &mut self,
        request: &Request,
        read: impl Fn(Part<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.dump_into(request, Vec::new, |found, part| found.extend(read(part)))
    }

    /// The same, into a value that is begun anew if the table changed meanwhile.
    pub(crate) fn dump_into<S>(
        &mut self,
        request: &Request,
        begin: impl Fn() -> S,
        read: impl Fn(&mut S, Part<'_>),
    ) -> Result<S, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut buffer = Vec::new();
            self.append(&mut buffer, request, NLM_F_REQUEST | NLM_F_DUMP);
            self.send(&buffer)?;
            if let Some(found) = self.dumped(begin(), &read)? {
                return Ok(found);
            }
        }
        Err(Error::Interrupted(DUMP_ATTEMPTS))
    }

    /// The answer to a dump; `None` if the table changed during the dump.
    fn dumped<S>(&mut self, mut found: S, read: impl Fn(&mut S, Part<'_>)) -> Result<Option<S>, Error> {
        let mut whole = true;
        let mut datagram = Vec::new();
        loop {
            self.receive_into(&mut datagram, DATAGRAM)?;
            for part in Parts(&datagram) {
                let part = part?;
                if part.sequence != self.sequence {
                    continue;
                }
                whole &= part.flags & NLM_F_DUMP_INTR == 0;
                if !matches!(part.kind, NLMSG_DONE | NLMSG_ERROR) {
                    read(&mut found, part);
                    continue;
                }
                let end = part.to_message();
                return match errno_of(&end)? {
                    0 if end.kind == NLMSG_DONE => Ok(whole.then_some(found)),
                    code => Err(refused_dump(code, &end)),
                };
            }
        }
    }

    /// Makes room for a message of this length, which has to be sent whole. What the kernel gives every socket
    /// (`net.core.wmem_default`, 212,992 bytes) is enough for most messages.
    fn make_room(&self, length: usize) -> Result<(), Error> {
        let room = length + SEND_OVERHEAD;
        if setsockopt(&self.raw, sockopt::SndBufForce, &room).is_err() {
            // This process is not the machine's root, so the limit is `net.core.wmem_max`.
            setsockopt(&self.raw, sockopt::SndBuf, &room).map_err(|errno| Error::Send(errno.into()))?;
        }
        Ok(())
    }

    fn append(&mut self, buffer: &mut Vec<u8>, request: &Request, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        append(buffer, request, request.flags | flags, self.sequence);
    }

    /// The bytes of one acknowledged request, and its sequence number. Another process will send them.
    pub(crate) fn prepare(&mut self, request: &Request) -> (Vec<u8>, u32) {
        let mut buffer = Vec::new();
        self.append(&mut buffer, request, NLM_F_REQUEST | NLM_F_ACK);
        (buffer, self.sequence)
    }

    pub(crate) fn send(&self, buffer: &[u8]) -> Result<(), Error> {
        self.raw.send(buffer, 0).map(drop).map_err(Error::Send)
    }

    /// The messages of one datagram.
    pub(crate) fn receive(&mut self) -> Result<Vec<Message>, Error> {
        let mut datagram = std::mem::take(&mut self.datagram);
        let received = self.receive_into(&mut datagram, ANSWER).and_then(|()| messages(&datagram));
        self.datagram = datagram;
        received
    }

    /// Replaces the content of `datagram` by one received datagram. It gets `room` bytes.
    fn receive_into(&self, datagram: &mut Vec<u8>, room: usize) -> Result<(), Error> {
        loop {
            datagram.clear();
            datagram.reserve_exact(room);
            match self.raw.recv(datagram, libc::MSG_TRUNC) {
                // With MSG_TRUNC the length is that of the datagram, even if it does not fit.
                Ok(length) if length > room => {
                    return Err(Error::Decode(format!("a datagram of {length} bytes")));
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Receive(error)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.raw.as_raw_fd()
    }
}

fn append(buffer: &mut Vec<u8>, request: &Request, flags: u16, sequence: u32) {
    let length = HEADER_LEN + request.payload.len();
    buffer.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    buffer.extend_from_slice(&request.kind.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&0_u32.to_ne_bytes());
    buffer.extend_from_slice(&request.payload);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// Cuts a datagram into its messages (`NLMSG_NEXT`).
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            let datagram = std::mem::take(&mut self.0);
            let Some((part, length)) = part(datagram) else {
                let left = datagram.len();
                return Some(Err(Error::Decode(format!("a netlink message cut short after {left} bytes"))));
            };
            self.0 = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
            if part.kind != NLMSG_NOOP {
                return Some(Ok(part));
            }
        }
        None
    }
}

/// The first message of a datagram, and its length.
fn part(datagram: &[u8]) -> Option<(Part<'_>, usize)> {
    let (&[l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3], _) =
        datagram.split_first_chunk()?;
    let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
    let payload = datagram.get(HEADER_LEN..length)?;
    let (kind, flags) = (u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([f0, f1]));
    let (sequence, port) = (u32::from_ne_bytes([s0, s1, s2, s3]), u32::from_ne_bytes([p0, p1, p2, p3]));
    Some((Part { kind, flags, sequence, port, payload }, length))
}

/// The messages of a datagram.
pub(crate) fn messages(datagram: &[u8]) -> Result<Vec<Message>, Error> {
    Parts(datagram).map(|part| Ok(part?.to_message())).collect()
}

/// The first field of `struct nlmsgerr`, and of the message that ends a dump: 0 or a negative error number.
fn errno_of(message: &Message) -> Result<i32, Error> {
    let code = message.payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    code.ok_or_else(|| Error::Decode("an acknowledgement without an error number".into()))
}

/// What an acknowledgement says of its request.
pub(crate) fn verdict(message: &Message) -> Result<Result<(), Refusal>, Error> {
    Ok(match errno_of(message)? {
        0 => Ok(()),
        code => Err(Refusal { errno: Errno::from_raw(-code), reason: reason(message) }),
    })
}

/// Whether this is an acknowledgement, positive or negative.
pub(crate) fn is_acknowledgement(message: &Message) -> bool {
    message.kind == NLMSG_ERROR
}

fn refused_dump(code: i32, message: &Message) -> Error {
    let refusal = Refusal { errno: Errno::from_raw(-code), reason: reason(message) };
    Error::Refused { request: "list".into(), refusal }
}

/// The kernel's sentence: an attribute behind the error number and the (capped) copy of the request.
fn reason(message: &Message) -> Option<String> {
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request_len = if message.flags & NLM_F_CAPPED != 0 {
        HEADER_LEN
    } else {
        u32::from_ne_bytes(message.payload.get(4..8)?.try_into().ok()?) as usize
    };
    let tlvs = message.payload.get(4 + request_len.next_multiple_of(4)..)?;
    let tlv = NlasIterator::new(tlvs).filter_map(Result::ok).find(|tlv| tlv.kind() == ATTR_MSG)?;
    let text = String::from_utf8_lossy(tlv.value());
    Some(text.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_cut_at_the_aligned_lengths() {
        let mut datagram = Vec::new();
        for (sequence, payload) in [(1, vec![1, 2, 3, 4, 5]), (2, vec![6])] {
            append(&mut datagram, &Request { kind: 16, flags: 0, payload }, 0, sequence);
        }
        let cut = messages(&datagram).unwrap();
        assert_eq!(cut.iter().map(|m| m.payload.len()).collect::<Vec<_>>(), [5, 1]);
        assert_eq!(cut.iter().map(|m| m.sequence).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        for length in [0_u32, 3, 15, 17, u32::MAX] {
            let mut datagram = vec![0; HEADER_LEN];
            datagram[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(messages(&datagram).is_err(), "{length}");
        }
        assert!(messages(&[1, 2, 3]).is_err());
    }

    /// Nexthop objects come and go while they are listed in several datagrams.
    #[test]
    fn a_list_that_changed_meanwhile_is_made_again_and_then_whole() {
        const COUNT: usize = 3000;
        let inside = || {
            assert!(ip("link set lo up\n".to_owned()).wait().unwrap().success(), "a blackhole wants it");
            let many = (1..=COUNT).map(|id| format!("nexthop add id {id} blackhole\n")).collect();
            assert!(ip(many).wait().unwrap().success());
            let (mut socket, request) = (Socket::open().unwrap(), crate::encode::all_nexthops());
            let mut churning = ip("nexthop add id 9000 blackhole\nnexthop del id 9000\n".repeat(500_000));
            let mut interrupted = 0;
            while interrupted == 0 {
                assert!(churning.try_wait().unwrap().is_none(), "no list was interrupted: it proves nothing");
                let mut buffer = Vec::new();
                socket.append(&mut buffer, &request, NLM_F_REQUEST | NLM_F_DUMP);
                socket.send(&buffer).unwrap();
                interrupted += usize::from(socket.dumped((), |(), _| {}).unwrap().is_none());
                match socket.dump(&request) {
                    Ok(whole) => assert!((COUNT..=COUNT + 1).contains(&whole.len()), "{}", whole.len()),
                    Err(error) => assert!(matches!(error, Error::Interrupted(_)), "{error}"),
                }
            }
            churning.kill().unwrap();
            churning.wait().unwrap();
            let left = socket.dump(&request).unwrap().len();
            assert!((COUNT..=COUNT + 1).contains(&left), "{left}");
        };
        crate::netns::make().unwrap().run(inside).unwrap();
    }

    /// An `ip` process that carries out these lines.
    fn ip(lines: String) -> std::process::Child {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = ip.stdin.take().unwrap();
        // The thread ends early if the program does.
        std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
        ip
    }
}
