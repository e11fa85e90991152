// Masks lifted for a moment: an interrupt that a write to a device has just raised is taken between the instruction that
// lifts the mask and one right behind it that sets it again. Every line of output is a letter and a number.
#include "machine.inc"
.equ IRQ_STACK, 0x40310000
_start:
  cpsid if
  cps #0x12
  ldr sp,=IRQ_STACK
  cps #0x13
  ldr sp,=STACK
  ldr r0,=vectors
  mcr p15,0,r0,c12,c0,0
  ldr r8,=GICD
  ldr r5,=GICC
  mov r1,#1
  str r1,[r8]
  mov r1,#0xff
  str r1,[r5,#4]
  mov r1,#1
  str r1,[r5]
  mov r10,#0
  ldr r9,=0x02000003                // SGI 3 to this processor
  // CPS.
  str r9,[r8,#0xf00]
  cpsie i
  cpsid i
  bl count
  // MSR.
  mrs r6,cpsr
  bic r7,r6,#0x80
  str r9,[r8,#0xf00]
  msr cpsr_c,r7
  msr cpsr_c,r6
  bl count
  // In a loop, with the device's own reads in between.
  mov r11,#20
1:str r9,[r8,#0xf00]
  ldr r1,[r8]
  cpsie i
  cpsid i
  subs r11,r11,#1
  bne 1b
  bl count
  // Masked all the time: nothing.
  str r9,[r8,#0xf00]
  mov r11,#20
1:subs r11,r11,#1
  bne 1b
  bl count
  cpsie i
  cpsid i
  bl count
  // A disabled one: nothing.
  mov r1,#0
  str r1,[r5]
  str r9,[r8,#0xf00]
  cpsie i
  cpsid i
  bl count
  mov r1,#1
  str r1,[r5]
  cpsie i
  cpsid i
  bl count
  adr r0,thumb+1
  bx r0
.thumb
.align 2
thumb:
  str r9,[r8,#0xf00]
  cpsie i
  cpsid i
  blx count
  switch_off hvc
.arm
.align 2
count:
  push {r0,r1,lr}
  tell 'a', mov r1,r10
  pop {r0,r1,lr}
  bx lr
irq:
  push {r0,r1}
  ldr r1,[r5,#0xc]
  str r1,[r5,#0x10]
  add r10,r10,#1
  pop {r0,r1}
  subs pc,lr,#4
print_line show
.ltorg
.align 5
vectors:
  b .
  b .
  b .
  b .
  b .
  b .
  b irq
  b .
