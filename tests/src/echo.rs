//! TCP and UDP echo: servers that note who spoke to them and what they were sent, and the clients that speak. Judging what was
//! noted is `matrix`'s part.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    addressing::{Family, Pair},
    error::{Context, Result},
    space::Space,
};

/// The port of every echo server, TCP and UDP.
pub const PORT: u16 = 7007;
/// How long a client or a server waits for the other side.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of a TCP exchange: many segments, so that a wrong MTU shows.
const TCP_BYTES: usize = 64 * 1024;
/// Of a UDP exchange: fits every MTU in question.
const UDP_BYTES: usize = 1000;
/// The longest message a server reads.
const MESSAGE_LIMIT: u64 = 1024 * 1024;

/// What a server saw of one exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The client's address as the server sees it.
    pub peer: IpAddr,
    /// What it was sent.
    pub payload: Vec<u8>,
}

/// What all servers saw, by the number the client put in front of its payload.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<HashMap<u64, Seen>>);

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a server noted about an exchange.
    pub fn take(&self, number: u64) -> Option<Seen> {
        self.entries().remove(&number)
    }

    fn note(&self, peer: IpAddr, payload: &[u8]) {
        if let Some(number) = payload.first_chunk().copied().map(u64::from_be_bytes) {
            self.entries().insert(number, Seen { peer, payload: payload.to_vec() });
        }
    }
}

/// Echo servers on both addresses of one endpoint. They end, and their sockets close, when this value is dropped.
#[derive(Debug)]
pub struct Server {
    // Closing it wakes the thread, which then ends.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts serving; the sockets are listening when this returns. They are bound to the very addresses, so that a UDP answer comes
    /// from the address it was asked at.
    pub fn start(space: &Space, at: Pair, ledger: &Arc<Ledger>) -> Result<Server> {
        let sockets = space.enter(|| Family::BOTH.map(|family| listen(at.of(family))))?;
        let [v4, v6] = sockets;
        let sockets = [v4, v6].into_iter().collect::<io::Result<Vec<_>>>();
        let sockets =
            sockets.context(|| format!("echo server in {} at {} and {}", space.name(), at.v4, at.v6))?;
        let (stop, stopped) = UnixStream::pair().context(|| "echo server's stop")?;
        let ledger = Arc::clone(ledger);
        let thread = thread::spawn(move || serve(&sockets, &stopped, &ledger));
        Ok(Server { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Sockets = (TcpListener, UdpSocket);

fn listen(address: IpAddr) -> io::Result<Sockets> {
    let address = SocketAddr::new(address, PORT);
    let (tcp, udp) = (TcpListener::bind(address)?, UdpSocket::bind(address)?);
    tcp.set_nonblocking(true)?;
    udp.set_nonblocking(true)?;
    Ok((tcp, udp))
}

fn serve(sockets: &[Sockets], stopped: &UnixStream, ledger: &Arc<Ledger>) {
    loop {
        let mut waiting = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        for (tcp, udp) in sockets {
            waiting.push(PollFd::new(tcp.as_fd(), PollFlags::POLLIN));
            waiting.push(PollFd::new(udp.as_fd(), PollFlags::POLLIN));
        }
        let polled = poll(&mut waiting, PollTimeout::NONE);
        if waiting[0].any().unwrap_or(true) || polled.is_err_and(|errno| errno != nix::errno::Errno::EINTR) {
            return;
        }
        for (tcp, udp) in sockets {
            while let Ok((stream, peer)) = tcp.accept() {
                let ledger = Arc::clone(ledger);
                // A thread each: a client that hangs must not keep the others waiting. What goes wrong shows at the client.
                thread::spawn(move || answer(stream, peer.ip(), &ledger));
            }
            let mut buffer = [0; 2 * UDP_BYTES];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                ledger.note(peer.ip(), &buffer[..length]);
                let _ = udp.send_to(&buffer[..length], peer);
            }
        }
    }
}

fn answer(mut stream: TcpStream, peer: IpAddr, ledger: &Ledger) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    patient(&stream)?;
    let mut payload = Vec::new();
    (&mut stream).take(MESSAGE_LIMIT).read_to_end(&mut payload)?;
    ledger.note(peer, &payload);
    stream.write_all(&payload)
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One connection, its payload sent and echoed whole.
    Tcp,
    /// One datagram there, one back.
    Udp,
}

/// One exchange as the client saw it.
#[derive(Debug)]
pub struct Exchange {
    /// What was sent; the server must have seen the same.
    pub sent: Vec<u8>,
    /// What came back.
    pub received: Vec<u8>,
}

/// Speaks to the echo server at an address from the calling thread's namespace. `number` must be unique in the run.
pub fn exchange(transport: Transport, to: IpAddr, number: u64) -> io::Result<Exchange> {
    let to = SocketAddr::new(to, PORT);
    match transport {
        Transport::Tcp => {
            let sent = payload(number, TCP_BYTES);
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            patient(&stream)?;
            stream.write_all(&sent)?;
            stream.shutdown(Shutdown::Write)?;
            let mut received = Vec::with_capacity(sent.len());
            stream.take(MESSAGE_LIMIT).read_to_end(&mut received)?;
            Ok(Exchange { sent, received })
        }
        Transport::Udp => {
            let sent = payload(number, UDP_BYTES);
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            socket.send(&sent)?;
            let mut received = vec![0; 2 * UDP_BYTES];
            let length = uninterrupted(|| socket.recv(&mut received))?;
            received.truncate(length);
            Ok(Exchange { sent, received })
        }
    }
}

/// A call again and again while it is only interrupted: a machine that is suspended does that without any signal.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The number, then bytes that follow from it and are different for every number and place (xorshift).
fn payload(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}
