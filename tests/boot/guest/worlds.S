// Two worlds: runs as Secure firmware (-bios), switches worlds by SMC and takes FIQs in Monitor mode.
// Every line of output is a letter and a number, the same on every correct machine.
.arch armv7ve
.arch_extension sec
.arch_extension virt
.text
.arm
.global _start
#include "print.inc"
.equ UART, 0x09000000
.equ GICD, 0x08000000
.equ GICC, 0x08010000
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
  mov r0,#'A'
  mrs r1,cpsr
  bl show
  mov r0,#'B'
  mrc p15,0,r1,c1,c1,0
  bl show     // SCR
  mov r0,#'C'
  mrc p15,0,r1,c1,c1,2
  bl show     // NSACR
  mov r0,#'D'
  mrc p15,0,r1,c0,c1,1
  bl show     // ID_PFR1
  ldr r0,=monitor_vectors
  mcr p15,0,r0,c12,c0,1                            // MVBAR
  // Secure memory.
  ldr r2,=SRAM+0x100
  ldr r3,=0x12345678
  str r3,[r2]
  mov r0,#'E'
  ldr r1,[r2]
  bl show
  // The distributor as the Secure world sees it: SGI 8 stays in group 0, all others go to group 1.
  ldr r4,=GICD
  mov r0,#'F'
  ldr r1,[r4]
  bl show
  mov r0,#'G'
  ldr r1,[r4,#4]
  bl show
  ldr r1,=0xfffffeff
  str r1,[r4,#0x80]
  mov r0,#'H'
  ldr r1,[r4,#0x80]
  bl show
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
  mov r0,#'I'
  ldr r1,[r5]
  bl show
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
  mov r0,#'J'
  mrc p15,0,r1,c12,c0,0
  bl show    // the other VBAR
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
  mov r0,#'f'
  mrs r1,spsr
  bl show
  mrc p15,0,r4,c1,c1,0
  mov r0,#'g'
  mov r1,r4
  bl show
  bic r5,r4,#1
  mcr p15,0,r5,c1,c1,0
  isb
  ldr r2,=GICC
  mov r0,#'h'
  ldr r1,[r2,#0xc]
  mov r3,r1
  bl show
  ldr r2,=GICC
  mov r0,#'i'
  ldr r1,[r2,#0x14]
  bl show
  str r3,[r2,#0x10]
  mcr p15,0,r4,c1,c1,0
  isb
  pop {r0-r5,r12,lr}
  subs pc,lr,#4
end:
  mov r0,#'Z'
  mrc p15,0,r1,c13,c0,4
  bl show    // the Secure TPIDRPRW again
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
  mov r0,#'a'
  mrs r1,cpsr
  bl nshow
  mov r0,#'b'
  mrc p15,0,r1,c13,c0,4
  bl nshow
  mov r0,#'c'
  mrc p15,0,r1,c1,c1,2
  bl nshow    // NSACR is readable
  mov r0,#'d'
  mrc p15,0,r1,c1,c1,0
  bl nshow    // SCR is not: the handler steps over
  // Secure memory and flash are not there.
  ldr r2,=SRAM+0x100
  mov r0,#'e'
  ldr r1,[r2]
  bl nshow
  mov r2,#0
  mov r0,#'j'
  ldr r1,[r2]
  bl nshow
  // The distributor's other view.
  ldr r4,=GICD
  mov r0,#'k'
  ldr r1,[r4]
  bl nshow
  mov r0,#'l'
  ldr r1,[r4,#0x80]
  bl nshow
  mov r0,#'m'
  ldr r1,[r4,#0x100]
  bl nshow
  mov r0,#'n'
  ldr r1,[r4,#0x400]
  bl nshow
  mov r0,#'o'
  ldr r1,[r4,#0x408]
  bl nshow
  mvn r1,#0
  str r1,[r4,#0x408]
  mov r0,#'p'
  ldr r1,[r4,#0x408]
  bl nshow
  ldr r5,=GICC
  mov r0,#'q'
  ldr r1,[r5]
  bl nshow
  mov r0,#'r'
  ldr r1,[r5,#4]
  bl nshow
  mov r1,#0xe0
  str r1,[r5,#4]
  mov r0,#'s'
  ldr r1,[r5,#4]
  bl nshow
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
  mov r0,#'u'
  mrs r1,cpsr
  bl nshow
  mov r0,#'v'
  ldr r1,[r5,#0xc]
  bl nshow
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
  mov r0,#'U'
  mrs r1,spsr
  bl nshow
  pop {r0,r1,lr}
  mov r1,#0
  movs pc,lr
n_dabt:
  ldr sp,=RAM+0xc000
  push {r0,r1,lr}
  mov r0,#'X'
  mrc p15,0,r1,c5,c0,0
  bl nshow
  mov r0,#'Y'
  mrc p15,0,r1,c6,c0,0
  bl nshow
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
  mov r0,#'x'
  ldr r1,[r2,#0x14]
  bl nshow
  str r3,[r2,#0x10]
  pop {r0-r3,lr}
  subs pc,lr,#4
print_line nshow
.ltorg
ns_end:
ns_undef: ns_pabt: ns_dabt: ns_irq:
