"""Tries to leave a bottle past the gateway: whole frames on a raw socket, as root in the bottle's network namespace."""
import socket
import struct
import sys

ETH_P_ALL = 0x0003
TARGETS = ["192.0.2.1", "198.51.100.1", sys.argv[1]]
PROTOCOLS = {"TCP": 6, "UDP": 17, "ICMP": 1, "raw IP": 253}


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source, target, protocol):
    payload = b"\x04\xd2\x01\xbb" + bytes(16)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, source, target)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return head + payload


name = next(name for _, name in socket.if_nameindex() if name != "lo")
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
raw.bind((name, ETH_P_ALL))
own = raw.getsockname()[4]
source = socket.inet_aton(sys.argv[2])
sent = 0
for target in TARGETS:
    for protocol in PROTOCOLS.values():
        # The broadcast address reaches the host's end whatever its own address is.
        raw.send(b"\xff" * 6 + own + b"\x08\x00" + packet(source, socket.inet_aton(target), protocol))
        sent += 1
print("%d frames sent on %s: %s to %s" % (sent, name, ", ".join(PROTOCOLS), ", ".join(TARGETS)))
