//! What is refused leaves everything as it was.

use serde_json::Value;

use super::{Attached, Host, Netns, Outcome, Surroundings, complaint};

/// A host at rest, whose state nothing that it refuses may change.
pub struct AtRest<'a> {
    host: &'a Host,
    containers: Vec<&'a Netns>,
    surroundings: Surroundings,
    endpoints: Vec<Attached>,
    networks: Value,
}

impl<'a> AtRest<'a> {
    /// As it is now.
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

    /// Runs a command that must fail and change nothing; its complaint names all of these.
    #[track_caller]
    pub fn refuses(&self, arguments: &[&str], names: &[&str]) {
        let outcome = self.host.run(arguments);
        assert_ne!(outcome.code, Some(0), "{arguments:?} was done: {outcome:#?}");
        let line = match outcome {
            // The command line itself is wrong; clap shows the usage with it.
            Outcome { code: Some(2), ref stdout, ref stderr } => {
                assert_eq!(stdout, "", "{arguments:?}");
                stderr.clone()
            }
            _ => complaint(1, &outcome),
        };
        for name in names {
            assert!(line.contains(name), "{arguments:?}: `{line}` does not name {name}");
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
