// A hypervisor with one guest: second-stage translation, traps, virtual interrupts. Started in Hyp mode (-kernel) with
// virtualization=on. Every line of output is a letter and a number, the same on every correct machine.
#include "machine.inc"
.equ GICH, 0x08030000
.equ TABLE, 0x40200000
_start:
  ldr sp,=STACK
  tell 'A', mrs r1,cpsr
  ldr r0,=vectors
  mcr p15,4,r0,c12,c0,0
  tell 'B', mrc p15,4,r1,c1,c1,0
  tell 'C', mrc p15,4,r1,c1,c1,1
  tell 'D', mrc p15,0,r1,c0,c1,1
  tell 'E', mrc p15,4,r1,c1,c0,0
  mvn r1,#0
  mcr p15,4,r1,c1,c1,0
  tell 'F', mrc p15,4,r1,c1,c1,0
  mov r1,#0
  mcr p15,4,r1,c1,c1,0
  mvn r1,#0
  mcr p15,4,r1,c1,c1,2
  tell 'G', mrc p15,4,r1,c1,c1,2
  mov r1,#0
  mcr p15,4,r1,c1,c1,2
  // Second stage: the first GiB as Device memory, the second as Normal; 0x8000_0000 by a table of 2 MiB blocks of which the
  // first is read-only, the second has no access flag, the rest is not there.
  ldr r2,=TABLE
  mov r3,#0
  ldr r1,=0x4c5
  str r1,[r2]
  str r3,[r2,#4]
  ldr r1,=0x400007fd
  str r1,[r2,#8]
  str r3,[r2,#12]
  ldr r1,=TABLE+0x1000+3
  str r1,[r2,#16]
  str r3,[r2,#20]
  str r3,[r2,#24]
  str r3,[r2,#28]
  add r2,r2,#0x1000
  ldr r1,=0x4040077d
  str r1,[r2]
  str r3,[r2,#4]
  ldr r1,=0x406003fd
  str r1,[r2,#8]
  str r3,[r2,#12]
  mov r4,#16
1: str r3,[r2,r4]
  add r4,r4,#4
  cmp r4,#0x1000
  blo 1b
  ldr r1,=0x80003540
  mcr p15,4,r1,c2,c1,2          // VTCR
  ldr r1,=TABLE
  mov r2,#0x00050000
  mcrr p15,6,r1,r2,c2           // VTTBR, VMID 5
  ldr r1,=0x00080001|1<<13|1<<5|1<<4|1<<3|1<<26
  mcr p15,4,r1,c1,c1,0          // HCR: VM, FMO, IMO, AMO, TWI, TSC, TVM
  mov r1,#1<<10
  mcr p15,4,r1,c1,c1,2          // HCPTR: TCP10
  mov r1,#1<<9
  mcr p15,4,r1,c1,c1,3          // HSTR: c9
  mov r1,#0
  mcr p15,4,r1,c14,c1,0         // CNTHCTL
  isb
  enter_guest

.align 5
vectors:
  b .
  b hyp_undef
  b hyp_svc
  b hyp_pabt
  b hyp_dabt
  b hyp_trap
  b hyp_irq
  b .
hyp_undef:
  push {r0,r1,lr}
  mov r0,#'H'
  b report
hyp_svc:
  push {r0,r1,lr}
  tell 'S', mrc p15,4,r1,c5,c2,0
  pop {r0,r1,lr}
  eret
hyp_pabt:
  push {r0,r1,lr}
  mov r0,#'P'
  b report
hyp_dabt:
  push {r0,r1,lr}
  mov r0,#'Q'
report:
  mrc p15,4,r1,c5,c2,0
  bl show
  step_over
  pop {r0,r1,lr}
  eret
hyp_trap:
  push {r0-r4,lr}
  mov r0,#'T'
  mrc p15,4,r1,c5,c2,0
  mov r4,r1,lsr #26
  bl show
  mov r0,#'l'
  mrs r1,elr_hyp
  ldr r2,=guest
  sub r1,r1,r2
  cmp r4,#0x20
  blne show
  cmp r4,#0x24
  bne 1f
  tell 'i', mrc p15,4,r1,c6,c0,4
  tell 'v', mrc p15,4,r1,c6,c0,0
1:cmp r4,#0x20
  bne 2f
  tell 'i', mrc p15,4,r1,c6,c0,4
  tell 'v', mrc p15,4,r1,c6,c0,2
  // The guest called: back to its caller.
  mrs r1,lr_svc
  msr elr_hyp,r1
  mrs r1,spsr
  tst r1,#0x20
  pop {r0-r4,lr}
  eret
2:cmp r4,#0x12
  beq hvc
  mrs r1,elr_hyp
  mrs r2,spsr
  tst r2,#0x20
  mrc p15,4,r3,c5,c2,0
  beq 3f
  tst r3,#1<<25
  subeq r1,r1,#2
3:add r1,r1,#4
  msr elr_hyp,r1
  pop {r0-r4,lr}
  eret
// HVC: the function is in r0.
hvc:
  pop {r0-r4,lr}
  cmp r0,#1
  beq hvc_floating
  cmp r0,#2
  beq hvc_virtual
  cmp r0,#3
  beq hvc_list
  cmp r0,#4
  beq hvc_translate
  cmp r0,#5
  beq hvc_status
  cmp r0,#9
  beq hvc_end
  eret
hvc_floating:
  push {r1}
  mov r1,#0
  mcr p15,4,r1,c1,c1,2
  pop {r1}
  eret
hvc_virtual:
  push {r1}
  mrc p15,4,r1,c1,c1,0
  eor r1,r1,#1<<7
  mcr p15,4,r1,c1,c1,0
  pop {r1}
  eret
hvc_list:
  push {r1,r2}
  ldr r2,=GICH
  mov r1,#5
  str r1,[r2]
  ldr r1,=0xf84c0001
  str r1,[r2,#8]
  ldr r1,=0x18080000+45
  str r1,[r2,#0x100]
  pop {r1,r2}
  eret
hvc_status:
  push {r0-r3,lr}
  ldr r3,=GICH
  tell 'h', ldr r1,[r3,#0x100]
  tell 'h', ldr r1,[r3,#0x10]
  tell 'h', ldr r1,[r3,#0x20]
  tell 'h', ldr r1,[r3,#0x30]
  // The end is told by the maintenance interrupt.
  ldr r2,=GICD
  tell 'h', ldr r1,[r2,#0x200]
  mov r1,#0
  str r1,[r3,#0x100]
  str r1,[r3]
  pop {r0-r3,lr}
  eret
hvc_translate:
  push {r0-r3,lr}
  ldr r3,=0x80000123
  mcr p15,0,r3,c7,c8,4          // ATS12NSOPR
  isb
  mrrc p15,0,r1,r2,c7
  mov r0,#'p'
  bl show
  tell 'p', mov r1,r2
  pop {r0-r3,lr}
  eret
hvc_end:
  // A few exceptions of Hyp mode itself.
  udf #1
  hvc #7
  mrc p15,0,r1,c14,c2,1
  tell 'z', mrs r1,cpsr
  switch_off smc
hyp_irq:
  b .

print_line show
.ltorg

.align 5
guest_vectors:
  b .
  b guest_undef
  b guest_svc
  b .
  b guest_dabt
  b .
  b guest_irq
  b .
guest_svc:
  mov r0,#9
  hvc #9
guest_undef:
  ldr sp,=GUEST_STACK-0x1000
  push {r0,r1,lr}
  tell 'u', mrs r1,spsr
  pop {r0,r1,lr}
  movs pc,lr
guest_dabt:
  ldr sp,=GUEST_STACK-0x2000
  push {r0,r1,lr}
  tell 'x', mrc p15,0,r1,c5,c0,0
  tell 'y', mrc p15,0,r1,c6,c0,0
  pop {r0,r1,lr}
  subs pc,lr,#4
guest_irq:
  ldr sp,=GUEST_STACK-0x3000
  push {r0-r3,lr}
  tell 'q', mrc p15,0,r1,c12,c1,0   // ISR
  cmp r9,#1
  bne 1f
  mov r0,#2                     // the hypervisor takes its interrupt back
  hvc #2
  b 2f
1:ldr r2,=0x08040000
  mov r0,#'r'
  ldr r1,[r2,#0xc]
  mov r3,r1
  bl show
  tell 's', ldr r1,[r2,#0x14]
  str r3,[r2,#0x10]
2:pop {r0-r3,lr}
  subs pc,lr,#4
guest:
  ldr sp,=GUEST_STACK
  ldr r0,=guest_vectors
  mcr p15,0,r0,c12,c0,0
  tell 'a', mrs r1,cpsr
  mov r0,#0
  hvc #0x123
  // Identification, memory control, by number, timers.
  mrc p15,0,r1,c0,c1,0
  mcr p15,0,r1,c13,c0,1
  mcrr p15,0,r1,r2,c2
  mrc p15,0,r1,c9,c12,0
  mrrc p15,0,r1,r2,c14
  wfi
  smc #0
  // The second stage: loads and stores of each kind.
  ldr r4,=0x80200100
  ldr r5,[r4]
  ldrb r6,[r4,#3]
  ldrsh r7,[r4,#2]
  ldr r4,=0x80000ffc
  ldr r5,[r4]
  str r5,[r4]
  strb r8,[r4,#1]
  strh r10,[r4]
  ldr r4,=0xc0000008
  ldrd r6,r7,[r4]
  ldm r4,{r6,r7}
  ldr r6,[r4],#4
  ldr r4,=0xc0000008
  ldrex r6,[r4]
  swp r6,r7,[r4]
  pld [r4]
  ldr r3,=0xa0000000
  blx r3
  ldr r3,=0x80200000
  blx r3
  ldr r3,=guest_thumb+1
  blx r3
  b guest_more
.thumb
guest_thumb:
  ldr r5,[r4]
  strb r6,[r4,#1]
  ldrh.w r7,[r4,#2]
  ldrsb.w r8,[r4,r0]
  wfi
  nop
  bx lr
.align 2
.arm
guest_more:
  // Floating point: trapped, then allowed.
  ldr r1,=0xf00000
  mcr p15,0,r1,c1,c0,2
  isb
  vmrs r1,fpsid
  mov r0,#1
  hvc #1
  mov r1,#0x40000000
  vmsr fpexc,r1
  vmrs r1,mvfr0
  mov r0,#'b'
  vmov s0,r0
  vmov r1,s0
  bl show
  // Translations.
  mov r0,#4
  hvc #4
  // An alignment fault is the guest's own, but for memory that the hypervisor calls Normal.
  ldr r4,=GUEST_STACK+1
  ldr r5,[r4]
  // Virtual interrupts: by HCR.VI, then by a list register.
  mov r9,#1
  mov r0,#2
  hvc #2
  tell 'c', mrc p15,0,r1,c12,c1,0
  cpsie i
  mov r1,#100
1:subs r1,r1,#1
  bne 1b
  cpsid i
  mov r9,#2
  mov r0,#3
  hvc #3
  tell 'd', mrc p15,0,r1,c12,c1,0
  cpsie i
  mov r1,#100
1:subs r1,r1,#1
  bne 1b
  cpsid i
  mov r0,#5
  hvc #5
  // User mode.
  cps #0x10
  wfi
  mrc p15,0,r1,c9,c13,0
  ldr r4,=0xc0000010
  ldr r5,[r4]
  svc #0
  b .
