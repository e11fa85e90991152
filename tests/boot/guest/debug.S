// What a hypervisor keeps of its guest's debug events and performance monitors. Started in Hyp mode (-kernel) with
// virtualization=on. Every line of output is a letter and a number, the same on every correct machine.
.syntax unified
.arch armv7ve
.arch_extension virt
.text
.arm
.global _start
#include "print.inc"
.equ UART, 0x09000000
.equ STACK, 0x40300000
.equ GUEST_STACK, 0x40310000
_start:
  ldr sp,=STACK
  ldr r0,=vectors
  mcr p15,4,r0,c12,c0,0
  mov r0,#'A'
  mrc p15,4,r1,c1,c1,1              // HDCR: all counters are the guest's
  bl show
  mov r1,#0x3f
  mcr p15,0,r1,c9,c12,1
  mov r1,#(1<<8)|2
  mcr p15,4,r1,c1,c1,1              // HDCR: TDE, two counters
  isb
  mov r0,#'B'
  mrc p15,0,r1,c9,c12,0
  bl show
  mov r0,#'C'
  mrc p15,0,r1,c9,c12,1
  bl show
  ldr r1,=0x1d3
  msr spsr_hyp,r1
  ldr r1,=guest
  msr elr_hyp,r1
  eret
.align 5
vectors:
  b .
  b .
  b .
  b .
  b .
  b hyp_trap
  b .
  b .
hyp_trap:
  push {r0,r1,lr}
  mov r0,#'H'
  mrc p15,4,r1,c5,c2,0
  bl show
  mov r0,#'I'
  mrs r1,elr_hyp
  bl show
  mrs r1,elr_hyp
  add r1,r1,#4
  msr elr_hyp,r1
  pop {r0,r1,lr}
  eret
guest:
  ldr sp,=GUEST_STACK
  mov r0,#'a'
  mrc p15,0,r1,c9,c12,0
  bl show
  bkpt #5
  mov r0,#'c'
  mrs r1,cpsr
  bl show
  ldr r0,=0x84000008
  smc #0
  b .
print_line show
.ltorg
