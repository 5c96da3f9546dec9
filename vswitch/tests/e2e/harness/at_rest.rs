//! Checks that a refused command changes nothing.

use serde_json::Value;

use super::{Attached, Host, Netns, Outcome, Surroundings, complaint};

/// A host with its state recorded, so that later checks can prove that refused commands do not
/// change it.
pub struct AtRest<'a> {
    host: &'a Host,
    containers: Vec<&'a Netns>,
    surroundings: Surroundings,
    endpoints: Vec<Attached>,
    networks: Value,
}

impl<'a> AtRest<'a> {
    /// Records the current state of the host and of the containers.
    pub fn new(host: &'a Host, containers: &[&'a Netns]) -> Self {
        let (endpoints, networks) = (host.ps(), host.json(&["network", "ls"]));
        Self {
            host,
            containers: containers.to_vec(),
            surroundings: Surroundings::of(host, containers),
            endpoints,
            networks,
        }
    }

    /// Runs a command that must fail without changing anything. Its error message must contain all
    /// of `names`.
    #[track_caller]
    pub fn refuses(&self, arguments: &[&str], names: &[&str]) {
        let outcome = self.host.run(arguments);
        assert_ne!(outcome.code, Some(0), "{arguments:?} succeeded: {outcome:#?}");
        let line = match outcome {
            // An error in the command line itself: clap prints the usage with it.
            Outcome { code: Some(2), ref stdout, ref stderr } => {
                assert_eq!(stdout, "", "{arguments:?}");
                stderr.clone()
            }
            _ => complaint(1, &outcome),
        };
        for name in names {
            assert!(line.contains(name), "{arguments:?}: `{line}` does not contain {name}");
        }
        let surroundings = Surroundings::of(self.host, &self.containers);
        assert_eq!(surroundings, self.surroundings, "{arguments:?} left something behind");
    }
}

impl Drop for AtRest<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.host.ps(), self.endpoints);
            assert_eq!(self.host.json::<Value>(&["network", "ls"]), self.networks);
        }
    }
}
