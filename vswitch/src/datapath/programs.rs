//! The loaded programs, as they are attached: by their descriptors alone. What they were loaded from, instructions and
//! types, is some megabytes that nobody needs any more.

use aya::programs::{ProgramError, SchedClassifier, Xdp as XdpProgram};
use aya_obj::programs::XdpAttachType;

use super::DatapathError;
use super::hooks::Hook;
use super::load::Pins;

/// The program of each hook.
pub(super) struct Programs {
    classifiers: Vec<(Hook, SchedClassifier)>,
    xdp: Vec<(Hook, XdpProgram)>,
}

impl Programs {
    /// Those that are pinned.
    pub(super) fn pinned(pins: &Pins<'_>) -> Result<Self, DatapathError> {
        let mut programs = Self { classifiers: Vec::new(), xdp: Vec::new() };
        for hook in Hook::ALL {
            let path = pins.program(hook);
            let failed = |error: ProgramError| DatapathError::Pin { path: path.clone(), message: error.to_string() };
            if hook.is_xdp() {
                let program = XdpProgram::from_pin(&path, XdpAttachType::Interface).map_err(failed)?;
                programs.xdp.push((hook, program));
            } else {
                programs.classifiers.push((hook, SchedClassifier::from_pin(&path).map_err(failed)?));
            }
        }
        Ok(programs)
    }

    /// The classifier of a hook.
    pub(super) fn classifier(&mut self, hook: Hook) -> &mut SchedClassifier {
        match self.classifiers.iter_mut().find(|(of, _)| *of == hook) {
            Some((_, program)) => program,
            None => unreachable!("{} is a classifier", hook.program()),
        }
    }

    /// The XDP program of a hook.
    pub(super) fn xdp(&mut self, hook: Hook) -> &mut XdpProgram {
        match self.xdp.iter_mut().find(|(of, _)| *of == hook) {
            Some((_, program)) => program,
            None => unreachable!("{} is an XDP program", hook.program()),
        }
    }
}
