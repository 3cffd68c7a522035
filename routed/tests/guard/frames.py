"""Frames that no honest kernel would send, and who hears them.

    frames.py send LINK MAC SPECS    sends the frames of a JSON list out of LINK, to this MAC
    frames.py hear LINK              tells each mark that comes in by LINK ("*": that the programs of this host get)

A spec may say from which MAC the frame comes (`from`), to which it goes (`to`), and which tag it has (`tag`). With
`outer` it lies in a packet of VXLAN; the three values are that packet's source and destination, and the MAC inside.
Each frame bears a mark of six characters, "T" and four digits and "E", by which it is known wherever it comes out.
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


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF & ~total


def address(text):
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return socket.inet_pton(family, text)


def transport(kind, source, destination, mark, port):
    """The protocol's number, and what lies in the packet."""
    v6 = len(source) == 16

    def summed(protocol, data, at):
        if v6:
            pseudo = source + destination + struct.pack(">II", len(data), protocol)
        else:
            pseudo = source + destination + struct.pack(">HH", protocol, len(data))
        return data[:at] + struct.pack(">H", checksum(pseudo + data)) + data[at + 2:]

    def icmpv6(head):
        return 58, summed(58, head, 2)

    if kind == "udp":
        return 17, summed(17, struct.pack(">HHHH", 4000, port, 8 + len(mark), 0) + mark, 6)
    if kind == "syn":
        return 6, summed(6, struct.pack(">HHIIBBHHH", 4000, port, 1, 0, 0x50, 2, 1024, 0, 0) + mark, 16)
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


def network(source, destination, protocol, data):
    """The type of a frame, and what lies in it."""
    if len(source) == 16:
        head = struct.pack(">IHBB", 6 << 28, len(data), protocol, 255) + source + destination
        return b"\x86\xdd", head + data
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, 64, protocol, 0) + source + destination
    return b"\x08\x00", head[:10] + struct.pack(">H", checksum(head)) + head[12:] + data


def in_tunnel(outer, kind, data):
    source, destination, mac = outer
    source, destination = address(source), address(destination)
    frame = bytes.fromhex(mac.replace(":", "")) + b"\2\0\0\0\0\x99" + kind + data
    protocol, data = transport("udp", source, destination, VXLAN + frame, VXLAN_PORT)
    return network(source, destination, protocol, data)


def packet(spec):
    mark = spec["mark"].encode()
    if spec.get("outer"):
        return in_tunnel(spec["outer"], *packet({**spec, "outer": None}))
    if spec["kind"] == "bpdu":
        # A root that nobody outdoes (IEEE 802.1D, 9.3.1), in a frame of the 802.3 kind.
        root = bytes(8) + bytes(4) + bytes(8) + b"\x80\x01" + struct.pack(">HHHH", 0, 20 << 8, 2 << 8, 15 << 8)
        return struct.pack(">H", 44), b"\x42\x42\x03" + bytes(5) + root + mark
    if spec["kind"] == "other":
        return b"\x88\xb5", mark
    source, destination = address(spec["source"]), address(spec["destination"])
    protocol, data = transport(spec["kind"], source, destination, mark, spec["port"])
    return network(source, destination, protocol, data)


def send(link, mac, specs):
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind((link, 0))
    own = out.getsockname()[4].hex()
    for spec in json.loads(specs):
        kind, data = packet(spec)
        ends = (spec.get("to") or mac) + (spec.get("from") or own)
        out.send(bytes.fromhex(ends.replace(":", "") + (spec.get("tag") or "")) + kind + data)


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


def hear(link):
    if link == "*":
        protocols = {socket.AF_INET: [1, 6, 17], socket.AF_INET6: [6, 17, 58]}
        ears = [socket.socket(f, socket.SOCK_RAW, p) for f, each in protocols.items() for p in each]
    else:
        ears = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))]
        ears[0].bind((link, 3))
    print("ready", flush=True)
    while True:
        select.select(ears, [], [])
        # What came before a frame that is seen in the first round is seen in the second at the latest, whichever ear has it.
        marks = {mark for _ in range(2) for ear in ears for mark in heard(ear, link)}
        for mark in sorted(marks):
            print(mark.decode(), flush=True)


if sys.argv[1] == "send":
    send(*sys.argv[2:])
else:
    hear(sys.argv[2])
