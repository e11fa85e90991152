// What a hypervisor keeps of its guest's debug events and performance monitors. Started in Hyp mode (-kernel) with
// virtualization=on. Every line of output is a letter and a number, the same on every correct machine.
#include "machine.inc"
_start:
  ldr sp,=STACK
  ldr r0,=vectors
  mcr p15,4,r0,c12,c0,0
  tell 'A', mrc p15,4,r1,c1,c1,1   // HDCR: all counters are the guest's
  mov r1,#0x3f
  mcr p15,0,r1,c9,c12,1
  mov r1,#(1<<8)|2
  mcr p15,4,r1,c1,c1,1              // HDCR: TDE, two counters
  isb
  tell 'B', mrc p15,0,r1,c9,c12,0
  tell 'C', mrc p15,0,r1,c9,c12,1
  enter_guest
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
  tell 'H', mrc p15,4,r1,c5,c2,0
  tell 'I', mrs r1,elr_hyp
  step_over
  pop {r0,r1,lr}
  eret
guest:
  ldr sp,=GUEST_STACK
  tell 'a', mrc p15,0,r1,c9,c12,0
  bkpt #5
  tell 'c', mrs r1,cpsr
  switch_off smc
print_line show
.ltorg
