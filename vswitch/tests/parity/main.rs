//! The loaded programs and the core on the host make the same decision about each frame of a
//! generated corpus.

mod frames;
mod programs;
mod shared;

mod switch;
mod tables;
mod tunnel;
mod wire;
mod wireguard;
