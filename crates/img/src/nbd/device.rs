//! `qemu-nbd -c` and `-d`: an image as a block device of the host's kernel.
//!
//! The kernel gets one end of a pair of sockets, the server the other; nothing is negotiated, because both ends are told what the
//! export is.
//!
//! Reference: nbd(4) and `host::nbd`; messages of `qemu-nbd` 10.0.2.

use super::Event;
use crate::cli::Parsed;
use crate::common::{Exit, fail};
use disk::nbd::server::{Export, serve_known};
use disk::node::strerror;
use host::nbd::{BLOCK, Device};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

/// The device that is to be connected.
pub fn wanted(p: &Parsed) -> Result<Option<&str>, Exit> {
    let Some(path) = p.value("connect") else { return Ok(None) };
    match ["socket", "port", "bind"].into_iter().find(|name| p.has(name)) {
        Some(name) => fail(format!("--{name} cannot be used with --connect: the device is the only client")),
        None => Ok(Some(path)),
    }
}

/// `-d`: ends the connection of a device that another process serves.
pub fn disconnect(p: &Parsed) -> Result<i32, Exit> {
    let [path] = p.rest.as_slice() else {
        eprintln!("qemu-nbd: Invalid number of arguments\nTry 'qemu-nbd --help' for more information.");
        return Err(Exit::Status(1));
    };
    let device = Device::open(path).map_err(|e| Exit::Fail(format!("Cannot open {path}: {}", strerror(&e))))?;
    device.disconnect();
    println!("{path} disconnected");
    Ok(0)
}

/// A device that is served.
pub struct Connected {
    device: Arc<Device>,
    kernel: JoinHandle<()>,
}

/// Connects the device at `path` to an export of the image `name`. When it is disconnected, by `-d` or by the kernel, `events`
/// hears of it.
pub fn connect(
    path: &str,
    name: &str,
    export: &Export,
    verbose: bool,
    events: Sender<Event>,
) -> Result<Connected, Exit> {
    let broken = |what: &str, e: std::io::Error| Exit::Fail(format!("Failed to {what}: {}", strerror(&e)));
    let device = Arc::new(Device::open(path).map_err(|e| broken(&format!("open {path}"), e))?);
    let (ours, kernels) = UnixStream::pair().map_err(|e| broken("make a pair of sockets", e))?;
    // A device that serves somebody else refuses this, and is left alone.
    device.set_socket(&kernels).map_err(|e| broken("set NBD socket", e))?;
    // Bytes behind the last whole block cannot be reached through a device.
    let described =
        device.set_size(export.size / BLOCK).and_then(|()| device.set_flags(export.flags(), export.read_only));
    if let Err(e) = described {
        device.clear();
        return Err(broken("describe the image to the device", e));
    }
    let served = export.clone();
    let _ = events.send(Event::Came);
    std::thread::spawn(move || {
        // The kernel leaves when the device is disconnected; what else may go wrong ends the device with it.
        let _ = serve_known(ours, &served);
        let _ = events.send(Event::Left);
    });
    let runs = device.clone();
    let kernel = std::thread::spawn(move || {
        let _ = runs.run();
        drop(kernels);
        runs.clear();
    });
    read_partitions(path);
    if verbose {
        println!("NBD device {path} is now connected to {name}");
    }
    Ok(Connected { device, kernel })
}

/// Opening the device has the kernel look for partitions.
fn read_partitions(path: &str) {
    let path = path.to_owned();
    std::thread::spawn(move || drop(std::fs::File::open(path)));
}

impl Connected {
    /// Waits until the kernel has let go of the device, which is disconnected first if it has not left by itself.
    pub fn end(self, disconnect: bool) {
        if disconnect {
            self.device.disconnect();
        }
        let _ = self.kernel.join();
    }
}
