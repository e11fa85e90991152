//! `null`: output disappears, input never comes. Also the host's side of a ring buffer, which lives in its line.

use crate::io::{Backend, Ready, Traffic, Watch};

#[derive(Debug)]
pub struct Null;

impl Backend for Null {
    fn start(&mut self, traffic: &mut Traffic) {
        traffic.line.opened(false);
    }

    fn watch<'a>(&'a self, _traffic: &Traffic, _watch: &mut Watch<'a>) {}

    fn turn(&mut self, _traffic: &mut Traffic, _ready: &Ready) {}
}
