//! The `qemu-nbd` program.
#![forbid(unsafe_code)]

fn main() {
    std::process::exit(img::qemu_nbd(std::env::args().skip(1).collect()));
}
