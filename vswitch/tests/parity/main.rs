//! The loaded programs and the core on the host decide alike, frame by frame, over a generated corpus.

mod frames;
mod shared;

mod switch;
mod tables;
mod tunnel;
mod wire;
mod wireguard;
