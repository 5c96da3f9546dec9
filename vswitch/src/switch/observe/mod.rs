//! Observation: frames, traces, counters, the FDB, health, status. Nothing here changes a network
//! or an endpoint.

mod cluster;
mod fdb;
mod frames;
mod health;
mod measure;
mod status;
mod trace;

use std::sync::{Arc, Mutex};

use super::context::Context;
use super::nat::Nat;
use super::overlay::Overlay;
use crate::datapath::Tracer;
use crate::observe::Observer;
pub use fdb::{FdbWatch, Station, StationChange, StationFilter, StationKey};
pub use frames::{Frame, FrameFilter, FrameMessage, FrameVerdict, Frames};
pub use health::PortHealth;
pub use trace::{Target, Trace, TraceContent, TraceError, TraceFrame, TraceQuery, TraceStep, TraceVerdict};

/// The observers of the switch.
#[derive(Debug)]
pub struct Observe {
    context: Arc<Context>,
    observer: Arc<Observer>,
    nat: Arc<Nat>,
    overlay: Arc<Overlay>,
    /// The recording copy of the programs, loaded by the first trace.
    tracer: Mutex<Option<Tracer>>,
}

impl Observe {
    /// Returns the owner.
    pub fn new(context: Arc<Context>, observer: Arc<Observer>, nat: Arc<Nat>, overlay: Arc<Overlay>) -> Self {
        Self { context, observer, nat, overlay, tracer: Mutex::default() }
    }
}
