//! Sessions that go on in another process: in the next program after execve, or in the child of a fork.
//!
//! After a fork both processes wait. The debugger lets one of them go (`detach-on-fork on`, `follow-fork-mode`), and until then
//! the parent answers for the child, whose memory and registers are the same but for the result of the call. A child that is
//! followed takes over the connection; it has to know what the debugger has said so far: [`Spoken`].
//!
//! **Reference.** "Debugging with GDB", sections E.5 (stop reply packets `fork` and `exec`) and E.6 (`fork-events`, `exec-events`).
//!
//! **Not modelled**: both processes in one session (`detach-on-fork off` leaves the child waiting), `vfork` as an event of its own.

use crate::Thread;
use crate::adapter::{Adapter, bytes_of};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

/// Packets whose last one must be known to the next process.
const LASTING: [&str; 4] = ["qSupported:", "QStartNoAckMode", "QPassSignals:", "QCatchSyscalls:"];
/// The stub has no better words for what it does not do.
const REFUSED: &[u8] = b"E01";

/// What a debugger has said that the next process must know, as packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spoken(pub(crate) Vec<String>);

impl Spoken {
    pub fn text(&self) -> String {
        self.0.join("\n")
    }

    pub fn from_text(text: &str) -> Spoken {
        Spoken(text.lines().map(str::to_string).collect())
    }

    /// Whether the debugger knows this feature, such as `fork-events`.
    pub fn knows(&self, feature: &str) -> bool {
        let features = self.0.iter().find_map(|p| p.strip_prefix(LASTING[0])).unwrap_or_default();
        features.split(';').any(|f| f.strip_suffix('+') == Some(feature))
    }
}

/// Process and thread of `pPID.TID` or `TID`, in hexadecimal; -1 (all) and 0 (any) are none.
pub fn ids(text: &str) -> (Option<Thread>, Option<Thread>) {
    let number = |s: &str| usize::from_str_radix(s, 16).ok().and_then(NonZeroUsize::new);
    match text.strip_prefix('p') {
        Some(both) => {
            let (pid, tid) = both.split_once('.').unwrap_or((both, ""));
            (number(pid), number(tid))
        }
        None => (None, number(text)),
    }
}

pub fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    bytes.into_iter().map(|b| format!("{b:02x}")).collect()
}

/// What becomes of a packet.
pub enum Answer {
    /// It is `gdbstub`'s.
    None,
    Text(Vec<u8>),
    /// The answer; then the child takes over.
    HandOver(Vec<u8>, Thread),
    /// The answer; then the process ends.
    Kill(Vec<u8>),
}

/// The conversation so far.
#[derive(Default)]
pub struct Conversation {
    lasting: Vec<String>,
    points: BTreeSet<String>,
    /// Waiting children: the thread that made them, and their points.
    waiting: BTreeMap<Thread, (Thread, BTreeSet<String>)>,
    /// The waiting child that the debugger's questions are about.
    selected: Option<Thread>,
}

impl Conversation {
    /// All that a process must be told that goes on from here: as the child of a fork with its points, or as the next program.
    pub fn spoken(&self, child: Option<Thread>, adapter: &Adapter<'_>) -> Spoken {
        let mut packets = self.lasting.clone();
        // Files keep their numbers: what has been closed is opened as its neighbour and closed again.
        let mut closed = Vec::new();
        for n in 0..adapter.files.len() {
            if let Some((name, _)) = adapter.files[n..].iter().flatten().next() {
                packets.push(format!("vFile:open:{},0,0", hex(name.iter().copied())));
                closed.extend(adapter.files[n].is_none().then(|| format!("vFile:close:{n:x}")));
            }
        }
        packets.extend(closed);
        if let Some(child) = child {
            packets
                .extend(self.waiting.get(&child).into_iter().flat_map(|(_, points)| points).map(|p| format!("Z{p}")));
            packets.push(format!("Hgp{child:x}.{child:x}"));
        }
        Spoken(packets)
    }

    /// A child waits: it has the parent's points.
    pub fn forked(&mut self, child: Thread, thread: Thread) {
        self.waiting.insert(child, (thread, self.points.clone()));
    }

    /// Notes what a packet says, and answers it if it is about processes.
    pub fn hear(&mut self, packet: &str, adapter: &mut Adapter<'_>) -> Answer {
        if let Some(kind) = LASTING.iter().find(|p| packet.starts_with(**p)) {
            self.lasting.retain(|p| !p.starts_with(kind));
            self.lasting.push(packet.into());
        }
        let Some(own) = adapter.target.pid() else { return Answer::None };
        // Extended mode, which `gdbstub` would take for wanted.
        if packet == "!" || packet.starts_with("vRun;") || packet.starts_with("vAttach;") || packet.starts_with("R") {
            return Answer::Text(Vec::new());
        }
        let children = adapter.target.children();
        let about = |pid: Option<Thread>| pid.filter(|p| children.contains(p));
        if let Some(pid) = packet.strip_prefix("D;").or_else(|| packet.strip_prefix("vKill;")) {
            return self.ends(packet.starts_with('v'), ids(&format!("p{pid}")).0, own, adapter);
        }
        if let Some(id) = packet.strip_prefix("Hg") {
            self.selected = about(ids(id).0);
        }
        let of_child =
            packet.strip_prefix("Hg").or_else(|| packet.strip_prefix("Hc")).or_else(|| packet.strip_prefix('T'));
        if let Some(id) = of_child {
            return if about(ids(id).0).is_some() { Answer::Text(b"OK".into()) } else { Answer::None };
        }
        if packet == "qfThreadInfo" && !children.is_empty() {
            let threads =
                adapter.target.threads().into_iter().map(|t| (own, t)).chain(children.iter().map(|c| (*c, *c)));
            let list: Vec<String> = threads.map(|(p, t)| format!("p{p:x}.{t:x}")).collect();
            return Answer::Text(format!("m{}", list.join(",")).into());
        }
        if packet.starts_with("vCont;")
            && packet.split([';', ':']).any(|w| w.starts_with('p') && about(ids(w).0).is_some())
        {
            // It cannot run while this process is debugged.
            return Answer::Text(REFUSED.into());
        }
        self.points(packet);
        match self.selected {
            Some(child) => self.for_child(child, packet, adapter),
            None => Answer::None,
        }
    }

    fn ends(&mut self, kill: bool, pid: Option<Thread>, own: Thread, adapter: &mut Adapter<'_>) -> Answer {
        let ok = b"OK".to_vec();
        let children = adapter.target.children();
        match pid {
            Some(child) if children.contains(&child) => {
                adapter.target.release_child(child, kill);
                self.waiting.remove(&child);
                self.selected = self.selected.filter(|s| *s != child);
                Answer::Text(ok)
            }
            Some(pid) if pid != own => Answer::Text(ok),
            _ if kill => Answer::Kill(ok),
            // Let go while a child waits: that one is followed.
            _ => children.last().map_or(Answer::None, |child| Answer::HandOver(ok, *child)),
        }
    }

    fn points(&mut self, packet: &str) {
        let set = match self.selected.and_then(|child| self.waiting.get_mut(&child)) {
            Some((_, points)) => points,
            None => &mut self.points,
        };
        if let Some(point) = packet.strip_prefix('Z') {
            set.insert(point.into());
        } else if let Some(point) = packet.strip_prefix('z') {
            set.remove(point);
        }
    }

    /// The parent's registers and memory are the child's, but for the result of the call.
    fn for_child(&self, child: Thread, packet: &str, adapter: &Adapter<'_>) -> Answer {
        let Some((thread, _)) = self.waiting.get(&child) else { return Answer::None };
        let register = |n: usize| {
            let value = if n == 0 { 0 } else { adapter.target.read_register(*thread, n)? };
            Some(hex(value.to_le_bytes()[..bytes_of(adapter.registers().get(n)?)].iter().copied()))
        };
        match packet.as_bytes().first() {
            Some(b'g') => {
                let all: Option<String> = (0..adapter.registers().len()).map(register).collect();
                Answer::Text(all.map_or(REFUSED.into(), String::into_bytes))
            }
            Some(b'p') => {
                let one = usize::from_str_radix(&packet[1..], 16).ok().and_then(register);
                Answer::Text(one.map_or(REFUSED.into(), String::into_bytes))
            }
            Some(b'Z' | b'z') => Answer::Text(b"OK".into()),
            Some(b'G' | b'P' | b'M' | b'X') => Answer::Text(REFUSED.into()),
            _ => Answer::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: usize) -> Option<Thread> {
        Thread::new(n)
    }

    #[test]
    fn identifiers_of_processes_and_threads() {
        assert_eq!(ids("p1f.2a"), (number(0x1f), number(0x2a)));
        assert_eq!(ids("p1f.-1"), (number(0x1f), None));
        assert_eq!(ids("2a"), (None, number(0x2a)));
        assert_eq!(ids("0"), (None, None));
        assert_eq!(ids("p7"), (number(7), None));
    }

    #[test]
    fn what_was_said_survives_as_text() {
        let spoken =
            Spoken(vec!["qSupported:multiprocess+;fork-events+;xmlRegisters=i386".into(), "QStartNoAckMode".into()]);
        assert_eq!(Spoken::from_text(&spoken.text()), spoken);
        assert!(spoken.knows("fork-events") && !spoken.knows("exec-events") && !spoken.knows("xmlRegisters"));
    }
}
