//! ioctl: one row per request, saying what its argument is. Requests that no row knows give ENOTTY, with an `unimp` event.
//!
//! The numbers are the same on ARM and x86 but for requests whose size is part of the number and differs (a `long` or a
//! pointer inside).

use super::sx;
use crate::errno::{self, Errno, Ret};
use crate::log;
use crate::memory::abi_struct;
use crate::task::Task;
use libc::*;

/// What the argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arg {
    /// Nothing, or a number.
    Number,
    /// Address of so many bytes that the kernel reads, of the same layout.
    In,
    /// Address of so many bytes that the kernel writes.
    Out(u32),
    /// struct ifreq, whose union is 8 bytes longer on the host.
    IfReq,
    /// struct ifreq with an address of more data.
    IfReqData,
    IfConf,
    /// A `long` that the kernel writes; the host's request has another number.
    LongOut(u64),
    /// A 64-bit number that the kernel writes; the host's request has another number.
    WordOut(u64),
    /// struct rtentry
    Route,
    /// struct loop_info, which the kernel reads or writes, and which has a long form without a `long`.
    LoopSet,
    LoopGet,
    /// Of a seccomp filter's listener: what it reads and what it answers.
    Notification,
    Answer,
    /// struct procmap_query, of a file of /proc that we make.
    MapQuery,
}

struct Row {
    request: u32,
    name: &'static str,
    arg: Arg,
}

macro_rules! ioctls {
    ($($request:literal $name:ident $arg:expr;)*) => {
        static ROWS: &[Row] = {
            use Arg::*;
            &[$(Row { request: $request, name: stringify!($name), arg: $arg },)*]
        };
    };
}

ioctls! {
    // Terminals.
    0x5401 TCGETS Out(36);
    0x5402 TCSETS In;
    0x5403 TCSETSW In;
    0x5404 TCSETSF In;
    0x5405 TCGETA Out(18);
    0x5406 TCSETA In;
    0x5407 TCSETAW In;
    0x5408 TCSETAF In;
    0x5409 TCSBRK Number;
    0x540a TCXONC Number;
    0x540b TCFLSH Number;
    0x540c TIOCEXCL Number;
    0x540d TIOCNXCL Number;
    0x540e TIOCSCTTY Number;
    0x540f TIOCGPGRP Out(4);
    0x5410 TIOCSPGRP In;
    0x5411 TIOCOUTQ Out(4);
    0x5412 TIOCSTI In;
    0x5413 TIOCGWINSZ Out(8);
    0x5414 TIOCSWINSZ In;
    0x5415 TIOCMGET Out(4);
    0x5416 TIOCMBIS In;
    0x5417 TIOCMBIC In;
    0x5418 TIOCMSET In;
    0x5419 TIOCGSOFTCAR Out(4);
    0x541a TIOCSSOFTCAR In;
    0x541b FIONREAD Out(4);
    0x541d TIOCCONS Number;
    0x5420 TIOCPKT In;
    0x5421 FIONBIO In;
    0x5422 TIOCNOTTY Number;
    0x5423 TIOCSETD In;
    0x5424 TIOCGETD Out(4);
    0x5425 TCSBRKP Number;
    0x5427 TIOCSBRK Number;
    0x5428 TIOCCBRK Number;
    0x5429 TIOCGSID Out(4);
    0x5450 FIONCLEX Number;
    0x5451 FIOCLEX Number;
    0x5452 FIOASYNC In;
    0x545e FIOQSIZE Out(8);
    0x80045430 TIOCGPTN Out(4);
    0x40045431 TIOCSPTLCK In;
    0x80045432 TIOCGDEV Out(4);
    0x40045436 TIOCSIG Number;
    0x80045438 TIOCGPKT Out(4);
    0x80045439 TIOCGPTLCK Out(4);
    0x80045440 TIOCGEXCL Out(4);
    0x5441 TIOCGPTPEER Number;
    0x802c542a TCGETS2 Out(44);
    0x402c542b TCSETS2 In;
    0x402c542c TCSETSW2 In;
    0x402c542d TCSETSF2 In;
    // The console.
    0x4b32 KDSETLED Number;
    0x4b31 KDGETLED Out(1);
    0x4b33 KDGKBTYPE Out(1);
    0x4b3a KDSETMODE Number;
    0x4b3b KDGETMODE Out(4);
    0x4b44 KDGKBMODE Out(4);
    0x4b45 KDSKBMODE Number;
    0x4b2f KIOCSOUND Number;
    0x4b30 KDMKTONE Number;
    0x5600 VT_OPENQRY Out(4);
    0x5603 VT_GETSTATE Out(6);
    0x5606 VT_ACTIVATE Number;
    0x5607 VT_WAITACTIVE Number;
    0x5608 VT_DISALLOCATE Number;
    // Sockets and interfaces.
    0x8901 FIOSETOWN In;
    0x8902 SIOCSPGRP In;
    0x8903 FIOGETOWN Out(4);
    0x8904 SIOCGPGRP Out(4);
    0x8905 SIOCATMARK Out(4);
    0x890b SIOCADDRT Route;
    0x890c SIOCDELRT Route;
    0x8910 SIOCGIFNAME IfReq;
    0x8912 SIOCGIFCONF IfConf;
    0x8913 SIOCGIFFLAGS IfReq;
    0x8914 SIOCSIFFLAGS IfReq;
    0x8915 SIOCGIFADDR IfReq;
    0x8916 SIOCSIFADDR IfReq;
    0x8917 SIOCGIFDSTADDR IfReq;
    0x8918 SIOCSIFDSTADDR IfReq;
    0x8919 SIOCGIFBRDADDR IfReq;
    0x891a SIOCSIFBRDADDR IfReq;
    0x891b SIOCGIFNETMASK IfReq;
    0x891c SIOCSIFNETMASK IfReq;
    0x891d SIOCGIFMETRIC IfReq;
    0x891e SIOCSIFMETRIC IfReq;
    0x8921 SIOCGIFMTU IfReq;
    0x8922 SIOCSIFMTU IfReq;
    0x8923 SIOCSIFNAME IfReq;
    0x8924 SIOCSIFHWADDR IfReq;
    0x8927 SIOCGIFHWADDR IfReq;
    0x8931 SIOCADDMULTI IfReq;
    0x8932 SIOCDELMULTI IfReq;
    0x8933 SIOCGIFINDEX IfReq;
    0x8942 SIOCGIFTXQLEN IfReq;
    0x8943 SIOCSIFTXQLEN IfReq;
    0x8946 SIOCETHTOOL IfReqData;
    0x8947 SIOCGMIIPHY IfReq;
    0x8948 SIOCGMIIREG IfReq;
    0x89a0 SIOCBRADDBR In;
    0x89a1 SIOCBRDELBR In;
    0x89a2 SIOCBRADDIF IfReq;
    0x89a3 SIOCBRDELIF IfReq;
    0x8953 SIOCDARP In;
    0x8954 SIOCGARP Out(68);
    0x8955 SIOCSARP In;
    // Tunnels.
    0x400454c8 TUNSETNOCSUM Number;
    0x400454ca TUNSETIFF IfReq;
    0x400454cb TUNSETPERSIST Number;
    0x400454cc TUNSETOWNER Number;
    0x400454cd TUNSETLINK Number;
    0x400454ce TUNSETGROUP Number;
    0x800454cf TUNGETFEATURES Out(4);
    0x400454d0 TUNSETOFFLOAD Number;
    0x800454d2 TUNGETIFF IfReq;
    0x800454d3 TUNGETSNDBUF Out(4);
    0x400454d4 TUNSETSNDBUF In;
    0x800454d7 TUNGETVNETHDRSZ Out(4);
    0x400454d8 TUNSETVNETHDRSZ In;
    0x400454d9 TUNSETQUEUE IfReq;
    // Block devices.
    0x125d BLKROSET In;
    0x125e BLKROGET Out(4);
    0x125f BLKRRPART Number;
    0x1260 BLKGETSIZE LongOut(0x1260);
    0x1261 BLKFLSBUF Number;
    0x1262 BLKRASET Number;
    0x1263 BLKRAGET LongOut(0x1263);
    0x1264 BLKFRASET Number;
    0x1265 BLKFRAGET LongOut(0x1265);
    0x1267 BLKSECTGET Out(2);
    0x1268 BLKSSZGET Out(4);
    0x80041270 BLKBSZGET WordOut(0x80081270);
    0x80041272 BLKGETSIZE64 WordOut(0x80081272);
    0x1277 BLKDISCARD In;
    0x1278 BLKIOMIN Out(4);
    0x1279 BLKIOOPT Out(4);
    0x127a BLKALIGNOFF Out(4);
    0x127b BLKPBSZGET Out(4);
    0x127c BLKDISCARDZEROES Out(4);
    0x127d BLKSECDISCARD In;
    0x127e BLKROTATIONAL Out(2);
    0x127f BLKZEROOUT In;
    0x5331 CDROM_SET_OPTIONS_PROBE Number;
    0x5320 CDROM_SET_OPTIONS Number;
    0x5326 CDROM_DRIVE_STATUS Number;
    // Loop devices.
    0x4c00 LOOP_SET_FD Number;
    0x4c01 LOOP_CLR_FD Number;
    0x4c02 LOOP_SET_STATUS LoopSet;
    0x4c03 LOOP_GET_STATUS LoopGet;
    0x4c04 LOOP_SET_STATUS64 In;
    0x4c05 LOOP_GET_STATUS64 Out(232);
    0x4c06 LOOP_CHANGE_FD Number;
    0x4c07 LOOP_SET_CAPACITY Number;
    0x4c08 LOOP_SET_DIRECT_IO Number;
    0x4c09 LOOP_SET_BLOCK_SIZE Number;
    0x4c0a LOOP_CONFIGURE In;
    0x4c80 LOOP_CTL_ADD Number;
    0x4c81 LOOP_CTL_REMOVE Number;
    0x4c82 LOOP_CTL_GET_FREE Number;
    // File systems.
    0x0001 FIBMAP Out(4);
    0x0002 FIGETBSZ Out(4);
    0xc0045877 FIFREEZE Number;
    0xc0045878 FITHAW Number;
    0xc0185879 FITRIM Out(24);
    0x40049409 FICLONE Number;
    0x4020940d FICLONERANGE In;
    0xc0189436 FIDEDUPERANGE Out(4096);
    0xc020660b FS_IOC_FIEMAP Out(65536);
    0x80046601 FS_IOC_GETFLAGS LongOut(0x80086601);
    0x40046602 FS_IOC_SETFLAGS In;
    0x80047601 FS_IOC_GETVERSION LongOut(0x80087601);
    0x801c581f FS_IOC_FSGETXATTR Out(28);
    0x401c5820 FS_IOC_FSSETXATTR In;
    0x81009431 FS_IOC_GETFSLABEL Out(256);
    0x41009432 FS_IOC_SETFSLABEL In;
    0x800c6613 FS_IOC_SET_ENCRYPTION_POLICY In;
    // Namespaces, process descriptors, epoll.
    0xb701 NS_GET_USERNS Number;
    0xb702 NS_GET_PARENT Number;
    0xb703 NS_GET_NSTYPE Number;
    0xb704 NS_GET_OWNER_UID Out(4);
    0x8008b705 NS_GET_MNTNS_ID Out(8);
    0x8004b706 NS_GET_PID_FROM_PIDNS Number;
    0x8004b707 NS_GET_TGID_FROM_PIDNS Number;
    0x8004b708 NS_GET_PID_IN_PIDNS Number;
    0x8004b709 NS_GET_TGID_IN_PIDNS Number;
    0x8010b70a NS_MNT_GET_INFO Out(16);
    0x8010b70b NS_MNT_GET_NEXT Out(16);
    0x8010b70c NS_MNT_GET_PREV Out(16);
    0x8008b70d NS_GET_ID Out(8);
    0xff01 PIDFD_GET_CGROUP_NAMESPACE Number;
    0xff02 PIDFD_GET_IPC_NAMESPACE Number;
    0xff03 PIDFD_GET_MNT_NAMESPACE Number;
    0xff04 PIDFD_GET_NET_NAMESPACE Number;
    0xff05 PIDFD_GET_PID_NAMESPACE Number;
    0xff06 PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE Number;
    0xff07 PIDFD_GET_TIME_NAMESPACE Number;
    0xff08 PIDFD_GET_TIME_FOR_CHILDREN_NAMESPACE Number;
    0xff09 PIDFD_GET_USER_NAMESPACE Number;
    0xff0a PIDFD_GET_UTS_NAMESPACE Number;
    // /proc/self/maps.
    0xc0686611 PROCMAP_QUERY MapQuery;
    // seccomp's listeners.
    0xc0502100 SECCOMP_IOCTL_NOTIF_RECV Notification;
    0xc0182101 SECCOMP_IOCTL_NOTIF_SEND Answer;
    0x40082102 SECCOMP_IOCTL_NOTIF_ID_VALID In;
    0x80082102 SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR In;
    0x40182103 SECCOMP_IOCTL_NOTIF_ADDFD In;
    0x40082104 SECCOMP_IOCTL_NOTIF_SET_FLAGS In;
    // Performance events.
    0x2400 PERF_EVENT_IOC_ENABLE Number;
    0x2401 PERF_EVENT_IOC_DISABLE Number;
    0x2402 PERF_EVENT_IOC_REFRESH Number;
    0x2403 PERF_EVENT_IOC_RESET Number;
    0x40082404 PERF_EVENT_IOC_PERIOD In;
    0x2405 PERF_EVENT_IOC_SET_OUTPUT Number;
    0x80042407 PERF_EVENT_IOC_ID WordOut(0x80082407);
    0x40042409 PERF_EVENT_IOC_PAUSE_OUTPUT Number;
    // Random numbers, clocks, watchdogs, sound mixer, input.
    0x80045200 RNDGETENTCNT Out(4);
    0x40045201 RNDADDTOENTCNT In;
    0x40085203 RNDADDENTROPY In;
    0x5204 RNDZAPENTCNT Number;
    0x5206 RNDCLEARPOOL Number;
    0x5207 RNDRESEEDCRNG Number;
    0x7001 RTC_AIE_ON Number;
    0x7002 RTC_AIE_OFF Number;
    0x7003 RTC_UIE_ON Number;
    0x7004 RTC_UIE_OFF Number;
    0x7005 RTC_PIE_ON Number;
    0x7006 RTC_PIE_OFF Number;
    0x80247009 RTC_RD_TIME Out(36);
    0x4024700a RTC_SET_TIME In;
    0x40247007 RTC_ALM_SET In;
    0x80247008 RTC_ALM_READ Out(36);
    0x8028700f RTC_WKALM_SET In;
    0x80287010 RTC_WKALM_RD Out(40);
    0x80285700 WDIOC_GETSUPPORT Out(40);
    0x80045701 WDIOC_GETSTATUS Out(4);
    0x80045705 WDIOC_KEEPALIVE Number;
    0xc0045706 WDIOC_SETTIMEOUT Out(4);
    0x80045707 WDIOC_GETTIMEOUT Out(4);
    0x80044501 EVIOCGVERSION Out(4);
    0x80084502 EVIOCGID Out(8);
    0x40044590 EVIOCGRAB Number;
}

const IFREQ_GUEST: usize = 32;
const IFREQ_HOST: usize = 40;
const IFNAME: usize = 16;
/// No list of interfaces is longer.
const MAX_IFCONF: usize = 1 << 16;

/// The name of a request, for `-strace`.
pub fn name(request: u32) -> Option<&'static str> {
    ROWS.iter().find(|r| r.request == request).map(|r| r.name)
}

fn host(t: &Task, fd: u32, request: u64, argument: u64) -> Ret {
    // SAFETY: the argument is a number, guest memory of the same layout, or a structure that the caller keeps.
    unsafe { t.host_call(SYS_ioctl, [sx(fd), request, argument, 0, 0, 0]) }
}

pub fn ioctl(t: &mut Task, a: [u32; 6]) -> Ret {
    let [fd, request, argument, ..] = a;
    let Some(row) = ROWS.iter().find(|r| r.request == request) else { return unknown(t, a) };
    let m = t.memory();
    match row.arg {
        Arg::Number => host(t, fd, request as u64, argument as u64),
        Arg::In => host(t, fd, host_number(request), m.input(argument)),
        Arg::Out(bytes) => host(t, fd, request as u64, m.out(argument, bytes)),
        Arg::IfReq => interface_request(t, a, false),
        Arg::IfReqData => interface_request(t, a, true),
        Arg::IfConf => interface_list(t, a),
        Arg::LongOut(number) => {
            let mut v = 0u64;
            let r = host(t, fd, number, (&raw mut v) as u64)?;
            t.memory().write(argument, v as u32)?;
            Ok(r)
        }
        Arg::WordOut(number) => {
            let mut v = 0u64;
            let r = host(t, fd, number, (&raw mut v) as u64)?;
            match number {
                // A size_t of 32 bits holds an int here.
                0x8008_1270 => t.memory().write(argument, v as u32)?,
                _ => t.memory().write(argument, v)?,
            }
            Ok(r)
        }
        Arg::Route => route(t, a),
        Arg::Notification => t.receive_notification(fd, request, argument),
        Arg::Answer => t.answer_notification(fd, request, argument),
        Arg::MapQuery if t.fds.is_maps(fd as i32) => super::mapquery::query(t, argument),
        Arg::MapQuery => unknown(t, a),
        Arg::LoopSet => {
            let short: LoopInfo = t.memory().read(argument)?;
            let long = LoopInfo64::from(&short);
            host(t, fd, LOOP_SET_STATUS64, (&raw const long) as u64)
        }
        Arg::LoopGet => {
            let mut long = LoopInfo64::zeroed();
            let r = host(t, fd, LOOP_GET_STATUS64, (&raw mut long) as u64)?;
            t.memory().write(argument, LoopInfo::try_from(&long)?)?;
            Ok(r)
        }
    }
}

/// Requests with a `long` in their number that the kernel only reads as an int.
fn host_number(request: u32) -> u64 {
    match request {
        0x4004_6602 => 0x4008_6602,
        _ => request as u64,
    }
}

/// Families of requests whose structures have neither pointers nor longs pass by the size in their number.
fn unknown(t: &mut Task, a: [u32; 6]) -> Ret {
    let [fd, request, argument, ..] = a;
    let (kind, size) = (request >> 8 & 0xff, request >> 16 & 0x3fff);
    let writes = request >> 31 & 1 != 0;
    /// Input devices, process descriptors.
    const FAMILIES: [u32; 2] = [b'E' as u32, 0xff];
    // EVIOCGMASK and EVIOCSMASK have an address inside, the effects of force feedback (EVIOCSFF) another length.
    let translated = kind == b'E' as u32 && matches!(request & 0xff, 0x80 | 0x92 | 0x93);
    if FAMILIES.contains(&kind) && size != 0 && !translated {
        let m = t.memory();
        let at = if writes { m.out(argument, size) } else { m.input(argument) };
        return host(t, fd, request as u64, at);
    }
    if log::on(log::UNIMP) {
        log::write(&format!("Unsupported ioctl: cmd={request:#06x}\n"));
    }
    // A descriptor that is none is told apart all the same.
    // SAFETY: asks for flags only.
    if unsafe { fcntl(fd as i32, F_GETFD) } < 0 { Err(errno::EBADF) } else { Err(errno::ENOTTY) }
}

fn interface_request(t: &mut Task, a: [u32; 6], data: bool) -> Ret {
    let mut raw = [0u8; IFREQ_HOST];
    t.memory().read_bytes(a[2], &mut raw[..IFREQ_GUEST])?;
    let guest_data = u32::from_le_bytes(raw[IFNAME..IFNAME + 4].try_into().expect("four bytes"));
    if data {
        // What ethtool's requests point to is guest memory, as long as the request says; a page is the longest common one.
        let at = t.memory().out(guest_data, 4096);
        raw[IFNAME..IFNAME + 8].copy_from_slice(&at.to_le_bytes());
    }
    let r = host(t, a[0], a[1] as u64, raw.as_mut_ptr() as u64)?;
    if data {
        raw[IFNAME..IFNAME + 4].copy_from_slice(&guest_data.to_le_bytes());
    }
    t.memory().write_bytes(a[2], &raw[..IFREQ_GUEST])?;
    Ok(r)
}

fn interface_list(t: &mut Task, a: [u32; 6]) -> Ret {
    let [len, buffer]: [i32; 2] = t.memory().read(a[2])?;
    let count = (len.max(0) as usize / IFREQ_GUEST).min(MAX_IFCONF / IFREQ_HOST);
    let mut list = vec![0u8; if buffer == 0 { 0 } else { count * IFREQ_HOST }];
    let at = if buffer == 0 { 0 } else { list.as_mut_ptr() as u64 };
    let mut conf = [list.len() as u64, at];
    let r = host(t, a[0], a[1] as u64, conf.as_mut_ptr() as u64)?;
    let got = (conf[0] as u32 as usize) / IFREQ_HOST;
    if buffer != 0 {
        for (i, entry) in list.chunks_exact(IFREQ_HOST).take(got).enumerate() {
            t.memory().write_bytes((buffer as u32).wrapping_add((i * IFREQ_GUEST) as u32), &entry[..IFREQ_GUEST])?;
        }
    }
    t.memory().write(a[2], (got * IFREQ_GUEST) as u32)?;
    Ok(r)
}

/// struct rtentry: a long in front, a pointer to the device's name behind.
fn route(t: &mut Task, a: [u32; 6]) -> Ret {
    const GUEST: usize = 84;
    let mut g = [0u8; GUEST];
    t.memory().read_bytes(a[2], &mut g)?;
    let word = |o: usize| u32::from_le_bytes(g[o..o + 4].try_into().expect("four bytes"));
    let mut h = [0u8; 120];
    // Three addresses follow the first long, then flags and padding.
    h[8..56].copy_from_slice(&g[4..52]);
    h[56..60].copy_from_slice(&g[52..56]);
    // pad2 (long), pad3 (pointer), tos, class, pad4[3], metric
    h[64..72].copy_from_slice(&(word(56) as u64).to_le_bytes());
    h[72..74].copy_from_slice(&g[64..66]);
    h[80..82].copy_from_slice(&g[66..68]);
    let device = t.memory().input(word(68));
    h[88..96].copy_from_slice(&device.to_le_bytes());
    for (i, o) in [72, 76].into_iter().enumerate() {
        h[96 + 8 * i..104 + 8 * i].copy_from_slice(&(word(o) as u64).to_le_bytes());
    }
    h[112..114].copy_from_slice(&g[80..82]);
    host(t, a[0], a[1] as u64, h.as_ptr() as u64)
}

const LOOP_SET_STATUS64: u64 = 0x4c04;
const LOOP_GET_STATUS64: u64 = 0x4c05;
/// The name in `struct loop_info` is that of the cipher.
const LO_CRYPT_CRYPTOAPI: u32 = 18;

abi_struct! {
    /// struct loop_info (EABI)
    LoopInfo 140 {
        number: i32, device: u16, pad0: u16, inode: u32, rdevice: u16, pad1: u16, offset: i32, encrypt_type: u32, key_size: u32,
        flags: u32, name: [[u8; 32]; 2], key: [u8; 32], init: [u32; 2], reserved: [u8; 4],
    }
    /// struct loop_info64
    LoopInfo64 232 {
        device: u64, inode: u64, rdevice: u64, offset: u64, size_limit: u64, number: u32, encrypt_type: u32, key_size: u32,
        flags: u32, file_name: [[u8; 32]; 2], crypt_name: [[u8; 32]; 2], key: [u8; 32], init: [u64; 2],
    }
}

impl From<&LoopInfo> for LoopInfo64 {
    fn from(i: &LoopInfo) -> LoopInfo64 {
        let cipher = i.encrypt_type == LO_CRYPT_CRYPTOAPI;
        let none = [[0; 32]; 2];
        LoopInfo64 {
            device: i.device.into(),
            inode: i.inode.into(),
            rdevice: i.rdevice.into(),
            offset: i.offset as u64,
            size_limit: 0,
            number: i.number as u32,
            encrypt_type: i.encrypt_type,
            key_size: i.key_size,
            flags: i.flags,
            file_name: if cipher { none } else { i.name },
            crypt_name: if cipher { i.name } else { none },
            key: i.key,
            init: i.init.map(u64::from),
        }
    }
}

/// EOVERFLOW where the short form has no room, as the kernel says.
impl TryFrom<&LoopInfo64> for LoopInfo {
    type Error = Errno;

    fn try_from(i: &LoopInfo64) -> Result<LoopInfo, Errno> {
        let too_large = |_| errno::EOVERFLOW;
        let cipher = i.encrypt_type == LO_CRYPT_CRYPTOAPI;
        Ok(LoopInfo {
            number: i.number as i32,
            device: u16::try_from(i.device).map_err(too_large)?,
            pad0: 0,
            inode: u32::try_from(i.inode).map_err(too_large)?,
            rdevice: u16::try_from(i.rdevice).map_err(too_large)?,
            pad1: 0,
            offset: i32::try_from(i.offset).map_err(too_large)?,
            encrypt_type: i.encrypt_type,
            key_size: i.key_size,
            flags: i.flags,
            name: if cipher { i.crypt_name } else { i.file_name },
            key: i.key,
            init: i.init.map(|v| v as u32),
            reserved: [0; 4],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loop_devices_in_both_forms() {
        let short = LoopInfo {
            number: 3,
            offset: 4096,
            flags: 5,
            name: [[b'n'; 32], [0; 32]],
            init: [1, 2],
            ..LoopInfo::zeroed()
        };
        let long = LoopInfo64::from(&short);
        assert_eq!((long.offset, long.flags, long.file_name[0][0], long.crypt_name[0][0]), (4096, 5, b'n', 0));
        let back = LoopInfo::try_from(&long).unwrap();
        assert_eq!((back.number, back.offset, back.name[0][31], back.init), (3, 4096, b'n', [1, 2]));
        let cipher = LoopInfo64::from(&LoopInfo { encrypt_type: LO_CRYPT_CRYPTOAPI, ..short });
        assert_eq!((cipher.file_name[0][0], cipher.crypt_name[0][0]), (0, b'n'));
        assert_eq!(LoopInfo::try_from(&LoopInfo64 { offset: 1 << 31, ..long }).err(), Some(errno::EOVERFLOW));
    }

    #[test]
    fn no_request_has_two_rows() {
        for (i, r) in ROWS.iter().enumerate() {
            assert!(!ROWS[..i].iter().any(|o| o.request == r.request), "{}", r.name);
        }
        assert_eq!(name(0x5401), Some("TCGETS"));
        assert_eq!(name(0xffff), None);
    }
}
