//! `-daemonize`: the program goes on in the background once everything is open, and the parent's status says whether it is.
//!
//! There is no fork: the program starts itself again, in its own session, with its standard output as the pipe on which it
//! says that it is ready. Until then its messages go where the parent's went.

use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use spec::{Context, Error, Result};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// In the environment of the second process.
const MARK: &str = "RHEA_DAEMON";
/// What the second process says last.
const READY: u8 = 0;

/// Whether this is the process in the background.
pub fn is_child() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the process in the background and waits until it is ready. Gives this process's exit status.
pub fn launch(args: &[OsString]) -> Result<u8> {
    let program = std::env::current_exe().context(|| "could not find the own program".to_owned())?;
    let mut command = Command::new(program);
    command.args(args).env(MARK, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context(|| "could not start in the background".to_owned())?;
    let mut pipe = child.stdout.take().expect("it is piped");
    let mut byte = [0];
    while pipe.read(&mut byte).unwrap_or(0) == 1 {
        if byte[0] == READY {
            return Ok(0);
        }
        // Such as the name of a pseudo-terminal.
        std::io::stdout().write_all(&byte).context(|| "could not write to standard output".to_owned())?;
    }
    let status = child.wait().context(|| "could not wait for the process in the background".to_owned())?;
    Ok(status.code().map_or(1, |code| code as u8))
}

/// In the background: a session of its own, so that no terminal's signals come here.
pub fn detach() -> Result<()> {
    rustix::process::setsid().context(|| "could not make a session".to_owned())?;
    Ok(())
}

/// In the background: everything is open, the parent may end.
pub fn ready() -> Result<()> {
    let sentence = || "could not let go of the terminal".to_owned();
    let mut out = std::io::stdout();
    out.write_all(&[READY]).and_then(|()| out.flush()).context(sentence)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").context(sentence)?;
    dup2_stdin(&null).context(sentence)?;
    dup2_stdout(&null).context(sentence)?;
    dup2_stderr(&null).context(sentence)?;
    std::env::set_current_dir("/").context(sentence)?;
    Ok(())
}

/// `-pidfile`: holds our number while we live.
pub struct PidFile {
    path: std::path::PathBuf,
    _lock: std::fs::File,
}

impl PidFile {
    pub fn create(path: &str) -> Result<PidFile> {
        let fail = || format!("cannot create PID file: Could not create '{path}'");
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(|e| plain(fail(), e))?;
        if file.try_lock().is_err() {
            return Err(Error::new(format!("cannot create PID file: Could not lock '{path}': another process holds it")));
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(|e| plain(fail(), e))?;
        let path = std::path::absolute(path).map_err(|e| plain(fail(), e))?;
        Ok(PidFile { path, _lock: file })
    }
}

/// An error without the number that Rust adds.
fn plain(sentence: String, e: std::io::Error) -> Error {
    Error::new(format!("{sentence}: {}", disk::node::strerror(&e)))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it before us.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_has_one_owner() {
        let path = std::env::temp_dir().join(format!("rhea-pid-{}", std::process::id()));
        let name = path.to_str().unwrap();
        let file = PidFile::create(name).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert!(PidFile::create(name).is_err());
        drop(file);
        assert!(!path.exists());
        let e = PidFile::create("/nonexist/x").err().unwrap().to_string();
        assert_eq!(e, "cannot create PID file: Could not create '/nonexist/x': No such file or directory");
    }
}
