//! `file`, `pipe` and serial lines of the host: one or two descriptors that are there from the start.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::termios::{ControlModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsendbreak, tcsetattr};
use spec::error::{Context, Result};

use crate::io::{Backend, Outcome, Ready, Tag, Traffic, Watch};
use crate::options::Output;
use crate::port::{Control, LineFormat, Parity};

#[derive(Debug)]
pub struct Files {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    serial: bool,
}

fn could_not_open(path: &Path) -> String {
    format!("Could not open '{}'", path.display())
}

/// Opens a file that is written: a log, or what a guest writes.
pub fn create(output: &Output) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(output.append).write(true).truncate(!output.append);
    options.open(&output.path).context(|| could_not_open(&output.path))
}

fn open(path: &Path, read: bool, write: bool) -> Result<OwnedFd> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits() as i32;
    let file = OpenOptions::new().read(read).write(write).custom_flags(flags).open(path);
    Ok(file.context(|| could_not_open(path))?.into())
}

impl Files {
    pub fn file(output: &Output, input: Option<&Path>) -> Result<Files> {
        let input = input.map(|path| open(path, true, false)).transpose()?;
        Ok(Files { input, output: Some(create(output)?.into()), serial: false })
    }

    /// `path.in` and `path.out`, or `path` for both. Opened for both directions, so that a pipe is never at its end.
    pub fn pipe(path: &Path) -> Result<Files> {
        let with = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            open(Path::new(&name), true, true)
        };
        let (input, output) = match (with(".in"), with(".out")) {
            (Ok(input), Ok(output)) => (input, output),
            _ => {
                let both = open(path, true, true)?;
                (both.try_clone().context(|| could_not_open(path))?, both)
            }
        };
        Ok(Files { input: Some(input), output: Some(output), serial: false })
    }

    pub fn serial(path: &Path) -> Result<Files> {
        let line = open(path, true, true)?;
        if rustix::termios::isatty(&line) {
            let eight_n_one = LineFormat { speed: 115_200, parity: Parity::None, data_bits: 8, stop_bits: 1 };
            set_format(&line, eight_n_one).context(|| format!("'{}' cannot be set up", path.display()))?;
        }
        let input = line.try_clone().context(|| could_not_open(path))?;
        Ok(Files { input: Some(input), output: Some(line), serial: true })
    }
}

fn set_format(line: &OwnedFd, format: LineFormat) -> rustix::io::Result<()> {
    let mut settings = tcgetattr(line)?;
    settings.make_raw();
    settings.special_codes[SpecialCodeIndex::VMIN] = 1;
    settings.special_codes[SpecialCodeIndex::VTIME] = 0;
    settings.control_modes -= ControlModes::CSIZE | ControlModes::PARENB | ControlModes::PARODD | ControlModes::CSTOPB;
    settings.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    settings.control_modes |= match format.data_bits {
        5 => ControlModes::CS5,
        6 => ControlModes::CS6,
        7 => ControlModes::CS7,
        _ => ControlModes::CS8,
    };
    settings.control_modes |= match format.parity {
        Parity::None => ControlModes::empty(),
        Parity::Even => ControlModes::PARENB,
        Parity::Odd => ControlModes::PARENB | ControlModes::PARODD,
    };
    settings.control_modes.set(ControlModes::CSTOPB, format.stop_bits == 2);
    settings.set_speed(format.speed)?;
    tcsetattr(line, OptionalActions::Now, &settings)
}

impl Backend for Files {
    fn start(&mut self, traffic: &mut Traffic) {
        traffic.open();
    }

    fn watch<'a>(&'a self, traffic: &Traffic, watch: &mut Watch<'a>) {
        traffic.watch(watch, self.input.as_ref(), self.output.as_ref());
    }

    fn turn(&mut self, traffic: &mut Traffic, ready: &Ready) {
        traffic.take(ready, &mut self.input);
        if let Some(output) = &self.output
            && ready.writable(Tag::Output)
            && traffic.write(output) == Outcome::Gone
        {
            log::warn!("character device '{}' cannot be written any more", traffic.line.label);
            self.output = None;
            traffic.close();
        }
    }

    fn control(&mut self, control: Control) {
        let Some(line) = self.output.as_ref().filter(|_| self.serial) else { return };
        let result = match control {
            Control::Break => tcsendbreak(line),
            Control::Format(format) => set_format(line, format),
        };
        if let Err(error) = result {
            log::warn!("serial line: {control:?}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;

    use super::*;
    use crate::Consoles;
    use crate::testing::{Recorder, directory, expect};

    #[test]
    fn files_are_truncated_or_appended_to_and_input_comes_from_another() {
        let dir = directory("files");
        let (out, input) = (dir.join("out"), dir.join("in"));
        std::fs::write(&out, "old ").unwrap();
        std::fs::write(&input, "typed").unwrap();
        for (options, expected) in [("append=on", "old new"), ("append=off", "new")] {
            let consoles = Consoles::new().unwrap();
            let text = format!("file,id=f,path={},input-path={},{options}", out.display(), input.display());
            consoles.add(&crate::options::parse(&text).unwrap()).unwrap();
            let port = consoles.connect("f").unwrap();
            let recorder = Arc::new(Recorder::default());
            port.attach(recorder.clone());
            assert_eq!(port.write(b"new"), 3);
            recorder.wait_bytes(b"typed");
            consoles.finish();
            assert_eq!(std::fs::read_to_string(&out).unwrap(), expected);
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn two_pipes_carry_the_two_directions() {
        let dir = directory("pipes");
        let base = dir.join("p");
        for name in ["p.in", "p.out"] {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, dir.join(name), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }
        let consoles = Consoles::new().unwrap();
        consoles.install("p", "pipe", Box::new(Files::pipe(&base).unwrap()));
        let port = consoles.connect("p").unwrap();
        let recorder = Arc::new(Recorder::default());
        port.attach(recorder.clone());
        let mut far = File::options().write(true).open(dir.join("p.in")).unwrap();
        far.write_all(b"hello").unwrap();
        recorder.wait_bytes(b"hello");
        assert_eq!(port.write(b"world"), 5);
        let mut out: Box<dyn Read> = Box::new(File::open(dir.join("p.out")).unwrap());
        expect(&mut out, b"world");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_serial_line_is_raw_and_follows_the_guest() {
        let (mut master, path) = crate::testing::pty();
        let consoles = Consoles::new().unwrap();
        consoles.install("s", "serial", Box::new(Files::serial(&path).unwrap()));
        let port = consoles.connect("s").unwrap();
        let recorder = Arc::new(Recorder::default());
        port.attach(recorder.clone());
        master.write_all(b"\x03a\r").unwrap();
        recorder.wait_bytes(b"\x03a\r");
        port.set_format(LineFormat { speed: 9600, parity: Parity::Even, data_bits: 7, stop_bits: 2 });
        assert_eq!(port.write(b"x\n"), 2);
        expect(&mut master, b"x\n");
        let settings = tcgetattr(&master).unwrap();
        assert_eq!(settings.output_speed(), 9600);
        // A pseudo-terminal has no parity and always eight bits, but two stop bits it remembers.
        assert!(settings.control_modes.contains(ControlModes::CSTOPB));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Files::pipe(Path::new("/nowhere/p")).unwrap_err().to_string();
        assert!(error.starts_with("Could not open '/nowhere/p': No such file or directory"), "{error}");
    }
}
