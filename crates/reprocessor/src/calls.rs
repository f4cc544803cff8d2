//! The dead-letter API's calls, by what they are about.

mod asked;
pub mod letters;
pub mod replays;
