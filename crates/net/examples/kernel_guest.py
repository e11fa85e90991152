#!/usr/bin/env python3
"""A Linux kernel plays the guest: its TCP/IP stack, in a network namespace of its own, behind a tap
interface that the `cable` example plugs into the user-mode network.

    cargo build --release -p net --example cable
    python3 crates/net/examples/kernel_guest.py target/release/examples/cable [MiB]

Needs the privilege to make a network namespace (root, or `unshare -r` around it).
"""
import ctypes, fcntl, hashlib, os, socket, struct, subprocess, sys, threading, time

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 2, 0x1000, 0x4000
MIB = int(sys.argv[2]) if len(sys.argv) > 2 else 256
BLOCK = bytes(range(256)) * 4096
OPTIONS = "user,id=b,hostname=vm,hostfwd=tcp:127.0.0.1:0-10.0.2.15:7000"


def digest_of(total):
    h = hashlib.sha256()
    for _ in range(total):
        h.update(BLOCK)
    return h.hexdigest()


def serve(v6):
    """A host program: 'D' sends MIB, 'U' receives until the end and answers with the digest."""
    s = socket.create_server(("::1" if v6 else "127.0.0.1", 0), family=socket.AF_INET6 if v6 else socket.AF_INET)

    def one(c):
        if c.recv(1) == b"D":
            for _ in range(MIB):
                c.sendall(BLOCK)
        else:
            h = hashlib.sha256()
            while data := c.recv(1 << 20):
                h.update(data)
            c.sendall(h.hexdigest().encode())
        c.close()

    def loop():
        while True:
            threading.Thread(target=one, args=(s.accept()[0],), daemon=True).start()

    threading.Thread(target=loop, daemon=True).start()
    return s.getsockname()[1]


def timeouts():
    names, values = open("/proc/net/netstat").read().split("\n")[:2]
    stats = dict(zip(names.split(), values.split()))
    return {k: int(stats[k]) for k in ("TCPTimeouts", "TCPOFOQueue", "TCPSackRecovery", "TCPLossProbes")}


def guest(channel, ports):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    socket.send_fds(channel, [b"x"], [tap])
    for command in ("link set lo up", "link set eth0 address 52:54:00:12:34:56 up", "addr add 10.0.2.15/24 dev eth0",
                    "route add default via 10.0.2.2"):
        subprocess.run(["ip", *command.split()], check=True)
    for _ in range(100):  # the address comes from our router advertisement
        if "fec0::" in subprocess.run(["ip", "-6", "addr"], capture_output=True, text=True).stdout:
            if "tentative" not in subprocess.run(["ip", "-6", "addr"], capture_output=True, text=True).stdout:
                break
        time.sleep(0.1)
    print(subprocess.run(["ip", "-6", "route"], capture_output=True, text=True).stdout)
    expected = digest_of(MIB)
    for name, address, port in (("IPv4", "10.0.2.2", ports[0]), ("IPv6", "fec0::2", ports[1])):
        c = socket.create_connection((address, port))
        start, h = time.time(), hashlib.sha256()
        chunks, total = [], 0
        c.sendall(b"D")
        while data := c.recv(1 << 20):
            h.update(data)
            total += len(data)
        seconds = time.time() - start
        print(f"{name} download {MIB} MiB: {total * 8 / seconds / 1e9:.2f} Gbit/s, equal: {h.hexdigest() == expected}, {timeouts()}")
        c = socket.create_connection((address, port))
        start = time.time()
        c.sendall(b"U")
        for _ in range(MIB):
            c.sendall(BLOCK)
        c.shutdown(socket.SHUT_WR)
        answer = c.recv(100)
        seconds = time.time() - start
        print(f"{name} upload   {MIB} MiB: {MIB * 8 / 1024 / seconds:.2f} Gbit/s, equal: {answer.decode() == expected}, {timeouts()}")
    for name, address in (("refused IPv4", "10.0.2.2"), ("refused IPv6", "fec0::2"), ("no such host", "10.0.2.77")):
        try:
            socket.create_connection((address, 1), timeout=5)
            print(name, "connected?!")
        except OSError as e:
            print(name, "->", e)
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.connect(("10.0.2.2", 1))
    u.send(b"x")
    time.sleep(0.2)
    try:
        u.send(b"y")
        print("UDP to a closed port: silence")
    except OSError as e:
        print("UDP to a closed port ->", e)
    ping = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    body = struct.pack("!HH", 77, 1) + b"payload!"
    packet = b"\x08\x00\x00\x00" + body
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    packet = packet[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + packet[4:]
    ping.settimeout(3)
    ping.sendto(packet, ("10.0.2.2", 0))
    print("ping 10.0.2.2 ->", "reply" if ping.recv(100)[20] == 0 else "something else")
    server = socket.create_server(("10.0.2.15", 7000))
    channel.send(b"listening")
    c, peer = server.accept()
    data = b""
    while part := c.recv(65536):
        data += part
    c.sendall(b"guest saw %d bytes from %s" % (len(data), peer[0].encode()))
    c.close()
    print("guest kernel:", timeouts())


def main():
    ports = serve(False), serve(True)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        guest(theirs, ports)
        os._exit(0)
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    cable = subprocess.Popen([sys.argv[1], f"tap,id=a,fd={fds[0]}", OPTIONS], pass_fds=fds, stdin=subprocess.PIPE)
    assert ours.recv(9) == b"listening"
    text = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True).stdout
    port = next(int(l.split()[3].rsplit(":", 1)[1]) for l in text.splitlines() if f"pid={cable.pid}," in l)
    c = socket.create_connection(("127.0.0.1", port))
    c.sendall(b"z" * 1000000)
    c.shutdown(socket.SHUT_WR)
    print("hostfwd ->", c.recv(100).decode())
    os.waitpid(child, 0)
    ticks = os.sysconf("SC_CLK_TCK")
    fields = open(f"/proc/{cable.pid}/stat").read().rsplit(")", 1)[1].split()
    print(f"cable used {int(fields[11]) / ticks:.2f} s user, {int(fields[12]) / ticks:.2f} s system")
    cable.stdin.close()
    cable.wait()


main()
