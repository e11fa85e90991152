//! `qemu-nbd -c` and `-d`: an image as a block device of the kernel, where it has such devices and we may use them.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn qemu_nbd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qemu-nbd")).args(args).output().unwrap()
}

fn image(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("rhea-nbd-device-{}-{name}.qcow2", std::process::id()));
    let made = Command::new(env!("CARGO_BIN_EXE_qemu-img"))
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&path)
        .arg("16M")
        .status();
    assert!(made.unwrap().success());
    path
}

fn refused(args: &[&str], text: &str) {
    let out = qemu_nbd(args);
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(1), text), "{args:?}");
}

#[test]
fn what_is_no_device_is_refused() {
    let image = image("refused");
    let name = image.to_str().unwrap();
    refused(
        &["-c", "/dev/no-such-nbd", name],
        "qemu-nbd: Failed to open /dev/no-such-nbd: No such file or directory\n",
    );
    refused(&["-c", "/dev/null", name], "qemu-nbd: Failed to set NBD socket: Inappropriate ioctl for device\n");
    refused(&["-d", "/dev/no-such-nbd"], "qemu-nbd: Cannot open /dev/no-such-nbd: No such file or directory\n");
    let usage = "qemu-nbd: Invalid number of arguments\nTry 'qemu-nbd --help' for more information.\n";
    refused(&["-d"], usage);
    refused(&["-c", "/dev/null"], usage);
    refused(&["-L", "-c", "/dev/null"], "qemu-nbd: List mode is incompatible with per-device settings\n");
    let alone = "qemu-nbd: --port cannot be used with --connect: the device is the only client\n";
    refused(&["-c", "/dev/null", "-p", "10810", name], alone);
    std::fs::remove_file(image).unwrap();
}

/// A device that nobody serves and that this process may use.
fn free_device() -> Option<String> {
    let free = |n: &u32| !Path::new(&format!("/sys/block/nbd{n}/pid")).exists();
    let devices = (0..16).filter(free).map(|n| format!("/dev/nbd{n}"));
    devices.into_iter().find(|d| std::fs::File::options().read(true).write(true).open(d).is_ok())
}

#[test]
fn an_image_is_a_device_of_the_kernel() {
    let Some(device) = free_device() else {
        eprintln!("NOT TESTED: no /dev/nbdN that can be opened (the kernel's module nbd, root)");
        return;
    };
    let image = image("served");
    let name = image.to_str().unwrap();
    assert!(qemu_nbd(&["-c", &device, name]).status.success());
    let file = std::fs::File::options().read(true).write(true).open(&device).unwrap();
    let block: Vec<u8> = (0..65536u32).map(|i| (i * 7) as u8).collect();
    file.write_all_at(&block, 1 << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let out = qemu_nbd(&["-d", &device]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), format!("{device} disconnected\n"));
    // Served again, for reading only, it has what was written.
    assert!(qemu_nbd(&["-r", "-c", &device, name]).status.success());
    let mut back = vec![0; block.len()];
    std::fs::File::open(&device).unwrap().read_exact_at(&mut back, 1 << 20).unwrap();
    assert!(back == block);
    assert!(qemu_nbd(&["-d", &device]).status.success());
    std::fs::remove_file(image).unwrap();
}
