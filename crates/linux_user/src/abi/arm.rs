//! What is ARM about a process: registers at system calls, signal frames, the kernel helper page, the entry state.
//!
//! **Reference.** Linux `arch/arm/include/asm/{sigcontext,ucontext}.h`, `Documentation/arm/kernel_user_helpers`; Procedure
//! Call Standard for the Arm Architecture.

use crate::errno::{self, Errno, Ret};
use crate::memory::{HELPER_PAGE, Memory, PAGE, abi_struct};
use crate::siginfo::SigInfo;
use arm::{Features, state};
use ir::State;
use spec::{Error, Result};

pub const SP: u32 = 13;
pub const LR: u32 = 14;

/// Instruction sequences at these offsets of the helper page call sigreturn and rt_sigreturn, in A32 and T32.
const TRAMPOLINES: u32 = 0x500;

#[inline]
pub fn reg(s: &State, n: u32) -> u32 {
    if n == 15 { state::read_pc(s) } else { s.u32_at(state::r(n)) }
}

#[inline]
pub fn set_reg(s: &mut State, n: u32, value: u32) {
    if n == 15 { state::write_pc(s, value) } else { s.set_u32(state::r(n), value) }
}

#[inline]
pub fn thumb(s: &State) -> bool {
    state::key::thumb(s.u64_at(ir::state::KEY))
}

/// Number and arguments of the system call that has trapped; `immediate` is the instruction's (OABI has the number there).
#[inline]
pub fn syscall(s: &State, immediate: u32) -> (u32, [u32; 6]) {
    /// OABI numbers begin here.
    const OABI: u32 = 0x90_0000;
    let number = if immediate == 0 || thumb(s) { reg(s, 7) } else { immediate ^ OABI };
    (number, std::array::from_fn(|i| reg(s, i as u32)))
}

/// The length of the SVC instruction before the current address.
#[inline]
pub fn svc_bytes(s: &State) -> u32 {
    if thumb(s) { 2 } else { 4 }
}

pub fn set_tls(s: &mut State, value: u32) {
    s.set_u32(state::TPIDRURO, value);
}

pub fn tls(s: &State) -> u32 {
    s.u32_at(state::TPIDRURO)
}

/// The state at the entry point.
pub fn start(s: &mut State, entry: u32, sp: u32) {
    set_reg(s, SP, sp);
    state::interwork(s, entry);
}

// ---- kernel helper page ---------------------------------------------------------------------------------------------

/// Maps the page at 0xffff0000: helper code (executed by the front end), helper version, sigreturn trampolines.
pub fn map_helper_page(memory: &Memory) -> Result<()> {
    let mut page = vec![0u8; PAGE as usize];
    let mut put = |at: u32, words: &[u32]| {
        for (i, w) in words.iter().enumerate() {
            page[at as usize + 4 * i..][..4].copy_from_slice(&w.to_le_bytes());
        }
    };
    put(TRAMPOLINES, &SIGRETURN_CODE);
    const BX_LR: u32 = 0xe12f_ff1e;
    // __kuser_cmpxchg64, __kuser_memory_barrier, __kuser_cmpxchg: the front end traps at their addresses.
    put(0xf60, &[BX_LR]);
    put(0xfa0, &[0xf57f_f05b, BX_LR]); // dmb ish
    put(0xfc0, &[BX_LR]);
    put(0xfe0, &[0xee1d_0f70, BX_LR]); // mrc p15, 0, r0, c13, c0, 3
    put(0xffc, &[5]);
    memory.map_kernel_page(HELPER_PAGE, &page).map_err(|e| Error::new(format!("Could not map the kernel helper page: {}", e.text())))
}

/// mov r7, #119; svc 0 (A32), the same in T32; then the same for rt_sigreturn (173).
const SIGRETURN_CODE: [u32; 6] = [0xe3a0_7077, 0xef00_0000, 0xdf00_2777, 0xe3a0_70ad, 0xef00_0000, 0xdf00_27ad];

/// __kuser_cmpxchg and __kuser_cmpxchg64 at the address given; EFAULT if the word cannot be accessed.
pub fn kernel_helper(s: &mut State, memory: &Memory, address: u32) -> Result<(), Errno> {
    let (old, new, ptr) = (reg(s, 0), reg(s, 1), reg(s, 2));
    let done = match address {
        0xffff_0fc0 => memory.compare_exchange(ptr, 4, old as u64, new as u64)? == old as u64,
        0xffff_0f60 => {
            let (old, new) = (memory.read::<u64>(old)?, memory.read::<u64>(new)?);
            memory.compare_exchange(ptr, 8, old, new)? == old
        }
        0xffff_0fe0 => {
            let tls = s.u32_at(state::TPIDRURO);
            set_reg(s, 0, tls);
            return_from_helper(s);
            return Ok(());
        }
        0xffff_0fa0 => {
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            return_from_helper(s);
            return Ok(());
        }
        _ => return Err(errno::ENOSYS),
    };
    set_reg(s, 0, !done as u32);
    let cpsr = state::read_cpsr(s) & !state::cpsr::C;
    state::write_cpsr(s, if done { cpsr | state::cpsr::C } else { cpsr });
    return_from_helper(s);
    Ok(())
}

fn return_from_helper(s: &mut State) {
    let lr = reg(s, LR);
    state::interwork(s, lr);
}

// ---- signal frames --------------------------------------------------------------------------------------------------

abi_struct! {
    /// struct sigcontext
    SigContext 84 {
        trap_no: u32, error_code: u32, oldmask: u32, r: [u32; 16], cpsr: u32, fault_address: u32,
    }
    /// stack_t
    AltStack 12 { sp: u32, flags: u32, size: u32, }
    /// struct ucontext
    UContext 744 {
        flags: u32, link: u32, stack: AltStack, mcontext: SigContext, sigmask: u64, unused: [u32; 30],
        vfp: VfpFrame, end_magic: [u32; 56],
    }
    /// struct vfp_sigframe
    VfpFrame 288 { magic: u32, size: u32, d: [u64; 32], fpscr: u32, pad: u32, exc: [u32; 3], tail: u32, }
    /// struct sigframe
    SigFrame 760 { uc: UContext, retcode: [u32; 4], }
    /// struct rt_sigframe
    RtSigFrame 888 { info: [u8; 128], sig: SigFrame, }
}

const VFP_MAGIC: u32 = 0x5646_5001;
const SS_DISABLE: u32 = 2;
/// sa_flags bits of the guest.
pub const SA_SIGINFO: u32 = 4;
pub const SA_RESTORER: u32 = 0x0400_0000;
/// Marks a frame without siginfo, for unwinders that tell the kinds apart.
const PLAIN_FRAME: u32 = 0x5ac3_c35a;

/// What a frame is made from.
pub struct FrameRequest<'a> {
    pub signal: u32,
    pub info: &'a SigInfo,
    pub handler: u32,
    pub flags: u32,
    pub restorer: u32,
    /// The mask that sigreturn restores.
    pub mask: u64,
    pub altstack: AltStack,
    /// Where the frame goes below: the stack pointer or the top of the alternate stack.
    pub sp: u32,
    pub fault: FaultContext,
}

/// What the last synchronous fault left for sigcontext.
#[derive(Clone, Copy, Default, Debug)]
pub struct FaultContext {
    pub trap_no: u32,
    pub error_code: u32,
    pub address: u32,
}

fn ucontext(s: &State, f: &FrameRequest) -> UContext {
    let mut uc = UContext::zeroed();
    uc.stack = f.altstack;
    uc.mcontext = SigContext {
        trap_no: f.fault.trap_no,
        error_code: f.fault.error_code,
        oldmask: f.mask as u32,
        r: std::array::from_fn(|i| reg(s, i as u32)),
        cpsr: state::read_cpsr(s),
        fault_address: f.fault.address,
    };
    uc.sigmask = f.mask;
    uc.vfp.magic = VFP_MAGIC;
    uc.vfp.size = size_of::<VfpFrame>() as u32;
    uc.vfp.d = std::array::from_fn(|i| s.u64_at(state::d(i as u32)));
    uc.vfp.fpscr = state::read_fpscr(s);
    uc.vfp.exc = [1 << 30, 0, 0]; // FPEXC.EN
    uc
}

/// Builds a frame and lets the guest continue in its handler.
pub fn push_frame(s: &mut State, memory: &Memory, f: &FrameRequest) -> Result<(), Errno> {
    let mut uc = ucontext(s, f);
    let with_info = f.flags & SA_SIGINFO != 0;
    let retcode_words: [u32; 4] = {
        let at = if with_info { 3 } else { 0 };
        [SIGRETURN_CODE[at], SIGRETURN_CODE[at + 1], SIGRETURN_CODE[at + 2], 0]
    };
    let to_thumb = f.handler & 1 != 0;
    let frame_bytes = if with_info { size_of::<RtSigFrame>() } else { size_of::<SigFrame>() } as u32;
    let at = f.sp.checked_sub(frame_bytes).ok_or(errno::EFAULT)? & !7;
    if with_info {
        let frame = RtSigFrame { info: f.info.to_guest(), sig: SigFrame { uc, retcode: retcode_words } };
        memory.write(at, frame)?;
    } else {
        uc.flags = PLAIN_FRAME;
        memory.write(at, SigFrame { uc, retcode: retcode_words })?;
    }
    let lr = if f.flags & SA_RESTORER != 0 {
        f.restorer
    } else {
        let index = if with_info { 3 } else { 0 } + if to_thumb { 2 } else { 0 };
        HELPER_PAGE + TRAMPOLINES + 4 * index + to_thumb as u32
    };
    set_reg(s, 0, f.signal);
    if with_info {
        set_reg(s, 1, at);
        set_reg(s, 2, at + std::mem::offset_of!(RtSigFrame, sig) as u32);
    }
    set_reg(s, SP, at);
    set_reg(s, LR, lr);
    state::write_cpsr(s, state::read_cpsr(s) & !(state::cpsr::IT | state::cpsr::E | state::cpsr::T));
    state::interwork(s, f.handler);
    Ok(())
}

/// Reads back what `push_frame` wrote (and what the handler made of it): mask and alternate stack.
pub fn pop_frame(s: &mut State, memory: &Memory, with_info: bool) -> Result<(u64, AltStack), Errno> {
    let at = reg(s, SP);
    if !at.is_multiple_of(8) {
        return Err(errno::EFAULT);
    }
    let skip = if with_info { std::mem::offset_of!(RtSigFrame, sig) as u32 } else { 0 };
    let uc: UContext = memory.read(at.checked_add(skip).ok_or(errno::EFAULT)?)?;
    for i in 0..15 {
        set_reg(s, i, uc.mcontext.r[i as usize]);
    }
    state::write_cpsr(s, uc.mcontext.cpsr);
    state::write_pc(s, uc.mcontext.r[15]);
    if uc.vfp.magic == VFP_MAGIC && uc.vfp.size == size_of::<VfpFrame>() as u32 {
        for (i, d) in uc.vfp.d.iter().enumerate() {
            s.set_u64(state::d(i as u32), *d);
        }
        // What a model without half precision or Advanced SIMD lacks was never set, unless the handler made it up.
        state::write_fpscr(s, Features::NEON.with(Features::FP16), uc.vfp.fpscr);
    }
    Ok((uc.sigmask, uc.stack))
}

/// Whether an alternate stack is switched off.
pub fn altstack_disabled(a: &AltStack) -> bool {
    a.size == 0 || a.flags & SS_DISABLE != 0
}

/// `uname -m` by architecture version, as the kernel names it.
pub fn machine(platform: &str) -> &'static str {
    match platform {
        "v4l" => "armv4tl",
        "v5l" => "armv5tejl",
        "v6l" => "armv6l",
        _ => "armv7l",
    }
}

/// A system call's result in r0.
#[inline]
pub fn set_result(s: &mut State, result: Ret) {
    let value = match result {
        Ok(v) => v,
        Err(Errno(e)) => e.wrapping_neg() as u32,
    };
    set_reg(s, 0, value);
}
