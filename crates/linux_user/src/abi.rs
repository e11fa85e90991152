//! What differs from one guest architecture to the next. So far there is one.

pub mod arm;
