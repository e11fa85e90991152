//! `-chardev`, and the short forms of `-serial`, `-monitor` and `-qmp`.
//!
//! Reference: the command line of QEMU 10. One row of [`BACKENDS`] for each kind; an option that its kind does not know
//! is an error.

use std::path::PathBuf;
use std::time::Duration;

use spec::commas;
use spec::error::{Error, Result};

/// Everything a `-chardev` option says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chardev {
    pub id: String,
    pub kind: Kind,
    /// Several front ends share it.
    pub mux: bool,
    /// Everything that is written also goes here.
    pub log: Option<Output>,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub path: PathBuf,
    /// Keep what is there.
    pub append: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    /// `signals`: Ctrl-C and Ctrl-Z act on us and not on the guest.
    Stdio {
        signals: bool,
    },
    File {
        output: Output,
        input: Option<PathBuf>,
    },
    /// A named pipe, or two: `path.in` and `path.out`.
    Pipe {
        path: PathBuf,
    },
    /// `link`: a name for the terminal.
    Pty {
        link: Option<PathBuf>,
    },
    /// A serial line of the host.
    Serial {
        path: PathBuf,
    },
    Socket(Socket),
    Udp(Udp),
    /// Keeps the last bytes for the monitor's `ringbuf_read`.
    Ringbuf {
        size: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub address: Address,
    pub role: Role,
    pub telnet: bool,
    /// Send small pieces at once.
    pub nodelay: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `wait`: the machine starts when the first client has come.
    Server {
        wait: bool,
    },
    Client {
        reconnect: Option<Duration>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Inet(Inet),
    Unix {
        path: String,
        abstracted: bool,
        tight: bool,
    },
    /// A descriptor that our parent opened.
    Inherited(i32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inet {
    pub host: String,
    pub port: String,
    /// The last port to try.
    pub to: Option<u16>,
    /// `Some(true)`: IPv4 only; `Some(false)`: IPv6 only.
    pub ipv4_only: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    pub host: String,
    pub port: String,
    pub local_host: String,
    pub local_port: String,
}

/// Where a short form leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// `none`: there is no such line at all.
    None,
    /// `chardev:ID`.
    Existing(String),
    New {
        chardev: Chardev,
        /// `mon:`: a monitor shares the line.
        monitor: bool,
    },
}

/// One kind of character device.
struct Row {
    name: &'static str,
    make: fn(&mut Pairs) -> Result<Kind>,
}

#[rustfmt::skip]
const BACKENDS: &[Row] = &[
    Row { name: "stdio",   make: |p| Ok(Kind::Stdio { signals: p.boolean("signal")?.unwrap_or(true) }) },
    Row { name: "file",    make: file },
    Row { name: "pipe",    make: |p| Ok(Kind::Pipe { path: p.needed("path", "chardev: pipe: no device path given")?.into() }) },
    Row { name: "pty",     make: |p| Ok(Kind::Pty { link: p.take("path").map(PathBuf::from) }) },
    Row { name: "serial",  make: |p| Ok(Kind::Serial { path: p.needed("path", "chardev: serial/tty: no device path given")?.into() }) },
    Row { name: "socket",  make: socket },
    Row { name: "udp",     make: udp },
    Row { name: "null",    make: |_| Ok(Kind::Null) },
    Row { name: "ringbuf", make: ringbuf },
];

/// Other names of the same kinds.
const ALIASES: &[(&str, &str)] = &[("memory", "ringbuf"), ("tty", "serial")];

/// Kinds that exist and are missing here.
const MISSING: &[&str] = &[
    "vc",
    "gc",
    "parallel",
    "parport",
    "hub",
    "mux",
    "msmouse",
    "wctablet",
    "testdev",
    "braille",
    "qemu-vdagent",
    "spicevmc",
    "spiceport",
    "dbus",
    "console",
];

/// Bytes of a ring buffer unless told otherwise.
const RINGBUF_DEFAULT: usize = 64 * 1024;
const RINGBUF_MAX: usize = 64 * 1024 * 1024;

/// Keys and values that nobody has used yet.
struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// The last of several counts.
    fn take(&mut self, key: &str) -> Option<String> {
        let value = self.0.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        self.0.retain(|(k, _)| k != key);
        value
    }

    fn needed(&mut self, key: &str, sentence: &str) -> Result<String> {
        self.take(key).filter(|v| !v.is_empty()).ok_or_else(|| Error::new(sentence))
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_str() {
            "on" | "yes" | "true" | "y" => Ok(Some(true)),
            "off" | "no" | "false" | "n" => Ok(Some(false)),
            _ => Err(Error::new(format!("Parameter '{key}' expects 'on' or 'off'"))),
        }
    }

    /// `on` unless `off` is said; `flag` and `noflag` are both names of it.
    fn flag(&mut self, key: &str, opposite: &str) -> Result<Option<bool>> {
        let negated = self.boolean(opposite)?.map(|on| !on);
        Ok(self.boolean(key)?.or(negated))
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| Error::new(format!("Parameter '{key}' expects a number")))
    }

    fn finish(self) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(Error::new(format!("Invalid parameter '{key}'"))),
        }
    }
}

fn file(pairs: &mut Pairs) -> Result<Kind> {
    let path = pairs.needed("path", "chardev: file: no filename given")?.into();
    let output = Output { path, append: pairs.boolean("append")?.unwrap_or(false) };
    Ok(Kind::File { output, input: pairs.take("input-path").map(PathBuf::from) })
}

fn ringbuf(pairs: &mut Pairs) -> Result<Kind> {
    let size = match pairs.take("size") {
        None => RINGBUF_DEFAULT,
        Some(text) => size(&text).ok_or_else(|| Error::new("Parameter 'size' expects a size"))?,
    };
    if !size.is_power_of_two() {
        return Err(Error::new("size of ringbuf chardev must be power of two"));
    }
    if size > RINGBUF_MAX {
        return Err(Error::new("size of ringbuf chardev is at most 64M"));
    }
    Ok(Kind::Ringbuf { size })
}

/// A number of bytes with K or M behind it.
fn size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(['k', 'K', 'M', 'm']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

fn family(pairs: &mut Pairs) -> Result<Option<bool>> {
    let (ipv4, ipv6) = (pairs.boolean("ipv4")?, pairs.boolean("ipv6")?);
    match (ipv4, ipv6) {
        (Some(true), Some(true)) | (None, None) => Ok(None),
        (Some(true), _) | (None, Some(false)) => Ok(Some(true)),
        (_, Some(true)) | (Some(false), None) => Ok(Some(false)),
        (Some(false), Some(false)) => Err(Error::new("Cannot disable IPv4 and IPv6 at same time")),
    }
}

fn address(pairs: &mut Pairs) -> Result<Address> {
    let (path, host, fd) = (pairs.take("path"), pairs.take("host"), pairs.take("fd"));
    match (path, host, fd) {
        (Some(path), None, None) => Ok(Address::Unix {
            path,
            abstracted: pairs.boolean("abstract")?.unwrap_or(false),
            tight: pairs.boolean("tight")?.unwrap_or(true),
        }),
        (None, Some(host), None) => {
            let port = pairs.needed("port", "chardev: socket: no port given")?;
            Ok(Address::Inet(Inet { host, port, to: pairs.number("to")?, ipv4_only: family(pairs)? }))
        }
        (None, None, Some(fd)) => match fd.parse() {
            Ok(number) => Ok(Address::Inherited(number)),
            Err(_) => Err(Error::new(format!("Unable to parse FD number {fd}"))),
        },
        (None, None, None) => Err(Error::new("chardev: socket: no address given: use 'path', 'host' or 'fd'")),
        _ => Err(Error::new("chardev: socket: use one of 'path', 'host' and 'fd'")),
    }
}

fn socket(pairs: &mut Pairs) -> Result<Kind> {
    for key in ["websocket", "tn3270"] {
        if pairs.boolean(key)? == Some(true) {
            return Err(Error::new(format!("chardev: socket: '{key}' is not supported")));
        }
    }
    for key in ["tls-creds", "tls-authz"] {
        if pairs.take(key).is_some() {
            return Err(Error::new("chardev: socket: TLS is not supported"));
        }
    }
    let address = address(pairs)?;
    let server = pairs.boolean("server")?.unwrap_or(false);
    let wait = pairs.boolean("wait")?;
    let seconds = pairs.number::<u64>("reconnect")?.map(|s| s.saturating_mul(1000));
    let reconnect = pairs.number::<u64>("reconnect-ms")?.or(seconds).filter(|&ms| ms > 0).map(Duration::from_millis);
    let role = match (server, wait, reconnect) {
        (true, _, Some(_)) => {
            return Err(Error::new("'reconnect' option is incompatible with socket in server listen mode"));
        }
        (true, wait, None) => Role::Server { wait: wait.unwrap_or(true) },
        (false, Some(_), _) => {
            return Err(Error::new("'wait' option is incompatible with socket in client connect mode"));
        }
        (false, None, reconnect) => Role::Client { reconnect },
    };
    let telnet = pairs.boolean("telnet")?.unwrap_or(false);
    let nodelay = pairs.flag("nodelay", "delay")?.unwrap_or(false);
    Ok(Kind::Socket(Socket { address, role, telnet, nodelay }))
}

fn udp(pairs: &mut Pairs) -> Result<Kind> {
    let or = |value: Option<String>, default: &str| match value {
        Some(value) if !value.is_empty() => value,
        _ => default.to_string(),
    };
    Ok(Kind::Udp(Udp {
        host: or(pairs.take("host"), "localhost"),
        port: pairs.needed("port", "chardev: udp: remote port not specified")?,
        local_host: pairs.take("localaddr").unwrap_or_default(),
        local_port: or(pairs.take("localport"), "0"),
    }))
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// A character device from the pairs of a `-chardev` option; the kind's key is `backend`.
pub fn chardev(pairs: Vec<(String, String)>) -> Result<Chardev> {
    let mut pairs = Pairs(pairs);
    let id = pairs.take("id").ok_or_else(|| Error::new("chardev: no id specified"))?;
    if !is_identifier(&id) {
        let rule = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.";
        return Err(Error::new(format!("Parameter 'id' expects an identifier\n{rule}")));
    }
    let name = pairs.take("backend").unwrap_or_default();
    finish(id, &name, pairs, "driver name")
}

fn finish(id: String, name: &str, mut pairs: Pairs, noun: &str) -> Result<Chardev> {
    let own = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, own)| own);
    let Some(row) = BACKENDS.iter().find(|row| row.name == own) else {
        return Err(Error::new(match MISSING.contains(&name) {
            true => format!("the character device '{name}' is not supported yet"),
            false => format!("'{name}' is not a valid char {noun}"),
        }));
    };
    let mux = pairs.boolean("mux")?.unwrap_or(false);
    let append = pairs.boolean("logappend")?.unwrap_or(false);
    let log = pairs.take("logfile").map(|path| Output { path: path.into(), append });
    let kind = (row.make)(&mut pairs)?;
    pairs.finish()?;
    Ok(Chardev { id, kind, mux, log })
}

/// A comma list: `,,` is a comma, `flag` is on, `noflag` of the two old flags of sockets is off.
fn split(text: &str, implied: Option<&str>) -> Vec<(String, String)> {
    let pair = |(i, field): (usize, String)| match (field.split_once('='), implied) {
        (Some((key, value)), _) => (key.to_string(), value.to_string()),
        (None, Some(key)) if i == 0 => (key.to_string(), field),
        (None, _) if field == "nowait" || field == "nodelay" => (field[2..].to_string(), "off".to_string()),
        (None, _) => (field, "on".to_string()),
    };
    commas::split(text).into_iter().enumerate().filter(|(_, f)| !f.is_empty()).map(pair).collect()
}

/// The text of a `-chardev` option, as the monitor's `chardev-add` takes it.
pub fn parse(text: &str) -> Result<Chardev> {
    chardev(split(text, Some("backend")))
}

/// A short form: `stdio`, `mon:stdio`, `tcp:host:port,server=on`, `/dev/ttyS0`, …
pub fn redirect(label: &str, text: &str) -> Result<Redirect> {
    if text == "none" {
        return Ok(Redirect::None);
    }
    if let Some(id) = text.strip_prefix("chardev:") {
        return Ok(Redirect::Existing(id.to_string()));
    }
    let (monitor, text) = match text.strip_prefix("mon:") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (name, mut pairs) = short(text)?;
    if monitor {
        pairs.push(("mux".into(), "on".into()));
        if name == "stdio" {
            // Ctrl-C is for the guest; Ctrl-A x is there to leave.
            pairs.push(("signal".into(), "off".into()));
        }
    }
    let chardev = finish(label.to_string(), name, Pairs(pairs), "driver")?;
    Ok(Redirect::New { chardev, monitor })
}

type List = Vec<(String, String)>;

fn short(text: &str) -> Result<(&str, List)> {
    let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
    let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
    match (scheme, text.contains(':')) {
        ("vc", _) => Ok(("vc", List::new())),
        ("file" | "pipe" | "pty", true) => Ok((scheme, vec![pair("path", rest)])),
        ("tcp" | "telnet" | "tn3270" | "websocket", true) => {
            let (place, options) = rest.split_once(',').unwrap_or((rest, ""));
            let (host, port) =
                place.rsplit_once(':').ok_or_else(|| Error::new(format!("'{place}' is not HOST:PORT")))?;
            let mut pairs = split(options, None);
            pairs.extend([pair("host", host.trim_matches(['[', ']'])), pair("port", port)]);
            if scheme != "tcp" {
                pairs.push(pair(scheme, "on"));
            }
            Ok(("socket", pairs))
        }
        ("unix", true) => {
            let pairs = split(rest, Some("path"));
            if !pairs.iter().any(|(key, _)| key == "path") {
                return Err(Error::new("unix: needs a path"));
            }
            Ok(("socket", pairs))
        }
        ("udp", true) => {
            let (remote, local) = rest.split_once('@').unwrap_or((rest, ""));
            let ends = |text: &str| {
                let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
                (host.trim_matches(['[', ']']).to_string(), port.to_string())
            };
            let ((host, port), (local_host, local_port)) = (ends(remote), ends(local));
            let keys = [("host", host), ("port", port), ("localaddr", local_host), ("localport", local_port)];
            Ok(("udp", keys.into_iter().map(|(k, v)| (k.to_string(), v)).collect()))
        }
        _ if text.starts_with("/dev/") => Ok(("serial", vec![pair("path", text)])),
        _ => Ok((text, List::new())),
    }
}

/// The kinds there are, for `query-chardev-backends`.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    BACKENDS.iter().map(|row| row.name)
}

/// `-chardev help`.
pub fn help() -> String {
    let rows: String = BACKENDS.iter().map(|row| format!("  {}\n", row.name)).collect();
    format!("Available chardev backend types: \n{rows}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Kind {
        parse(text).unwrap().kind
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    fn short_kind(text: &str) -> Kind {
        match redirect("serial0", text).unwrap() {
            Redirect::New { chardev, .. } => chardev.kind,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn inet(host: &str, port: &str) -> Address {
        Address::Inet(Inet { host: host.into(), port: port.into(), to: None, ipv4_only: None })
    }

    fn server(address: Address, wait: bool, telnet: bool) -> Kind {
        Kind::Socket(Socket { address, role: Role::Server { wait }, telnet, nodelay: false })
    }

    fn unix(path: &str) -> Address {
        Address::Unix { path: path.into(), abstracted: false, tight: true }
    }

    #[test]
    fn long_forms() {
        assert_eq!(kind("stdio,id=a"), Kind::Stdio { signals: true });
        assert_eq!(kind("stdio,id=a,signal=off"), Kind::Stdio { signals: false });
        let all = parse("file,id=f,path=/tmp/a,,b,append=on,logfile=l,logappend=on,mux=on").unwrap();
        let output = Output { path: "/tmp/a,b".into(), append: true };
        let log = Some(Output { path: "l".into(), append: true });
        assert_eq!(all, Chardev { id: "f".into(), kind: Kind::File { output, input: None }, mux: true, log });
        assert_eq!(kind("socket,id=s,path=/x,server=on,wait=off"), server(unix("/x"), false, false));
        assert_eq!(kind("socket,id=s,path=/x,server,nowait"), server(unix("/x"), false, false));
        assert_eq!(kind("socket,id=s,host=h,port=1,server=on,telnet=on"), server(inet("h", "1"), true, true));
        let reconnect = Role::Client { reconnect: Some(Duration::from_secs(2)) };
        let socket = Socket { address: Address::Inherited(7), role: reconnect, telnet: false, nodelay: true };
        assert_eq!(kind("socket,id=s,fd=7,reconnect=2,nodelay=on"), Kind::Socket(socket.clone()));
        assert_eq!(kind("socket,id=s,fd=7,reconnect-ms=2000,nodelay"), Kind::Socket(socket));
        assert_eq!(kind("ringbuf,id=r,size=4K"), Kind::Ringbuf { size: 4096 });
        assert_eq!(kind("memory,id=r"), Kind::Ringbuf { size: 65536 });
    }

    #[test]
    fn short_forms() {
        assert_eq!(redirect("s", "none").unwrap(), Redirect::None);
        assert_eq!(redirect("s", "chardev:x").unwrap(), Redirect::Existing("x".into()));
        assert_eq!(short_kind("stdio"), Kind::Stdio { signals: true });
        assert_eq!(short_kind("null"), Kind::Null);
        assert_eq!(short_kind("pty"), Kind::Pty { link: None });
        assert_eq!(short_kind("pipe:/tmp/p"), Kind::Pipe { path: "/tmp/p".into() });
        assert_eq!(short_kind("/dev/ttyS0"), Kind::Serial { path: "/dev/ttyS0".into() });
        assert_eq!(short_kind("tcp:localhost:5,server,nowait"), server(inet("localhost", "5"), false, false));
        assert_eq!(short_kind("telnet::5,server=on"), server(inet("", "5"), true, true));
        assert_eq!(short_kind("tcp:[::1]:5,server"), server(inet("::1", "5"), true, false));
        assert_eq!(short_kind("unix:/tmp/u,server,nowait"), server(unix("/tmp/u"), false, false));
        let client =
            Socket { address: unix("a"), role: Role::Client { reconnect: None }, telnet: false, nodelay: false };
        assert_eq!(short_kind("unix:a"), Kind::Socket(client));
        let udp = |host: &str, port: &str, local_host: &str, local_port: &str| {
            let [host, port, local_host, local_port] = [host, port, local_host, local_port].map(String::from);
            Kind::Udp(Udp { host, port, local_host, local_port })
        };
        assert_eq!(short_kind("udp::4555@:4556"), udp("localhost", "4555", "", "4556"));
        assert_eq!(short_kind("udp:h:1"), udp("h", "1", "", "0"));
        let Redirect::New { chardev, monitor: true } = redirect("serial0", "mon:stdio").unwrap() else { panic!() };
        assert_eq!((chardev.kind, chardev.mux, chardev.id.as_str()), (Kind::Stdio { signals: false }, true, "serial0"));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(error("foo,id=a"), "'foo' is not a valid char driver name");
        assert_eq!(error("null"), "chardev: no id specified");
        assert_eq!(error("stdio,id=a,foo=1"), "Invalid parameter 'foo'");
        assert_eq!(error("file,id=a"), "chardev: file: no filename given");
        assert_eq!(error("file,id=a,path=x,append=maybe"), "Parameter 'append' expects 'on' or 'off'");
        assert_eq!(error("socket,id=a,host=h"), "chardev: socket: no port given");
        let wait = "'wait' option is incompatible with socket in client connect mode";
        assert_eq!(error("socket,id=a,path=/x,wait=on"), wait);
        assert_eq!(error("ringbuf,id=a,size=3"), "size of ringbuf chardev must be power of two");
        assert_eq!(error("udp,id=a"), "chardev: udp: remote port not specified");
        assert_eq!(error("vc,id=v"), "the character device 'vc' is not supported yet");
        assert!(error("null,id=1a").starts_with("Parameter 'id' expects an identifier\n"));
        let short = |text: &str| redirect("serial0", text).unwrap_err().to_string();
        assert_eq!(short("foo"), "'foo' is not a valid char driver");
        assert_eq!(short("tcp:h:1,server,nowait,foo"), "Invalid parameter 'foo'");
        assert_eq!(short("vc:80Cx24C"), "the character device 'vc' is not supported yet");
    }
}
