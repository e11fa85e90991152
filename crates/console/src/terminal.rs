//! The user's terminal: raw while a guest uses it.
//!
//! Reference: termios(3). The settings are those of QEMU's stdio back end: output processing stays on, so that a
//! guest's bare line feeds look right.

use std::os::fd::AsFd;

use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, tcgetattr, tcsetattr,
};
use spec::error::{Context, Result};

pub use host::terminal::restore;

/// Makes the terminal raw; it is put back when the process ends or [`restore`] is called. With `signals`, Ctrl-C and
/// Ctrl-Z act on us and not on the guest. False if `input` is no terminal.
pub fn raw(input: impl AsFd, signals: bool) -> Result<bool> {
    let input = input.as_fd();
    let sentence = || "could not set the terminal to raw mode".to_string();
    if !host::terminal::keep(input).context(sentence)? {
        return Ok(false);
    }
    host::terminal::restore_on_death();
    let mut settings = tcgetattr(input).context(sentence)?;
    settings.input_modes -= InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::PARMRK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON;
    settings.output_modes |= OutputModes::OPOST;
    settings.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN;
    settings.local_modes.set(LocalModes::ISIG, signals);
    settings.control_modes -= ControlModes::CSIZE | ControlModes::PARENB;
    settings.control_modes |= ControlModes::CS8;
    settings.special_codes[SpecialCodeIndex::VMIN] = 1;
    settings.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(input, OptionalActions::Now, &settings).context(sentence)?;
    host::terminal::changed();
    Ok(true)
}
