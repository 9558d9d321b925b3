"""Reads what tcpdump recorded of RoCE v2: the packets of reliable connections, in words. InfiniBand Architecture
Specification vol. 1, 9.2 (BTH) and 9.3 (RETH, AETH); Annex A17 (RoCE v2: UDP port 4791)."""
import collections
import struct

UDP_PORT = 4791
OPCODES = {0x00: "SEND first", 0x01: "SEND middle", 0x02: "SEND last", 0x04: "SEND", 0x06: "WRITE first", 0x07: "WRITE middle",
           0x08: "WRITE last", 0x0a: "WRITE", 0x0c: "READ request", 0x0d: "READ response first", 0x0e: "READ response middle",
           0x0f: "READ response last", 0x10: "READ response", 0x11: "ACK"}
HAS_RETH = {0x06, 0x0a, 0x0c}
HAS_AETH = {0x0d, 0x0f, 0x10, 0x11}

Packet = collections.namedtuple("Packet", "us source target name queue_pair psn remote payload_bytes")


def parse(us, frame):
    """None: not a packet of a reliable connection over IPv4."""
    if len(frame) < 14 + 20 + 8 + 12 + 4 or frame[12:14] != b"\x08\x00" or frame[14] != 0x45 or frame[23] != 17:
        return None
    source, target = (".".join(str(byte) for byte in frame[at:at + 4]) for at in (26, 30))
    port, udp_bytes = struct.unpack_from(">2xHH", frame, 34)
    opcode, flags, queue_pair, psn = struct.unpack_from(">BB2xII", frame, 42)
    if port != UDP_PORT or opcode not in OPCODES:
        return None
    at, remote = 54, None
    if opcode in HAS_RETH:
        remote = struct.unpack_from(">QII", frame, at)  # address, key, length
        at += 16
    if opcode in HAS_AETH:
        at += 4
    padding = flags >> 4 & 3
    payload = udp_bytes - 8 - (at - 42) - padding - 4  # behind it the invariant CRC
    return Packet(us, source, target, OPCODES[opcode], queue_pair & 0xffffff, psn & 0xffffff, remote, payload)


def read(path):
    """The packets of a pcap file, in order; times in microseconds."""
    with open(path, "rb") as file:
        data = file.read()
    magic = struct.unpack_from("<I", data)[0]
    unit = {0xa1b2c3d4: 1, 0xa1b23c4d: 1000}[magic]
    at, packets = 24, []
    while at + 16 <= len(data):
        seconds, fraction, kept, _ = struct.unpack_from("<IIII", data, at)
        packets.append(parse(seconds * 1000000 + fraction // unit, data[at + 16:at + 16 + kept]))
        at += 16 + kept
    return [packet for packet in packets if packet is not None]


def table(packets, names):
    """A line a packet; those in the middle of a long one are counted. `names`: of addresses."""
    lines, skipped = [], []

    def flush():
        if skipped:
            lines.append(f"{'':>9}  {'':<18} … {len(skipped)} × {skipped[0].name}, {sum(p.payload_bytes for p in skipped)} bytes")
            skipped.clear()
    for packet in packets:
        if packet.name.endswith("middle"):
            skipped.append(packet)
            continue
        flush()
        way = f"{names[packet.source]} → {names[packet.target]}"
        what = f"{packet.name:<19} psn {packet.psn:06x}"
        if packet.remote is not None:
            what += f"  address {packet.remote[0]:#x} key {packet.remote[1]:#x} length {packet.remote[2]}"
        if packet.payload_bytes:
            what += f"  {packet.payload_bytes} bytes"
        lines.append(f"{packet.us - packets[0].us:>6} us  {way:<18} {what}")
    flush()
    return "\n".join(lines)
