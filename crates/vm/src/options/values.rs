//! Options whose value needs more than a line: log items, clock, actions, names.

use super::{Answer, Arg, done, print};
use crate::config::{Config, Display, Given, RtcBase};
use crate::log;
use crate::settings::{Settings, boolean, number};
use spec::{Error, Result};

pub fn display(c: &mut Config, a: &Arg) -> Answer {
    let kind = a.value.split(',').next().unwrap_or_default();
    match kind {
        "none" => c.display = Display::None,
        "help" | "?" => return print("Available display backend types:\nnone\n".into(), 0),
        "gtk" | "sdl" | "curses" | "vnc" | "egl-headless" | "dbus" | "spice-app" | "cocoa" => {
            return Err(Error::new(format!("Display '{kind}' is not available.")));
        }
        _ => return Err(Error::new(format!("Parameter 'type' does not accept value '{kind}'"))),
    }
    done()
}

pub fn vga(_: &mut Config, a: &Arg) -> Answer {
    match a.value {
        "none" => done(),
        "help" => print("none                 no graphic card\n".into(), 0),
        "std" | "cirrus" | "vmware" | "qxl" | "virtio" => Err(Error::new("not supported yet")),
        other => Err(Error::new(format!("unknown vga type: {other}"))),
    }
}

fn is_help(value: &str) -> bool {
    value == "help" || value == "?"
}

pub fn device(c: &mut Config, a: &Arg) -> Answer {
    if is_help(a.value) {
        return print(hw::registry::help(), 0);
    }
    let given = a.given(Some("driver"))?;
    let name = given.settings.get("driver").unwrap_or_default();
    if given.settings.get("help").is_some() || given.settings.get("?").is_some() {
        return print(hw::registry::help_for(name)?, 0);
    }
    c.devices.push(given);
    done()
}

pub fn netdev(c: &mut Config, a: &Arg) -> Answer {
    if is_help(a.value) {
        return print(net::netdev::help(), 0);
    }
    let given = a.given(Some("type"))?;
    if let (Some(_), Some(kind)) = (given.settings.get("help"), given.settings.get("type")) {
        let missing = || Error::new(format!("Parameter 'type' does not accept value '{kind}'"));
        return print(net::netdev::help_for(kind).ok_or_else(missing)?, 0);
    }
    c.netdevs.push(given);
    c.defaults.net = false;
    done()
}

pub fn nic(c: &mut Config, a: &Arg) -> Answer {
    let given = a.given(Some("type"))?;
    if given.settings.get("model").is_some_and(is_help) {
        return print(crate::network::cards::model_help(), 0);
    }
    if given.settings.get("type").is_some_and(is_help) {
        let types = net::netdev::help();
        return print(format!("{types}\n{}", crate::network::cards::model_help()), 0);
    }
    c.nics.push(given);
    c.defaults.net = false;
    done()
}

pub fn net(c: &mut Config, a: &Arg) -> Answer {
    let given = a.given(Some("type"))?;
    if given.settings.get("model").is_some_and(is_help) {
        return print(crate::network::cards::model_help(), 0);
    }
    c.nets.push(given);
    c.defaults.net = false;
    done()
}

pub fn chardev(c: &mut Config, a: &Arg) -> Answer {
    if is_help(a.value) {
        return print(console::options::help(), 0);
    }
    c.chardevs.push(a.given(Some("backend"))?);
    done()
}

/// `-global driver.property=value` or with the three keys.
pub fn global(c: &mut Config, a: &Arg) -> Answer {
    let dotted = a.value.split_once('.').filter(|(driver, _)| !driver.contains(['=', ',']));
    let mut settings = Settings::default();
    match dotted.and_then(|(driver, rest)| rest.split_once('=').map(|(p, v)| (driver, p, v))) {
        Some((driver, property, value)) => {
            settings.push("driver", driver);
            settings.push("property", property);
            settings.push("value", value);
        }
        None => {
            settings = Settings::parse(a.value, None)?;
            for key in ["driver", "property", "value"] {
                if settings.get(key).is_none() {
                    let stranger = settings.iter().map(|(k, _)| k).find(|k| !["driver", "property", "value"].contains(k));
                    let sentence = stranger.map_or(format!("Parameter '{key}' is missing"), |k| format!("Invalid parameter '{k}'"));
                    return Err(Error::new(sentence));
                }
            }
        }
    }
    c.globals.push(Given { option: a.text(), settings });
    done()
}

pub fn name(c: &mut Config, a: &Arg) -> Answer {
    let mut s = Settings::parse(a.value, Some("guest"))?;
    c.name = s.take("guest");
    if s.take("process").is_some() {
        return Err(Error::new("'process' is not supported yet"));
    }
    // Our threads always have names.
    s.take_bool("debug-threads")?;
    s.finish().map(|()| None)
}

pub fn uuid(c: &mut Config, a: &Arg) -> Answer {
    c.uuid = Some(parse_uuid(a.value).ok_or_else(|| Error::new("failed to parse UUID string: wrong format"))?);
    done()
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    if lengths != [8, 4, 4, 4, 12] {
        return None;
    }
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let mut bytes = [0; 16];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

pub fn escape(c: &mut Config, a: &Arg) -> Answer {
    let value = if a.value == "0" { 0 } else { number("echr", a.value).map_err(|_| Error::new("Bad argument to echr"))? };
    c.escape = u8::try_from(value).map_err(|_| Error::new("Bad argument to echr"))?;
    done()
}

pub fn log_items(c: &mut Config, a: &Arg) -> Answer {
    match log::parse_items(a.value)? {
        Some(items) => c.log_items |= items,
        None => return print(log::help(), 1),
    }
    done()
}

pub fn seed(c: &mut Config, a: &Arg) -> Answer {
    c.seed = Some(number("seed", a.value).map_err(|_| Error::new(format!("Invalid seed number: {}", a.value)))?);
    done()
}

pub fn action(c: &mut Config, a: &Arg) -> Answer {
    for (key, value) in Settings::parse(a.value, None)?.iter() {
        match (key, value) {
            ("reboot", "reset") => c.actions.reboot_ends = false,
            ("reboot", "shutdown") => c.actions.reboot_ends = true,
            ("shutdown", "poweroff") => c.actions.shutdown_pauses = false,
            ("shutdown", "pause") => c.actions.shutdown_pauses = true,
            // No device of these machines reports a panic or has a watchdog.
            ("panic", "pause" | "shutdown" | "exit-failure" | "none") => {}
            ("watchdog", "reset" | "shutdown" | "poweroff" | "inject-nmi" | "pause" | "debug" | "none") => {}
            ("reboot" | "shutdown" | "panic" | "watchdog", v) => {
                return Err(Error::new(format!("Parameter '{key}' does not accept value '{v}'")));
            }
            _ => return Err(Error::new(format!("Invalid parameter '{key}'"))),
        }
    }
    done()
}

pub fn rtc(c: &mut Config, a: &Arg) -> Answer {
    let mut s = Settings::parse(a.value, None)?;
    match s.take("base").as_deref() {
        None => {}
        Some("utc") => c.rtc.base = RtcBase::Utc,
        Some("localtime") => c.rtc.base = RtcBase::Local,
        Some(date) => c.rtc.base = RtcBase::At(parse_date(date)?),
    }
    match s.take("clock").as_deref() {
        None => {}
        Some("host" | "rt") => c.rtc.follows_vm = false,
        Some("vm") => c.rtc.follows_vm = true,
        Some(other) => return Err(Error::new(format!("invalid option value '{other}'"))),
    }
    match s.take("driftfix").as_deref() {
        None | Some("none") => {}
        // Lost ticks are a matter of the PC's clock; QEMU refuses it here, too.
        Some("slew") => return Err(Error::new("driftfix 'slew' is not available with this machine")),
        Some(other) => return Err(Error::new(format!("invalid option value '{other}'"))),
    }
    s.finish().map(|()| None)
}

/// `2006-06-17T16:01:21` or `2006-06-17`, in UTC.
fn parse_date(text: &str) -> Result<i64> {
    let bad = || Error::new("invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'");
    let (date, time) = text.split_once('T').unwrap_or((text, "0:0:0"));
    let numbers = |text: &str, separator: char| -> Option<[i64; 3]> {
        let parts: Vec<i64> = text.split(separator).map(|p| p.parse().ok().filter(|n| *n >= 0)).collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-').ok_or_else(bad)?;
    let [hour, minute, second] = numbers(time, ':').ok_or_else(bad)?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 || !(1900..=9999).contains(&year) {
        return Err(bad());
    }
    Ok(days_since_1970(year, month, day) * 86400 + hour * 3600 + minute * 60 + second)
}

/// Of the proleptic Gregorian calendar.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    y * 365 + y / 4 - y / 100 + y / 400 + day_of_year - 719_468
}

pub fn message(_: &mut Config, a: &Arg) -> Answer {
    let settings = Settings::parse(a.value, Some("timestamp"))?;
    for (key, value) in settings.iter() {
        match key {
            "timestamp" | "guest-name" if !boolean(key, value)? => {}
            "timestamp" | "guest-name" => return Err(Error::new(format!("'{key}=on' is not supported yet"))),
            _ => return Err(Error::new(format!("Invalid parameter '{key}'"))),
        }
    }
    done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_seconds() {
        assert_eq!(parse_date("1970-01-01").unwrap(), 0);
        assert_eq!(parse_date("2006-06-17T16:01:21").unwrap(), 1_150_560_081);
        assert_eq!(parse_date("2000-02-29").unwrap(), 951_782_400);
        assert_eq!(parse_date("2000-03-01").unwrap(), 951_868_800);
        for bad in ["", "now", "2006-13-01", "2006-1", "2006-01-01T25:00:00", "2006-01-01T1:1"] {
            assert!(parse_date(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uuids_have_one_form() {
        let bytes = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!(bytes[..4], [0, 0x11, 0x22, 0x33]);
        assert_eq!(bytes[15], 0xff);
        assert!(parse_uuid("00112233445566778899aabbccddeeff").is_none());
        assert!(parse_uuid("0011223g-4455-6677-8899-aabbccddeeff").is_none());
    }

    #[test]
    fn globals_have_two_forms() {
        let mut c = Config::new("x");
        for text in ["virtio-blk-pci.serial=a=b", "driver=virtio-blk-pci,property=serial,value=a=b"] {
            global(&mut c, &Arg { name: "-global", value: text }).unwrap();
        }
        assert_eq!(c.globals[0].settings, c.globals[1].settings);
        let e = global(&mut c, &Arg { name: "-global", value: "foo" }).unwrap_err();
        assert_eq!(e.sentence(), "Invalid parameter 'foo'");
    }
}
