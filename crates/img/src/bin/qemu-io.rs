//! The `qemu-io` program.
#![forbid(unsafe_code)]

fn main() {
    std::process::exit(img::qemu_io(std::env::args().skip(1).collect()));
}
