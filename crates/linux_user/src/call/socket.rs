//! Sockets. Addresses and most options have the same layout on both sides; message headers, ancillary data, and times do not.

use super::file::host_iovec;
use super::stat::{Timespec32, Timespec64, Timeval32};
use super::sx;
use crate::errno::{self, Errno, Ret};
use crate::memory::abi_struct;
use crate::task::Task;
use libc::*;

abi_struct! {
    /// struct msghdr of a 32-bit program
    MsgHdr32 28 { name: u32, namelen: u32, iov: u32, iovlen: u32, control: u32, controllen: u32, flags: u32, }
    /// struct mmsghdr of a 32-bit program
    MmsgHdr32 32 { hdr: MsgHdr32, len: u32, }
    /// struct cmsghdr of a 32-bit program
    CmsgHdr32 12 { len: u32, level: i32, kind: i32, }
    /// struct sock_fprog of a 32-bit program
    Fprog32 8 { len: u16, pad: u16, filter: u32, }
}

/// struct sockaddr_storage.
const ADDRESS_BYTES: u32 = 128;
/// No more ancillary data than this is passed.
const MAX_CONTROL: u32 = 64 << 10;
/// Options with times of the old, 32-bit kind.
const SO_RCVTIMEO_OLD: i32 = 20;
const SO_SNDTIMEO_OLD: i32 = 21;
/// Ancillary times of the old kind.
const SCM_TIMESTAMP_OLD: i32 = 29;
const SCM_TIMESTAMPNS_OLD: i32 = 35;

// ---- plain calls ----------------------------------------------------------------------------------------------------

pub fn socket(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_socket, [sx(a[0]), sx(a[1]), sx(a[2]), 0, 0, 0]) }
}

fn address_call(t: &mut Task, number: i64, a: [u32; 6]) -> Ret {
    if (a[2] as i32) < 0 {
        return Err(errno::EINVAL);
    }
    // SAFETY: socket addresses are the same on both sides.
    unsafe { t.host_call(number, [sx(a[0]), t.memory().input(a[1]), a[2] as u64, 0, 0, 0]) }
}

pub fn bind(t: &mut Task, a: [u32; 6]) -> Ret {
    address_call(t, SYS_bind, a)
}

pub fn connect(t: &mut Task, a: [u32; 6]) -> Ret {
    address_call(t, SYS_connect, a)
}

fn address_out_call(t: &mut Task, number: i64, a: [u32; 6]) -> Ret {
    let m = t.memory();
    let args = [sx(a[0]), m.out(a[1], ADDRESS_BYTES), m.out(a[2], 4), a[3] as u64, 0, 0];
    // SAFETY: the kernel writes an address, of at most the length at the third argument, and that length.
    unsafe { t.host_call(number, args) }
}

pub fn accept(t: &mut Task, a: [u32; 6]) -> Ret {
    address_out_call(t, SYS_accept, [a[0], a[1], a[2], 0, 0, 0])
}

pub fn accept4(t: &mut Task, a: [u32; 6]) -> Ret {
    address_out_call(t, SYS_accept4, a)
}

pub fn getsockname(t: &mut Task, a: [u32; 6]) -> Ret {
    address_out_call(t, SYS_getsockname, [a[0], a[1], a[2], 0, 0, 0])
}

pub fn getpeername(t: &mut Task, a: [u32; 6]) -> Ret {
    address_out_call(t, SYS_getpeername, [a[0], a[1], a[2], 0, 0, 0])
}

pub fn send(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_sendto, [sx(a[0]), t.memory().input(a[1]), a[2] as u64, a[3] as u64, 0, 0]) }
}

pub fn recv(t: &mut Task, a: [u32; 6]) -> Ret {
    recvfrom(t, [a[0], a[1], a[2], a[3], 0, 0])
}

pub fn recvfrom(t: &mut Task, a: [u32; 6]) -> Ret {
    let m = t.memory();
    let address = if a[4] != 0 { m.out(a[4], ADDRESS_BYTES) } else { 0 };
    let args = [sx(a[0]), m.out(a[1], a[2]), a[2] as u64, a[3] as u64, address, m.out(a[5], 4)];
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_recvfrom, args) }
}

/// The calls behind socketcall, by its number.
pub fn socketcall(t: &mut Task, a: [u32; 6]) -> Ret {
    type Call = fn(&mut Task, [u32; 6]) -> Ret;
    fn by_number(number: u32) -> Call {
        macro_rules! row {
            ($n:literal) => {
                |t, a| crate::table::call(t, $n, a)
            };
        }
        match number {
            1 => row!(281),
            2 => row!(282),
            3 => row!(283),
            4 => row!(284),
            5 => row!(285),
            6 => row!(286),
            7 => row!(287),
            8 => row!(288),
            9 => row!(289),
            10 => row!(291),
            11 => row!(290),
            12 => row!(292),
            13 => row!(293),
            14 => row!(294),
            15 => row!(295),
            16 => row!(296),
            17 => row!(297),
            18 => row!(366),
            19 => row!(365),
            20 => row!(374),
            _ => |_, _| Err(errno::EINVAL),
        }
    }
    /// Arguments by call number.
    const COUNTS: [usize; 21] = [0, 3, 3, 3, 2, 3, 3, 3, 4, 4, 4, 6, 6, 2, 5, 5, 3, 3, 4, 5, 4];
    let count = *COUNTS.get(a[0] as usize).ok_or(errno::EINVAL)?;
    let mut args = [0; 6];
    args[..count].copy_from_slice(&t.memory().read_vec::<u32>(a[1], count)?);
    by_number(a[0])(t, args)
}

// ---- messages -------------------------------------------------------------------------------------------------------

/// Ancillary data in the host's layout, from the guest's.
fn host_control(guest: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut out = Vec::new();
    let mut at = 0;
    while at + 12 <= guest.len() {
        let word = |o: usize| u32::from_le_bytes(guest[at + o..at + o + 4].try_into().expect("four bytes"));
        let len = word(0) as usize;
        if len < 12 || at + len > guest.len() {
            return Err(errno::EINVAL);
        }
        let data = &guest[at + 12..at + len];
        out.extend((16 + data.len() as u64).to_le_bytes());
        out.extend(&guest[at + 4..at + 12]);
        out.extend(data);
        out.resize(out.len().next_multiple_of(8), 0);
        at += len.next_multiple_of(4);
    }
    Ok(out)
}

/// One message of ancillary data: level, kind, data.
fn parse_control(host: &[u8]) -> Vec<(i32, i32, &[u8])> {
    let mut out = Vec::new();
    let mut at = 0;
    while at + 16 <= host.len() {
        let len = u64::from_le_bytes(host[at..at + 8].try_into().expect("eight bytes")) as usize;
        if len < 16 || at + len > host.len() {
            break;
        }
        let word = |o: usize| i32::from_le_bytes(host[at + o..at + o + 4].try_into().expect("four bytes"));
        out.push((word(8), word(12), &host[at + 16..at + len]));
        at += len.next_multiple_of(8);
    }
    out
}

/// Data of one message in the guest's layout.
fn guest_data(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let times = level == SOL_SOCKET && matches!(kind, SCM_TIMESTAMP_OLD | SCM_TIMESTAMPNS_OLD) && data.len() == 16;
    if times { [&data[..4], &data[8..12]].concat() } else { data.to_vec() }
}

/// Ancillary data in the guest's layout, as much as fits; whether something did not. Descriptors that do not fit are closed.
fn guest_control(host: &[u8], room: usize) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut truncated = false;
    for (level, kind, data) in parse_control(host) {
        let mut data = guest_data(level, kind, data);
        let fits = room.saturating_sub(out.len() + 12);
        if data.len() > fits {
            truncated = true;
            let rights = level == SOL_SOCKET && kind == SCM_RIGHTS;
            let keep = if rights { fits & !3 } else { fits };
            for fd in data[keep.min(data.len())..].chunks_exact(4).filter(|_| rights) {
                // SAFETY: a descriptor that the kernel has just made for us and that nobody will know.
                unsafe { close(i32::from_le_bytes(fd.try_into().expect("four bytes"))) };
            }
            data.truncate(keep);
            if room < out.len() + 12 || data.is_empty() {
                continue;
            }
        }
        out.extend((12 + data.len() as u32).to_le_bytes());
        out.extend(level.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(&data);
        let padded = out.len().next_multiple_of(4).min(room);
        out.resize(padded, 0);
    }
    (out, truncated)
}

/// A host message with everything it points to.
struct Message {
    hdr: msghdr,
    _vector: Vec<iovec>,
    control: Vec<u8>,
}

fn host_message(t: &Task, g: &MsgHdr32, receive: bool) -> Result<Message, Errno> {
    let m = t.memory();
    let mut vector = host_iovec(m, g.iov, g.iovlen, receive).map_err(|e| if e == errno::EINVAL { Errno(EMSGSIZE) } else { e })?;
    let control_len = g.controllen.min(MAX_CONTROL);
    let mut control = if g.control == 0 || control_len == 0 {
        Vec::new()
    } else if receive {
        // Headers are 4 bytes longer, and the padding may be.
        vec![0; control_len as usize * 2 + 64]
    } else {
        host_control(&m.read_vec::<u8>(g.control, control_len as usize)?)?
    };
    // SAFETY: all-zero bytes are a value.
    let mut hdr: msghdr = unsafe { std::mem::zeroed() };
    hdr.msg_name = if receive { m.out(g.name, ADDRESS_BYTES) } else { m.input(g.name) } as *mut c_void;
    hdr.msg_namelen = if g.name == 0 { 0 } else { g.namelen.min(ADDRESS_BYTES) };
    hdr.msg_iov = vector.as_mut_ptr();
    hdr.msg_iovlen = vector.len();
    hdr.msg_control = if control.is_empty() { std::ptr::null_mut() } else { control.as_mut_ptr().cast() };
    hdr.msg_controllen = control.len();
    Ok(Message { hdr, _vector: vector, control })
}

/// What a received message changes in the guest's header.
fn write_back(t: &Task, addr: u32, g: &mut MsgHdr32, m: &Message) -> Result<(), Errno> {
    let received = m.hdr.msg_controllen.min(m.control.len());
    let (control, truncated) = guest_control(&m.control[..received], g.controllen as usize);
    if g.control != 0 {
        t.memory().write_bytes(g.control, &control)?;
    }
    g.controllen = control.len() as u32;
    g.namelen = m.hdr.msg_namelen;
    g.flags = m.hdr.msg_flags as u32 | if truncated { MSG_CTRUNC as u32 } else { 0 };
    t.memory().write(addr, *g)
}

pub fn sendmsg(t: &mut Task, a: [u32; 6]) -> Ret {
    let g: MsgHdr32 = t.memory().read(a[1])?;
    let m = host_message(t, &g, false)?;
    // SAFETY: the message lives until the call returns.
    unsafe { t.host_call(SYS_sendmsg, [sx(a[0]), (&raw const m.hdr) as u64, a[2] as u64, 0, 0, 0]) }
}

pub fn recvmsg(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut g: MsgHdr32 = t.memory().read(a[1])?;
    let mut m = host_message(t, &g, true)?;
    // SAFETY: the message lives until the call returns.
    let n = unsafe { t.host_call(SYS_recvmsg, [sx(a[0]), (&raw mut m.hdr) as u64, a[2] as u64, 0, 0, 0]) }?;
    write_back(t, a[1], &mut g, &m)?;
    Ok(n)
}

/// The kernel's bound on messages in one call.
const UIO_MAXIOV: u32 = 1024;

fn host_messages(t: &Task, addr: u32, count: u32, receive: bool) -> Result<(Vec<MmsgHdr32>, Vec<Message>, Vec<mmsghdr>), Errno> {
    let guest: Vec<MmsgHdr32> = t.memory().read_vec(addr, count.min(UIO_MAXIOV) as usize)?;
    let messages = guest.iter().map(|g| host_message(t, &g.hdr, receive)).collect::<Result<Vec<_>, _>>()?;
    let headers = messages.iter().map(|m| mmsghdr { msg_hdr: m.hdr, msg_len: 0 }).collect();
    Ok((guest, messages, headers))
}

pub fn sendmmsg(t: &mut Task, a: [u32; 6]) -> Ret {
    let (guest, _messages, mut headers) = host_messages(t, a[1], a[2], false)?;
    let args = [sx(a[0]), headers.as_mut_ptr() as u64, headers.len() as u64, a[3] as u64, 0, 0];
    // SAFETY: headers and messages live until the call returns.
    let n = unsafe { t.host_call(SYS_sendmmsg, args) }?;
    for i in 0..n as usize {
        let back = MmsgHdr32 { len: headers[i].msg_len, ..guest[i] };
        t.memory().write(a[1].wrapping_add((i * size_of::<MmsgHdr32>()) as u32), back)?;
    }
    Ok(n)
}

fn receive_many(t: &mut Task, a: [u32; 6], mut timeout: Option<timespec>) -> Result<(u32, Option<timespec>), Errno> {
    let (mut guest, mut messages, mut headers) = host_messages(t, a[1], a[2], true)?;
    let timeout_at = timeout.as_mut().map_or(0, |ts| (&raw mut *ts) as u64);
    let args = [sx(a[0]), headers.as_mut_ptr() as u64, headers.len() as u64, a[3] as u64, timeout_at, 0];
    // SAFETY: headers, messages and timeout live until the call returns.
    let n = unsafe { t.host_call(SYS_recvmmsg, args) }?;
    for i in 0..n as usize {
        messages[i].hdr = headers[i].msg_hdr;
        let at = a[1].wrapping_add((i * size_of::<MmsgHdr32>()) as u32);
        write_back(t, at, &mut guest[i].hdr, &messages[i])?;
        t.memory().write(at.wrapping_add(size_of::<MsgHdr32>() as u32), headers[i].msg_len)?;
    }
    Ok((n, timeout))
}

pub fn recvmmsg(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = super::time::read_timespec(t, a[4])?;
    let (n, left) = receive_many(t, a, timeout)?;
    if let Some(left) = left {
        t.memory().write(a[4], Timespec32 { sec: left.tv_sec as i32, nsec: left.tv_nsec as i32 })?;
    }
    Ok(n)
}

pub fn recvmmsg_time64(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = match a[4] {
        0 => None,
        at => {
            let g: Timespec64 = t.memory().read(at)?;
            Some(timespec { tv_sec: g.sec, tv_nsec: g.nsec as u32 as i64 })
        }
    };
    let (n, left) = receive_many(t, a, timeout)?;
    if let Some(left) = left {
        t.memory().write(a[4], Timespec64 { sec: left.tv_sec, nsec: left.tv_nsec })?;
    }
    Ok(n)
}

// ---- options --------------------------------------------------------------------------------------------------------

/// Options of IP and IPv6 whose structures hold a socket address behind a number: 4 bytes of padding on 64-bit hosts.
const MCAST_OPTIONS: std::ops::RangeInclusive<i32> = 42..=47;

pub fn setsockopt(t: &mut Task, a: [u32; 6]) -> Ret {
    let (level, option, len) = (a[1] as i32, a[2] as i32, a[4]);
    let call = |t: &mut Task, value: &[u8]| {
        let args = [sx(a[0]), sx(a[1]), sx(a[2]), value.as_ptr() as u64, value.len() as u64, 0];
        // SAFETY: the value lives until the call returns.
        unsafe { t.host_call(SYS_setsockopt, args) }
    };
    match (level, option) {
        (SOL_SOCKET, SO_RCVTIMEO_OLD | SO_SNDTIMEO_OLD) => {
            if len < 8 {
                return Err(errno::EINVAL);
            }
            let g: Timeval32 = t.memory().read(a[3])?;
            let value = [(g.sec as i64).to_le_bytes(), (g.usec as i64).to_le_bytes()].concat();
            call(t, &value)
        }
        (SOL_SOCKET, SO_ATTACH_FILTER | SO_ATTACH_REUSEPORT_CBPF) => {
            if len as usize != size_of::<Fprog32>() {
                return Err(errno::EINVAL);
            }
            let g: Fprog32 = t.memory().read(a[3])?;
            let value = [(g.len as u64).to_le_bytes(), t.memory().input(g.filter).to_le_bytes()].concat();
            call(t, &value)
        }
        // Its structure holds an address.
        (SOL_XDP, XDP_UMEM_REG) => Err(errno::ENOPROTOOPT),
        (IPPROTO_IP | IPPROTO_IPV6, o) if MCAST_OPTIONS.contains(&o) => {
            let g: Vec<u8> = t.memory().read_vec(a[3], (len as usize).min(4096))?;
            let value = if g.len() >= 4 { [&g[..4], &[0; 4], &g[4..]].concat() } else { g };
            call(t, &value)
        }
        _ => {
            let args = [sx(a[0]), sx(a[1]), sx(a[2]), t.memory().input(a[3]), len as u64, 0];
            // SAFETY: guest memory of the same layout.
            unsafe { t.host_call(SYS_setsockopt, args) }
        }
    }
}

/// Receives into addresses that a structure names.
const TCP_ZEROCOPY_RECEIVE: i32 = 35;

pub fn getsockopt(t: &mut Task, a: [u32; 6]) -> Ret {
    let (level, option) = (a[1] as i32, a[2] as i32);
    if level == SOL_SOCKET && matches!(option, SO_RCVTIMEO_OLD | SO_SNDTIMEO_OLD) {
        let (mut value, mut len) = ([0i64; 2], 16u32);
        let args = [sx(a[0]), sx(a[1]), sx(a[2]), value.as_mut_ptr() as u64, (&raw mut len) as u64, 0];
        // SAFETY: value and length live until the call returns.
        unsafe { t.host_call(SYS_getsockopt, args) }?;
        let g = [(value[0] as i32).to_le_bytes(), (value[1] as i32).to_le_bytes()].concat();
        let room: u32 = t.memory().read(a[4])?;
        let n = room.min(8);
        t.memory().write_bytes(a[3], &g[..n as usize])?;
        t.memory().write(a[4], n)?;
        return Ok(0);
    }
    if (level, option) == (IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE) {
        // Its structure holds addresses.
        return Err(errno::ENOPROTOOPT);
    }
    let room: u32 = if a[4] != 0 { t.memory().read(a[4])? } else { 0 };
    let m = t.memory();
    let args = [sx(a[0]), sx(a[1]), sx(a[2]), m.out(a[3], room.min(1 << 20)), m.out(a[4], 4), 0];
    // SAFETY: guest memory of the same layout.
    unsafe { t.host_call(SYS_getsockopt, args) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest_message(kind: i32, data: &[u8]) -> Vec<u8> {
        let mut m = (12 + data.len() as u32).to_le_bytes().to_vec();
        m.extend(SOL_SOCKET.to_le_bytes());
        m.extend(kind.to_le_bytes());
        m.extend(data);
        m.resize(m.len().next_multiple_of(4), 0);
        m
    }

    #[test]
    fn ancillary_data_round_trips() {
        let g = [guest_message(SCM_RIGHTS, &[1, 0, 0, 0]), guest_message(SCM_CREDENTIALS, &[7; 12])].concat();
        let h = host_control(&g).unwrap();
        assert_eq!(h.len(), 24 + 32);
        let (back, truncated) = guest_control(&h, 100);
        assert_eq!((back, truncated), (g, false));
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let h = host_control(&guest_message(SCM_CREDENTIALS, &[7; 12])).unwrap();
        let (back, truncated) = guest_control(&h, 20);
        assert!(truncated);
        assert_eq!(back.len(), 20);
        assert!(guest_control(&h, 8).0.is_empty());
    }

    #[test]
    fn times_shrink() {
        let h = {
            let mut data = 5i64.to_le_bytes().to_vec();
            data.extend(6i64.to_le_bytes());
            host_control(&guest_message(SCM_TIMESTAMP_OLD, &data)).unwrap()
        };
        let (back, _) = guest_control(&h, 100);
        assert_eq!(back, guest_message(SCM_TIMESTAMP_OLD, &[5, 0, 0, 0, 6, 0, 0, 0]));
    }

    #[test]
    fn bad_lengths_are_refused() {
        assert!(host_control(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(parse_control(&[0xff; 40]).is_empty());
    }
}
