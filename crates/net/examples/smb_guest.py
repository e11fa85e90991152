#!/usr/bin/env python3
"""Debian's smbclient, on a Linux kernel of its own network namespace, works on a share of `smb=DIR`.

    cargo build --release -p net --example cable
    python3 crates/net/examples/smb_guest.py target/release/examples/cable

Lists the server's shares, reads and writes 8 MB with equal SHA-256, makes and removes names, over ports 445 and 139. Needs the
Debian packages samba, smbclient and iproute2, and root or a kernel where users may make namespaces.
"""
import ctypes, fcntl, hashlib, os, socket, struct, subprocess, sys, tempfile

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 2, 0x1000, 0x4000


def guest(channel):
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.geteuid(), os.getegid()
    flags = CLONE_NEWNET | (CLONE_NEWUSER if user else 0)
    assert libc.unshare(flags) == 0, os.strerror(ctypes.get_errno())
    if user:
        for file, text in ("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1"):
            with open(f"/proc/self/{file}", "w") as f:
                f.write(text)
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    socket.send_fds(channel, [b"x"], [tap])
    for command in "link set lo up", "link set eth0 address 52:54:00:12:34:56 up", "addr add 10.0.2.15/24 dev eth0":
        subprocess.run(["ip", *command.split()], check=True)
    with tempfile.TemporaryDirectory() as home:
        keys = ("private dir", "lock directory", "state directory", "cache directory")
        with open(f"{home}/smb.conf", "w") as f:
            f.write("[global]\n" + "".join(f"{key} = {home}\n" for key in keys))

        def client(*arguments):
            run = subprocess.run(["smbclient", "-N", "-s", f"{home}/smb.conf", *arguments], capture_output=True, text=True,
                                 stdin=subprocess.DEVNULL, timeout=60)
            assert run.returncode == 0 and "NT_STATUS" not in run.stdout, run
            return run.stdout

        shares = client("-L", "10.0.2.4")
        assert "qemu" in shares, shares
        share = "//10.0.2.4/qemu"
        listing = client(share, "-c", f"ls; get data {home}/data; put {home}/data copy; mkdir made; del old; ls")
        assert "old" in listing and "copy" in listing and "made" in listing, listing
        again = client(share, "-p", "139", "-c", "ls")
        assert "copy" in again and "old" not in again, again
        print(shares, again, sep="")
    channel.send(b"y")


def main():
    with tempfile.TemporaryDirectory() as shared:
        data = os.urandom(8000000)
        for name, content in ("data", data), ("old", b"x"):
            with open(f"{shared}/{name}", "wb") as f:
                f.write(content)
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            ours.close()
            guest(theirs)
            sys.stdout.flush()
            os._exit(0)
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        assert fds, "the namespace could not be made"
        cable = subprocess.Popen([sys.argv[1], f"tap,id=a,fd={fds[0]}", f"user,id=b,smb={shared}"], pass_fds=fds, stdin=subprocess.PIPE)
        done = ours.recv(1) == b"y"
        cable.stdin.close()
        cable.wait()
        os.waitpid(child, 0)
        assert done, "the client failed"
        with open(f"{shared}/copy", "rb") as f:
            assert hashlib.sha256(f.read()).digest() == hashlib.sha256(data).digest()
        assert os.path.isdir(f"{shared}/made") and not os.path.exists(f"{shared}/old")
        print("8 MB read and written: equal")


main()
