//! Serial lines and monitors: which character device each of them has.
//!
//! Reference: the defaults of QEMU 10.0.2: with `-nographic` the first serial port and the monitor share the terminal; with
//! `-display none` there is neither. Without any display option QEMU opens a window; there is none here, so the machine behaves
//! as with `-nographic`.

use crate::config::{Config, Display, Given, Redirect};
use crate::monitor::Mode;
use console::options::{self, Redirect as Parsed};
use console::{Consoles, Port};
use spec::{Error, Result};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

pub struct Monitor {
    pub port: Port,
    pub mode: Mode,
}

/// Everything that is connected to a character device.
pub struct Lines {
    pub consoles: Consoles,
    /// By number; `None` is a port that is not there (`-serial none`).
    pub serials: Vec<Option<Port>>,
    pub monitors: Vec<Monitor>,
    /// Sockets for vhost-user, by their character devices.
    pub streams: BTreeMap<String, OwnedFd>,
}

impl Lines {
    /// Opens all character devices.
    pub fn open(config: &Config) -> Result<Lines> {
        let mut lines = Lines { consoles: Consoles::new()?, serials: Vec::new(), monitors: Vec::new(), streams: BTreeMap::new() };
        lines.consoles.set_escape(config.escape);
        for given in &config.chardevs {
            lines.chardev(config, given).map_err(|e| Error::new(format!("{}: {e}", given.option)))?;
        }
        let defaults = Defaults::of(config);
        for (number, redirect) in config.serials.iter().chain(&defaults.serial).enumerate() {
            lines.serial(number, redirect)?;
        }
        for redirect in config.monitors.iter().chain(&defaults.monitor) {
            lines.monitor(redirect, Mode::Human)?;
        }
        for redirect in &config.qmps {
            lines.monitor(redirect, Mode::Control { pretty: redirect.option == "-qmp-pretty" })?;
        }
        for given in &config.mons {
            lines.mon(given).map_err(|e| Error::new(format!("{}: {e}", given.option)))?;
        }
        Ok(lines)
    }

    fn chardev(&mut self, config: &Config, given: &Given) -> Result<()> {
        let chardev = options::chardev(given.settings.clone().into_pairs())?;
        let named = |netdev: &Given| netdev.settings.get("type") == Some("vhost-user") && netdev.settings.get("chardev") == Some(&chardev.id);
        let is_socket = matches!(chardev.kind, options::Kind::Socket(_));
        if is_socket && config.netdevs.iter().chain(&config.nics).any(named) {
            self.streams.insert(chardev.id.clone(), self.consoles.stream(&chardev)?);
            return Ok(());
        }
        self.consoles.add(&chardev)
    }

    fn serial(&mut self, number: usize, redirect: &Redirect) -> Result<()> {
        let label = format!("serial{number}");
        let failed = || format!("could not connect serial device to character backend '{}'", redirect.device);
        let (id, monitor) = match self.parse(&label, redirect, &failed)? {
            None => {
                self.serials.push(None);
                return Ok(());
            }
            Some(found) => found,
        };
        let port = self.consoles.connect(&id).map_err(|e| in_option(redirect, &e, &failed()))?;
        self.serials.push(Some(port));
        if monitor {
            let port = self.consoles.connect_monitor(&id)?;
            self.monitors.push(Monitor { port, mode: Mode::Human });
        }
        Ok(())
    }

    fn monitor(&mut self, redirect: &Redirect, mode: Mode) -> Result<()> {
        let label = format!("compat_monitor{}", self.monitors.len());
        let failed = || format!("could not connect monitor to character backend '{}'", redirect.device);
        let Some((id, _)) = self.parse(&label, redirect, &failed)? else { return Ok(()) };
        let port = self.consoles.connect_monitor(&id).map_err(|e| in_option(redirect, &e, &failed()))?;
        self.monitors.push(Monitor { port, mode });
        Ok(())
    }

    /// The character device's name and whether a monitor shares it.
    fn parse(&self, label: &str, redirect: &Redirect, failed: &dyn Fn() -> String) -> Result<Option<(String, bool)>> {
        let parsed = options::redirect(label, &redirect.device).map_err(|e| in_option(redirect, &e, &failed()))?;
        match parsed {
            Parsed::None => Ok(None),
            Parsed::Existing(id) => Ok(Some((id, false))),
            Parsed::New { chardev, monitor } => {
                self.consoles.add(&chardev).map_err(|e| in_option(redirect, &e, &failed()))?;
                Ok(Some((chardev.id, monitor)))
            }
        }
    }

    /// `-mon chardev=ID,mode=control`.
    fn mon(&mut self, given: &Given) -> Result<()> {
        let mut settings = given.settings.clone();
        settings.take("id");
        let (id, mode) = Mode::from_settings(settings)?;
        let port = self.consoles.connect_monitor(&id)?;
        self.monitors.push(Monitor { port, mode });
        Ok(())
    }
}

fn in_option(redirect: &Redirect, e: &Error, then: &str) -> Error {
    if redirect.option.is_empty() {
        return Error::new(format!("{e}\n{then}"));
    }
    let option = format!("{} {}", redirect.option, redirect.device);
    Error::new(format!("{option}: {e}\n{option}: {then}"))
}

/// What is there although nobody asked for it.
#[derive(Debug, PartialEq, Eq, Default)]
struct Defaults {
    serial: Option<Redirect>,
    monitor: Option<Redirect>,
}

impl Defaults {
    fn of(config: &Config) -> Defaults {
        let on = |device: &str| Some(Redirect { option: String::new(), device: device.into() });
        // A background process has no terminal.
        let terminal = config.display != Display::None && !config.daemonize;
        match (config.defaults.serial, config.defaults.monitor) {
            (true, _) if !terminal => Defaults { serial: on("null"), monitor: None },
            (true, true) => Defaults { serial: on("mon:stdio"), monitor: None },
            (true, false) => Defaults { serial: on("stdio"), monitor: None },
            // With -nographic the monitor gets the terminal; what else uses it is the user's mistake.
            (false, true) if config.display == Display::Nographic && !config.daemonize => Defaults { serial: None, monitor: on("stdio") },
            (false, _) => Defaults::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::config;

    fn defaults(args: &str) -> (String, String) {
        let d = Defaults::of(&config(&format!("-M virt {args}")));
        let device = |r: Option<Redirect>| r.map_or("-".to_owned(), |r| r.device);
        (device(d.serial), device(d.monitor))
    }

    #[test]
    fn defaults_are_qemus() {
        for (args, serial, monitor) in [
            ("-nographic", "mon:stdio", "-"),
            ("", "mon:stdio", "-"),
            ("-display none", "null", "-"),
            ("-nographic -monitor null", "stdio", "-"),
            ("-nographic -serial null", "-", "stdio"),
            ("-display none -serial null", "-", "-"),
            ("-nographic -nodefaults", "-", "-"),
            ("-nographic -serial mon:stdio", "-", "-"),
            ("-daemonize", "null", "-"),
        ] {
            assert_eq!(defaults(args), (serial.into(), monitor.into()), "{args}");
        }
    }

    #[test]
    fn every_line_gets_its_device() {
        let lines = Lines::open(&config("-M virt -nodefaults -chardev ringbuf,id=r -serial chardev:r -serial none -serial null -monitor null")).unwrap();
        let there: Vec<bool> = lines.serials.iter().map(Option::is_some).collect();
        assert_eq!((there, lines.monitors.len()), (vec![true, false, true], 1));
        let mut labels: Vec<String> = lines.consoles.info().into_iter().map(|(label, ..)| label).collect();
        labels.sort();
        assert_eq!(labels, ["compat_monitor0", "r", "serial2"]);
    }

    #[test]
    fn a_bad_device_is_named_with_its_option() {
        let e = Lines::open(&config("-M virt -nodefaults -serial foo")).err().unwrap().to_string();
        assert_eq!(e, "-serial foo: 'foo' is not a valid char driver\n-serial foo: could not connect serial device to character backend 'foo'");
        let e = Lines::open(&config("-M virt -nodefaults -mon chardev=x")).err().unwrap().to_string();
        assert_eq!(e, "-mon chardev=x: chardev \"x\" not found");
    }
}
