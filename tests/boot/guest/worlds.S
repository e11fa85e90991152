// Two worlds: runs as Secure firmware (-bios), switches worlds by SMC and takes FIQs in Monitor mode.
// Every line of output is a letter and a number, the same on every correct machine.
#include "machine.inc"
.equ SRAM, 0x0e000000
.equ RAM,  0x40200000
_start:
  b reset
  b .
  b .
  b .
  b .
  b .
  b .
  b .
.align 5
monitor_vectors:
  b .
  b .
  b mon_smc
  b .
  b .
  b .
  b .
  b mon_fiq
.align 5
ns_vectors:
  b .
  b ns_undef
  b .
  b ns_pabt
  b ns_dabt
  b .
  b ns_irq
  b .
reset:
  ldr sp,=SRAM+0x8000
  tell 'A', mrs r1,cpsr
  tell 'B', mrc p15,0,r1,c1,c1,0   // SCR
  tell 'C', mrc p15,0,r1,c1,c1,2   // NSACR
  tell 'D', mrc p15,0,r1,c0,c1,1   // ID_PFR1
  ldr r0,=monitor_vectors
  mcr p15,0,r0,c12,c0,1                            // MVBAR
  // Secure memory.
  ldr r2,=SRAM+0x100
  ldr r3,=0x12345678
  str r3,[r2]
  tell 'E', ldr r1,[r2]
  // The distributor as the Secure world sees it: SGI 8 stays in group 0, all others go to group 1.
  ldr r4,=GICD
  tell 'F', ldr r1,[r4]
  tell 'G', ldr r1,[r4,#4]
  ldr r1,=0xfffffeff
  str r1,[r4,#0x80]
  tell 'H', ldr r1,[r4,#0x80]
  mov r1,#3
  str r1,[r4]
  ldr r1,=0x90a0a0a0
  str r1,[r4,#0x400]
  ldr r1,=0x40404040
  str r1,[r4,#0x408]
  ldr r5,=GICC
  mov r1,#0xff
  str r1,[r5,#4]
  mov r1,#0xb
  str r1,[r5]                        // both groups, group 0 is FIQ
  tell 'I', ldr r1,[r5]
  // Banked registers: the Secure VBAR and TPIDRPRW.
  ldr r1,=0x11110000
  mcr p15,0,r1,c12,c0,0
  ldr r1,=0x22220000
  mcr p15,0,r1,c13,c0,4
  // To Monitor mode, from there to the Non-secure world: FIQs go to Monitor mode.
  cps #0x16
  ldr sp,=SRAM+0x4000
  ldr r1,=0xc00
  mcr p15,0,r1,c1,c1,2             // NSACR: floating point
  mov r1,#5
  mcr p15,0,r1,c1,c1,0                 // SCR: NS, FIQ
  isb
  tell 'J', mrc p15,0,r1,c12,c0,0   // the other VBAR
  ldr r1,=0x33330000
  mcr p15,0,r1,c13,c0,4
  ldr r0,=ns_start
  ldr r1,=RAM
  ldr r2,=ns_end
1: ldr r3,[r0],#4
  str r3,[r1],#4
  cmp r0,r2
  blo 1b
  ldr r1,=0x1d3
  msr spsr_cxsf,r1
  ldr lr,=RAM
  movs pc,lr

// SMC: r0 is the function. 0: add one to r1; 1: pend SGI 8 (Secure); 2: end.
mon_smc:
  push {r2-r5,r12,lr}
  cmp r0,#0
  addeq r1,r1,#1
  beq 9f
  mrc p15,0,r4,c1,c1,0
  bic r5,r4,#1
  mcr p15,0,r5,c1,c1,0
  isb
  cmp r0,#2
  beq end
  ldr r2,=GICD
  ldr r3,=0x02000008
  str r3,[r2,#0xf00]
  dsb
  mcr p15,0,r4,c1,c1,0
  isb
9:pop {r2-r5,r12,lr}
  movs pc,lr
mon_fiq:
  push {r0-r5,r12,lr}
  tell 'f', mrs r1,spsr
  mrc p15,0,r4,c1,c1,0
  tell 'g', mov r1,r4
  bic r5,r4,#1
  mcr p15,0,r5,c1,c1,0
  isb
  ldr r2,=GICC
  mov r0,#'h'
  ldr r1,[r2,#0xc]
  mov r3,r1
  bl show
  ldr r2,=GICC
  tell 'i', ldr r1,[r2,#0x14]
  str r3,[r2,#0x10]
  mcr p15,0,r4,c1,c1,0
  isb
  pop {r0-r5,r12,lr}
  subs pc,lr,#4
end:
  tell 'Z', mrc p15,0,r1,c13,c0,4   // the Secure TPIDRPRW again
  ldr r0,=0x090b0000
  mov r1,#3
  str r1,[r0,#0x400]
  mov r1,#1
  str r1,[r0,#4]                       // gpio-poweroff
  b .

print_line show
.ltorg
.align 5
ns_start:
  // Position independent but for the subroutine, which is in flash: not for the Non-secure world.
  ldr sp,=RAM+0x10000
  adr r0,ns_table
  mcr p15,0,r0,c12,c0,0
  tell_by nshow, 'a', mrs r1,cpsr
  tell_by nshow, 'b', mrc p15,0,r1,c13,c0,4
  tell_by nshow, 'c', mrc p15,0,r1,c1,c1,2   // NSACR is readable
  tell_by nshow, 'd', mrc p15,0,r1,c1,c1,0   // SCR is not: the handler steps over
  // Secure memory and flash are not there.
  ldr r2,=SRAM+0x100
  tell_by nshow, 'e', ldr r1,[r2]
  mov r2,#0
  tell_by nshow, 'j', ldr r1,[r2]
  // The distributor's other view.
  ldr r4,=GICD
  tell_by nshow, 'k', ldr r1,[r4]
  tell_by nshow, 'l', ldr r1,[r4,#0x80]
  tell_by nshow, 'm', ldr r1,[r4,#0x100]
  tell_by nshow, 'n', ldr r1,[r4,#0x400]
  tell_by nshow, 'o', ldr r1,[r4,#0x408]
  mvn r1,#0
  str r1,[r4,#0x408]
  tell_by nshow, 'p', ldr r1,[r4,#0x408]
  ldr r5,=GICC
  tell_by nshow, 'q', ldr r1,[r5]
  tell_by nshow, 'r', ldr r1,[r5,#4]
  mov r1,#0xe0
  str r1,[r5,#4]
  tell_by nshow, 's', ldr r1,[r5,#4]
  // SMC computes.
  mov r0,#0
  ldr r1,=0xabcdef00
  smc #0
  mov r0,#'t'
  bl nshow
  // An interrupt of group 1 is IRQ here.
  ldr r1,=0x02008001
  str r1,[r4,#0xf00]
  ldr r1,=0x02000001
  str r1,[r4,#0xf00]
  cpsie i
  mov r1,#100
1:subs r1,r1,#1
  bne 1b
  cpsid i
  // One of group 0 is FIQ, in Monitor mode, although F is set.
  mov r0,#1
  smc #0
  mov r1,#100
1:subs r1,r1,#1
  bne 1b
  tell_by nshow, 'u', mrs r1,cpsr
  tell_by nshow, 'v', ldr r1,[r5,#0xc]
  mov r0,#2
  smc #0
  b .
.align 5
ns_table:
  b .
  b n_undef
  b .
  b .
  b n_dabt
  b .
  b n_irq
  b .
n_undef:
  ldr sp,=RAM+0xe000
  push {r0,r1,lr}
  tell_by nshow, 'U', mrs r1,spsr
  pop {r0,r1,lr}
  mov r1,#0
  movs pc,lr
n_dabt:
  ldr sp,=RAM+0xc000
  push {r0,r1,lr}
  tell_by nshow, 'X', mrc p15,0,r1,c5,c0,0
  tell_by nshow, 'Y', mrc p15,0,r1,c6,c0,0
  pop {r0,r1,lr}
  mov r1,#0
  subs pc,lr,#4
n_irq:
  ldr sp,=RAM+0xd000
  push {r0-r3,lr}
  ldr r2,=GICC
  mov r0,#'w'
  ldr r1,[r2,#0xc]
  mov r3,r1
  bl nshow
  ldr r2,=GICC
  tell_by nshow, 'x', ldr r1,[r2,#0x14]
  str r3,[r2,#0x10]
  pop {r0-r3,lr}
  subs pc,lr,#4
print_line nshow
.ltorg
ns_end:
ns_undef: ns_pabt: ns_dabt: ns_irq:
