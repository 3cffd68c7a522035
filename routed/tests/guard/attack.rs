//! What a hostile pod sends, and which observer hears it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};

use ferrule_netlink::netns::Netns;
use serde_json::{Value, json};

use crate::lab::PATIENCE;

const FRAMES: &str = include_str!("frames.py");

/// A frame to be sent. Its mark is its number.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: &'static str,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) port: u16,
    /// The MAC that it is sent to, if it is another than that of most.
    pub(crate) to: Option<String>,
    /// The MAC that it says to be from, if that is not the link's own.
    pub(crate) from: Option<String>,
    /// A tag before its type, as hex digits.
    pub(crate) tag: &'static str,
    /// The packet of VXLAN that it lies in: source, destination, and the MAC that the frame inside is sent to.
    pub(crate) outer: Option<[String; 3]>,
    /// Of what tells of a neighbour: the MAC, if it is not the link's own, and the address, if it is not the source.
    pub(crate) claim: Option<String>,
    pub(crate) about: Option<String>,
}

/// A frame of this kind. It goes to port 7777 if the kind has ports.
pub(crate) fn frame(kind: &'static str, source: &str, destination: &str) -> Frame {
    let (source, destination) = (source.into(), destination.into());
    let (tag, outer, claim, about) = ("", None, None, None);
    Frame { kind, source, destination, port: 7777, to: None, from: None, tag, outer, claim, about }
}

/// The same in each form that a program would notice.
pub(crate) fn each(source: &str, destination: &str) -> [Frame; 3] {
    ["udp", "syn", "ping"].map(|kind| frame(kind, source, destination))
}

impl Frame {
    fn spec(&self, number: usize) -> Value {
        json!({
            "kind": self.kind, "source": self.source, "destination": self.destination, "port": self.port,
            "mark": mark(number), "to": self.to, "from": self.from, "tag": self.tag, "outer": self.outer,
            "claim": self.claim, "about": self.about
        })
    }
}

/// Sends so many frames of a kind that needs no description ("fill", "flood") out of this link.
pub(crate) fn many(netns: &Netns, what: &str, link: &str, count: usize) {
    let status = netns.run(|| python(&[what, link, &count.to_string()]).status()).unwrap();
    assert!(status.expect("python3 is needed: install the package python3").success());
}

fn mark(number: usize) -> String {
    format!("T{number:04}E")
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", FRAMES]).args(arguments).stdout(Stdio::piped());
    command
}

/// An observer that hears all frames that come in at one place.
pub(crate) struct Ear {
    child: Child,
    marks: Mutex<Receiver<String>>,
}

impl Ear {
    /// An observer on this link, or with `*` one of what programs in this namespace get.
    pub(crate) fn new(netns: &Netns, link: &str) -> Self {
        let child = netns.run(|| python(&["hear", link]).spawn()).unwrap();
        let mut child = child.expect("python3 is needed: install the package python3");
        let (tell, marks) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let ear = Self { child, marks: Mutex::new(marks) };
        assert_eq!(ear.next(), "ready");
        ear
    }

    fn next(&self) -> String {
        self.marks.lock().unwrap().recv_timeout(PATIENCE).expect("nothing is heard at all")
    }

    /// The frames that came before the one of this number, which must be the last.
    fn heard_until(&self, last: usize) -> BTreeSet<String> {
        let mut heard = BTreeSet::new();
        loop {
            let next = self.next();
            if next == mark(last) {
                return heard;
            }
            heard.insert(next);
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A link that frames are sent out of: its namespace, its name, and the MAC that they go to.
pub(crate) type Sender<'a> = (&'a Netns, &'a str, &'a str);

/// Sends `frames` out of a link to this MAC, and after them one honest frame for each observer. Returns the frames that
/// any observer has heard. All frames take one way, so none is still on its way when the honest frame is heard.
pub(crate) fn sent(sender: Sender<'_>, frames: &[Frame], ears: &[(&Ear, Frame)]) -> Vec<Frame> {
    let honest = ears.iter().map(|(_, honest)| honest);
    send(sender, 0, frames.iter().chain(honest));
    heard(frames, ears)
}

/// The same with honest frames that somebody else sends, when all others are on their way.
pub(crate) fn sent_before(
    (sender, other): (Sender<'_>, Sender<'_>),
    frames: &[Frame],
    ears: &[(&Ear, Frame)],
) -> Vec<Frame> {
    send(sender, 0, frames.iter());
    send(other, frames.len(), ears.iter().map(|(_, honest)| honest));
    heard(frames, ears)
}

fn send<'a>((netns, link, mac): Sender<'_>, first: usize, frames: impl Iterator<Item = &'a Frame>) {
    let specs: Vec<_> = frames.zip(first..).map(|(frame, number)| frame.spec(number)).collect();
    let specs = Value::from(specs).to_string();
    let status = netns.run(|| python(&["send", link, mac, &specs]).status()).unwrap();
    assert!(status.expect("python3 is needed: install the package python3").success());
}

fn heard(frames: &[Frame], ears: &[(&Ear, Frame)]) -> Vec<Frame> {
    let mut heard = BTreeSet::new();
    for (place, (ear, _)) in ears.iter().enumerate() {
        heard.extend(ear.heard_until(frames.len() + place));
    }
    let of = |(number, frame): (usize, &Frame)| heard.contains(&mark(number)).then(|| frame.clone());
    frames.iter().enumerate().filter_map(of).collect()
}
