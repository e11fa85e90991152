@ A kernel for `virt` whose first instructions print a byte on the first PL011, then sleep.
    .arch armv7-a
    .global _start
_start:
    ldr r0, =0x09000000
    ldr r1, =0x301          @ UARTCR: UARTEN, TXE, RXE
    str r1, [r0, #0x30]
    mov r1, #'!'
    str r1, [r0]
1:  wfi
    b 1b
