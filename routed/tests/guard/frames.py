"""Frames that no honest kernel would send, and who hears them.

    frames.py send LINK MAC SPECS    sends the frames of a JSON list out of LINK, to this MAC
    frames.py hear LINK              tells each mark that comes in by LINK ("*": that the programs of this host get)
    frames.py fill LINK COUNT        sends frames from so many MACs
    frames.py flood LINK COUNT       sends so many frames to everybody

A spec may say from which MAC the frame comes (`from`), to which it goes (`to`), and which tag it has (`tag`). With
`outer` it lies in a packet of VXLAN; the three values are that packet's source and destination, and the MAC inside.
What tells of a neighbour may also say which MAC the neighbour is to have (`claim`), and which address (`about`).
Each frame bears a mark of six characters, "T" and four digits and "E", by which it is known wherever it comes out.
What tells of a neighbour has no room for it, and bears the number as its flow label.
"""
import json
import re
import select
import socket
import struct
import sys

MARK = re.compile(rb"T\d{4}E")
# A header of VXLAN with the network identifier 1 (RFC 7348, 5), on port 8472.
VXLAN = b"\x08\0\0\0\0\0\1\0"
VXLAN_PORT = 8472
# The version and the traffic class of a packet whose flow label is its number.
LABELLED = 0x654


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF & ~total


def address(text):
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return socket.inet_pton(family, text)


# The operations of ARP.
ARP = {"arp-request": 1, "arp-reply": 2}
# The messages that tell of a neighbour (RFC 4861, section 4): type, flags, and the type of the option with a MAC.
NEIGHBOUR = {"router-solicit": (133, 0, 1), "solicit": (135, 0, 1), "advertise": (136, 0x60000000, 2)}


def neighbour(kind, about, claim, mark):
    """What tells of a neighbour, apart from its checksum."""
    kind, _, how = kind.partition(" ")
    number, flags, option = NEIGHBOUR[kind]
    option = bytes([option, 1]) + claim
    # A nonce is no news. The second of two MACs is none to the kernel.
    options = {"": option, "bare": b"", "behind": b"\x0e\x01" + mark + option, "nonce": b"\x0e\x01" + mark}[how]
    target = about if number > 133 else b""
    return struct.pack(">BBHI", number, 0, 0, flags) + target + options


def summed(source, destination, protocol, data, at):
    """The same data with its checksum in its place."""
    if len(source) == 16:
        pseudo = source + destination + struct.pack(">II", len(data), protocol)
    else:
        pseudo = source + destination + struct.pack(">HH", protocol, len(data))
    return data[:at] + struct.pack(">H", checksum(pseudo + data)) + data[at + 2:]


def transport(kind, source, destination, mark, port):
    """The protocol's number, and what lies in the packet."""
    v6 = len(source) == 16

    def icmpv6(head):
        return 58, summed(source, destination, 58, head, 2)

    if kind == "udp":
        return 17, summed(source, destination, 17, struct.pack(">HHHH", 4000, port, 8 + len(mark), 0) + mark, 6)
    if kind == "syn":
        syn = struct.pack(">HHIIBBHHH", 4000, port, 1, 0, 0x50, 2, 1024, 0, 0)
        return 6, summed(source, destination, 6, syn + mark, 16)
    if kind == "ping" and v6:
        return icmpv6(struct.pack(">BBHHH", 128, 0, 0, 1, 1) + mark)
    if kind == "ping":
        data = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + mark
        return 1, data[:2] + struct.pack(">H", checksum(data)) + data[4:]
    nonce = b"\x0e\x01" + mark
    if kind == "advertisement":
        return icmpv6(struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + nonce)
    if kind == "redirect":
        return icmpv6(struct.pack(">BBHI", 137, 0, 0, 0) + address("2001:db8:51::9") * 2 + nonce)
    if kind == "solicitation":
        return icmpv6(struct.pack(">BBHI", 135, 0, 0, 0) + address("fe80::99") + nonce)
    if kind == "query" and v6:
        return icmpv6(struct.pack(">BBHHH", 130, 0, 0, 0, 0) + bytes(16) + mark)
    if kind == "query":
        data = b"\x11\x00\0\0\0\0\0\0" + mark
        return 2, data[:2] + struct.pack(">H", checksum(data)) + data[4:]
    if kind == "redirect4":
        data = b"\x05\x01\0\0" + source + mark
        return 1, data[:2] + struct.pack(">H", checksum(data)) + data[4:]
    raise SystemExit("no such kind: " + kind)


def network(source, destination, protocol, data, mark):
    """The type of a frame, and what lies in it."""
    if len(source) == 16:
        first = 6 << 28 if mark in data else LABELLED << 20 | int(mark[1:5])
        head = struct.pack(">IHBB", first, len(data), protocol, 255) + source + destination
        return b"\x86\xdd", head + data
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, 64, protocol, 0) + source + destination
    return b"\x08\x00", head[:10] + struct.pack(">H", checksum(head)) + head[12:] + data


def in_tunnel(outer, kind, data, mark):
    source, destination, mac = outer
    source, destination = address(source), address(destination)
    frame = bytes.fromhex(mac.replace(":", "")) + b"\2\0\0\0\0\x99" + kind + data
    protocol, data = transport("udp", source, destination, VXLAN + frame, VXLAN_PORT)
    return network(source, destination, protocol, data, mark)


def mac_of(text):
    return bytes.fromhex(text.replace(":", ""))


def packet(spec, own):
    mark = spec["mark"].encode()
    if spec.get("outer"):
        return in_tunnel(spec["outer"], *packet({**spec, "outer": None}, own), mark)
    if spec["kind"] in ARP:
        # The mark is where a short frame is filled up.
        head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, ARP[spec["kind"]])
        sender = mac_of(spec.get("claim") or own) + address(spec["source"])
        return b"\x08\x06", head + sender + bytes(6) + address(spec["destination"]) + mark
    if spec["kind"] == "bpdu":
        # A root that nobody outdoes (IEEE 802.1D, 9.3.1), in a frame of the 802.3 kind.
        root = bytes(8) + bytes(4) + bytes(8) + b"\x80\x01" + struct.pack(">HHHH", 0, 20 << 8, 2 << 8, 15 << 8)
        return struct.pack(">H", 44), b"\x42\x42\x03" + bytes(5) + root + mark
    if spec["kind"] == "other":
        return b"\x88\xb5", mark
    source, destination = address(spec["source"]), address(spec["destination"])
    claim = mac_of(spec.get("claim") or own)
    if spec["kind"].partition(" ")[0] in NEIGHBOUR:
        data = neighbour(spec["kind"], address(spec.get("about") or spec["source"]), claim, mark)
        return network(source, destination, 58, summed(source, destination, 58, data, 2), mark)
    protocol, data = transport(spec["kind"], source, destination, mark, spec["port"])
    return network(source, destination, protocol, data, mark)


def send(link, mac, specs):
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind((link, 0))
    own = out.getsockname()[4].hex()
    for spec in json.loads(specs):
        kind, data = packet(spec, own)
        ends = (spec.get("to") or mac) + (spec.get("from") or own)
        out.send(bytes.fromhex(ends.replace(":", "") + (spec.get("tag") or "")) + kind + data)


def ask(link, count, macs):
    """Sends requests of ARP for nobody, to everybody."""
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind((link, 0))
    own = out.getsockname()[4]
    for number in range(int(count)):
        mac = b"\x02\xaa" + struct.pack(">I", number) if macs else own
        request = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + mac + bytes(14)
        out.send(bytes([255] * 6) + mac + b"\x08\x06" + request)


def fill(link, count):
    ask(link, count, True)


def flood(link, count):
    ask(link, count, False)


def heard(ear, link):
    """The marks of all that is in an ear."""
    while True:
        try:
            data, origin = ear.recvfrom(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        # A packet of the tunnel is not yet what lies in it.
        if VXLAN not in data and (link == "*" or origin[2] != socket.PACKET_OUTGOING):
            yield from MARK.findall(data)
            word = int.from_bytes(data[14:18], "big")
            if data[12:14] == b"\x86\xdd" and word >> 20 == LABELLED:
                yield b"T%04dE" % (word & 0xFFFFF)


def hear(link):
    if link == "*":
        protocols = {socket.AF_INET: [1, 6, 17], socket.AF_INET6: [6, 17, 58]}
        ears = [socket.socket(f, socket.SOCK_RAW, p) for f, each in protocols.items() for p in each]
    else:
        ears = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))]
        ears[0].bind((link, 3))
    for ear in ears:
        # All frames may come before the first is read: SO_RCVBUFFORCE.
        ear.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
    print("ready", flush=True)
    while True:
        select.select(ears, [], [])
        # What came before a frame that is seen in the first round is seen in the second at the latest, whichever ear has it.
        marks = {mark for _ in range(2) for ear in ears for mark in heard(ear, link)}
        for mark in sorted(marks):
            print(mark.decode(), flush=True)


{"send": send, "hear": hear, "fill": fill, "flood": flood}[sys.argv[1]](*sys.argv[2:])
