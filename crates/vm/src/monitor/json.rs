//! The conversation with a program: QMP.
//!
//! Reference: QEMU's QMP specification and the texts of version 10.0.2. Messages may span lines; strings may be in single
//! quotes. Numbers are JSON's.
//! Not modelled: commands that overtake others (`exec-oob`): none of ours may.
//!
//! Invariant: a message has at most [`MESSAGE_MAX`] bytes.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::info::PACKAGE;
use super::machine::Machine;
use super::qmp::{self, COMMANDS};
use crate::QEMU_VERSION;
use crate::lifecycle::{Cause, Event};

pub const MESSAGE_MAX: usize = 1 << 20;

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub class: &'static str,
    pub text: String,
}

impl Refusal {
    pub fn new(text: impl Into<String>) -> Refusal {
        Refusal { class: "GenericError", text: text.into() }
    }

    pub fn not_found(text: impl Into<String>) -> Refusal {
        Refusal { class: "CommandNotFound", text: text.into() }
    }
}

impl From<spec::Error> for Refusal {
    fn from(error: spec::Error) -> Refusal {
        // A hint for humans is no part of the description.
        let text = crate::report(&error);
        Refusal::new(text.split("\nIs another process using the image").next().unwrap_or_default())
    }
}

/// Cuts the stream into messages.
#[derive(Debug, Default)]
struct Cutter {
    message: Vec<u8>,
    depth: usize,
    quote: Option<u8>,
    escaped: bool,
    /// The message was too long; its rest is dropped.
    overflow: bool,
}

impl Cutter {
    /// Takes a byte; gives a message that ends with it.
    fn byte(&mut self, byte: u8) -> Option<Result<String, Refusal>> {
        let outside = self.quote.is_none();
        if outside && self.message.is_empty() && byte.is_ascii_whitespace() {
            return None;
        }
        self.message.push(byte);
        if self.message.len() > MESSAGE_MAX {
            self.overflow = true;
            self.message.truncate(1);
        }
        let mut ended = false;
        match (self.quote, byte) {
            (Some(_), _) if std::mem::take(&mut self.escaped) => {}
            (Some(_), b'\\') => self.escaped = true,
            (Some(quote), byte) if byte == quote => self.quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => self.quote = Some(byte),
            (None, b'{' | b'[') => self.depth += 1,
            (None, b'}' | b']') => {
                self.depth = self.depth.saturating_sub(1);
                ended = self.depth == 0;
            }
            // A word that is no object ends where it ends.
            (None, byte) => ended = self.depth == 0 && byte.is_ascii_whitespace(),
        }
        ended.then(|| self.finish())
    }

    fn finish(&mut self) -> Result<String, Refusal> {
        let done = std::mem::take(self);
        if done.overflow {
            return Err(Refusal::new("JSON token size limit exceeded"));
        }
        String::from_utf8(done.message).map_err(|_| Refusal::new("JSON parse error, invalid UTF-8 sequence in string"))
    }
}

/// Strings in single quotes become strings in double quotes.
fn usual_quotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '"' | '\'') => {
                quote = Some(c);
                out.push('"');
            }
            (Some(q), c) if c == q => {
                quote = None;
                out.push('"');
            }
            (Some('\''), '"') => out.push_str("\\\""),
            (Some(_), '\\') => match chars.next() {
                Some('\'') => out.push('\''),
                Some(c) => out.extend(['\\', c]),
                None => out.push('\\'),
            },
            (_, c) => out.push(c),
        }
    }
    out
}

/// One program's connection.
pub struct Control {
    machine: Arc<dyn Machine>,
    negotiated: bool,
    pretty: bool,
    cutter: Cutter,
}

/// A command's answer, and what happens once it is on its way.
pub struct Answer {
    pub value: Value,
    pub then: Option<fn(&dyn Machine)>,
}

impl From<Value> for Answer {
    fn from(value: Value) -> Answer {
        Answer { value, then: None }
    }
}

impl Control {
    pub fn new(machine: Arc<dyn Machine>, pretty: bool) -> Control {
        Control { machine, negotiated: false, pretty, cutter: Cutter::default() }
    }

    /// A new client: it is greeted and has to negotiate.
    pub fn greet(&mut self) -> String {
        self.negotiated = false;
        self.cutter = Cutter::default();
        self.show(&json!({"QMP": {"version": version(), "capabilities": ["oob"]}}))
    }

    /// Takes what the client sent; `say` sends an answer.
    pub fn input(&mut self, bytes: &[u8], say: &mut dyn FnMut(&str, bool)) {
        for &byte in bytes {
            let Some(message) = self.cutter.byte(byte) else { continue };
            let (reply, then) = self.reply(message);
            say(&self.show(&reply), self.negotiated);
            if let Some(then) = then {
                then(&*self.machine);
            }
        }
    }

    fn reply(&mut self, message: Result<String, Refusal>) -> (Value, Option<fn(&dyn Machine)>) {
        let parsed = message.and_then(|text| {
            let value: Result<Value, _> = serde_json::from_str(&usual_quotes(&text));
            value.map_err(|error| Refusal::new(format!("JSON parse error, {error}")))
        });
        let id = parsed.as_ref().ok().and_then(|value| value.get("id")).cloned();
        let (mut reply, then) = match parsed.and_then(|value| self.message(value)) {
            Ok(answer) => (json!({"return": answer.value}), answer.then),
            Err(refusal) => (json!({"error": {"class": refusal.class, "desc": refusal.text}}), None),
        };
        if let Some(id) = id {
            reply["id"] = id;
        }
        (reply, then)
    }

    fn message(&mut self, value: Value) -> Result<Answer, Refusal> {
        let Value::Object(members) = value else { return Err(Refusal::new("QMP input must be a JSON object")) };
        let mut name = None;
        let mut arguments = Map::new();
        for (key, value) in members {
            match (key.as_str(), value) {
                ("execute" | "exec-oob", Value::String(text)) => name = Some((text, key == "exec-oob")),
                ("execute" | "exec-oob", _) => {
                    return Err(Refusal::new(format!("QMP input member '{key}' must be a string")));
                }
                ("arguments", Value::Object(map)) => arguments = map,
                ("arguments", _) => return Err(Refusal::new("QMP input member 'arguments' must be an object")),
                ("id", _) => {}
                _ => return Err(Refusal::new(format!("QMP input member '{key}' is unexpected"))),
            }
        }
        let (name, oob) = name.ok_or_else(|| Refusal::new("QMP input lacks member 'execute'"))?;
        self.execute(&name, oob, arguments)
    }

    fn execute(&mut self, name: &str, oob: bool, arguments: Map<String, Value>) -> Result<Answer, Refusal> {
        match (name == "qmp_capabilities", self.negotiated) {
            (true, true) => {
                let text = "Capabilities negotiation is already complete, command ignored";
                return Err(Refusal::not_found(text));
            }
            (false, false) => {
                let text = "Expecting capabilities negotiation with 'qmp_capabilities'";
                return Err(Refusal::not_found(text));
            }
            _ => {}
        }
        let command = COMMANDS.iter().find(|command| command.name == name);
        let command = command.ok_or_else(|| Refusal::not_found(format!("The command {name} has not been found")))?;
        if oob {
            return Err(Refusal::new(format!("The command {name} does not support OOB")));
        }
        let answer = qmp::run(command, &self.machine, arguments)?;
        self.negotiated = true;
        Ok(answer)
    }

    fn show(&self, value: &Value) -> String {
        show(value, self.pretty)
    }
}

/// A message as it is sent.
fn show(value: &Value, pretty: bool) -> String {
    let mut out = String::new();
    write(value, pretty.then_some(0), &mut out);
    out + "\r\n"
}

/// JSON with QEMU's spaces: after colons and commas; or, with a level, on lines of their own.
fn write(value: &Value, level: Option<usize>, out: &mut String) {
    let inner = level.map(|level| level + 1);
    let line = |level: Option<usize>, out: &mut String| {
        if let Some(level) = level {
            out.push('\n');
            out.extend(std::iter::repeat_n("    ", level));
        }
    };
    let comma = |first: bool, out: &mut String| match (first, level) {
        (true, _) => {}
        (false, None) => out.push_str(", "),
        (false, Some(_)) => out.push(','),
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                comma(i == 0, out);
                line(inner, out);
                out.push_str(&format!("{}: ", Value::String(key.clone())));
                write(value, inner, out);
            }
            line(level, out);
            out.push('}');
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                comma(i == 0, out);
                line(inner, out);
                write(value, inner, out);
            }
            line(level, out);
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// `query-version`.
pub(super) fn version() -> Value {
    let numbers: Vec<u64> = QEMU_VERSION.split('.').map(|n| n.parse().expect("the version is three numbers")).collect();
    json!({"qemu": {"micro": numbers[2], "minor": numbers[1], "major": numbers[0]}, "package": PACKAGE})
}

/// What a program hears of an event.
pub fn event(event: Event, pretty: bool) -> String {
    let because = |cause: Cause| Some(json!({"guest": cause.is_guest(), "reason": cause.reason()}));
    let (name, data) = match event {
        Event::Stop => ("STOP", None),
        Event::Resume => ("RESUME", None),
        Event::Powerdown => ("POWERDOWN", None),
        Event::Reset(cause) => ("RESET", because(cause)),
        Event::Shutdown(cause) => ("SHUTDOWN", because(cause)),
        Event::Job(name, data) => (name, Some(data)),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut value = json!({
        "timestamp": {"seconds": now.as_secs(), "microseconds": now.subsec_micros()},
        "event": name,
    });
    if let Some(data) = data {
        value["data"] = data;
    }
    show(&value, pretty)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    /// A client that has negotiated.
    fn client() -> (Arc<Fake>, Control) {
        let fake = Fake::new();
        let mut control = Control::new(fake.clone(), false);
        control.greet();
        assert_eq!(ask(&mut control, r#"{"execute":"qmp_capabilities"}"#), r#"{"return": {}}"#);
        (fake, control)
    }

    fn ask(control: &mut Control, text: &str) -> String {
        let mut out = String::new();
        control.input(text.as_bytes(), &mut |reply, _| out.push_str(reply));
        control.input(b"\n", &mut |reply, _| out.push_str(reply));
        out.trim_end().to_string()
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(ask(&mut client().1, text), expected, "{text}");
    }

    fn refused(text: &str, desc: &str) {
        check(text, &format!(r#"{{"error": {{"class": "GenericError", "desc": "{desc}"}}}}"#));
    }

    #[test]
    fn a_client_negotiates_first_and_once() {
        let mut control = Control::new(Fake::new(), false);
        let greeting = format!(
            "{{\"QMP\": {{\"version\": {{\"qemu\": {{\"micro\": 2, \"minor\": 0, \"major\": 10}}, \
             \"package\": \"{PACKAGE}\"}}, \"capabilities\": [\"oob\"]}}}}\r\n"
        );
        assert_eq!(control.greet(), greeting);
        let refused = |text: &str| format!(r#"{{"error": {{"class": "CommandNotFound", "desc": "{text}"}}}}"#);
        let early = refused("Expecting capabilities negotiation with 'qmp_capabilities'");
        assert_eq!(ask(&mut control, r#"{"execute":"query-status"}"#), early);
        let negotiate = r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":1}"#;
        assert_eq!(ask(&mut control, negotiate), r#"{"return": {}, "id": 1}"#);
        let again = refused("Capabilities negotiation is already complete, command ignored");
        assert_eq!(ask(&mut control, r#"{"execute":"qmp_capabilities"}"#), again);
        control.greet();
        assert_eq!(ask(&mut control, r#"{"execute":"query-status"}"#), early);
    }

    #[test]
    fn mistakes_have_qemus_words() {
        refused(r#"{"execut":"foo"}"#, "QMP input member 'execut' is unexpected");
        refused(r#"{"execute":5}"#, "QMP input member 'execute' must be a string");
        refused(r#"{"execute":"query-status","foo":1}"#, "QMP input member 'foo' is unexpected");
        refused(r#"{"execute":"query-status","arguments":{"x":1}}"#, "Parameter 'x' is unexpected");
        refused(r#"{"execute":"memsave","arguments":{"val":0,"size":4}}"#, "Parameter 'filename' is missing");
        let text = r#"{"execute":"memsave","arguments":{"val":0,"size":"4","filename":"x"}}"#;
        refused(text, "Parameter 'size' expects uint64");
        refused("[1,2]", "QMP input must be a JSON object");
        refused(r#""text""#, "QMP input must be a JSON object");
        refused("{}", "QMP input lacks member 'execute'");
        refused(r#"{"exec-oob":"query-status"}"#, "The command query-status does not support OOB");
        check(
            r#"{"execute":"foo","id":"x"}"#,
            r#"{"error": {"class": "CommandNotFound", "desc": "The command foo has not been found"}, "id": "x"}"#,
        );
        assert!(ask(&mut client().1, "nonsense").contains("JSON parse error"));
        assert!(ask(&mut client().1, r#"{"a":}"#).contains("JSON parse error"));
    }

    #[test]
    fn messages_may_span_lines_and_use_single_quotes() {
        let prelaunch = r#"{"return": {"status": "prelaunch", "running": false}}"#;
        check("{\n 'execute' :\n 'query-status' }", prelaunch);
        check(
            r#"{"execute":"human-monitor-command","arguments":{"command-line":"print '}'"}}"#,
            r#"{"return": "0x7d\r\n"}"#,
        );
        let two = r#"{'execute':'query-status'}{'execute':'query-status'}"#;
        check(two, &format!("{prelaunch}\r\n{prelaunch}"));
        check(
            r#"{'execute':'query-status','id':'it\'s "x"'}"#,
            r#"{"return": {"status": "prelaunch", "running": false}, "id": "it's \"x\""}"#,
        );
    }

    #[test]
    fn endless_messages_are_bounded() {
        let (_fake, mut control) = client();
        let mut replies = Vec::new();
        let mut say = |reply: &str, _: bool| replies.push(reply.to_string());
        control.input(b"{'a':'", &mut say);
        for _ in 0..3 {
            control.input(&vec![b'x'; MESSAGE_MAX], &mut say);
        }
        control.input(b"'} {'execute':'query-status'}", &mut say);
        assert_eq!(replies.len(), 2);
        assert!(replies[0].contains("size limit") && replies[1].contains("prelaunch"), "{replies:?}");
        assert!(
            ask(&mut control, &format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))).contains("JSON parse error")
        );
    }

    #[test]
    fn pretty_is_indented() {
        let text = show(&json!({"a": [1, {}], "b": {"c": "d"}}), true);
        assert_eq!(
            text,
            "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": {\n        \"c\": \"d\"\n    }\n}\r\n"
        );
    }

    #[test]
    fn events_say_when_and_why() {
        let value: Value = serde_json::from_str(&event(Event::Shutdown(Cause::HostQuit), false)).unwrap();
        assert_eq!(value["event"], "SHUTDOWN");
        assert_eq!(value["data"], json!({"guest": false, "reason": "host-qmp-quit"}));
        assert!(value["timestamp"]["seconds"].as_u64().unwrap() > 1_600_000_000);
        let value: Value = serde_json::from_str(&event(Event::Stop, false)).unwrap();
        assert_eq!(value.get("data"), None);
    }
}
