//! The `qemu-img` program.
#![forbid(unsafe_code)]

fn main() {
    std::process::exit(img::qemu_img(std::env::args().skip(1).collect()));
}
