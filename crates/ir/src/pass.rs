//! Passes over a whole region. Folding and forwarding happen in the builder; what is left is removal of dead code and of
//! overwritten state writes, in one backward walk.

pub mod dead;
pub mod flags;
