//! Adding and erasing key slots.
//!
//! Reference: options, refusals and messages of `qemu-img amend -f luks` 10.0.2.
//!
//! Invariants: the last slot that opens the image is erased only by force; an erased slot's material is overwritten
//! before its entry in the header says that it is free.

use super::header::{Header, SALT};
use super::keys::{fill_slot, try_slot, unlock};
use super::options::iteration_time;
use crate::crypt::SECTOR;
use crate::node::{Node, strerror};
use crate::options::Options;
use spec::error::{Error, Result};
use std::io;

/// Times that key material is overwritten when it is erased.
const ERASE_PASSES: usize = 3;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Change {
    active: bool,
    new_secret: Option<String>,
    old_secret: Option<String>,
    slot: Option<usize>,
    time_ms: u64,
}

impl Change {
    /// Takes the options whose names start with `prefix`.
    pub fn take(options: &mut Options, prefix: &str) -> Result<Change> {
        let mut take = |key: &str| options.take(&format!("{prefix}{key}"));
        let active = match take("state").as_deref() {
            Some("active") => true,
            Some("inactive") => false,
            Some(other) => return Err(Error::new(format!("Parameter 'state' does not accept value '{other}'"))),
            None => return Err(Error::new("Parameter 'state' is missing")),
        };
        let slot = match take("keyslot") {
            None => None,
            Some(text) => Some(text.parse::<usize>().map_err(|_| Error::new("Parameter 'keyslot' expects a number"))?),
        };
        if let Some(slot) = slot.filter(|s| *s >= super::header::SLOTS) {
            return Err(Error::new(format!("Invalid keyslot {slot} specified. Must be between 0 and {}", super::header::SLOTS - 1)));
        }
        let change = Change { active, new_secret: take("new-secret"), old_secret: take("old-secret"), slot, time_ms: iteration_time(take("iter-time"))? };
        if active && change.new_secret.is_none() {
            return Err(Error::new("'new-secret' is required to activate a keyslot"));
        }
        if active && change.old_secret.is_some() {
            return Err(Error::new("'old-secret' must not be given when activating keyslots"));
        }
        if !active && change.new_secret.is_some() {
            return Err(Error::new("'new-secret' must not be given when erasing keyslots"));
        }
        if !active && change.old_secret.is_none() && slot.is_none() {
            return Err(Error::new("Either 'old-secret' or 'keyslot' must be given when erasing keyslots"));
        }
        Ok(change)
    }
}

fn host(e: io::Error) -> Error {
    Error::new(strerror(&e))
}

/// Carries a change out on the header that starts at `base` in `place`. `secret` opens the image.
pub fn apply(header: &mut Header, place: &dyn Node, base: u64, change: &Change, secret: &str, force: bool) -> Result<()> {
    if change.active { add(header, place, base, change, secret, force) } else { erase(header, place, base, change, force) }
}

fn add(header: &mut Header, place: &dyn Node, base: u64, change: &Change, secret: &str, force: bool) -> Result<()> {
    let index = match change.slot {
        Some(slot) if header.slots[slot].active && !force => {
            return Err(Error::new(format!("Refusing to overwrite active keyslot {slot} - please erase it first")));
        }
        Some(slot) => slot,
        None => header.slots.iter().position(|s| !s.active).ok_or_else(|| Error::new("Can't add a keyslot - all keyslots are in use"))?,
    };
    let (_, key) = unlock(header, place, base, &crate::secret::passphrase(secret)?)?;
    let new = crate::secret::passphrase(change.new_secret.as_deref().unwrap_or_default())?;
    let mut changed = header.clone();
    let material = fill_slot(&mut changed, index, &new, &key, change.time_ms)?;
    place.write(base + changed.slots[index].material_sector as u64 * SECTOR as u64, &material).map_err(host)?;
    place.flush().map_err(host)?;
    place.write(base, &changed.encode()).map_err(host)?;
    *header = changed;
    Ok(())
}

fn erase(header: &mut Header, place: &dyn Node, base: u64, change: &Change, force: bool) -> Result<()> {
    let active = header.slots.iter().filter(|s| s.active).count();
    let mut doomed: Vec<usize> = Vec::new();
    if let Some(id) = &change.old_secret {
        let old = crate::secret::passphrase(id)?;
        for index in 0..header.slots.len() {
            if change.slot.is_none_or(|s| s == index) && try_slot(header, place, base, index, &old)?.is_some() {
                doomed.push(index);
            }
        }
        match change.slot {
            Some(slot) if doomed.is_empty() => return Err(Error::new(format!("Given keyslot {slot} doesn't contain the given old password / erase operation"))),
            None if doomed.is_empty() => return Err(Error::new("No keyslots match given (old) password for erase operation")),
            _ => {}
        }
        if doomed.len() == active && !force && change.slot.is_none() {
            return Err(Error::new(
                "All the active keyslots match the (old) password that was given and erasing them will erase all the data in the image irreversibly - refusing operation",
            ));
        }
    } else if let Some(slot) = change.slot {
        doomed.push(slot);
    }
    if let Some(slot) = change.slot {
        if !header.slots[slot].active && !force {
            return Err(Error::new(format!("Given keyslot {slot} is already erased (inactive) ")));
        }
        if header.slots[slot].active && active == 1 && !force {
            return Err(Error::new(format!(
                "Attempt to erase the only active keyslot {slot} which will erase all the data in the image irreversibly - refusing operation"
            )));
        }
    }
    doomed.into_iter().try_for_each(|index| erase_slot(header, place, base, index))
}

fn erase_slot(header: &mut Header, place: &dyn Node, base: u64, index: usize) -> Result<()> {
    let at = base + header.slots[index].material_sector as u64 * SECTOR as u64;
    let len = Header::material_sectors(header.key_bytes) as usize * SECTOR;
    for _ in 0..ERASE_PASSES {
        let noise = crate::random::secret(len)?;
        place.write(at, &noise).map_err(host)?;
        place.flush().map_err(host)?;
    }
    let slot = &mut header.slots[index];
    slot.active = false;
    slot.iterations = 0;
    slot.salt = [0; SALT];
    place.write(base, &header.encode()).map_err(host)?;
    place.flush().map_err(host)
}
